"""Where a token stands, told to a transformer: sinusoids that are added, and rotations of queries and keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

POSITIONS = ("none", "sinusoidal", "learned", "rotary", "batch_row")

# Both encodings turn their slowest pair of channels once in about this many positions (times 2 pi).
LONGEST = 10_000.0


def sinusoid(index: jax.Array, width: int, dtype: Any) -> jax.Array:
    r"""Sines and cosines of an index, at frequencies that fall geometrically over the channels.

    $p_{2i} = \sin(m\, \omega_i)$, $p_{2i+1} = \cos(m\, \omega_i)$, $\omega_i = 10000^{-2 i / d}$

    Args:
        index: m, integers [t].
        width: d, number of channels, >= 1.
        dtype: of the result.

    Returns:
        [d, t].

    Example:
        >>> import jax.numpy as jnp
        >>> sinusoid(jnp.array([0, 7]), 4, jnp.float32)[:, 0].tolist()
        [0.0, 1.0, 0.0, 1.0]

    References:
        Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.5.
    """
    pairs = jnp.arange((width + 1) // 2, dtype=dtype)
    angles = LONGEST ** (-2.0 * pairs / width)[:, None] * index.astype(dtype)[None, :]
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=1).reshape(-1, index.shape[0])[:width]


def rotate(vectors: jax.Array, place: jax.Array) -> jax.Array:
    r"""Turns pairs of channels by an angle that grows with the position, so that products see distances only.

    $(x_{2i}, x_{2i+1}) \mapsto R(m\, \omega_i)\, (x_{2i}, x_{2i+1})$, $\omega_i = 10000^{-2 i / c}$

    Args:
        vectors: queries or keys [h, c, n, t] with c even.
        place: m, positions [t].

    Returns:
        [h, c, n, t].

    Example:
        >>> import jax.numpy as jnp
        >>> rotate(jnp.ones((1, 2, 1, 1)), jnp.array([0])).ravel().tolist()
        [1.0, 1.0]

    References:
        Su et al., "RoFormer: enhanced transformer with rotary position embedding", Neurocomputing 2024, equation 34.
    """
    h, c, n, t = vectors.shape
    frequencies = LONGEST ** (-2.0 * jnp.arange(c // 2, dtype=vectors.dtype) / c)
    angles = (frequencies[:, None] * place.astype(vectors.dtype)[None, :])[None, :, None, :]
    pairs = vectors.reshape(h, c // 2, 2, n, t)
    x, y = pairs[:, :, 0], pairs[:, :, 1]
    turned = [x * jnp.cos(angles) - y * jnp.sin(angles), x * jnp.sin(angles) + y * jnp.cos(angles)]
    return jnp.stack(turned, axis=2).reshape(h, c, n, t)
