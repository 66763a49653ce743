r"""The pilot of annealed chains: a quick walk up the ladder, with a key of its own, that chooses what is then frozen.

Condition C3 of docs/heat.md: the reported chain adapts nothing. So a few chains go up a provisional ladder first, adapt
their step size as they go and are thrown away; `choose_schedule` reads off their trace

    the rungs        equally spaced in  int sqrt(-m'(b)) / step(b)^gamma  db,  m(b) the pilot's mean of L
    the step sizes   the pilot's, moved to the target acceptance and smoothed into a falling function of b
    the trajectories a fixed number of leapfrog steps, but no further than a quarter period of the prior

and spends a given number of gradients to the last one. Formulas and what they assume: docs/heat.md, "The pilot".

M chains, d parameters, G moves of the pilot, K moves of the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax import _checks
from pbjax.precision import bind
from pbjax.sampling.annealed_move import MoveResult, hmc_move
from pbjax.sampling.annealed_paths import Observe, init_paths
from pbjax.sampling.hmc import Energy, adapt_log_step
from pbjax.sampling.pilot_schedule import (
    LARGEST_STEP,
    QUARTER_PERIOD,
    PilotReport,
    PilotTrace,
    choose_schedule,
    plan_pilot,
    second_pass,
)
from pbjax.sampling.schedule import AnnealingSchedule


class PilotState(NamedTuple):
    """Carry of the pilot; a checkpoint of it is all that a pilot needs to go on.

    Attributes:
        position: z, float32 [M, d].
        energy: L(z), [M], float64 under x64.
        gradient: gradient of L at z, float32 [M, d].
        log_step: scalar, log of the current step size, shared by the chains.
        moves: int32 scalar, moves made.
        key: typed PRNG key; move k uses fold_in(key, k).
    """

    position: jax.Array
    energy: jax.Array
    gradient: jax.Array
    log_step: jax.Array
    moves: jax.Array
    key: jax.Array


def init_pilot(
    key: jax.Array, *, energy: Energy, dimension: int, chains: int = 1, step_size: ArrayLike | None = None
) -> PilotState:
    """Start of the pilot's chains at draws from the prior; costs one gradient a chain.

    Args:
        key: typed PRNG key; never that of the reported chain.
        energy: z [d] -> L.
        dimension: d, >= 1.
        chains: M, >= 1.
        step_size: first leapfrog step, > 0; d^(-1/4) by default, which a standard normal accepts.

    Returns:
        The carry of `pilot_chunk`.

    Raises:
        ValueError: for fewer than one chain or dimension, or a step size that is not positive.

    Example:
        >>> state = init_pilot(jax.random.key(0), energy=lambda z: jnp.mean(jnp.tanh(z) ** 2), dimension=16)
        >>> state.position.shape, float(jnp.exp(state.log_step))
        ((1, 16), 0.5)
    """
    start = init_paths(key, chains=chains, dimension=dimension, energy=energy)
    if step_size is None:
        step_size = dimension**-0.25
    _checks.check_range("step_size", step_size, low=0.0, open_low=True, open_high=True)
    log_step = jnp.log(jnp.asarray(step_size, start.energy.dtype))
    return PilotState(start.position, start.energy, start.gradient, log_step, start.moves, start.key)


def pilot_chunk(
    state: PilotState,
    betas: jax.Array,
    *,
    energy: Energy,
    moves: int,
    num_integration_steps: int = 32,
    target_acceptance: float = 0.8,
    gain: float = 0.3,
    observe: Observe | None = None,
) -> tuple[PilotState, PilotTrace]:
    """The next `moves` moves of the pilot as one scan, one move a rung, the step size adapting all the way.

    Args:
        state: carry.
        betas: the whole provisional ladder, [G], > 0, never falling; the same at every call.
        energy: z [d] -> L.
        moves: >= 1; static. Moves beyond the end of the ladder do nothing.
        num_integration_steps: leapfrog steps a move, >= 1.
        target_acceptance: aim of the Robbins-Monro recursion, in (0, 1).
        gain: its step, > 0, on the log of the step size; constant, since the right size falls as beta grows.
        observe: z [d] -> functionals [F] such as the 0-1 error, after every move; None to leave it out.

    Returns:
        The carry and a `PilotTrace`; costs `moves * num_integration_steps` gradients a chain.

    Raises:
        ValueError: for fewer than one move or leapfrog step, or a target outside (0, 1).

    Example:
        >>> energy = lambda z: jnp.mean(jnp.tanh(z - 1.0) ** 2)
        >>> state = init_pilot(jax.random.key(0), energy=energy, dimension=5, chains=2)
        >>> state, trace = pilot_chunk(state, jnp.geomspace(1.0, 50.0, 20), energy=energy, moves=20)
        >>> trace.energy.shape, int(state.moves)
        ((20, 2), 20)
    """
    _checks.check_range("moves", moves, low=1.0, open_high=True, whole=True)
    _checks.check_range("num_integration_steps", num_integration_steps, low=1.0, open_high=True, whole=True)
    _checks.check_range("target_acceptance", target_acceptance, low=0.0, high=1.0, open_low=True, open_high=True)
    chains = state.position.shape[0]

    def move(state: PilotState) -> tuple[PilotState, PilotTrace]:
        beta = betas[state.moves].astype(state.energy.dtype)
        key = jax.random.fold_in(state.key, state.moves)
        size = jnp.minimum(jnp.exp(state.log_step), LARGEST_STEP)
        steps = jnp.clip(jnp.ceil(QUARTER_PERIOD / size), 1, num_integration_steps).astype(jnp.int32)

        def one(chain: jax.Array, z: jax.Array, value: jax.Array, gradient: jax.Array) -> MoveResult:
            return hmc_move(
                jax.random.fold_in(key, chain), z, value, gradient, beta=beta, step_size=size,
                num_integration_steps=steps, inverse_mass=None, energy=energy,
            )  # fmt: skip

        result = jax.vmap(one)(jnp.arange(chains), state.position, state.energy, state.gradient)
        log_step = adapt_log_step(jnp.log(size)[None], result.acceptance[None], target=target_acceptance, gain=gain)[0]
        observed = None if observe is None else jax.vmap(observe)(result.z)
        heat = beta * (state.energy - result.energy)
        trace = PilotTrace(beta, result.energy, result.acceptance, size, steps, heat, observed)
        return PilotState(result.z, result.energy, result.gradient, log_step, state.moves + 1, state.key), trace

    nothing = jax.eval_shape(lambda s: move(s)[1], state)

    def filler(of: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.full(of.shape, jnp.nan if jnp.issubdtype(of.dtype, jnp.floating) else 0, of.dtype)

    def stay(state: PilotState) -> tuple[PilotState, PilotTrace]:
        return state, jax.tree.map(filler, nothing)

    def step(state: PilotState, _: None) -> tuple[PilotState, PilotTrace]:
        return jax.lax.cond(state.moves < betas.shape[0], move, stay, state)

    return jax.lax.scan(step, state, None, length=moves)


def provisional_ladder(beta: float | int, *, moves: int) -> np.ndarray:
    """The ladder of a pilot that knows nothing yet: cubic, b_k = beta (k / moves)^3.

    Args:
        beta: last rung, > 0.
        moves: >= 1.

    Returns:
        float64 [moves].

    Raises:
        ValueError: for a rung or a count out of range.

    Example:
        >>> provisional_ladder(8.0, moves=2).tolist()
        [1.0, 8.0]
    """
    _checks.check_range("beta", beta, low=0.0, open_low=True, open_high=True)
    _checks.check_range("moves", moves, low=1.0, open_high=True, whole=True)
    return float(beta) * (np.arange(1, moves + 1) / moves) ** 3


def pilot(
    key: jax.Array,
    *,
    energy: Callable[..., jax.Array],
    dimension: int,
    beta: float | int,
    gradients: int,
    pilot_gradients: int | None = None,
    chains: int = 1,
    num_integration_steps: int | None = None,
    target_acceptance: float = 0.8,
    step_exponent: float = 0.5,
    observe: Observe | None = None,
    arguments: tuple[Any, ...] = (),
) -> tuple[AnnealingSchedule, PilotReport]:
    """Choose a schedule for annealed chains up to beta that cost `gradients` each, by two quick passes up the ladder.

    The first pass takes a cubic ladder; the second the ladder and the first step size that the first one suggests; the
    schedule comes from the second. `plan_pilot` divides the budget. Both passes are one compiled program, a scan each;
    to cut a long pilot into chunks call `init_pilot`, `pilot_chunk`, `second_pass` and `choose_schedule` yourself, as
    this function does.

    Args:
        key: typed PRNG key that the reported chains do not use.
        energy: (z [d], *arguments) -> L; may use the certified data. A tenth of the rows does well (beta stays what it
            is) and makes the pilot ten times cheaper.
        dimension: d.
        beta: last rung of the schedule, total inverse temperature, > 0.
        gradients: what one chain of the schedule may cost: 1 + its leapfrog steps; spent exactly.
        pilot_gradients: what the pilot may cost, a chain; `plan_pilot` has the default.
        chains: pilot chains, vmapped; more of them make a less noisy schedule.
        num_integration_steps: most leapfrog steps a move; `usual_integration_steps(gradients)` by default.
        target_acceptance: in (0, 1).
        step_exponent: gamma, >= 0; 0 spaces the rungs by thermodynamic length alone.
        observe: z [d] -> functionals [F] whose means the report gives, say the 0-1 error; None to leave it out.
        arguments: data of the energy, which then are arguments of the compiled program and no constants in it.

    Returns:
        The `AnnealingSchedule` and a `PilotReport`.

    Raises:
        ValueError: for a budget that is too small, or a value out of range.

    Example:
        >>> energy = lambda z: jnp.mean(jnp.tanh(z - 1.0) ** 2)
        >>> schedule, report = pilot(
        ...     jax.random.key(0), energy=energy, dimension=5, beta=200.0, gradients=501, num_integration_steps=8)
        >>> schedule.num_gradients, float(schedule.betas[-1]), bool(schedule.step_sizes[-1] < schedule.step_sizes[0])
        (501, 200.0, True)

    References:
        Crooks 2007, Measuring thermodynamic length; Beskos et al. 2013, Optimal tuning of the hybrid Monte Carlo
        algorithm. The formulas and their assumptions: docs/heat.md.
    """
    plan = plan_pilot(gradients, pilot_gradients=pilot_gradients, num_integration_steps=num_integration_steps)
    how: dict[str, Any] = {"target_acceptance": target_acceptance, "step_exponent": step_exponent}

    @jax.jit
    def walk(key: jax.Array, betas: jax.Array, size: jax.Array, arguments: tuple[Any, ...]) -> PilotTrace:
        on_data = bind(energy, *arguments)
        state = init_pilot(key, energy=on_data, dimension=dimension, chains=chains, step_size=size)
        return pilot_chunk(
            state, betas, energy=on_data, moves=plan.moves, num_integration_steps=plan.num_integration_steps,
            target_acceptance=target_acceptance, observe=observe,
        )[1]  # fmt: skip

    first, second = jax.random.split(key)
    betas, size = provisional_ladder(beta, moves=plan.moves), dimension**-0.25
    trace = walk(first, jnp.asarray(betas), jnp.asarray(size), arguments)
    betas, size = second_pass(trace, plan, **how)
    trace = walk(second, jnp.asarray(betas), jnp.asarray(size), arguments)
    schedule, report = choose_schedule(trace, gradients=gradients, num_integration_steps=num_integration_steps, **how)
    return schedule, report._replace(gradients=2 * report.gradients)
