r"""Hamiltonian Monte Carlo over a ladder of inverse temperatures as one vmapped program.

Every replica (rung x chain) has a flat float32 position z [d] in whitened coordinates and its own inverse temperature
and step size; the kernel is blackjax's HMC with a full momentum refresh and an end-point accept test, which is
reversible for its rung. Log-densities are float64 under x64, so the accept ratio is exact to about 1e-9 nats.

R counts replicas throughout: R = rungs * chains, rungs varying slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax.posteriors.gibbs import log_density, prior_log_density

Energy = Callable[[jax.Array], jax.Array]
_KERNEL = blackjax.hmc.build_kernel()


class KernelState(NamedTuple):
    """blackjax's `HMCState` of every replica, with arrays for its types.

    Attributes:
        position: z, float32 [R, d].
        logdensity: unnormalised log-density, [R], float64 under x64.
        logdensity_grad: its gradient, float32 [R, d].
    """

    position: jax.Array
    logdensity: jax.Array
    logdensity_grad: jax.Array


class StepInfo(NamedTuple):
    """What one move of every replica reports.

    Attributes:
        acceptance: Metropolis acceptance probability, [R], in [0, 1].
        is_accepted: bool [R].
        is_divergent: bool [R], an energy error above 1,000 nats or not finite.
    """

    acceptance: jax.Array
    is_accepted: jax.Array
    is_divergent: jax.Array


def init(positions: jax.Array, betas: jax.Array, energy: Energy) -> KernelState:
    """Kernel state of every replica; costs one gradient.

    Args:
        positions: z, float32 [R, d].
        betas: inverse temperature of every replica, [R], >= 0.
        energy: z [d] -> L, differentiable.

    Returns:
        `KernelState`.
    """
    state = jax.vmap(lambda z, beta: blackjax.hmc.init(z, lambda x: log_density(x, beta, energy)))(positions, betas)
    return KernelState(*state)


def step(
    key: jax.Array,
    state: KernelState,
    *,
    betas: jax.Array,
    step_sizes: jax.Array,
    energy: Energy,
    num_integration_steps: int,
    jitter: float = 0.0,
    inverse_mass: jax.Array | None = None,
) -> tuple[KernelState, StepInfo]:
    """One HMC move of every replica.

    Args:
        key: a typed PRNG key; split over replicas inside.
        state: kernel state, leading axis R, built at `betas`.
        betas: [R].
        step_sizes: leapfrog step of every replica, [R], > 0, in units of the prior's standard deviation.
        energy: z [d] -> L.
        num_integration_steps: leapfrog steps per move, the same for all replicas (they share one program).
        jitter: each move draws its step size uniformly from step_size * [1 - jitter, 1 + jitter], independently of
            the state, which keeps the kernel reversible and breaks periodic orbits.
        inverse_mass: diagonal of the inverse mass matrix, [R, d], or None for the identity.

    Returns:
        The new state and `StepInfo`; `num_integration_steps` gradients a replica.
    """
    replicas, dimension = state.position.shape
    key_step, key_jitter = jax.random.split(key)
    keys = jax.random.split(key_step, replicas)
    factor = 1.0 + jitter * jax.random.uniform(key_jitter, (replicas,), step_sizes.dtype, -1.0, 1.0)
    # A float64 step size would silently promote the positions.
    steps = (step_sizes * factor).astype(state.position.dtype)

    def move(key: jax.Array, state: KernelState, beta: jax.Array, size: jax.Array, mass: jax.Array):
        return _KERNEL(key, state, lambda z: log_density(z, beta, energy), size, mass, num_integration_steps)

    if inverse_mass is None:
        mass, mass_axis = jnp.ones((dimension,), state.position.dtype), None
    else:
        mass, mass_axis = inverse_mass.astype(state.position.dtype), 0
    state, info = jax.vmap(move, in_axes=(0, 0, 0, 0, mass_axis))(keys, state, betas, steps, mass)
    return KernelState(*state), StepInfo(info.acceptance_rate, info.is_accepted, info.is_divergent)


def retemper(state: KernelState, old: ArrayLike, new: ArrayLike) -> KernelState:
    r"""The same positions at other inverse temperatures, without another gradient.

    $\log q_{\rm new} = \log p + (\beta_{\rm new}/\beta_{\rm old})(\log q_{\rm old} - \log p)$, and likewise for the
    gradient: blackjax's cached values hold beta L and its gradient, which only need rescaling.

    Args:
        state: kernel state, leading axis R, at `old`.
        old: [R], > 0 (at 0 the cached value has forgotten L; use `init`).
        new: [R], >= 0.

    Returns:
        The kernel state at `new`.
    """
    ratio = jnp.asarray(new) / jnp.asarray(old)
    prior = jax.vmap(prior_log_density)(state.position)
    gradient = -state.position
    scaled = gradient + ratio.astype(gradient.dtype)[:, None] * (state.logdensity_grad - gradient)
    logdensity = prior + ratio.astype(prior.dtype) * (state.logdensity - prior)
    return KernelState(state.position, logdensity, scaled)


def adapt_log_step(log_step: jax.Array, acceptance: jax.Array, *, target: float, gain: jax.Array | float) -> jax.Array:
    """Robbins-Monro on the log step size: add gain * (mean acceptance over chains - target).

    Only a pilot may use it; a certificate's chains run with the result frozen.

    Args:
        log_step: [rungs].
        acceptance: [rungs, chains], in [0, 1]; NaN (a divergence) counts as 0.
        target: wanted acceptance, in (0, 1).
        gain: step of the recursion; 0 leaves log_step as it is.

    Returns:
        [rungs].
    """
    mean = jnp.mean(jnp.nan_to_num(acceptance, nan=0.0), axis=-1)
    return log_step + (gain * (mean - target)).astype(log_step.dtype)
