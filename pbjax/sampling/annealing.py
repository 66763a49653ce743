"""The annealed pilot: a few chains walk a dense ladder of inverse temperatures up and down, adapting as they go.

G rungs, C chains, d parameters. What it yields (rungs, step sizes, mass matrices, warm starts) is frozen before the
chains of `pbjax.sampling.ladder` draw anything that is reported.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax.posteriors.gibbs import prior_log_density
from pbjax.sampling import hmc
from pbjax.sampling.hmc import Energy, KernelState
from pbjax.sampling.ladder import HMCSettings


class AnnealState(NamedTuple):
    """Carry of the annealed pilot.

    Attributes:
        kernel: KernelState, leading axis C, at `beta`.
        log_step: scalar, log of the current step size.
        beta: scalar, the inverse temperature that `kernel` was built at, > 0.
        key: typed PRNG key.
    """

    kernel: KernelState
    log_step: jax.Array
    beta: jax.Array
    key: jax.Array


class AnnealTrace(NamedTuple):
    """What the pilot reports for each of the G rungs it walked.

    Attributes:
        mean: mean of L over chains and the later half of the moves, [G].
        variance: variance of L over the same draws, [G].
        chain_mean: [G, C].
        acceptance: [G].
        step_size: [G], the step size after the rung.
        position: warm starts, float32 [G, C, d], the positions after the rung.
        curvature: mean square of the gradient of the log-density over chains and the later half of the moves, float32
            [G, d]. In equilibrium its expectation is the mean curvature -d^2 log q / dz_i^2, which is what a diagonal
            mass matrix wants.
    """

    mean: jax.Array
    variance: jax.Array
    chain_mean: jax.Array
    acceptance: jax.Array
    step_size: jax.Array
    position: jax.Array
    curvature: jax.Array


def _risk(kernel: KernelState, beta: jax.Array) -> jax.Array:
    """L of every replica, read off the cached log-density; beta > 0."""
    return (jax.vmap(prior_log_density)(kernel.position) - kernel.logdensity) / beta


def init_anneal(
    key: jax.Array, positions: jax.Array, *, beta: ArrayLike, energy: Energy, step_size: ArrayLike
) -> AnnealState:
    """Start of the pilot; costs one gradient a chain.

    Args:
        key: typed PRNG key.
        positions: z, float32 [C, d], best exact draws from the prior.
        beta: first inverse temperature of the walk, > 0.
        energy: z [d] -> L.
        step_size: first leapfrog step, > 0; about d^(-1/4) for the prior.

    Returns:
        The carry of `anneal_chunk`.

    Example:
        >>> z = jnp.zeros((3, 2), jnp.float32)
        >>> state = init_anneal(jax.random.key(0), z, beta=1.0, energy=lambda z: jnp.mean(z**2), step_size=0.3)
        >>> state.kernel.position.shape
        (3, 2)
    """
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    beta = jnp.asarray(beta, dtype)
    kernel = hmc.init(positions, jnp.full((positions.shape[0],), beta), energy)
    return AnnealState(kernel, jnp.log(jnp.asarray(step_size, dtype)), beta, key)


def anneal_chunk(
    state: AnnealState,
    betas: jax.Array,
    *,
    energy: Energy,
    settings: HMCSettings,
    moves: int,
    gain: float = 0.2,
) -> tuple[AnnealState, AnnealTrace]:
    """Walk C chains through the given rungs, `moves` HMC moves on each, adapting the step size all the way.

    Args:
        state: carry; its kernel may stand at any beta > 0.
        betas: the rungs in the order of the walk, [G], > 0; rising to cool, falling to heat.
        energy: z [d] -> L.
        settings: kernel settings.
        moves: HMC moves a rung, >= 2.
        gain: step of the Robbins-Monro recursion on the log step size.

    Returns:
        The carry at the last rung, and an `AnnealTrace` of G rungs. Costs G * moves * num_integration_steps gradients
        a chain; changing rung costs none.

    Example:
        >>> energy = lambda z: jnp.mean(jnp.tanh(z) ** 2)
        >>> z = jax.random.normal(jax.random.key(0), (4, 2), jnp.float32)
        >>> state = init_anneal(jax.random.key(1), z, beta=1.0, energy=energy, step_size=0.3)
        >>> state, trace = anneal_chunk(
        ...     state, jnp.array([1.0, 10.0, 100.0]), energy=energy, settings=HMCSettings(5), moves=10)
        >>> trace.mean.shape, bool(trace.mean[2] < trace.mean[0])
        ((3,), True)
    """
    chains = state.kernel.position.shape[0]

    def rung(state: AnnealState, beta: jax.Array) -> tuple[AnnealState, AnnealTrace]:
        kernel = hmc.retemper(state.kernel, jnp.full((chains,), state.beta), jnp.full((chains,), beta))

        def move(carry: tuple[KernelState, jax.Array, jax.Array], at: tuple[jax.Array, jax.Array]):
            (kernel, log_step, curvature), (key, index) = carry, at
            kernel, info = hmc.step(
                key,
                kernel,
                betas=jnp.full((chains,), beta),
                step_sizes=jnp.full((chains,), jnp.exp(log_step)),
                energy=energy,
                num_integration_steps=settings.num_integration_steps,
                jitter=settings.jitter,
            )
            log_step = hmc.adapt_log_step(
                log_step[None], info.acceptance[None], target=settings.target_acceptance, gain=gain
            )[0]
            log_step = jnp.minimum(log_step, settings.max_log_step)
            is_late = index >= moves // 2
            curvature = curvature + jnp.where(is_late, jnp.square(kernel.logdensity_grad).mean(0), 0.0)
            return (kernel, log_step, curvature), (_risk(kernel, beta), jnp.nan_to_num(info.acceptance).mean())

        key, key_moves = jax.random.split(state.key)
        start = (kernel, state.log_step, jnp.zeros_like(kernel.position[0]))
        (kernel, log_step, curvature), (risk, acceptance) = jax.lax.scan(
            move, start, (jax.random.split(key_moves, moves), jnp.arange(moves))
        )
        late = risk[moves // 2 :]
        trace = AnnealTrace(
            late.mean(), late.var(), late.mean(0), acceptance.mean(), jnp.exp(log_step), kernel.position,
            curvature / (moves - moves // 2),
        )  # fmt: skip
        return AnnealState(kernel, log_step, jnp.asarray(beta, state.beta.dtype), key), trace

    return jax.lax.scan(rung, state, betas)
