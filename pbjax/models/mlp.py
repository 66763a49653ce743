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


class Columns(NamedTuple):
    """A network with examples on the last axis, in two steps so that a scan over rows pays for the first one once.

    Under `vmap` over replicas the products then come out as `[replica, feature, example]` without a transpose of the
    activations, the largest arrays of the pass.

    Attributes:
        prepare: `prepare(params) -> prepared`, linear: the parameters again, laid out as the products want them.
        apply: `apply(prepared, inputs [d, n]) -> logits [k, n]`; for reverse-mode derivatives and those of higher
            order built on them.
    """

    prepare: Callable[[Any], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


class Model(NamedTuple):
    """A network as pure functions of its parameters.

    Attributes:
        init: `init(key, inputs [n, d]) -> params`, a dict pytree of float32 leaves.
        apply: `apply(params, inputs [n, d]) -> logits [n, k]`.
        columns: the same function with examples on the last axis, or None where a model has no such form.
    """

    init: Callable[[jax.Array, jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    columns: Columns | None = None


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

    def prepare(params: Any) -> Any:
        def lay_out(layer: int) -> dict[str, jax.Array]:
            kernel, bias = params[f"Dense_{layer}"]["kernel"], params[f"Dense_{layer}"]["bias"]
            both = {"kernel": kernel} if layer else {}
            return {"transposed": kernel.T, "bias": bias[:, None], **both}

        return [lay_out(layer) for layer in range(len(widths))]

    def apply_columns(prepared: Any, inputs: jax.Array) -> jax.Array:
        hidden = prepared[0]["transposed"] @ inputs + prepared[0]["bias"]
        for dense in prepared[1:]:
            hidden = _product(dense["kernel"], dense["transposed"], function(hidden)) + dense["bias"]
        return hidden

    return Model(init, apply, Columns(prepare, apply_columns))


@jax.custom_vjp
def _product(kernel: jax.Array, transposed: jax.Array, inputs: jax.Array) -> jax.Array:
    """kernel [i, o], transposed = kernel^T [o, i], inputs [i, n] -> kernel^T inputs [o, n]."""
    return transposed @ inputs


def _product_forward(kernel: jax.Array, transposed: jax.Array, inputs: jax.Array) -> tuple[jax.Array, Any]:
    return transposed @ inputs, (kernel, inputs)


def _product_backward(residuals: Any, slope: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # jax's own rule has the derivative in the kernel come out as [o, i]. With ten classes that product costs as much
    # as the one over 196 pixels on CPUs; as [i, o] it costs a third, and the layout of the kernel is that already.
    # Each product here finds its factors in the order that needs no transpose, hence the two copies of the kernel.
    kernel, inputs = residuals
    by_kernel = jax.lax.dot_general(inputs, slope, (((1,), (1,)), ((), ())))
    return by_kernel, jnp.zeros_like(kernel.T), kernel @ slope


_product.defvjp(_product_forward, _product_backward)
