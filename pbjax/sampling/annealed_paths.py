r"""Annealed chains: exact draws from the prior, carried up a ladder of inverse temperatures by frozen HMC moves.

A chain starts at w_0 ~ P and makes K moves; move k is one Metropolis-corrected HMC move at beta_k with a full momentum
refresh, which is reversible for P exp(-beta_k L). Along the path two sums are kept,

    W = sum_k beta_k (L(w_{k-1}) - L(w_k))                 the heat,
    A = sum_k (beta_k - beta_{k-1}) L(w_{k-1}), beta_0 = 0   minus the log-weight of annealed importance sampling,

so that A - W = beta_K L(w_K). exp(-W) and exp(-A) have known expectations however badly the chains mix (docs/heat.md),
*provided nothing in the schedule depends on the chains that are reported*: take a pilot with a key of its own.

M chains, d parameters, K moves, G moves in a chunk, F functionals. Positions are whitened, so P is N(0, I).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pbjax import _checks
from pbjax._checks import concrete
from pbjax.precision import value_and_force
from pbjax.sampling.annealed_move import MoveResult, hmc_move
from pbjax.sampling.hmc import Energy
from pbjax.sampling.path_records import PathState, PathSums, PathTrace
from pbjax.sampling.schedule import AnnealingSchedule
from pbjax.sampling.summation import add_to_sum, init_sum, sum_value

Observe = Callable[[jax.Array], jax.Array]


def _start(
    key: jax.Array, positions: jax.Array, *, energy: Energy, beta: jax.Array | float, direction: int
) -> PathState:
    wide = jax.dtypes.canonicalize_dtype(jnp.float64)
    value, gradient = jax.vmap(value_and_force(energy))(positions)
    value = value.astype(wide)
    zeros, empty = jnp.zeros_like(value), init_sum(value.shape)
    beta = jnp.asarray(beta, wide)
    origin = beta * value if direction < 0 else zeros
    return PathState(
        positions, value, gradient, empty, empty, zeros, origin, beta, jnp.zeros((), jnp.int32),
        jnp.asarray(direction, jnp.int32), key,
    )  # fmt: skip


def init_paths(key: jax.Array, *, chains: int, dimension: int, energy: Energy) -> PathState:
    """Start of M chains at exact, independent draws from the prior N(0, I); costs one gradient a chain.

    Args:
        key: typed PRNG key, used for nothing else (least of all for the pilot).
        chains: M, at least 1.
        dimension: d, at least 1.
        energy: z [d] -> L, differentiable; a function of z alone.

    Returns:
        The carry of `path_chunk`.

    Raises:
        ValueError: for fewer than one chain or dimension.

    Example:
        >>> state = init_paths(jax.random.key(0), chains=3, dimension=2, energy=lambda z: jnp.mean(jnp.tanh(z) ** 2))
        >>> state.position.shape, int(state.moves)
        ((3, 2), 0)
    """
    for name, count in (("chains", chains), ("dimension", dimension)):
        _checks.check_range(name, count, low=1.0, open_high=True, whole=True)
    key_start, key_moves = jax.random.split(key)
    keys = jax.vmap(lambda i: jax.random.fold_in(key_start, i))(jnp.arange(chains))
    positions = jax.vmap(lambda k: jax.random.normal(k, (dimension,), jnp.float32))(keys)
    return _start(key_moves, positions, energy=energy, beta=0.0, direction=1)


def init_reverse_paths(
    key: jax.Array, positions: jax.Array, *, schedule: AnnealingSchedule, energy: Energy
) -> PathState:
    """Start of M chains that go down the ladder, from draws of the Gibbs posterior at its last rung.

    `path_chunk` then makes the moves in the order beta_K, ..., beta_1, and E exp(A) = 1/Z(beta_K) if the starts are
    exact: the lower end of a bracket on -log Z (`pbjax.evidence.bidirectional_bracket`).

    Args:
        key: typed PRNG key.
        positions: z, float32 [M, d], exact and independent draws at the last rung (approximate ones make the
            lower end approximate).
        schedule: the schedule of the forward chains.
        energy: z [d] -> L.

    Returns:
        The carry of `path_chunk`.

    Raises:
        ValueError: for positions of another rank.

    Example:
        >>> from pbjax.sampling import make_schedule
        >>> schedule = make_schedule([1.0, 4.0], step_sizes=0.3, num_integration_steps=3)
        >>> state = init_reverse_paths(
        ...     jax.random.key(0), jnp.zeros((5, 2), jnp.float32), schedule=schedule, energy=lambda z: jnp.mean(z**2))
        >>> float(state.beta)
        4.0
    """
    if jnp.ndim(positions) != 2:
        raise ValueError(f"positions has shape {jnp.shape(positions)}: give [chains, dimension]")
    return _start(key, jnp.asarray(positions), energy=energy, beta=schedule.betas[-1], direction=-1)


def path_chunk(
    state: PathState,
    schedule: AnnealingSchedule,
    *,
    energy: Energy,
    moves: int,
    jitter: float = 0.0,
    observe: Observe | None = None,
) -> tuple[PathState, PathTrace]:
    """The next `moves` moves of all chains as one scan; moves beyond the end of the schedule do nothing.

    At a new rung the kernel's log-density and gradient are rebuilt from the stored L and its gradient. How the moves
    are cut into chunks, and how many chains run beside one, changes nothing. Jit it once for chunks of one size.

    Args:
        state: carry.
        schedule: the whole frozen schedule, the same at every call.
        energy: z [d] -> L, as at the start.
        moves: G, at least 1; static.
        jitter: each move draws its step size uniformly from step_size * [1 - jitter, 1 + jitter], a law that does not
            depend on the state, so the move stays reversible · in [0, 1); static.
        observe: z [d] -> functionals [F] such as the 0-1 error, evaluated after every move; None to leave it out.

    Returns:
        The carry, and a `PathTrace` of G moves. Costs the sum of `num_integration_steps` over the moves in gradients a
        chain, and nothing at a new rung.

    Raises:
        ValueError: for fewer than one move or a jitter outside [0, 1).

    Example:
        >>> from pbjax.sampling import make_schedule
        >>> energy = lambda z: jnp.mean(jnp.tanh(z - 1.0) ** 2)
        >>> schedule = make_schedule(10.0 * jnp.arange(1, 31) / 30, step_sizes=0.5, num_integration_steps=3)
        >>> state = init_paths(jax.random.key(0), chains=200, dimension=2, energy=energy)
        >>> state, trace = path_chunk(state, schedule, energy=energy, moves=30)
        >>> trace.heat.shape, bool(trace.energy_after[-1].mean() < trace.energy_before[0].mean())
        ((30, 200), True)

    References:
        Neal 2001, Annealed importance sampling (the chain and A). For W: docs/heat.md.
    """
    _checks.check_range("moves", moves, low=1.0, open_high=True, whole=True)
    _checks.check_range("jitter", jitter, low=0.0, high=1.0, open_high=True)
    chains = state.position.shape[0]
    wide = state.energy.dtype
    eps = float(jnp.finfo(wide).eps)

    def move(state: PathState) -> tuple[PathState, PathTrace]:
        up = state.direction > 0
        k = jnp.where(up, state.moves, schedule.num_moves - 1 - state.moves)
        beta = schedule.betas[k]
        lower = jnp.where(k > 0, schedule.betas[jnp.maximum(k - 1, 0)], 0.0)
        mass = schedule.inverse_mass
        if mass is not None and mass.ndim == 2:
            mass = mass[k]
        key = jax.random.fold_in(state.key, state.moves)

        def one(chain: jax.Array, z: jax.Array, value: jax.Array, gradient: jax.Array) -> MoveResult:
            key_kernel, key_jitter = jax.random.split(jax.random.fold_in(key, chain))
            size = schedule.step_sizes[k]
            if jitter:
                size = size * (1.0 + jitter * jax.random.uniform(key_jitter, (), wide, -1.0, 1.0))
            return hmc_move(
                key_kernel, z, value, gradient, beta=beta, step_size=size,
                num_integration_steps=schedule.num_integration_steps[k], inverse_mass=mass, energy=energy,
            )  # fmt: skip

        result = jax.vmap(one)(jnp.arange(chains), state.position, state.energy, state.gradient)
        before, after = state.energy, result.energy
        # w_{k-1} is the earlier point up the ladder and the later one down it.
        drop = jnp.where(up, before - after, after - before)
        heat = add_to_sum(state.heat, beta * drop)
        exponent = add_to_sum(state.exponent, (beta - lower) * jnp.where(up, before, after))
        slack = state.slack + result.slack + 4.0 * eps * beta * (jnp.abs(before) + jnp.abs(after))
        observed = None if observe is None else jax.vmap(observe)(result.z)
        new = PathState(
            result.z, after, result.gradient, heat, exponent, slack, state.origin, jnp.where(up, beta, lower),
            state.moves + 1, state.direction, state.key,
        )  # fmt: skip
        trace = PathTrace(
            beta, before, after, result.acceptance, result.is_divergent, sum_value(heat), -sum_value(exponent), observed
        )
        return new, trace

    def filler(of: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.full(of.shape, jnp.nan if jnp.issubdtype(of.dtype, jnp.floating) else 0, of.dtype)

    nothing = jax.eval_shape(lambda s: move(s)[1], state)

    def stay(state: PathState) -> tuple[PathState, PathTrace]:
        return state, jax.tree.map(filler, nothing)

    def step(state: PathState, _: None) -> tuple[PathState, PathTrace]:
        return jax.lax.cond(state.moves < schedule.num_moves, move, stay, state)

    return jax.lax.scan(step, state, None, length=moves)


def path_sums(state: PathState) -> PathSums:
    """Heat, log-weight and numerical slack of the chains where they stand.

    Args:
        state: carry of forward or reverse chains.

    Returns:
        `PathSums`. The slack covers the summations, the accept ratios and the defect of A - W = beta L. It takes random
        numbers for exact draws and the leapfrog for exactly reversible: rounding of positions is not in it.

    Raises:
        ValueError: outside jit, where a heat is not finite.

    Example:
        >>> from pbjax.sampling import make_schedule
        >>> energy = lambda z: jnp.mean(jnp.tanh(z) ** 2)
        >>> schedule = make_schedule([1.0, 4.0, 9.0], step_sizes=0.5, num_integration_steps=3)
        >>> state = init_paths(jax.random.key(0), chains=4, dimension=2, energy=energy)
        >>> state, _ = path_chunk(state, schedule, energy=energy, moves=3)
        >>> sums = path_sums(state)
        >>> bool(jnp.allclose(-sums.log_weight - sums.heat, 9.0 * sums.energy, rtol=1e-4))
        True
    """
    heat, exponent = sum_value(state.heat), sum_value(state.exponent)
    expected = state.origin + state.direction.astype(heat.dtype) * state.beta * state.energy
    defect = jnp.abs(exponent - heat - expected)
    known = concrete(heat)
    if known is not None and not np.all(np.isfinite(known)):
        raise ValueError(f"heat = {known}: the energy of a start or of an accepted move was not finite")
    return PathSums(heat, -exponent, state.energy, state.slack + defect)
