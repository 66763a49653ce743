r"""The tempered (Gibbs) posterior Q_beta proportional to P exp(-beta L), in the coordinates of a standard normal prior.

Whitening w = mean + scale * z turns every Gaussian prior into N(0, I) on z. The identity mass matrix is then right
at beta = 0 for all layers at once, whatever their fan-in, and the log-density needs no prior scale:

    log q_beta(z) = -|z|^2 / 2 - beta L(w(z)) + const.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike


class Whitening(NamedTuple):
    """The map between a flat standard-normal vector z and the parameters of the network.

    Attributes:
        dimension: number of parameters d.
        to_params: z float32 [d] -> parameter pytree.
        to_position: parameter pytree -> z float32 [d].
    """

    dimension: int
    to_params: Callable[[jax.Array], Any]
    to_position: Callable[[Any], jax.Array]


def whiten(mean: Any, log_scale: Any) -> Whitening:
    """Whitening of a diagonal Gaussian prior.

    Args:
        mean: parameter pytree of prior means.
        log_scale: pytree of the same structure, log standard deviations.

    Returns:
        A `Whitening`; `to_params(z)` is mean + exp(log_scale) * z.

    Example:
        >>> import jax.numpy as jnp
        >>> map_ = whiten({"w": jnp.ones(2)}, {"w": jnp.log(jnp.full(2, 3.0))})
        >>> [round(float(x), 4) for x in map_.to_params(jnp.array([0.0, 1.0], jnp.float32))["w"]]
        [1.0, 4.0]
    """
    flat_mean, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), mean))
    flat_scale = jnp.exp(ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), log_scale))[0])

    def to_params(position: jax.Array) -> Any:
        return unravel(flat_mean + flat_scale * position)

    def to_position(params: Any) -> jax.Array:
        return (ravel_pytree(params)[0].astype(jnp.float32) - flat_mean) / flat_scale

    return Whitening(flat_mean.size, to_params, to_position)


def prior_log_density(position: jax.Array) -> jax.Array:
    """log N(z; 0, I) up to its constant, -|z|^2/2, summed in float64 under x64 over a float32 position [d]."""
    return -0.5 * jnp.sum(jnp.square(position.astype(jax.dtypes.canonicalize_dtype(jnp.float64))))


def log_density(position: jax.Array, beta: ArrayLike, energy: Callable[[jax.Array], jax.Array]) -> jax.Array:
    r"""Unnormalised log-density of the Gibbs posterior, $-\tfrac12 |z|^2 - \beta L(z)$.

    Args:
        position: z, float32 [d].
        beta: total inverse temperature, scalar >= 0 (already multiplied by n).
        energy: z -> L in [0, 1].

    Returns:
        Float64 scalar under x64. Both parts are float64 sums, so differences survive at beta = 60,000.

    Example:
        >>> import jax.numpy as jnp
        >>> float(log_density(jnp.ones(2, jnp.float32), 10.0, lambda z: jnp.float32(0.5)))
        -6.0
    """
    prior = prior_log_density(position)
    return prior - jnp.asarray(beta, prior.dtype) * energy(position).astype(prior.dtype)
