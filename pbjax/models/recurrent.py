"""A stack of LSTM layers as a language model."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax.models.dropout import dropout as drop
from pbjax.models.language_model import (
    LanguageModel,
    affine,
    check_dropout,
    check_length,
    check_sizes,
    check_tokens,
    check_vocabulary,
    uniform_dense,
)


class LSTMCache(NamedTuple):
    """State of every layer after the tokens read so far.

    Attributes:
        hidden: [layers, n, width], what the layers gave out.
        cell: [layers, n, width], what they remember.
    """

    hidden: jax.Array
    cell: jax.Array


def lstm(
    vocabulary_size: int, *, width: int = 64, embedding: int = 10, layers: int = 5, dropout: float = 0.4
) -> LanguageModel:
    r"""LSTM layers over embedded tokens, dropout after the top one, and a dense layer.

    $(i, f, g, o) = W x_t + U h_{t-1} + b$; $c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh g$; $h_t = \sigma(o) \tanh c_t$

    The layers start uniform on ±1/sqrt(width), as in PyTorch, which has a second bias in each layer that adds nothing.

    Args:
        vocabulary_size: v, >= 1.
        width: channels of each layer.
        embedding: channels of the embedded tokens.
        layers: number of layers.
        dropout: rate in [0, 1).

    Returns:
        A `LanguageModel` with parameters `Embedding` [v, embedding], `Layer_0 ..` and `Dense_0`. It reads sequences of
        any length.

    Raises:
        ValueError: sizes below 1, a rate outside [0, 1); at `apply`, tokens that the model cannot read.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = lstm(5, width=8, layers=2)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.array([[0, 3, 3, 4]])).shape
        (1, 4, 5)

    References:
        Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 1997, with the forget gate of Gers et
        al., 2000. Mészáros et al., "Rule extrapolation in language models", NeurIPS 2024.
    """
    check_sizes(vocabulary_size=vocabulary_size, width=width, embedding=embedding, layers=layers)
    check_dropout(dropout)

    def init(key: jax.Array) -> Any:
        embedding_key, output_key, *layer_keys = jax.random.split(key, 2 + layers)
        params: dict[str, Any] = {
            "Embedding": jax.random.normal(embedding_key, (vocabulary_size, embedding), jnp.float32),
            "Dense_0": uniform_dense(output_key, width, vocabulary_size),
        }
        for i, layer_key in enumerate(layer_keys):
            shapes = [(width if i else embedding, 4 * width), (width, 4 * width), (4 * width,)]
            keys, bound = jax.random.split(layer_key, 3), width**-0.5
            params[f"Layer_{i}"] = {
                name: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
                for name, key, shape in zip(("kernel", "recurrent", "bias"), keys, shapes, strict=True)
            }
        return params

    def cell(layer: Any, state: tuple[jax.Array, jax.Array], projected: jax.Array) -> tuple[jax.Array, jax.Array]:
        """state [n, width] each, projected = W x + b [n, 4 width]."""
        gates = projected + state[0] @ layer["recurrent"]
        enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
        memory = jax.nn.sigmoid(forget) * state[1] + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        return jax.nn.sigmoid(leave) * jnp.tanh(memory), memory

    def apply(params: Any, tokens: Any, *, key: jax.Array | None = None, rows: Any = None) -> jax.Array:
        del rows
        check_vocabulary(params, vocabulary_size)
        tokens = check_tokens(tokens, vocabulary_size=vocabulary_size)
        zeros = jnp.zeros((tokens.shape[0], width), params["Embedding"].dtype)
        inputs = params["Embedding"][tokens.T]  # [t, n, embedding]: the scan runs over the first axis
        for i in range(layers):
            layer = params[f"Layer_{i}"]

            def advance(state: Any, projected: jax.Array, layer: Any = layer) -> tuple[Any, jax.Array]:
                state = cell(layer, state, projected)
                return state, state[0]

            # One product for all steps where no step waits for another; only U h is left to the scan.
            inputs = jax.lax.scan(advance, (zeros, zeros), affine(layer, inputs))[1]
        return affine(params["Dense_0"], drop(inputs.swapaxes(0, 1), dropout, key))

    def start(params: Any, rows: Any, length: int) -> LSTMCache:
        check_vocabulary(params, vocabulary_size)
        check_length(length)
        zeros = jnp.zeros((layers, jnp.shape(rows)[0], width), params["Embedding"].dtype)
        return LSTMCache(zeros, zeros)

    def step(params: Any, cache: LSTMCache, tokens: Any) -> tuple[jax.Array, LSTMCache]:
        hidden = params["Embedding"][jnp.asarray(tokens)]
        states = []
        for i in range(layers):
            layer = params[f"Layer_{i}"]
            states.append(cell(layer, (cache.hidden[i], cache.cell[i]), affine(layer, hidden)))
            hidden = states[-1][0]
        cache = LSTMCache(jnp.stack([h for h, _ in states]), jnp.stack([c for _, c in states]))
        return affine(params["Dense_0"], hidden), cache

    return LanguageModel(init, apply, start, step, vocabulary_size)
