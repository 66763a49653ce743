"""One causal linear map from all positions to all positions: a language model that shares nothing between places."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax.models.language_model import LanguageModel, check_length, check_sizes, check_tokens, check_vocabulary


class CausalLinearCache(NamedTuple):
    """The embedded tokens read so far.

    Attributes:
        embedded: [n, length, e], 0 where no token has been read yet.
        index: tokens read so far, an int32 scalar.
    """

    embedded: jax.Array
    index: jax.Array


def causal_linear(vocabulary_size: int, *, embedding: int = 10, max_positions: int = 257) -> LanguageModel:
    r"""Logits that are linear in the embedded tokens, $z_{iv} = b_{iv} + \sum_{j \le i} \sum_e x_{je} W_{jeiv}$.

    Every pair of positions has weights of its own, so nothing is shared between places and what it has not seen at a
    place it does not know there.

    Args:
        vocabulary_size: v, >= 1.
        embedding: e, channels of the embedded tokens.
        max_positions: p, the longest sequence.

    Returns:
        A `LanguageModel` with parameters `Embedding` [v, e] and `Dense_0` with a kernel [p, e, p, v], whose entries
        from later positions to earlier ones are not read, and a bias [p, v].

    Raises:
        ValueError: sizes below 1; at `apply` and `start`, tokens or lengths that the model cannot read.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = causal_linear(5, embedding=3, max_positions=6)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.array([[0, 3, 3, 4]])).shape
        (1, 4, 5)

    References:
        Mészáros et al., "Rule extrapolation in language models", NeurIPS 2024 (the linear baseline).
    """
    check_sizes(vocabulary_size=vocabulary_size, embedding=embedding, max_positions=max_positions)

    def init(key: jax.Array) -> Any:
        embedding_key, kernel_key, bias_key = jax.random.split(key, 3)
        bound = (embedding * max_positions) ** -0.5
        shape = (max_positions, embedding, max_positions, vocabulary_size)
        kernel = jax.random.uniform(kernel_key, shape, jnp.float32, -bound, bound)
        bias = jax.random.uniform(bias_key, (max_positions, vocabulary_size), jnp.float32, -bound, bound)
        return {
            "Embedding": jax.random.normal(embedding_key, (vocabulary_size, embedding), jnp.float32),
            "Dense_0": {"kernel": causal(kernel), "bias": bias},
        }

    def causal(kernel: jax.Array) -> jax.Array:
        """The kernel [t, e, t, v] with 0 from later positions to earlier ones."""
        t = kernel.shape[0]
        return jnp.where(jnp.triu(jnp.ones((t, t), bool))[:, None, :, None], kernel, 0.0)

    def apply(params: Any, tokens: Any, *, key: jax.Array | None = None, rows: Any = None) -> jax.Array:
        del key, rows
        check_vocabulary(params, vocabulary_size)
        tokens = check_tokens(tokens, vocabulary_size=vocabulary_size, max_positions=max_positions)
        n, t = tokens.shape
        dense = params["Dense_0"]
        kernel = causal(dense["kernel"][:t, :, :t]).reshape(t * embedding, t * vocabulary_size)
        logits = params["Embedding"][tokens].reshape(n, t * embedding) @ kernel
        return logits.reshape(n, t, vocabulary_size) + dense["bias"][None, :t]

    def start(params: Any, rows: Any, length: int) -> CausalLinearCache:
        check_vocabulary(params, vocabulary_size)
        check_length(length, max_positions)
        empty = jnp.zeros((jnp.shape(rows)[0], length, embedding), params["Embedding"].dtype)
        return CausalLinearCache(empty, jnp.zeros((), jnp.int32))

    def step(params: Any, cache: CausalLinearCache, tokens: Any) -> tuple[jax.Array, CausalLinearCache]:
        token = params["Embedding"][jnp.asarray(tokens)][:, None]
        embedded = jax.lax.dynamic_update_slice_in_dim(cache.embedded, token, cache.index, axis=1)
        n, length, _ = embedded.shape
        dense = params["Dense_0"]
        # Later positions hold zeros still, so the column needs no mask.
        column = jax.lax.dynamic_index_in_dim(dense["kernel"][:length], cache.index, axis=2, keepdims=False)
        logits = embedded.reshape(n, length * embedding) @ column.reshape(length * embedding, vocabulary_size)
        bias = jax.lax.dynamic_index_in_dim(dense["bias"], cache.index, axis=0)
        return logits + bias, CausalLinearCache(embedded, cache.index + 1)

    return LanguageModel(init, apply, start, step, vocabulary_size, max_positions)
