"""Causal attention of many short sequences with narrow heads, channels first: what small language models spend on.

With heads of width two a score costs two multiplications and an exponential, so products are not the work: touching
the n x h x t x t scores is. They are therefore written as elementwise operations that XLA fuses, are made a second
time in the backward pass instead of kept, and are made only on and below the diagonal, up to the grain of a block.

Shapes: `h` heads, `c` channels a head, `n` sequences, `t` positions; queries i, keys j.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.models.dropout import keep_mask

# Queries a block, about: fewer waste less above the diagonal and take longer to compile.
BLOCK = 32


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

    The derivative is written out for reverse mode; forward mode over reverse mode works as well (curvature products),
    forward mode alone does not.

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
        Vaswani et al., "Attention is all you need", NeurIPS 2017, equation 1. Dao et al., "FlashAttention", NeurIPS
        2022, appendix B.2 (the derivative from recomputed scores).
    """
    rate = 0.0 if key is None else rate
    scaled = queries * queries.shape[1] ** -0.5
    penalty = jnp.where(readable, 0.0, _lowest(scaled.dtype)).astype(scaled.dtype)
    return _attend(rate, scaled, keys, values, penalty, key if rate else None)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rate: float, queries: Any, keys: Any, values: Any, penalty: Any, key: Any) -> jax.Array:
    """`penalty` [n, t] is added to scores: 0 where a key may be read and `_lowest` where it may not."""
    return _forward(rate, queries, keys, values, penalty, key)[0]


def _lowest(dtype: Any) -> float:
    """A score without weight; the sum of two of them and the difference of four are finite still."""
    return float(jnp.finfo(dtype).min) / 4


def _scores(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """[h, c, n, i] and [h, c, n, j] -> sums over c [h, n, i, j], as a chain that fuses with what reads it."""
    return sum(queries[:, c, :, :, None] * keys[:, c, :, None, :] for c in range(queries.shape[1]))  # pyright: ignore


def _blocks(t: int) -> list[tuple[int, int]]:
    """First and one past the last query of each block; 257 and 33 positions make no block of a single query."""
    size = -(-t // max(round(t / BLOCK), 1))
    return [(first, min(first + size, t)) for first in range(0, t, size)]


def _masked_scores(queries: jax.Array, keys: jax.Array, penalty: jax.Array, first: int, last: int) -> jax.Array:
    """[h, n, i, j] for queries first .. last - 1 and keys 0 .. last - 1, without weight where nobody may read."""
    later = np.arange(last)[None, :] > np.arange(first, last)[:, None]
    # A sum and not a choice: XLA would hoist the array of zeros to choose from out of every loop, and load it.
    mask = penalty[:, None, :last] + (later * _lowest(penalty.dtype)).astype(penalty.dtype)[None]
    return _scores(queries[..., first:last], keys[..., :last]) + mask[None]


def _keep(key: Any, rate: float, first: int, like: jax.Array) -> jax.Array:
    """Dropout of one block, scaled: a block has a key of its own, in the backward pass the same one."""
    return keep_mask(jax.random.fold_in(key, first), rate, like.shape, like.dtype)


def _forward(rate: float, queries: Any, keys: Any, values: Any, penalty: Any, key: Any) -> tuple[jax.Array, Any]:
    # Training reads the same tokens at every step: without a barrier their masks are made once, and loaded ever after.
    queries, keys, values, penalty = jax.lax.optimization_barrier((queries, keys, values, penalty))
    something = (jnp.cumsum(penalty == 0.0, axis=1) > 0)[None]  # there is a key to read
    outputs, normalisers = [], []
    by_key = jnp.moveaxis(values, 1, 3)
    for first, last in _blocks(queries.shape[-1]):
        scores = _masked_scores(queries, keys, penalty, first, last)
        # It cancels, so nothing needs its derivative, and that is 0 / 0 where scores made twice do not round alike.
        highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
        exponentials = jnp.exp(scores - highest)
        total = jnp.sum(exponentials, axis=-1, keepdims=True)
        if rate:
            exponentials = exponentials * _keep(key, rate, first, exponentials)
        outputs.append(jnp.einsum("hnij,hnjc->hnic", exponentials, by_key[:, :, :last]) / total)
        normalisers.append((highest + jnp.log(total))[..., 0])
    output = jnp.where(something[:, None], jnp.moveaxis(jnp.concatenate(outputs, axis=2), 3, 1), 0.0)
    # With nothing to read, no score comes near this one, so the backward pass finds weights of zero.
    normaliser = jnp.where(something, jnp.concatenate(normalisers, axis=2), -_lowest(output.dtype))
    return output, (queries, keys, values, penalty, key, output, normaliser)


def _backward(rate: float, residuals: Any, slope: jax.Array) -> tuple[Any, ...]:
    queries, keys, values, penalty, key, output, normaliser = residuals
    slope, penalty = jax.lax.optimization_barrier((slope, penalty))
    # sum_j a_ij (dL / da_ij), which the softmax subtracts, is o_i . dL / do_i, with dropout as well.
    drift = jnp.sum(output * slope, axis=1)
    by_query, by_key = jnp.moveaxis(queries, 1, 2), jnp.moveaxis(keys, 1, 3)
    slope_by_query = jnp.moveaxis(slope, 1, 2)
    to_queries, to_keys, to_values = [], jnp.zeros_like(by_query), jnp.zeros_like(by_query)
    for first, last in _blocks(queries.shape[-1]):
        weights = jnp.exp(_masked_scores(queries, keys, penalty, first, last) - normaliser[:, :, first:last, None])
        by_weight = _scores(slope[..., first:last], values[..., :last])
        dropped = weights
        if rate:
            keep = _keep(key, rate, first, weights)
            dropped, by_weight = weights * keep, by_weight * keep
        by_score = weights * (by_weight - drift[:, :, first:last, None])
        to_queries.append(jnp.einsum("hnij,hnjc->hnic", by_score, by_key[:, :, :last]))
        # A sum of padded arrays: adding to a slice in place would be a scatter, which CPUs do one number at a time.
        later = ((0, 0), (0, 0), (0, 0), (0, queries.shape[-1] - last))
        to_keys += jnp.pad(jnp.einsum("hnci,hnij->hncj", by_query[..., first:last], by_score), later)
        to_values += jnp.pad(jnp.einsum("hnci,hnij->hncj", slope_by_query[..., first:last], dropped), later)
    to_queries = jnp.moveaxis(jnp.concatenate(to_queries, axis=2), 3, 1)
    return to_queries, jnp.moveaxis(to_keys, 2, 1), jnp.moveaxis(to_values, 2, 1), jnp.zeros_like(penalty), None


_attend.defvjp(_forward, _backward)


def masked_softmax(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    """Softmax over the last axis of the allowed entries; 0 elsewhere, and everywhere where nothing is allowed."""
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    # It cancels, so nothing needs its derivative.
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    exponentials = jnp.where(allowed, jnp.exp(scores - highest), 0.0)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total > 0.0, total, 1.0)
