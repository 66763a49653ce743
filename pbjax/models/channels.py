"""Layers over the first axis of activations `[d, n, t]`: reductions over few channels run over vectors of positions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def channel_dense(dense: Any, inputs: jax.Array) -> jax.Array:
    r"""A dense layer over channels, $y_{:nt} = W^\top x_{:nt} + b$.

    Args:
        dense: `{"kernel" [d_in, d_out], "bias" [d_out]}`.
        inputs: [d_in, n, t].

    Returns:
        [d_out, n, t].

    Example:
        >>> import jax.numpy as jnp
        >>> channel_dense({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, jnp.ones((2, 1, 1))).ravel().tolist()
        [3.0, 3.0, 3.0]
    """
    d_in, n, t = inputs.shape
    outputs = dense["kernel"].T @ inputs.reshape(d_in, n * t) + dense["bias"][:, None]
    return outputs.reshape(-1, n, t)


def channel_norm(norm: Any, inputs: jax.Array, *, epsilon: float) -> jax.Array:
    r"""Layer norm over channels, $\gamma (x - \bar x) / \sqrt{\mathrm{var}(x) + \epsilon} + \beta$.

    Args:
        norm: `{"scale" [d], "bias" [d]}`.
        inputs: [d, n, t].
        epsilon: added to the variance, > 0.

    Returns:
        [d, n, t].

    Example:
        >>> import jax.numpy as jnp
        >>> norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
        >>> channel_norm(norm, jnp.array([[[1.0]], [[3.0]]]), epsilon=1e-9).ravel().tolist()
        [-1.0, 1.0]

    References:
        Ba, Kiros, Hinton, "Layer normalization", arXiv 1607.06450, equation 4.
    """
    centred = inputs - jnp.mean(inputs, axis=0, keepdims=True)
    variance = jnp.mean(centred**2, axis=0, keepdims=True)
    scale, bias = norm["scale"][:, None, None], norm["bias"][:, None, None]
    return scale * centred * jax.lax.rsqrt(variance + epsilon) + bias


def init_norm(width: int) -> dict[str, jax.Array]:
    """Scale one and bias zero, float32."""
    return {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}
