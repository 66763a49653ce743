"""One HMC move of one chain that starts from, and hands back, L and its gradient instead of a log-density.

blackjax caches log q = log P - beta L and its gradient. After a change of beta both have to be rebuilt, and taking L
back out of them would subtract nearly equal numbers where beta is small. So the log-density gets two dummy arguments
that are 0 and stay 0, having no kinetic energy: its derivatives with respect to them are -beta grad L and -L.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc.hmc import HMCState
from blackjax.mcmc.metrics import Metric, gaussian_euclidean

from pbjax.posteriors.gibbs import log_density, prior_log_density
from pbjax.precision import force_of
from pbjax.sampling.hmc import Energy, kernel_of


class Position(NamedTuple):
    """What blackjax moves.

    Attributes:
        z: position, float32 [d].
        shift: added to z inside L, 0, [d].
        extra_beta: added to beta, 0, scalar.
    """

    z: jax.Array
    shift: jax.Array
    extra_beta: jax.Array


class MoveResult(NamedTuple):
    """Outcome of one move.

    Attributes:
        z: position after it, [d].
        energy: L there.
        gradient: its gradient, [d].
        acceptance: acceptance probability, in [0, 1].
        is_divergent: an energy error above 1,000 nats or not finite.
        slack: how far rounding may have moved the log-ratio of this move's density and its reverse's, nats.
    """

    z: jax.Array
    energy: jax.Array
    gradient: jax.Array
    acceptance: jax.Array
    is_divergent: jax.Array
    slack: jax.Array


def _kinetic_energy(inverse_mass: jax.Array, momentum: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return 0.5 * jnp.sum(inverse_mass.astype(dtype) * jnp.square(momentum.astype(dtype)))


def _metric(inverse_mass: jax.Array, dtype: jnp.dtype) -> Metric:
    """Gaussian momenta for z, none for the dummies, with the kinetic energy summed in `dtype`.

    blackjax sums it in the dtype of the momenta; in float32 that alone puts up to eps d^2 / 2 nats into a ratio.
    """
    metric = gaussian_euclidean(inverse_mass)

    def sample_momentum(key: jax.Array, position: Position) -> Position:
        zeros = jax.tree.map(jnp.zeros_like, position)
        return zeros._replace(z=metric.sample_momentum(key, position.z))

    def kinetic_energy(momentum: Position, position: Position | None = None) -> jax.Array:
        del position
        return _kinetic_energy(inverse_mass, momentum.z, dtype)

    return metric._replace(sample_momentum=sample_momentum, kinetic_energy=kinetic_energy)


def hmc_move(
    key: jax.Array,
    z: jax.Array,
    value: jax.Array,
    gradient: jax.Array,
    *,
    beta: jax.Array,
    step_size: jax.Array,
    num_integration_steps: jax.Array,
    inverse_mass: jax.Array | None,
    energy: Energy,
) -> MoveResult:
    """One Metropolis-corrected move with a full momentum refresh, reversible for N(z; 0, I) exp(-beta L).

    Args:
        key: typed PRNG key.
        z: position, float32 [d].
        value: L(z), scalar in the wide dtype (float64 under x64).
        gradient: gradient of L at z, [d].
        beta: scalar, > 0.
        step_size: scalar, > 0.
        num_integration_steps: leapfrog steps, int scalar, >= 1.
        inverse_mass: diagonal, [d], or None for the identity.
        energy: z [d] -> L.

    Returns:
        `MoveResult`; costs `num_integration_steps` gradients, and a forward pass more for a split energy.
    """
    wide, dimension = value.dtype, z.shape[0]
    eps = float(jnp.finfo(wide).eps)
    mass = jnp.ones_like(z) if inverse_mass is None else inverse_mass
    force = -beta.astype(gradient.dtype) * gradient

    def extended(at: Position, function: Energy = energy) -> jax.Array:
        return log_density(at.z, beta + at.extra_beta, lambda x: function(x + at.shift))

    def with_exact_values(end: Any) -> Any:
        there = energy(end.position.z).astype(wide)
        gradient = end.logdensity_grad._replace(extra_beta=-there)
        return end._replace(logdensity=prior_log_density(end.position.z) - beta * there, logdensity_grad=gradient)

    position = Position(z, jnp.zeros_like(z), jnp.zeros((), wide))
    log_q: Any = prior_log_density(z) - beta * value  # blackjax annotates it as a float
    start = HMCState(position, log_q, Position(force - z, force, -value))
    kernel, steps = kernel_of(
        energy, num_integration_steps, force=lambda at: extended(at, force_of(energy)), at_end=with_exact_values
    )
    new, info = kernel(key, start, extended, step_size.astype(z.dtype), _metric(mass, wide), steps)

    def magnitude(at: Position, momentum: Position, energy_there: jax.Array) -> tuple[jax.Array, jax.Array]:
        kinetic = _kinetic_energy(mass, momentum.z, wide)
        return kinetic - prior_log_density(at.z) + beta * jnp.abs(energy_there), kinetic

    end = info.proposal
    sizes, kinetics = zip(
        magnitude(position, info.momentum, value),
        magnitude(end.position, end.momentum, end.logdensity_grad.extra_beta),
        strict=True,
    )
    # Each of the four energies of an accept ratio is a sum of d + 1 terms of one sign, off by at most (d + 8) eps of
    # itself. The ratio enters the forward and the reverse move, hence twice. With a mass matrix the momenta are drawn
    # with a standard deviation that is rounded in their own dtype.
    slack = 2.0 * (dimension + 8) * eps * (sizes[0] + sizes[1])
    if inverse_mass is not None:
        slack = slack + 4.0 * float(jnp.finfo(z.dtype).eps) * (kinetics[0] + kinetics[1])
    # A proposal that is not finite is refused for certain, and no rounding can change that.
    slack = jnp.where(jnp.isfinite(slack), slack, 0.0)
    moved = info.is_accepted
    return MoveResult(
        new.position.z,
        jnp.where(moved, -new.logdensity_grad.extra_beta, value),
        jnp.where(moved, -new.logdensity_grad.shift / beta.astype(gradient.dtype), gradient),
        jnp.nan_to_num(info.acceptance_rate),
        info.is_divergent,
        slack,
    )
