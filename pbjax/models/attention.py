"""Causal attention of many short sequences with narrow heads, channels first: what small language models spend on.

Shapes: `h` heads, `c` channels a head, `n` sequences, `t` positions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pbjax.models.dropout import dropout


def causal_attention(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    readable: jax.Array,
    rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Each position reads the positions up to its own.

    $o_i = \sum_{j \le i} a_{ij} v_j$, $a_i = \mathrm{softmax}_j(q_i \cdot k_j / \sqrt c)$

    Args:
        queries: [h, c, n, t].
        keys: [h, c, n, t].
        values: [h, c, n, t].
        readable: bool [n, t], False where nobody may read (padding). Without a readable position the result is 0.
        rate: dropout on the attention weights, in [0, 1).
        key: PRNG key, or None for no dropout.

    Returns:
        [h, c, n, t].

    Example:
        >>> import jax.numpy as jnp
        >>> zeros, values = jnp.zeros((1, 1, 1, 3)), jnp.array([[[[2.0, 4.0, 9.0]]]])
        >>> causal_attention(zeros, zeros, values, readable=jnp.ones((1, 3), bool)).ravel().tolist()
        [2.0, 3.0, 5.0]

    References:
        Vaswani et al., "Attention is all you need", NeurIPS 2017, equation 1.
    """
    t = queries.shape[-1]
    scores = jnp.einsum("hcni,hcnj->hnij", queries * queries.shape[1] ** -0.5, keys)
    allowed = jnp.tril(jnp.ones((t, t), bool))[None] & readable[:, None, :]
    weights = masked_softmax(scores, allowed[None])
    return jnp.einsum("hnij,hcnj->hcni", dropout(weights, rate, key), values)


def masked_softmax(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    """Softmax over the last axis of the allowed entries; 0 elsewhere, and everywhere where nothing is allowed."""
    lowest = jnp.finfo(scores.dtype).min
    scores = jnp.where(allowed, scores, lowest)
    # The maximum is a constant of the softmax: no gradient needs to pass through it.
    exponentials = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    exponentials = jnp.where(allowed, exponentials, 0.0)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total > 0.0, total, 1.0)
