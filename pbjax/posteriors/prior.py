"""The prior over network weights, the same for mean-field and Gibbs posteriors."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax.posteriors.gaussian import Gaussian, check_positive, check_same_structure

__all__ = ["fan_in_prior"]


def fan_in_prior(params: Any, *, scale: ArrayLike, centre: Any = None) -> Gaussian:
    """Independent Gaussian prior whose standard deviation is ``scale / sqrt(fan-in)``.

    ``kernel [in, out], bias [out] ~ N(centre, scale^2 / in)``

    The fan-in of a kernel is the product of all its axes but the last, so convolutions ``[h, w, in, out]`` are covered.
    Every other array beside a kernel (its bias) has the kernel's fan-in.

    Args:
        params: pytree whose arrays sit beside an entry named ``kernel`` (Flax ``Dense``, ``Conv``); only shapes and
            dtypes are read.
        scale: scalar, > 0; 1 keeps the variance of pre-activations at that of the inputs.
        centre: pytree like ``params`` that does not depend on the certified data (a random initialisation), or ``None``
            for zeros.

    Returns:
        A ``Gaussian`` with the structure of ``params``.

    Raises:
        ValueError: for a non-positive ``scale``, an array that has no kernel beside it, or a ``centre`` of
            other shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> prior = fan_in_prior({"Dense_0": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}, scale=1.0)
        >>> [float(s) for s in jnp.exp(prior.log_scale["Dense_0"]["bias"])]
        [0.5, 0.5, 0.5]
    """
    check_positive("scale", scale)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    fan_ins = {
        path[:-1]: math.prod(jnp.shape(leaf)[:-1]) for path, leaf in leaves if path and _name(path[-1]) == "kernel"
    }

    def log_scale(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        fan_in = fan_ins.get(path[:-1])
        if not fan_in:
            raise ValueError(
                f"{jax.tree_util.keystr(path)} has no kernel with a positive fan-in beside it; "
                "build its Gaussian directly with Gaussian(mean, log_scale)"
            )
        return jnp.full_like(leaf, jnp.log(scale) - 0.5 * math.log(fan_in))

    if centre is None:
        centre = jax.tree.map(jnp.zeros_like, params)
    check_same_structure("centre", centre, params)
    return Gaussian(jax.tree.map(jnp.asarray, centre), jax.tree_util.tree_map_with_path(log_scale, params))


def _name(entry: Any) -> str:
    return str(getattr(entry, "key", getattr(entry, "name", entry)))
