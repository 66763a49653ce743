"""Chains on every rung of a ladder of inverse temperatures: adaptation and sampling, each one scan.

The order of the phases, each a pure function of (state, constants) that the host calls in chunks:

1. `annealing.anneal_chunk`: a few chains walk a dense ladder upwards (cooling) and back downwards (heating). It yields
   the curve m(beta) for placing rungs, step sizes, and warm starts from both sides, so that every rung's chains
   disagree if the two directions do (hysteresis).
2. `adapt_chunk`: chains sit on their rungs, step sizes settle by Robbins-Monro; nothing of it is reported.
3. `sample_chunk`: step sizes are frozen, functionals are streamed.

In 2 and 3 neighbouring rungs may exchange their states (`pbjax.sampling.exchange`).

K rungs, C chains a rung, R = K C replicas with rungs varying slowest, F functionals, d parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax.replicas import TOGETHER, Replicas
from pbjax.sampling import exchange as replica_exchange
from pbjax.sampling import hmc
from pbjax.sampling.exchange import EnergyState, ExchangeRecord
from pbjax.sampling.hmc import Energy, KernelState
from pbjax.sampling.statistics import StreamedStatistics, init_statistics, update_statistics

Observe = Callable[[jax.Array], jax.Array]


class HMCSettings(NamedTuple):
    """What a kernel needs besides its state; static under jit.

    Attributes:
        num_integration_steps: leapfrog steps a move, >= 1.
        jitter: relative half-width of the random step size, in [0, 1).
        target_acceptance: aim of the step-size recursion, in (0, 1).
        max_trajectory: longest num_integration_steps * step_size that adaptation may choose. A quarter period, pi/2,
            is best for a Gaussian whose deviations are those of the mass matrix; near half a period a chain only
            mirrors its position, and a symmetric energy does not change at all.
    """

    num_integration_steps: int = 10
    jitter: float = 0.2
    target_acceptance: float = 0.8
    max_trajectory: float = math.pi / 2

    @property
    def max_log_step(self) -> float:
        """Log of the largest step size that adaptation may choose."""
        return math.log(self.max_trajectory / self.num_integration_steps)


class LadderState(NamedTuple):
    """Carry of adaptation and sampling.

    Attributes:
        kernel: leading axis R; `KernelState`, or `EnergyState` where rungs exchange their states.
        log_step: [K].
        inverse_mass: diagonal of the inverse mass matrix of every rung, float32 [K, d]; ones for the identity.
        log_step_sum: [K], sum of log_step over the adaptation moves that count towards the frozen value.
        moves: int32 scalar, moves made.
        statistics: streamed over shape [F, K, C].
        key: typed PRNG key.
        exchange: the record of the swaps, or None where there are none.
    """

    kernel: KernelState | EnergyState
    log_step: jax.Array
    inverse_mass: jax.Array
    log_step_sum: jax.Array
    moves: jax.Array
    statistics: StreamedStatistics
    key: jax.Array
    exchange: ExchangeRecord | None = None


class Draws(NamedTuple):
    """What one chunk of sampling reports.

    Attributes:
        functionals: float64 [F, K, C, D], scalars only; D draws.
        acceptance: [K, C, D].
        divergent: bool [K, C, D].
    """

    functionals: jax.Array
    acceptance: jax.Array
    divergent: jax.Array


def init_ladder(
    key: jax.Array,
    positions: jax.Array,
    *,
    betas: jax.Array,
    energy: Energy,
    step_sizes: jax.Array,
    num_functionals: int,
    inverse_mass: jax.Array | None = None,
    lags: int = 32,
    exchange: bool = False,
) -> LadderState:
    """Start of adaptation and sampling; costs one gradient a replica.

    Args:
        key: typed PRNG key.
        positions: z, float32 [K, C, d].
        betas: inverse temperatures, [K], > 0.
        energy: z [d] -> L.
        step_sizes: first leapfrog steps, [K], > 0.
        num_functionals: F, number of scalars that `sample_chunk` will stream.
        inverse_mass: diagonal of the inverse mass matrices, [K, d]; the identity by default.
        lags: largest lag of the streamed autocovariance.
        exchange: after every move neighbouring rungs of a chain offer each other their states
            (`pbjax.sampling.exchange`), betas then increasing and K >= 2. Draws of different rungs of a chain are then
            dependent; those of different chains are not.

    Returns:
        The carry of `adapt_chunk` and `sample_chunk`.

    Raises:
        ValueError: for an exchange between fewer than two rungs.

    Example:
        >>> energy = lambda z: jnp.mean(z**2)
        >>> state = init_ladder(
        ...     jax.random.key(0), jnp.zeros((2, 3, 5), jnp.float32), betas=jnp.array([1.0, 2.0]), energy=energy,
        ...     step_sizes=jnp.array([0.3, 0.2]), num_functionals=1)
        >>> state.kernel.position.shape
        (6, 5)
    """
    rungs, chains, dimension = positions.shape
    flat = positions.reshape(-1, dimension)
    if exchange:
        kernel, record = replica_exchange.init_state(flat, energy), replica_exchange.init_record(rungs, chains)
    else:
        kernel, record = hmc.init(flat, jnp.repeat(betas, chains), energy), None
    log_step = jnp.log(step_sizes)
    log_step = log_step.astype(log_step.dtype)  # jnp.full is weakly typed: the second chunk would be compiled again
    if inverse_mass is None:
        inverse_mass = jnp.ones((rungs, dimension), positions.dtype)
    return LadderState(
        kernel,
        log_step,
        inverse_mass,
        jnp.zeros_like(log_step),
        jnp.zeros((), jnp.int32),
        init_statistics((num_functionals, rungs, chains), lags=lags),
        key,
        record,
    )


def _move(
    state: LadderState, betas: jax.Array, energy: Energy, settings: HMCSettings, replicas: Replicas
) -> tuple[LadderState, jax.Array, jax.Array]:
    """One HMC move of every replica, then swaps if asked for: the carry, acceptance and divergences [K, C]."""
    chains = state.kernel.position.shape[0] // betas.shape[0]
    arguments: dict[str, Any] = {
        "betas": jnp.repeat(betas, chains),
        "step_sizes": jnp.repeat(replicas.gather(jnp.exp(state.log_step)), chains),
        "energy": energy,
        "num_integration_steps": settings.num_integration_steps,
        "jitter": settings.jitter,
        "inverse_mass": jnp.repeat(state.inverse_mass, chains, axis=0),
        "replicas": replicas,
    }
    record = state.exchange
    if isinstance(state.kernel, EnergyState):
        assert record is not None  # they are made together
        key, key_move, key_swap = jax.random.split(state.key, 3)
        kernel, acceptance, divergent = replica_exchange.move(key_move, state.kernel, **arguments)
        kernel, record = replica_exchange.swap(key_swap, kernel, record, betas=betas)
    else:
        key, key_move = jax.random.split(state.key)
        kernel, info = hmc.step(key_move, state.kernel, **arguments)
        acceptance, divergent = jnp.nan_to_num(info.acceptance), info.is_divergent
    acceptance, divergent = replicas.gather((acceptance, divergent))
    shape = (betas.shape[0], chains)
    state = state._replace(kernel=kernel, moves=state.moves + 1, key=key, exchange=record)
    return state, acceptance.reshape(shape), divergent.reshape(shape)


def adapt_chunk(
    state: LadderState,
    betas: jax.Array,
    *,
    energy: Energy,
    settings: HMCSettings,
    moves: int,
    total_moves: int,
    gain: float = 0.5,
    replicas: Replicas = TOGETHER,
) -> tuple[LadderState, jax.Array]:
    """Moves of all rungs with decreasing step-size adaptation; the later half of all moves is averaged.

    Args:
        state: carry.
        betas: [K], > 0.
        energy: z [d] -> L.
        settings: kernel settings.
        moves: moves in this chunk.
        total_moves: moves of the whole adaptation, which fixes the half that is averaged.
        gain: first step of the recursion, falling as 1/sqrt(1 + move).
        replicas: their layout; static.

    Returns:
        The carry and the acceptance, [moves, K].
    """

    def move(state: LadderState, _: None) -> tuple[LadderState, jax.Array]:
        moves = state.moves
        state, acceptance, _divergent = _move(state, betas, energy, settings, replicas)
        log_step = hmc.adapt_log_step(
            state.log_step, acceptance, target=settings.target_acceptance, gain=gain / jnp.sqrt(1.0 + moves)
        )
        log_step = jnp.minimum(log_step, settings.max_log_step)
        total = jnp.where(moves >= total_moves // 2, state.log_step_sum + log_step, state.log_step_sum)
        return state._replace(log_step=log_step, log_step_sum=total), acceptance.mean(-1)

    return jax.lax.scan(move, state, None, length=moves)


def freeze(state: LadderState, *, total_moves: int) -> LadderState:
    """End of the adaptation: the step sizes become the averages over its later half.

    Args:
        state: carry after `total_moves` moves of `adapt_chunk`.
        total_moves: as given to `adapt_chunk`.

    Returns:
        The carry with frozen step sizes, its move counter at zero and an empty record of swaps.
    """
    record = state.exchange
    if record is not None:
        record = replica_exchange.init_record(*record.replica.shape)
    return state._replace(
        log_step=state.log_step_sum / (total_moves - total_moves // 2), moves=jnp.zeros_like(state.moves),
        exchange=record,
    )  # fmt: skip


def sample_chunk(
    state: LadderState,
    betas: jax.Array,
    *,
    energy: Energy,
    observe: Observe,
    settings: HMCSettings,
    draws: int,
    keep_positions: bool = False,
    replicas: Replicas = TOGETHER,
) -> tuple[LadderState, tuple[Draws, jax.Array | None]]:
    """Moves of all rungs at frozen step sizes, with the functionals of every draw streamed.

    Args:
        state: carry, after `freeze`.
        betas: [K], > 0.
        energy: z [d] -> L.
        observe: z [d] -> functionals [F], evaluated once a draw.
        settings: kernel settings.
        draws: D, moves in this chunk; every move is a draw.
        keep_positions: also return the positions, float32 [D, R, d].
        replicas: their layout; static.

    Returns:
        The carry, `Draws`, and the positions or None.

    Example:
        >>> energy = lambda z: jnp.mean(jnp.tanh(z) ** 2)
        >>> betas = jnp.array([1.0, 20.0])
        >>> z = jax.random.normal(jax.random.key(0), (2, 4, 3), jnp.float32)
        >>> state = init_ladder(
        ...     jax.random.key(1), z, betas=betas, energy=energy, step_sizes=jnp.array([0.3, 0.3]), num_functionals=1)
        >>> run = dict(energy=energy, settings=HMCSettings(5))
        >>> state, acceptance = adapt_chunk(state, betas, moves=40, total_moves=40, **run)
        >>> state = freeze(state, total_moves=40)
        >>> state, (draws, _) = sample_chunk(state, betas, observe=lambda z: energy(z)[None], draws=50, **run)
        >>> draws.functionals.shape, bool(draws.functionals[0, 1].mean() < draws.functionals[0, 0].mean())
        ((1, 2, 4, 50), True)
    """
    rungs = betas.shape[0]

    def move(state: LadderState, _: None):
        state, acceptance, divergent = _move(state, betas, energy, settings, replicas)
        functionals = replicas.gather(replicas.map(observe, (state.kernel.position,))).T
        functionals = functionals.reshape(functionals.shape[0], rungs, -1)
        state = state._replace(statistics=update_statistics(state.statistics, functionals))
        kept = state.kernel.position if keep_positions else None
        return state, (Draws(functionals, acceptance, divergent), kept)

    state, (trace, positions) = jax.lax.scan(move, state, None, length=draws)
    return state, (jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), trace), positions)
