"""Multilayer perceptrons, in the usual row-major form and in the feature-major form that many replicas run fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

# Smooth ones first: a leapfrog step needs a differentiable gradient to be of second order, which ReLU does not give.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
}


class Model(NamedTuple):
    """A network as pure functions of its parameters.

    Attributes:
        init: `init(key, inputs [n, d]) -> params`, a dict pytree of float32 leaves.
        apply: `apply(params, inputs [n, d]) -> logits [n, k]`.
        apply_columns: `apply_columns(params, inputs [d, n]) -> logits [k, n]`, the same function with examples on the
            last axis, or None where a model has no such form. Under `vmap` over replicas the products then come out
            as `[replica, feature, example]` without a transpose of the activations, the largest arrays of the pass.
    """

    init: Callable[[jax.Array, jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    apply_columns: Callable[[Any, jax.Array], jax.Array] | None = None


class MLP(nn.Module):
    """Dense layers `Dense_0 .. Dense_{l-1}` with an activation between them and none after the last.

    Attributes:
        widths: output width of every layer; the last is the number of classes.
        activation: a key of `ACTIVATIONS`.
    """

    widths: Sequence[int]
    activation: str = "tanh"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = inputs
        for layer, width in enumerate(self.widths):
            hidden = nn.Dense(width, name=f"Dense_{layer}")(hidden)
            if layer + 1 < len(self.widths):
                hidden = ACTIVATIONS[self.activation](hidden)
        return hidden


def mlp(widths: Sequence[int], *, activation: str = "tanh") -> Model:
    r"""A multilayer perceptron, $h_{l+1} = \phi(h_l W_l + b_l)$ with a linear last layer.

    Args:
        widths: widths of the layers after the input, e.g. `(50, 10)` for 196-50-10; the input width is read off
            the data at `init`.
        activation: a key of `ACTIVATIONS`; the smooth ones keep the leapfrog integrator at second order.

    Returns:
        A `Model` whose parameters are `{"Dense_0": {"kernel" [in, out], "bias" [out]}, ...}`.

    Raises:
        ValueError: an empty or non-positive width, or an activation that is not listed.

    Example:
        >>> import jax
        >>> model = mlp((5, 3), activation="tanh")
        >>> params = model.init(jax.random.key(0), jax.numpy.zeros((1, 4)))
        >>> model.apply(params, jax.numpy.ones((2, 4))).shape
        (2, 3)
    """
    widths = tuple(int(width) for width in widths)
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be positive integers, at least one; got {widths}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    module = MLP(widths=widths, activation=activation)
    function = ACTIVATIONS[activation]

    def init(key: jax.Array, inputs: jax.Array) -> Any:
        return module.init(key, inputs)["params"]

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return module.apply({"params": params}, inputs)  # pyright: ignore[reportReturnType]

    def apply_columns(params: Any, inputs: jax.Array) -> jax.Array:
        hidden = inputs
        for layer in range(len(widths)):
            dense = params[f"Dense_{layer}"]
            hidden = jax.lax.dot_general(dense["kernel"], hidden, (((0,), (0,)), ((), ()))) + dense["bias"][:, None]
            if layer + 1 < len(widths):
                hidden = function(hidden)
        return hidden

    return Model(init, apply, apply_columns)
