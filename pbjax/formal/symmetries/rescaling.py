"""Neurons of a ReLU layer made larger and read more weakly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax._checks import check_range, concrete
from pbjax.formal.symmetries._layout import attention_layers, hidden_widths, layer_keys, on_hidden

DRAWS = ("powers_of_two", "log_uniform", "constant")


class Rescaling(NamedTuple):
    r"""$(W_0, b_0, W_1) \mapsto (W_0 D, b_0 D, D^{-1} W_1)$ at every hidden layer, $D = \mathrm{diag}(d)$, d > 0.

    Its own inverse transpose is its inverse, so gradients of incoming weights shrink by d and those of outgoing ones
    grow by d: seen from w, gradient descent moves them d^-2 and d^2 times as far, Adam d^-1 and d times.

    Attributes:
        scales: `{layer: d [hidden]}`; layers that are not named stay as they are.
    """

    scales: Any

    def transform(self, params: Any) -> Any:
        """T w, a tree of the same structure and dtypes."""
        return on_hidden(params, self.scales, _scale, "scales")

    def inverse(self, params: Any) -> Any:
        """T^-1 w."""
        return on_hidden(params, self.scales, lambda first, second, d: _scale(first, second, 1 / d), "scales")

    def gradient(self, gradient: Any) -> Any:
        """The gradient at T w from the one at w, T^-T g = T^-1 g."""
        return self.inverse(gradient)


def rescaling(scales: Mapping[str, Any], *, activation: str = "relu") -> Rescaling:
    r"""The map that scales given neurons, $f(x) = W_1^\top \phi(W_0^\top x)$ with $\phi(d x) = d\,\phi(x)$ for d > 0.

    Args:
        scales: `{"Layer_i": d [hidden]}` for `models.transformer`, `{"Dense_i": d [width]}` for `models.mlp`; > 0.
        activation: what stands behind the hidden layers; parameters do not tell.

    Returns:
        A `Rescaling`.

    Raises:
        ValueError: another activation than ReLU, or scales that are not finite and positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pbjax.models import mlp
        >>> model = mlp((2, 1), activation="relu")
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> moved = rescaling({"Dense_0": jnp.array([8.0, 0.5])}).transform(params)
        >>> bool((model.apply(moved, jnp.ones((1, 3))) == model.apply(params, jnp.ones((1, 3)))).all())
        True

    References:
        Dinh et al., "Sharp minima can generalize for deep nets", ICML 2017, section 4.
    """
    _check_activation(activation)
    arrays = {name: jnp.asarray(d) for name, d in scales.items()}
    for name, d in arrays.items():
        remedy = "relu(d x) = d relu(x) needs finite d > 0"
        check_range(f"scales of {name}", d, low=0.0, open_low=True, open_high=True, remedy=remedy)
        if d.ndim != 1:
            raise ValueError(f"scales of {name} have shape {d.shape}: give one number for each neuron")
    return Rescaling(arrays)


def draw_rescaling(
    key: jax.Array,
    params: Any,
    *,
    strength: ArrayLike,
    draw: str = "powers_of_two",
    activation: str | None = None,
) -> Rescaling:
    r"""Scales of all hidden neurons, $\log d_i$ uniform on $[-\log c, \log c]$.

    * "powers_of_two": $\log_2 d_i$ uniform on the integers $-\log_2 c .. \log_2 c$. Every product and sum is scaled
      exactly, so the function is the same bit by bit wherever nothing over- or underflows.
    * "log_uniform": real numbers; the function is the same up to rounding.
    * "constant": all $d_i = c$; bit by bit again if c is a power of two.

    Args:
        key: key of `jax.random`; "constant" does not read it.
        params: of `models.transformer`, whose feed-forward layers have ReLU, or of `models.mlp`.
        strength: c >= 1, a power of two with "powers_of_two" (a traced one is rounded down to it); 1 is the identity.
        draw: one of `DRAWS`.
        activation: that of `models.mlp`, which its parameters do not tell; not needed for a transformer.

    Returns:
        A `Rescaling`, in the dtype of the weights.

    Raises:
        ValueError: a strength below 1 or not finite, an unknown draw, another activation than ReLU, parameters of
            another model.

    Example:
        >>> import jax
        >>> from pbjax.models import transformer
        >>> params = transformer(5, width=4, heads=2, feed_forward=6, layers=1).init(jax.random.key(0))
        >>> drawn = draw_rescaling(jax.random.key(1), params, strength=4.0)
        >>> set(drawn.scales["Layer_0"].tolist()) <= {0.25, 0.5, 1.0, 2.0, 4.0}
        True
        >>> restored = drawn.inverse(drawn.transform(params))
        >>> all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), params, restored)))
        True
    """
    widths = hidden_widths(params)
    if activation is None and not attention_layers(params):
        raise ValueError("activation = None: parameters of models.mlp do not tell, so name it; only 'relu' rescales")
    _check_activation("relu" if activation is None else activation)
    if draw not in DRAWS:
        raise ValueError(f"draw = {draw!r}: choose one of {', '.join(DRAWS)}")
    if jnp.ndim(strength):
        raise ValueError(f"strength has shape {jnp.shape(strength)}: it must be one number; vmap for more")
    remedy = "it must be finite and at least 1, which is the identity"
    check_range("strength", strength, low=1.0, open_high=True, remedy=remedy)
    value = concrete(strength)
    if draw == "powers_of_two" and value is not None and np.frexp(value)[0] != 0.5:
        raise ValueError(f"strength = {value}: powers of two reach a power of two, or choose draw='log_uniform'")
    keys = layer_keys(key, list(widths))

    def one(name: str, width: int) -> jax.Array:
        layer = params[name]["Dense_0"] if name.startswith("Layer_") else params[name]
        dtype = layer["bias"].dtype
        largest = jnp.asarray(strength, dtype)
        if draw == "constant":
            return jnp.full(width, largest)
        if draw == "powers_of_two":
            # frexp and ldexp are exact; logarithms and powers of two are not on every device.
            top = jnp.frexp(largest)[1] - 1
            return jnp.ldexp(jnp.ones(width, dtype), jax.random.randint(keys[name], (width,), -top, top + 1))
        return jnp.exp(jax.random.uniform(keys[name], (width,), dtype, -1.0, 1.0) * jnp.log(largest))

    return Rescaling({name: one(name, width) for name, width in widths.items()})


def _check_activation(activation: str) -> None:
    if activation != "relu":
        raise ValueError(
            f"activation = {activation!r}: only 'relu' has phi(d x) = d phi(x), so only it can be rescaled"
        )


def _scale(first: Any, second: Any, d: jax.Array) -> tuple[Any, Any]:
    scaled = {
        "kernel": (first["kernel"] * d[None, :]).astype(first["kernel"].dtype),
        "bias": (first["bias"] * d).astype(first["bias"].dtype),
    }
    return scaled, {**second, "kernel": (second["kernel"] / d[:, None]).astype(second["kernel"].dtype)}
