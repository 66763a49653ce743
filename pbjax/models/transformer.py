"""A decoder-only transformer with switchable positions, channels first so that narrow layers vectorise.

Activations are `[d, n, t]`: with ten channels, reductions over channels (layer norms, heads of width two) run over
whole vectors of positions instead of along ten numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax._checks import check_range
from pbjax.models.attention import causal_attention, masked_softmax
from pbjax.models.channels import channel_dense, channel_norm, init_norm, relu_pair
from pbjax.models.dropout import dropout as drop
from pbjax.models.language_model import (
    PAD,
    LanguageModel,
    affine,
    check_dropout,
    check_length,
    check_sizes,
    check_tokens,
    check_vocabulary,
    rows_or_default,
    uniform_dense,
)
from pbjax.models.positions import POSITIONS, rotate, sinusoid


class TransformerCache(NamedTuple):
    """What a transformer remembers of the tokens that it has read.

    Attributes:
        keys: [layers, h, c, n, length], rotated already where positions are rotary.
        values: [layers, h, c, n, length].
        readable: bool [n, length], True where a token stands that is not padding.
        index: tokens read so far, an int32 scalar.
        rows: numbers of the sequences in their batch, [n].
    """

    keys: jax.Array
    values: jax.Array
    readable: jax.Array
    index: jax.Array
    rows: jax.Array


def transformer(
    vocabulary_size: int,
    *,
    width: int = 10,
    heads: int = 5,
    feed_forward: int = 1024,
    layers: int = 5,
    dropout: float = 0.1,
    positions: str = "none",
    max_positions: int = 257,
    norm_epsilon: float = 6e-3,
    identical_layers: bool = False,
    pad: int = PAD,
) -> LanguageModel:
    r"""A decoder-only transformer: post-norm layers with ReLU under a causal mask, no norm at the end, no tied weights.

    $x = E_{tokens} \sqrt d + p$; in each layer $x \leftarrow N(x + A(x))$, then
    $x \leftarrow N(x + W_1 \phi(W_0 x))$; logits $W x$

    Dropout stands after the embedding, on attention weights, after the ReLU and on both branches. Nobody reads padding,
    though padding reads what comes before it. The defaults have the sizes of the models that extrapolate rules in the
    papers, 110,075 parameters at a vocabulary of 5. The public code adds its sinusoids before it exchanges the axes of
    batch and time, so they tell apart the rows of a batch and not the positions: `positions="batch_row"` does the same,
    and then nothing but the causal mask tells the model where a token stands.

    Args:
        vocabulary_size: v, >= 1.
        width: d, channels of the residual stream.
        heads: attention heads; divides the width.
        feed_forward: hidden channels of each layer.
        layers: number of layers.
        dropout: rate in [0, 1).
        positions: "none", "sinusoidal", "learned", "rotary" or "batch_row".
        max_positions: longest sequence with learned positions; the other ones have no limit.
        norm_epsilon: added to the variance in layer norms, > 0.
        identical_layers: whether all layers start from the same weights, as copies of one layer do.
        pad: the padding token.

    Returns:
        A `LanguageModel` with parameters `Embedding` [v, d], `Layer_0 .. Layer_{l-1}`, `Dense_0` and, where positions
        are learned, `Positions` [max_positions, d].

    Raises:
        ValueError: sizes below 1, a width that the heads do not divide, unknown positions, rotary ones with heads of
            odd width; at `apply` and `start`, tokens or lengths that the model cannot read.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = transformer(5)
        >>> params = model.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        110075
        >>> model.apply(params, jnp.array([[0, 3, 3, 4]])).shape
        (1, 4, 5)
        >>> logits, cache = model.step(params, model.start(params, jnp.arange(1), 8), jnp.array([0]))
        >>> logits.shape
        (1, 5)

    References:
        Vaswani et al., "Attention is all you need", NeurIPS 2017. Reizinger et al., "Position: understanding LLMs
        requires more than statistical generalization", ICML 2024. Mészáros et al., "Rule extrapolation in language
        models", NeurIPS 2024.
    """
    check_sizes(
        vocabulary_size=vocabulary_size, width=width, heads=heads, feed_forward=feed_forward, layers=layers,
        max_positions=max_positions,
    )  # fmt: skip
    check_dropout(dropout)
    check_range("norm_epsilon", norm_epsilon, low=0.0, open_low=True, open_high=True)
    if positions not in POSITIONS:
        raise ValueError(f"positions {positions!r} are unknown; choose one of {', '.join(POSITIONS)}")
    if width % heads:
        raise ValueError(f"width = {width} is not a multiple of heads = {heads}")
    if positions == "rotary" and (width // heads) % 2:
        raise ValueError(f"width / heads = {width // heads}: rotary positions turn pairs of channels, so make it even")
    limit = max_positions if positions == "learned" else None

    def init(key: jax.Array) -> Any:
        embedding_key, position_key, layer_key, output_key = jax.random.split(key, 4)
        layer_keys = [layer_key] * layers if identical_layers else jax.random.split(layer_key, layers)
        params: dict[str, Any] = {
            "Embedding": jax.random.normal(embedding_key, (vocabulary_size, width), jnp.float32),
            "Dense_0": uniform_dense(output_key, width, vocabulary_size),
        }
        if positions == "learned":
            params["Positions"] = jax.random.normal(position_key, (max_positions, width), jnp.float32)
        return params | {f"Layer_{i}": _init_layer(layer_keys[i], width, feed_forward) for i in range(layers)}

    def check_params(params: Any) -> None:
        check_vocabulary(params, vocabulary_size)
        count = sum(name.startswith("Layer_") for name in params)
        if count != layers:
            raise ValueError(f"params are of {count} layers: the model has {layers}")
        if positions == "learned" and params["Positions"].shape[0] != max_positions:
            raise ValueError(f"params have {params['Positions'].shape[0]} positions: the model has {max_positions}")

    def embed(params: Any, tokens: jax.Array, place: jax.Array, rows: jax.Array) -> jax.Array:
        """tokens [n, t] at places [t] -> [d, n, t]."""
        # A product, because the gradient of a look-up adds numbers into the table one by one.
        table = params["Embedding"].T * width**0.5
        hidden = jnp.tensordot(table, jax.nn.one_hot(tokens, vocabulary_size, axis=0, dtype=table.dtype), 1)
        if positions == "learned":
            hidden = hidden + params["Positions"][place].T[:, None, :]
        elif positions == "sinusoidal":
            hidden = hidden + sinusoid(place, width, hidden.dtype)[:, None, :]
        elif positions == "batch_row":
            hidden = hidden + sinusoid(rows, width, hidden.dtype)[:, :, None]
        return hidden

    def project(layer: Any, hidden: jax.Array, place: jax.Array) -> tuple[jax.Array, ...]:
        """hidden [d, n, t] -> queries, keys, values [h, c, n, t]."""
        shape = (heads, width // heads, *hidden.shape[1:])
        queries, keys, values = (
            channel_dense(layer[name], hidden).reshape(shape) for name in ("Query", "Key", "Value")
        )
        if positions == "rotary":
            queries, keys = rotate(queries, place), rotate(keys, place)
        return queries, keys, values

    def mix(layer: Any, hidden: jax.Array, attended: jax.Array, dropout_keys: Any) -> jax.Array:
        """The rest of a layer once its heads have read: hidden [d, n, t], attended [h, c, n, t] -> [d, n, t]."""
        first, inner, second = dropout_keys
        branch = channel_dense(layer["Out"], attended.reshape(hidden.shape))
        hidden = channel_norm(layer["Norm_0"], hidden + drop(branch, dropout, first), epsilon=norm_epsilon)
        branch = relu_pair(layer["Dense_0"], layer["Dense_1"], hidden, rate=dropout, key=inner)
        return channel_norm(layer["Norm_1"], hidden + drop(branch, dropout, second), epsilon=norm_epsilon)

    def apply(params: Any, tokens: Any, *, key: jax.Array | None = None, rows: Any = None) -> jax.Array:
        check_params(params)
        tokens = check_tokens(tokens, vocabulary_size=vocabulary_size, max_positions=limit)
        n, t = tokens.shape
        place, readable = jnp.arange(t, dtype=jnp.int32), tokens != pad
        embedding_key, layers_key = (None, None) if key is None else jax.random.split(key)
        hidden = drop(embed(params, tokens, place, rows_or_default(rows, n)), dropout, embedding_key)

        # No scan over layers: XLA fuses the slices of what it stacks for the backward pass into the loops over scores,
        # which makes a gradient up to twice as slow on CPUs.
        for i in range(layers):
            layer = params[f"Layer_{i}"]
            keys = [None] * 4 if layers_key is None else jax.random.split(jax.random.fold_in(layers_key, i), 4)
            attended = causal_attention(*project(layer, hidden, place), readable=readable, rate=dropout, key=keys[0])
            hidden = mix(layer, hidden, attended, keys[1:])
        return jnp.moveaxis(channel_dense(params["Dense_0"], hidden), 0, -1)

    def start(params: Any, rows: Any, length: int) -> TransformerCache:
        check_params(params)
        check_length(length, limit)
        rows = jnp.asarray(rows)
        shape = (layers, heads, width // heads, rows.shape[0], length)
        empty = jnp.zeros(shape, params["Embedding"].dtype)
        readable = jnp.zeros((rows.shape[0], length), bool)
        return TransformerCache(empty, empty, readable, jnp.zeros((), jnp.int32), rows)

    def step(params: Any, cache: TransformerCache, tokens: Any) -> tuple[jax.Array, TransformerCache]:
        tokens = jnp.asarray(tokens)[:, None]
        place = cache.index[None]
        update = jax.lax.dynamic_update_slice_in_dim
        readable = update(cache.readable, tokens != pad, cache.index, axis=1)
        hidden = embed(params, tokens, place, cache.rows)
        all_keys, all_values = [], []
        for i in range(layers):
            layer = params[f"Layer_{i}"]
            queries, keys, values = project(layer, hidden, place)
            keys = update(cache.keys[i], keys, cache.index, axis=3)
            values = update(cache.values[i], values, cache.index, axis=3)
            scores = jnp.einsum("hcn,hcnj->hnj", queries[..., 0] * (width // heads) ** -0.5, keys)
            weights = masked_softmax(scores, readable[None])
            attended = jnp.einsum("hnj,hcnj->hcn", weights, values)[..., None]
            hidden = mix(layer, hidden, attended, (None, None, None))
            all_keys.append(keys)
            all_values.append(values)
        cache = TransformerCache(jnp.stack(all_keys), jnp.stack(all_values), readable, cache.index + 1, cache.rows)
        return affine(params["Dense_0"], hidden[:, :, 0].T), cache

    return LanguageModel(init, apply, start, step, vocabulary_size, limit)


def _init_layer(key: jax.Array, width: int, feed_forward: int) -> Any:
    query_key, key_key, value_key, out_key, *dense_keys = jax.random.split(key, 6)

    def square(key: jax.Array, bound: float) -> dict[str, jax.Array]:
        kernel = jax.random.uniform(key, (width, width), jnp.float32, -bound, bound)
        return {"kernel": kernel, "bias": jnp.zeros(width, jnp.float32)}

    # PyTorch draws the three input maps as one matrix [3 d, d], which is what Xavier's bound then counts.
    xavier = (6.0 / (4.0 * width)) ** 0.5
    return {
        "Query": square(query_key, xavier),
        "Key": square(key_key, xavier),
        "Value": square(value_key, xavier),
        "Out": square(out_key, width**-0.5),
        "Norm_0": init_norm(width),
        "Dense_0": uniform_dense(dense_keys[0], width, feed_forward),
        "Dense_1": uniform_dense(dense_keys[1], feed_forward, width),
        "Norm_1": init_norm(width),
    }
