"""Annealed chains of a target: one key a chain, all chains side by side in one program, in chunks of moves.

A chain depends on its own key and on the schedule alone: neither the other chains nor the chunks change it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax.certify.target import Target
from pbjax.posteriors.energy import Rows
from pbjax.replicas import TOGETHER, Replicas
from pbjax.sampling import AnnealingSchedule, PathState, init_paths, path_chunk, path_sums

# Every chain has its own key; how far the ladder has been climbed is common to all, which keeps the trajectory's
# loop over leapfrogs one loop and not one with a mask.
_COMMON = ("beta", "moves", "direction")
_PER_CHAIN: Any = PathState(*(None if name in _COMMON else 0 for name in PathState._fields))  # type: ignore[arg-type]


class Stop(NamedTuple):
    """C chains where a chunk left them: what a certificate needs had they been stopped there.

    Attributes:
        position: z, float32 [C, d]; `Target.to_params` makes a network of it.
        beta: the rung reached, scalar.
        heat: W, nats, [C].
        log_weight: -A, nats, [C].
        slack: numerical slack of W and A, nats, [C].
        acceptance: mean acceptance probability over the chunk's moves, [C].
        divergences: divergent moves in the chunk, [C].
        risks: {"surrogate", "zero_one"} on the certified rows, [C] each.
        held_out: the same on other rows, NaN without them, [C] each.
    """

    position: jax.Array
    beta: jax.Array
    heat: jax.Array
    log_weight: jax.Array
    slack: jax.Array
    acceptance: jax.Array
    divergences: jax.Array
    risks: dict[str, jax.Array]
    held_out: dict[str, jax.Array]


def begin(keys: jax.Array, target: Target, rows: Rows) -> PathState:
    """Exact draws from the prior, one chain a key; costs one gradient each.

    Args:
        keys: typed PRNG keys [C], used for nothing else.
        target: network and prior; static.
        rows: `target.rows`.

    Returns:
        The carry of `advance`, with a leading axis [C] (and [1] behind it) on what differs between chains.

    Example:
        >>> from pbjax.certify import make_target
        >>> from pbjax.posteriors import Gaussian
        >>> target = make_target(lambda w, x: x @ w, Gaussian(jnp.zeros((2, 2)), jnp.zeros((2, 2))), jnp.eye(2), [0, 1])
        >>> begin(jax.random.split(jax.random.key(0), 3), target, target.rows).position.shape
        (3, 1, 4)
    """

    def one(key: jax.Array) -> PathState:
        return init_paths(key, chains=1, dimension=target.dimension, energy=target.on(rows))

    return jax.vmap(one, out_axes=_PER_CHAIN)(keys)


def advance(
    state: PathState,
    schedule: AnnealingSchedule,
    rows: Rows,
    held_out: Rows | None = None,
    *,
    target: Target,
    moves: int,
    jitter: float = 0.0,
    replicas: Replicas = TOGETHER,
) -> tuple[PathState, Stop]:
    """The next `moves` moves of all chains, and the risks of the networks where they end.

    Args:
        state: carry.
        schedule: the whole frozen schedule, the same at every call.
        rows: `target.rows`.
        held_out: rows that nothing was chosen on, for comparison; None without them.
        target: network and prior; static.
        moves: moves of the chunk; those beyond the end of the schedule do nothing; static.
        jitter: as in `sampling.path_chunk`; static.
        replicas: layout of the chains; static.

    Returns:
        The carry, and a `Stop`. Costs one forward pass a chain beside the gradients of the moves.
    """

    common = {name: getattr(state, name) for name in _COMMON}

    def one(own: PathState) -> tuple[PathState, Stop]:
        state, trace = path_chunk(
            own._replace(**common), schedule, energy=target.on(rows), moves=moves, jitter=jitter
        )  # fmt: skip
        sums, z = path_sums(state), state.position[0]
        risks = target.risks(z, rows)
        if held_out is None:
            others = {name: jnp.full_like(value, jnp.nan) for name, value in risks.items()}
        else:
            others = target.risks(z, held_out)
        return state, Stop(
            z, state.beta, sums.heat[0], sums.log_weight[0], sums.slack[0], jnp.nanmean(trace.acceptance),
            jnp.sum(trace.is_divergent), risks, others,
        )  # fmt: skip

    state, stop = replicas.map(one, (state._replace(**dict.fromkeys(_COMMON)),))
    state = state._replace(**{name: replicas.gather(getattr(state, name))[0] for name in _COMMON})
    return state, stop._replace(beta=state.beta)
