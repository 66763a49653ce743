"""Neurons and heads in another order: the control that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax._checks import concrete
from pbjax.formal.symmetries._layout import check_names, head_shape, hidden_widths, layer_keys, on_hidden


class Permutation(NamedTuple):
    r"""$(W_0, b_0, W_1) \mapsto (W_0 P, b_0 P, P^\top W_1)$ at hidden layers, and the same with heads as blocks.

    T is orthogonal, so gradients move along with the parameters, and so does every optimiser that treats all numbers of
    a leaf alike: a curve of SGD or AdamW stays as it is up to rounding.

    Attributes:
        neurons: `{layer: order [hidden]}`, place i takes neuron order[i]; layers that are not named stay as they are.
        heads: `{layer: order [h]}`, likewise.
    """

    neurons: Any
    heads: Any

    def transform(self, params: Any) -> Any:
        """T w, a tree of the same structure and dtypes."""
        return _reorder(params, self.neurons, self.heads)

    def inverse(self, params: Any) -> Any:
        """T^-1 w, to the last bit."""
        return _reorder(params, *jax.tree.map(jnp.argsort, (self.neurons, self.heads)))

    def gradient(self, gradient: Any) -> Any:
        """The gradient at T w from the one at w, T^-T g = T g."""
        return self.transform(gradient)


def permutation(neurons: Mapping[str, Any] | None = None, heads: Mapping[str, Any] | None = None) -> Permutation:
    r"""The map that puts neurons and heads in a given order.

    Args:
        neurons: `{"Layer_i": order [hidden]}` for `models.transformer`, `{"Dense_i": order [width]}` for `models.mlp`.
        heads: `{"Layer_i": order [h]}` for `models.transformer`.

    Returns:
        A `Permutation`.

    Raises:
        ValueError: an order that is not one of 0 .. n - 1.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"Dense_0": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.zeros(2)},
        ...           "Dense_1": {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.zeros(1)}}
        >>> moved = permutation({"Dense_0": [1, 0]}).transform(params)
        >>> moved["Dense_0"]["kernel"].tolist(), moved["Dense_1"]["kernel"].tolist()
        ([[2.0, 1.0]], [[4.0], [3.0]])
    """
    made = Permutation(
        *({name: jnp.asarray(order) for name, order in (part or {}).items()} for part in (neurons, heads))
    )
    for part, orders in zip(made._fields, made, strict=True):
        for name, order in orders.items():
            values = concrete(order)
            wrong = values is not None and not np.array_equal(np.sort(values, axis=None), np.arange(order.size))
            if order.ndim != 1 or wrong:
                raise ValueError(f"{part} of {name} are {order}: give each of 0 .. n - 1 once")
    return made


def draw_permutation(key: jax.Array, params: Any, *, heads: int | None = None) -> Permutation:
    r"""A random order of all hidden neurons and, where their number is given, of all heads.

    Args:
        key: key of `jax.random`.
        params: of `models.transformer` or `models.mlp`, with any activation and any positions.
        heads: heads of the transformer, as it was made with; None leaves heads where they are.

    Returns:
        A `Permutation`.

    Raises:
        ValueError: parameters of another model, or heads that do not divide the width.

    Example:
        >>> import jax
        >>> from pbjax.models import transformer
        >>> params = transformer(5, width=4, heads=2, feed_forward=6, layers=1).init(jax.random.key(0))
        >>> sorted(draw_permutation(jax.random.key(1), params, heads=2).neurons["Layer_0"].tolist())
        [0, 1, 2, 3, 4, 5]
    """
    widths = hidden_widths(params)
    neuron_key, head_key = jax.random.split(key)
    keys = layer_keys(neuron_key, list(widths))
    neurons = {name: jax.random.permutation(keys[name], width) for name, width in widths.items()}
    if heads is None:
        return Permutation(neurons, {})
    layers, _ = head_shape(params, heads)
    keys = layer_keys(head_key, layers)
    return Permutation(neurons, {name: jax.random.permutation(keys[name], heads) for name in layers})


def _reorder(params: Any, neurons: Mapping[str, jax.Array], heads: Mapping[str, jax.Array]) -> Any:
    changed = on_hidden(params, neurons, _reorder_pair, "neurons") if neurons else dict(params)
    for name, order in heads.items():
        layers, channels = head_shape(params, order.shape[0])
        check_names({name: order}, dict.fromkeys(layers, order.shape[0]), "heads")
        # Channel c of head h lies at h * channels + c.
        places = (order[:, None] * channels + jnp.arange(channels)[None, :]).reshape(-1)
        layer = changed[name]
        inputs = {part: _columns(layer[part], places) for part in ("Query", "Key", "Value")}
        changed[name] = {**layer, **inputs, "Out": {**layer["Out"], "kernel": layer["Out"]["kernel"][places]}}
    return changed


def _columns(dense: Any, places: jax.Array) -> Any:
    return {"kernel": dense["kernel"][:, places], "bias": dense["bias"][places]}


def _reorder_pair(first: Any, second: Any, order: jax.Array) -> tuple[Any, Any]:
    return _columns(first, order), {**second, "kernel": second["kernel"][order]}
