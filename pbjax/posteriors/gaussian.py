"""Diagonal Gaussians over a parameter pytree.

Symbols: ``w`` a parameter tree of ``d`` numbers, ``mu`` its mean, ``s = exp(log_scale)`` its standard deviations. The
scale is kept as a logarithm, so that any optimiser may move it freely and ratios of scales are differences.

Terms are computed in the dtype of the parameters and summed in the widest float that is switched on (float64 when
``jax_enable_x64`` is set): the sum over many parameters is where float32 would lose digits.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import concrete

Params = Any

__all__ = ["Gaussian", "check_same_structure", "init", "kl", "log_density", "sample"]


class Gaussian(NamedTuple):
    """A Gaussian with diagonal covariance over a pytree.

    Attributes:
        mean: pytree of arrays, the means ``mu``.
        log_scale: pytree of the same structure and shapes, logarithms of the standard deviations.
    """

    mean: Params
    log_scale: Params


def init(params: Params, *, scale: ArrayLike) -> Gaussian:
    """Gaussian centred at ``params`` with one standard deviation for every parameter.

    ``N(params, scale^2 I)``

    Args:
        params: pytree of float arrays, the mean.
        scale: scalar, standard deviation, > 0.

    Returns:
        A ``Gaussian`` with the dtypes of ``params``.

    Raises:
        ValueError: if ``scale`` is not a positive finite number.

    Example:
        >>> import jax.numpy as jnp
        >>> float(init({"kernel": jnp.zeros((2, 3))}, scale=1.0).log_scale["kernel"].sum())
        0.0
    """
    check_positive("scale", scale)
    params = jax.tree.map(jnp.asarray, params)
    return Gaussian(params, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.log(scale)), params))


def sample(key: jax.Array, gaussian: Gaussian, *, shape: tuple[int, ...] = ()) -> Params:
    """Independent draws, differentiable in the mean and the scale.

    ``w = mu + s * eps``, ``eps ~ N(0, I)``

    Args:
        key: a random key.
        gaussian: the distribution; leaves ``[...]``.
        shape: batch shape of the draws.

    Returns:
        A pytree with leaves ``[*shape, ...]`` in the dtypes of the mean.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = init({"kernel": jnp.zeros((2, 3))}, scale=0.1)
        >>> sample(jax.random.key(0), q, shape=(5,))["kernel"].shape
        (5, 2, 3)
    """
    means, structure = jax.tree.flatten(gaussian.mean)
    log_scales = structure.flatten_up_to(gaussian.log_scale)
    if not means:
        return gaussian.mean
    # One call for all leaves: every call of the generator costs a fraction of a second to compile on a CPU.
    noise = jax.random.normal(key, (*shape, sum(mean.size for mean in means)), jnp.result_type(*means))
    leading = tuple(range(len(shape)))  # explicit, because rank promotion may be forbidden
    draws, start = [], 0
    for mean, log_scale in zip(means, log_scales, strict=True):
        part = noise[..., start : start + mean.size].reshape(*shape, *mean.shape).astype(mean.dtype)
        draws.append(jnp.expand_dims(mean, leading) + jnp.expand_dims(jnp.exp(log_scale), leading) * part)
        start += mean.size
    return jax.tree.unflatten(structure, draws)


def log_density(gaussian: Gaussian, params: Params) -> jax.Array:
    """Log-density of one parameter tree, in nats.

    ``sum_i [ -(w_i - mu_i)^2 / (2 s_i^2) - log s_i - log(2 pi) / 2 ]``

    Args:
        gaussian: the distribution.
        params: pytree of the structure and shapes of ``gaussian.mean``.

    Returns:
        Scalar, float64 when x64 is enabled.

    Example:
        >>> import jax.numpy as jnp
        >>> q = init(jnp.zeros(2), scale=1.0)
        >>> round(float(log_density(q, jnp.zeros(2))), 4)
        -1.8379
    """
    check_same_structure("params", params, gaussian.mean)

    def term(mean: jax.Array, log_scale: jax.Array, leaf: jax.Array) -> jax.Array:
        standardised = (leaf - mean) * jnp.exp(-log_scale)
        return wide_sum(-0.5 * standardised**2 - log_scale - 0.5 * math.log(2 * math.pi))

    return _total(jax.tree.map(term, gaussian.mean, gaussian.log_scale, params))


def kl(q: Gaussian, p: Gaussian) -> jax.Array:
    """Kullback-Leibler divergence between two diagonal Gaussians, in nats.

    ``KL(q||p) = sum_i [ (s_q^2 / s_p^2 - 1 + (mu_q - mu_p)^2 / s_p^2) / 2 - log(s_q / s_p) ]``

    Args:
        q: the posterior.
        p: the prior, of the same structure and shapes.

    Returns:
        Scalar >= 0, exactly 0 for ``q = p``; float64 when x64 is enabled.

    Raises:
        ValueError: if structures or shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> float(kl(init(jnp.ones(4), scale=1.0), init(jnp.zeros(4), scale=1.0)))
        2.0
    """
    check_same_structure("q", q, p)

    def term(mean_q: jax.Array, log_q: jax.Array, mean_p: jax.Array, log_p: jax.Array) -> jax.Array:
        log_ratio = log_q - log_p
        shift = (mean_q - mean_p) * jnp.exp(-log_p)
        # expm1 keeps the cancellation of s^2 - 1 - log s^2 near s = 1 exact enough that q = p gives 0.
        return wide_sum(0.5 * (jnp.expm1(2 * log_ratio) - 2 * log_ratio + shift**2))

    return _total(jax.tree.map(term, q.mean, q.log_scale, p.mean, p.log_scale))


def wide_dtype() -> Any:
    """The widest float that is switched on."""
    return jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32


def wide_sum(values: jax.Array) -> jax.Array:
    """Sum over all axes in the widest float that is switched on."""
    return jnp.sum(values, dtype=wide_dtype())


def check_positive(name: str, value: ArrayLike) -> None:
    """Refuse a concrete value that is not positive and finite."""
    known = concrete(value)
    if known is not None and not ((known > 0).all() and (known < math.inf).all()):
        raise ValueError(f"{name} must be positive and finite, got {value}; give a standard deviation such as 0.1")


def check_same_structure(name: str, tree: Params, reference: Params) -> None:
    """Refuse trees whose structure or shapes differ."""
    found = jax.tree.map(jnp.shape, tree)
    expected = jax.tree.map(jnp.shape, reference)
    if found != expected:
        raise ValueError(f"{name} has shapes {found}, expected {expected}; build both from the same parameters")


def _total(terms: Params) -> jax.Array:
    return sum(jax.tree.leaves(terms), start=jnp.zeros((), wide_dtype()))
