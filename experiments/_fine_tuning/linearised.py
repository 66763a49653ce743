"""Networks made linear in their parameters, from reverse passes alone: attention has no forward-mode derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def tangent_maps(
    function: Callable[[Any], jax.Array], params: Any
) -> tuple[jax.Array, Callable[[Any], jax.Array], Callable[[jax.Array], Any]]:
    r"""A function at a point, and its Jacobian J as two linear maps.

    The map of a direction is the transpose of the transpose: $u \mapsto J^\top u$ is linear, so the reverse pass
    through it takes v to $J v$.

    Args:
        function: of a parameter tree, to an array.
        params: the point.

    Returns:
        The value; `forth(v) = J v` for trees like the params; `back(u) = J' u` for arrays like the value.
    """
    value, reverse = jax.vjp(function, params)
    back = lambda u: reverse(u)[0]  # noqa: E731
    _, again = jax.vjp(back, jnp.zeros_like(value))
    return value, lambda v: again(v)[0], back
