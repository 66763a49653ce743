"""Gaussians with full covariance over a flattened parameter vector, for small nets.

They split the gap between mean-field and Gibbs posteriors in two: what factorisation costs (diagonal against full
covariance) and what Gaussianity costs (full covariance against Gibbs). Memory and time grow as ``d^2``; ``d`` up to
about 1,500 is comfortable on a CPU.

Symbols: ``d`` parameters, ``mu [d]`` mean, ``C = T T'`` covariance, ``T`` lower triangular with positive diagonal.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pbjax.posteriors.family import Family
from pbjax.posteriors.gaussian import Gaussian, check_positive, wide_sum

__all__ = ["FullGaussian", "family", "from_diagonal", "init", "kl", "log_density", "sample"]


class FullGaussian(NamedTuple):
    """A Gaussian with full covariance.

    Attributes:
        mean: array ``[d]``.
        scale_tril: array ``[d, d]``, lower triangular factor of the covariance, positive diagonal.
    """

    mean: jax.Array
    scale_tril: jax.Array


def init(params: Any, *, scale: ArrayLike) -> FullGaussian:
    """``N(flattened params, scale^2 I)``.

    Args:
        params: pytree of ``d`` numbers in all.
        scale: scalar, standard deviation, > 0.

    Returns:
        A ``FullGaussian`` over ``d`` numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> init({"kernel": jnp.zeros((2, 3))}, scale=0.5).scale_tril.shape
        (6, 6)
    """
    check_positive("scale", scale)
    mean = ravel_pytree(params)[0]
    return FullGaussian(mean, jnp.asarray(scale, mean.dtype) * jnp.eye(mean.size, dtype=mean.dtype))


def from_diagonal(gaussian: Gaussian) -> FullGaussian:
    """The same distribution, with its covariance stored in full: a warm start for training.

    Args:
        gaussian: diagonal Gaussian over ``d`` numbers.

    Returns:
        A ``FullGaussian`` over ``d`` numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from_diagonal(Gaussian(jnp.zeros(2), jnp.zeros(2))).scale_tril.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return FullGaussian(ravel_pytree(gaussian.mean)[0], jnp.diag(jnp.exp(ravel_pytree(gaussian.log_scale)[0])))


def sample(key: jax.Array, gaussian: FullGaussian, *, shape: tuple[int, ...] = ()) -> jax.Array:
    """Independent draws ``mu + T eps``, flattened.

    Args:
        key: a random key.
        gaussian: the distribution over ``d`` numbers.
        shape: batch shape of the draws.

    Returns:
        Array ``[*shape, d]``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> sample(jax.random.key(0), init(jnp.zeros(3), scale=1.0), shape=(4,)).shape
        (4, 3)
    """
    mean, scale_tril = gaussian
    noise = jax.random.normal(key, (*shape, mean.size), mean.dtype)
    return jnp.expand_dims(mean, tuple(range(len(shape)))) + noise @ scale_tril.T


def log_density(gaussian: FullGaussian, params: jax.Array) -> jax.Array:
    """Log-density of one flattened parameter vector, in nats.

    ``-|T^-1 (w - mu)|^2 / 2 - sum_i log T_ii - d log(2 pi) / 2``

    Args:
        gaussian: the distribution over ``d`` numbers.
        params: array ``[d]``.

    Returns:
        Scalar, float64 when x64 is enabled.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(log_density(init(jnp.zeros(2), scale=1.0), jnp.zeros(2))), 4)
        -1.8379
    """
    mean, scale_tril = gaussian
    standardised = jax.scipy.linalg.solve_triangular(scale_tril, params - mean, lower=True)
    return wide_sum(-0.5 * standardised**2 - jnp.log(jnp.abs(jnp.diag(scale_tril))) - 0.5 * math.log(2 * math.pi))


def kl(q: FullGaussian, p: Gaussian) -> jax.Array:
    """Kullback-Leibler divergence to a diagonal Gaussian, in nats.

    ``KL(q||p) = sum_i [ (C_ii / s_i^2 - 1 + (mu_i - m_i)^2 / s_i^2) / 2 - log(T_ii / s_i) ]``

    Args:
        q: posterior over ``d`` numbers.
        p: diagonal prior; any pytree of ``d`` numbers in all, with means ``m`` and scales ``s``.

    Returns:
        Scalar >= 0, float64 when x64 is enabled.

    Example:
        >>> import jax.numpy as jnp
        >>> float(kl(init(jnp.ones(4), scale=1.0), Gaussian(jnp.zeros(4), jnp.zeros(4))))
        2.0
    """
    prior_mean, prior_log_scale = ravel_pytree(p.mean)[0], ravel_pytree(p.log_scale)[0]
    if prior_mean.shape != q.mean.shape:
        raise ValueError(f"prior has {prior_mean.size} parameters, posterior {q.mean.size}; flatten the same tree")
    whitened = q.scale_tril * jnp.exp(-prior_log_scale)[:, None]
    shift = (q.mean - prior_mean) * jnp.exp(-prior_log_scale)
    log_ratio = jnp.log(jnp.abs(jnp.diag(q.scale_tril))) - prior_log_scale
    off_diagonal = jnp.tril(whitened, -1)
    return wide_sum(0.5 * (jnp.expm1(2 * log_ratio) - 2 * log_ratio + shift**2)) + 0.5 * wide_sum(off_diagonal**2)


def family(params: Any) -> Family:
    """The full-covariance family over trees shaped like ``params``, for ``train``.

    Training moves ``log T_ii`` and the rows of ``T`` divided by ``T_ii``: these have no constraint and no unit, so one
    learning rate suits all of them. There are ``d^2 / 2`` of the latter and each pays KL for its gradient noise: start
    from the mean-field optimum (``from_diagonal``), with ``scale_rate`` about 0.03 and several antithetic draws a step.
    At ``scale_rate`` 1 a 64-16-10 net ends above its mean-field start.

    Args:
        params: pytree that fixes the structure of the draws.

    Returns:
        A ``Family``; keep it, since a new one makes ``train`` compile again.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> full = family({"kernel": jnp.zeros((2, 3))})
        >>> full.sample(jax.random.key(0), init(jnp.zeros(6), scale=1.0))["kernel"].shape
        (2, 3)
    """
    unravel = ravel_pytree(params)[1]

    def unconstrain(q: FullGaussian) -> FullGaussian:
        diagonal = jnp.diag(q.scale_tril)
        return FullGaussian(q.mean, jnp.tril(q.scale_tril / diagonal[:, None], -1) + jnp.diag(jnp.log(diagonal)))

    def constrain(raw: FullGaussian) -> FullGaussian:
        unit = jnp.tril(raw.scale_tril, -1) + jnp.eye(raw.mean.size, dtype=raw.mean.dtype)
        return FullGaussian(raw.mean, unit * jnp.exp(jnp.diag(raw.scale_tril))[:, None])

    def rescale(q: FullGaussian, factor: ArrayLike) -> FullGaussian:
        return FullGaussian(q.mean, q.scale_tril * jnp.asarray(factor, q.scale_tril.dtype))

    return Family(
        sample=lambda key, q: unravel(sample(key, q)),
        kl=kl,
        location=lambda q: unravel(q.mean),
        rescale=rescale,
        unconstrain=unconstrain,
        constrain=constrain,
    )
