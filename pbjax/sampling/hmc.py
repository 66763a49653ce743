r"""Hamiltonian Monte Carlo over a ladder of inverse temperatures as one vmapped program.

Every replica (rung x chain) has a flat float32 position z [d] in whitened coordinates and its own inverse temperature
and step size; the kernel is blackjax's HMC with a full momentum refresh and an end-point accept test, which is
reversible for its rung. Log-densities are float64 under x64, so the accept ratio is exact to about 1e-9 nats. An
energy that `pbjax.precision` split is moved by its force and judged by its value.

R counts replicas throughout: R = rungs * chains, rungs varying slowest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from blackjax.mcmc.integrators import velocity_verlet
from jax.typing import ArrayLike

from pbjax.posteriors.gibbs import log_density, prior_log_density
from pbjax.precision import SplitEnergy, force_of, value_and_force
from pbjax.replicas import TOGETHER, Replicas

Energy = Callable[[jax.Array], jax.Array]
_KERNEL = blackjax.hmc.build_kernel()


def kernel_of(
    energy: Energy, num_integration_steps: ArrayLike, *, force: Callable[[Any], jax.Array], at_end: Callable[[Any], Any]
) -> tuple[Callable[..., Any], ArrayLike]:
    """blackjax's HMC kernel for an energy, and how many of its integration steps are a trajectory.

    A split energy moves on its force and is judged by its value: then one step of the kernel is a whole trajectory, at
    whose end the exact log-density takes the place of the force's. blackjax refuses or accepts as always.

    Args:
        energy: z [d] -> L, split or not.
        num_integration_steps: leapfrog steps a move.
        force: position -> log-density of the force; used for a split energy only.
        at_end: state of the integrator -> the same with what is exact; likewise.

    Returns:
        (kernel, steps): `kernel(key, state, log_density, step_size, inverse_mass, steps)`.
    """
    if not isinstance(energy, SplitEnergy):
        return _KERNEL, num_integration_steps

    def integrator(log_density: Any, kinetic_energy: Any) -> Callable[[Any, Any], Any]:
        del log_density
        one = velocity_verlet(force, kinetic_energy)

        def trajectory(state: Any, step_size: Any) -> Any:
            return at_end(jax.lax.fori_loop(0, num_integration_steps, lambda _, at: one(at, step_size), state))

        return trajectory

    return blackjax.hmc.build_kernel(integrator), 1


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

    def start(z: jax.Array, beta: jax.Array) -> Any:
        if not isinstance(energy, SplitEnergy):
            return blackjax.hmc.init(z, lambda x: log_density(x, beta, energy))
        value, gradient = value_and_force(energy)(z)
        return z, prior_log_density(z) - beta * value, -z - beta.astype(z.dtype) * gradient

    return KernelState(*jax.vmap(start)(positions, betas))


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
    replicas: Replicas = TOGETHER,
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
        replicas: their layout; static.

    Returns:
        The new state and `StepInfo`; `num_integration_steps` gradients a replica.
    """
    count, dimension = state.position.shape
    key_step, key_jitter = jax.random.split(key)
    keys = jax.random.split(key_step, count)
    uniform = jax.random.uniform(key_jitter, (count,), step_sizes.dtype, -1.0, 1.0)
    shared = None if inverse_mass is not None else jnp.ones((dimension,), state.position.dtype)

    def move(key: jax.Array, state: KernelState, beta: jax.Array, size: jax.Array, shift: jax.Array, *own: jax.Array):
        # A float64 step size would silently promote the positions.
        size = (size * (1.0 + jitter * shift)).astype(state.position.dtype)
        mass = own[0].astype(state.position.dtype) if shared is None else shared

        def exact(z: jax.Array) -> jax.Array:
            return log_density(z, beta, energy)

        kernel, steps = kernel_of(
            energy, num_integration_steps, force=lambda z: log_density(z, beta, force_of(energy)),
            at_end=lambda end: end._replace(logdensity=exact(end.position)),
        )  # fmt: skip
        state, info = kernel(key, state, exact, size, mass, steps)
        return KernelState(*state), StepInfo(info.acceptance_rate, info.is_accepted, info.is_divergent)

    own = () if inverse_mass is None else (inverse_mass,)
    return replicas.map(move, (keys, state, betas, step_sizes, uniform, *own))


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
