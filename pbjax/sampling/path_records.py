"""What annealed chains carry, report and end with. M chains, d parameters, G moves in a chunk, F functionals."""

from __future__ import annotations

from typing import NamedTuple

import jax

from pbjax.sampling.summation import CompensatedSum


class PathState(NamedTuple):
    """Carry of annealed chains; a checkpoint of it is all that a run needs to go on.

    Attributes:
        position: z, float32 [M, d].
        energy: L(z), [M], float64 under x64.
        gradient: gradient of L at z, float32 [M, d].
        heat: running W, [M].
        exponent: running A, [M].
        slack: bound on the rounding in W, A and the accept ratios so far, nats, [M].
        origin: what A - W was before the first move, [M]: 0 forwards, beta_K L(w_K) for reverse chains.
        beta: scalar, the rung that A has reached.
        moves: int32 scalar, moves made.
        direction: int32 scalar, 1 up the ladder, -1 down.
        key: typed PRNG key; move k uses fold_in(key, k), chain i of it fold_in(., i).
    """

    position: jax.Array
    energy: jax.Array
    gradient: jax.Array
    heat: CompensatedSum
    exponent: CompensatedSum
    slack: jax.Array
    origin: jax.Array
    beta: jax.Array
    moves: jax.Array
    direction: jax.Array
    key: jax.Array


class PathTrace(NamedTuple):
    """What a chunk reports of each of its G moves; NaN (False) in moves beyond the end of the schedule.

    Attributes:
        beta: [G].
        energy_before: L before the move, [G, M].
        energy_after: L after the move, [G, M].
        acceptance: Metropolis acceptance probability, [G, M].
        is_divergent: bool [G, M], an energy error above 1,000 nats or not finite.
        heat: W up to and including the move, [G, M]; a chain stopped here has this heat.
        log_weight: -A up to and including the move, [G, M].
        observed: functionals after the move, [G, M, F], or None.
    """

    beta: jax.Array
    energy_before: jax.Array
    energy_after: jax.Array
    acceptance: jax.Array
    is_divergent: jax.Array
    heat: jax.Array
    log_weight: jax.Array
    observed: jax.Array | None


class PathSums(NamedTuple):
    """What the certificates need of M chains.

    Attributes:
        heat: W, nats, [M].
        log_weight: -A, nats, [M].
        energy: L at the end, [M].
        slack: nats, [M], at least 0: how far rounding may have moved W and A, accept ratios included. A certificate
            adds it.
    """

    heat: jax.Array
    log_weight: jax.Array
    energy: jax.Array
    slack: jax.Array
