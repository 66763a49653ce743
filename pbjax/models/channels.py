"""Layers over the first axis of activations `[d, n, t]`: reductions over few channels run over vectors of positions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pbjax.models.dropout import dropout

# Numbers of a hidden layer that CPUs hold in their caches, 4 MiB: a block of positions has no more of them.
CACHED = 2**20


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


def relu_pair(
    first: Any, second: Any, inputs: jax.Array, *, rate: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    r"""Two dense layers with a ReLU and dropout m between them.

    $y_{:nt} = W_1^\top (m \odot \phi(W_0^\top x_{:nt} + b_0)) + b_1$

    A hidden layer is a hundred times as wide as the residual stream of the small models here: on CPUs it is written to
    memory and read back for longer than it is computed. There it is made for one block of positions at a time, and a
    second time in the backward pass, which halves the time of a gradient; elsewhere in one piece.

    Args:
        first: `{"kernel" [d, hidden], "bias" [hidden]}`.
        second: `{"kernel" [hidden, d], "bias" [d]}`.
        inputs: [d, n, t].
        rate: dropout on the hidden layer, in [0, 1).
        key: PRNG key, or None for no dropout.

    Returns:
        [d, n, t].

    Example:
        >>> import jax.numpy as jnp
        >>> dense = {"kernel": -jnp.ones((1, 1)), "bias": jnp.ones(1)}
        >>> relu_pair(dense, dense, jnp.array([[[0.0, 3.0]]])).ravel().tolist()
        [0.0, 1.0]
    """
    d, n, t = inputs.shape
    hidden = first["kernel"].shape[1]
    block = max(CACHED // hidden, 1) if jax.default_backend() == "cpu" else n * t
    blocks = -(-n * t // block)

    @jax.checkpoint
    def one(numbered: tuple[jax.Array, jax.Array]) -> jax.Array:
        columns, number = numbered
        inside = jax.nn.relu(channel_dense(first, columns))
        inside = dropout(inside, rate, None if key is None else jax.random.fold_in(key, number))
        return channel_dense(second, inside)

    if blocks == 1:
        return one((inputs, jnp.zeros((), jnp.int32)))
    columns = jnp.pad(inputs.reshape(d, n * t), ((0, 0), (0, blocks * block - n * t)))
    columns = jnp.moveaxis(columns.reshape(d, 1, blocks, block), 2, 0)
    outputs = jnp.moveaxis(jax.lax.map(one, (columns, jnp.arange(blocks))), 0, 2)
    return outputs.reshape(-1, blocks * block)[:, : n * t].reshape(-1, n, t)


def init_norm(width: int) -> dict[str, jax.Array]:
    """Scale one and bias zero, float32."""
    return {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}
