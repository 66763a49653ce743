"""What fine-tunes: optimisers of unit learning rate, and the parameters that they move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pbjax import optim
from pbjax.formal import symmetries

MOMENTUM = 0.9


class Method(NamedTuple):
    """A way to fine-tune.

    Attributes:
        name: of the config.
        optimiser: optax transformation with learning rate 1: its updates are scaled by each replica's rate.
        init: `init(key, params) -> trained`, the numbers that move.
        merge: `merge(params, trained) -> params` of the network.
        permute: `permute(permutation, params, trained) -> trained` of the permuted network, for what `init` draws;
            None where `init` draws nothing.
    """

    name: str
    optimiser: optax.GradientTransformation
    init: Callable[[jax.Array, Any], Any]
    merge: Callable[[Any, Any], Any]
    permute: Callable[[symmetries.Permutation, Any, Any], Any] | None = None


def make_method(config: Any, name: str) -> Method:
    """The method of a name."""
    if name.startswith("lora_"):
        rank = int(name.removeprefix("lora_"))
        adamw = optax.adamw(1.0, weight_decay=config.weight_decay)
        return Method(name, adamw, lambda key, params: init_lora(key, params, rank=rank), merge_lora, permute_lora)
    made = {
        "sgd": lambda: optax.sgd(1.0),
        "momentum": lambda: optax.sgd(1.0, momentum=MOMENTUM),
        "adamw": lambda: optax.adamw(1.0, weight_decay=config.weight_decay),
        "squared_weights": lambda: optax.chain(optim.scale_by_squared_weights(), optax.sgd(1.0)),
        "muon": lambda: optax.contrib.muon(1.0, muon_weight_dimension_numbers=_hidden_matrices),
        "shampoo": lambda: optax.chain(optim.scale_by_shampoo(), optax.sgd(1.0)),
    }[name]()
    if config.trained == "feed_forward":
        return Method(name, made, lambda key, params: feed_forward(params), merge_feed_forward)
    return Method(name, made, lambda key, params: params, lambda params, trained: trained)


def learning_rates(config: Any, name: str) -> list[float]:
    """The rates of a method, greatest first."""
    highest = config.highest_rate["lora" if name.startswith("lora") else name]
    return [highest * 0.5**i for i in range(config.rates)]


def _hidden_matrices(params: Any) -> Any:
    """Muon works on the matrices inside layers; Adam moves biases, norms, embedding and output, as is usual."""

    def chosen(path: tuple[Any, ...], leaf: Any) -> Any:
        inside = str(path[0].key).startswith("Layer_") and leaf.ndim == 2
        return optax.contrib.MuonDimensionNumbers() if inside else None

    return jax.tree_util.tree_map_with_path(chosen, params)


def feed_forward(params: Any) -> Any:
    """The two dense layers around the neurons of each layer, `{layer: {"Dense_0", "Dense_1"}}`."""
    layers = [name for name in params if name.startswith("Layer_")]
    return {name: {part: params[name][part] for part in ("Dense_0", "Dense_1")} for name in layers}


def merge_feed_forward(params: Any, trained: Any) -> Any:
    """Parameters with these layers in place of their own."""
    return params | {name: params[name] | parts for name, parts in trained.items()}


def init_lora(key: jax.Array, params: Any, *, rank: int) -> Any:
    r"""Adapters of all matrices inside layers, $W + A B$ with A random and B zero: the function starts the same.

    Args:
        key: PRNG key.
        params: of `models.transformer`.
        rank: r; A is [inputs, r] with variance 1 / inputs, B [r, outputs].

    Returns:
        `{layer: {part: {"a", "b"}}}`.

    References:
        Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022, section 4.1.
    """
    adapters: dict[str, Any] = {}
    for number, name in enumerate(sorted(name for name in params if name.startswith("Layer_"))):
        parts = sorted(part for part in params[name] if "kernel" in params[name][part])
        keys = jax.random.split(jax.random.fold_in(key, number), len(parts))
        adapters[name] = {}
        for part, own in zip(parts, keys, strict=True):
            kernel = params[name][part]["kernel"]
            a = jax.random.normal(own, (kernel.shape[0], rank), kernel.dtype) * kernel.shape[0] ** -0.5
            adapters[name][part] = {"a": a, "b": jnp.zeros((rank, kernel.shape[1]), kernel.dtype)}
    return adapters


def permute_lora(permutation: symmetries.Permutation, params: Any, adapters: Any) -> Any:
    """Adapters of the permuted network that learn as these do: A moves along with inputs, B with outputs.

    Args:
        permutation: of neurons and heads.
        params: of the network before it, [inputs, outputs] a kernel.
        adapters: of `init_lora`, for the same network.

    Returns:
        Adapters with `merge_lora(transform(params), permuted) = transform(merge_lora(params, adapters))`.
    """

    def numbers(axis: int) -> Any:
        """The tree with every number replaced by where it stands along an axis, permuted."""

        def one(leaf: jax.Array) -> jax.Array:
            return jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis % leaf.ndim)

        return permutation.transform(jax.tree.map(one, params))

    rows, columns = numbers(0), numbers(-1)
    return {
        name: {
            part: {
                "a": adapter["a"][rows[name][part]["kernel"][:, 0]],
                "b": adapter["b"][:, columns[name][part]["kernel"][0]],
            }
            for part, adapter in parts.items()
        }
        for name, parts in adapters.items()
    }


def merge_lora(params: Any, adapters: Any) -> Any:
    """Parameters with `kernel + a @ b` in place of each adapted kernel."""
    merged = dict(params)
    for name, parts in adapters.items():
        merged[name] = dict(params[name])
        for part, adapter in parts.items():
            kernel = params[name][part]["kernel"] + adapter["a"] @ adapter["b"]
            merged[name][part] = {**params[name][part], "kernel": kernel}
    return merged
