"""Where hidden neurons and heads lie in the parameters of `models.transformer` and `models.mlp`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

_TRANSFORMER_LAYER = {"Query", "Key", "Value", "Out", "Dense_0", "Dense_1"}


def attention_layers(params: Any) -> list[str]:
    """Names of the layers of a transformer, none for parameters of another model."""
    names = [f"Layer_{i}" for i in range(len(params)) if f"Layer_{i}" in params]
    return names if all(set(params[name]) >= _TRANSFORMER_LAYER for name in names) else []


def is_mlp(params: Any) -> bool:
    """Whether the tree holds dense layers and nothing else."""
    dense = [params.get(f"Dense_{i}") for i in range(len(params))]
    return bool(dense) and all(isinstance(layer, Mapping) and set(layer) == {"kernel", "bias"} for layer in dense)


def hidden_widths(params: Any) -> dict[str, int]:
    """Number of neurons of each hidden layer, by the name of the layer that feeds it (`Layer_i` or `Dense_i`).

    Raises:
        ValueError: parameters of another model, or without a hidden layer.
    """
    if isinstance(params, Mapping):
        layers = attention_layers(params)
        if layers:
            return {name: params[name]["Dense_0"]["bias"].shape[-1] for name in layers}
        if is_mlp(params) and len(params) > 1:
            return {f"Dense_{i}": params[f"Dense_{i}"]["bias"].shape[-1] for i in range(len(params) - 1)}
    found = ", ".join(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
    raise ValueError(
        f"params hold {found or 'nothing'}: give those of models.transformer, or of models.mlp with a hidden layer"
    )


def check_names(elements: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    """Refuses elements for layers that the parameters do not have, or of another size (the first axis).

    Raises:
        ValueError: with the layer.
    """
    for name, element in elements.items():
        if name not in known:
            raise ValueError(f"{what} name {name!r}: these params have {', '.join(known)}")
        if element.shape[:1] != (known[name],):
            raise ValueError(f"{what} of {name} have shape {element.shape}: the layer has {known[name]} of them")


def on_hidden(
    params: Any, elements: Mapping[str, Any], act: Callable[[Any, Any, Any], tuple[Any, Any]], what: str
) -> Any:
    """`act(first, second, element) -> (first, second)` on the two dense layers around each hidden layer."""
    check_names(elements, hidden_widths(params), what)
    changed = dict(params)
    for name, element in elements.items():
        if name.startswith("Layer_"):
            first, second = act(params[name]["Dense_0"], params[name]["Dense_1"], element)
            changed[name] = {**changed[name], "Dense_0": first, "Dense_1": second}
        else:
            # A layer between two hidden ones is changed twice, on its rows and on its columns: in any order.
            following = f"Dense_{int(name.removeprefix('Dense_')) + 1}"
            changed[name], changed[following] = act(changed[name], changed[following], element)
    return changed


def head_shape(params: Any, heads: int) -> tuple[list[str], int]:
    """Layers with attention, and the channels of a head: channel c of head h is row h * channels + c.

    Raises:
        ValueError: parameters of another model, or a number of heads that does not divide the width.
    """
    layers = attention_layers(params) if isinstance(params, Mapping) else []
    if not layers:
        found = ", ".join(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f"params hold {found or 'nothing'}: heads are those of models.transformer")
    width = params[layers[0]]["Query"]["bias"].shape[-1]
    if heads < 1 or width % heads:
        raise ValueError(
            f"heads = {heads}: it must divide the width {width}, and be what the transformer was made with"
        )
    return layers, width // heads


def layer_keys(key: jax.Array, names: list[str]) -> dict[str, jax.Array]:
    """A key for each layer."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))
