"""Layers for images: convolution as a matrix product over patches, filter response norm, the last linear layer.

Shapes: `n` examples, `h` rows, `w` columns, `c` channels. A stack of feature maps is either `[n, h, w, c]`, as images
come and as convolution libraries of accelerators want them, or `[c, h, w, n]`, as the product over patches wants it:
patches are then stacked along the first axis and no copy ever moves a single number. Rows and columns are axes 1 and
2 in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from pbjax._checks import check_range
from pbjax.models.mlp import Model


def padding(size: int, *, kernel_size: int, stride: int) -> tuple[int, int, int]:
    """Output size ceil(size / stride), and the zeros before and after that give it: the SAME rule of XLA."""
    out = -(-size // stride)
    missing = max((out - 1) * stride + kernel_size - size, 0)
    return out, missing // 2, missing - missing // 2


def patch_convolution(inputs: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    r"""A convolution with SAME padding as one product, $y_{o,p} = \sum_{ijc} K_{ijc,o}\, x_{c,\,s p + (i,j)}$.

    Written for CPUs and for `vmap` over kernels. XLA turns a convolution whose kernels carry a batch axis into a
    grouped one, for which CPUs have no fast code, and inside a `scan` it loses the fast code even for a single kernel.
    A product keeps both: with a batch axis it is a batched product. Derivatives of every order are products again.

    The patches take kernel_size² / stride² times the memory of the inputs, and they are kept for the backward pass.

    Args:
        inputs: feature maps `[c, h, w, n]`, examples last.
        kernel: `[rows, columns, c, features]`.
        stride: step between outputs in both directions, >= 1.

    Returns:
        Feature maps `[features, ceil(h / stride), ceil(w / stride), n]`.

    Example:
        >>> import jax.numpy as jnp
        >>> patch_convolution(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    rows, columns, channels, features = kernel.shape
    out_h, above, below = padding(inputs.shape[1], kernel_size=rows, stride=stride)
    out_w, left, right = padding(inputs.shape[2], kernel_size=columns, stride=stride)
    padded = jnp.pad(inputs, ((0, 0), (above, below), (left, right), (0, 0)))
    # Strided slices: their transpose is a padded sum, where that of a gather would be a scatter.
    shifted = [
        padded[:, i : i + (out_h - 1) * stride + 1 : stride, j : j + (out_w - 1) * stride + 1 : stride]
        for i in range(rows)
        for j in range(columns)
    ]
    patches = jnp.concatenate(shifted, axis=0).reshape(rows * columns * channels, -1)
    products = jax.lax.dot_general(kernel.reshape(-1, features), patches, (((0,), (0,)), ((), ())))
    return products.reshape(features, out_h, out_w, inputs.shape[-1])


class Convolution(nn.Module):
    """A square convolution with SAME padding; parameters `kernel` [k, k, c, features] and `bias` [features].

    Attributes:
        features: output channels.
        kernel_size: k.
        stride: step between outputs.
        use_bias: whether a bias is added.
        gain: variance of the initial kernel times its fan-in k² c; 2 is He's.
        examples_last: maps are [c, h, w, n] and the product over patches is used; [n, h, w, c] and XLA's own
            convolution otherwise.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    gain: float = 2.0
    examples_last: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        channels = inputs.shape[0 if self.examples_last else -1]
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", fan_in(self.gain), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        if self.examples_last:
            outputs = patch_convolution(inputs, kernel, stride=self.stride)
        else:
            order = ("NHWC", "HWIO", "NHWC")
            strides = (self.stride, self.stride)
            outputs = jax.lax.conv_general_dilated(inputs, kernel, strides, "SAME", dimension_numbers=order)
        return outputs if bias is None else outputs + by_channel(bias, examples_last=self.examples_last)


class FilterResponseNorm(nn.Module):
    r"""Filter response normalisation: every channel of every example is divided by its own root mean square.

    $\nu^2 = \frac1{hw}\sum_{ij} x_{ij}^2$, $y = \gamma\, x / \sqrt{\nu^2 + |\epsilon|} + \beta$, and with a threshold
    $\max(y, \tau)$, the thresholded linear unit. Nothing is shared between examples, hence no running statistics, and
    the output does not change when an example's channel is multiplied by a positive number much above
    $\sqrt\epsilon / \nu$.

    Parameters, one number a channel each: `scale` gamma, `bias` beta and, where asked for, `threshold` tau.

    Attributes:
        epsilon: |epsilon| > 0, fixed. The paper learns it where maps are a single pixel and nu² is only x².
        threshold: whether the output is max(y, tau).
        examples_last: maps are [c, h, w, n]; [n, h, w, c] otherwise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> norm, maps = FilterResponseNorm(), jnp.full((1, 4, 4, 2), 3.0)
        >>> normed = norm.apply(norm.init(jax.random.key(0), maps), maps)
        >>> round(float(normed.mean()), 4)
        1.0

    References:
        Singh, Krishnan, "Filter response normalization layer", CVPR 2020, equations 1-3.
    """

    epsilon: float = 1e-6
    threshold: bool = False
    examples_last: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        check_range(
            "epsilon", self.epsilon, open_low=True, low=0.0, remedy="a map of zeros would be 0/0; 1e-6 is usual"
        )
        features = (inputs.shape[0 if self.examples_last else -1],)
        initial = {"scale": nn.initializers.ones, "bias": nn.initializers.zeros}
        if self.threshold:
            initial["threshold"] = nn.initializers.zeros
        numbers = {name: self.param(name, value, features, jnp.float32) for name, value in initial.items()}
        inputs, *numbers = promote_dtype(inputs, *numbers.values())
        scale, bias, *threshold = (by_channel(number, examples_last=self.examples_last) for number in numbers)
        # The square of 300 is infinite in float16.
        wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
        power = jnp.mean(jnp.square(wide), axis=(1, 2), keepdims=True)
        outputs = inputs * (jax.lax.rsqrt(power + self.epsilon)).astype(inputs.dtype) * scale + bias
        return jnp.maximum(outputs, *threshold) if threshold else outputs


class Classifier(nn.Module):
    """The last linear layer on flattened maps; parameters `kernel` [h w c, num_classes] and `bias` [num_classes].

    Attributes:
        num_classes: k.
        gain: variance of the initial kernel times its fan-in.
        examples_last: maps are [c, h, w, n]; [n, h, w, c] otherwise. The kernel's rows are in the order h, w, c in
            both, so parameters fit either.
    """

    num_classes: int
    gain: float = 1.0
    examples_last: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        if self.examples_last:
            channels, height, width, n = inputs.shape
        else:
            n, height, width, channels = inputs.shape
        rows = height * width * channels
        kernel = self.param("kernel", fan_in(self.gain), (rows, self.num_classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        if self.examples_last:
            # The kernel, the smallest array here, is brought into the order of the activations, not they into its.
            kernel = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(rows, -1)
            logits = jax.lax.dot_general(inputs.reshape(rows, n), kernel, (((0,), (0,)), ((), ())))
        else:
            logits = inputs.reshape(n, rows) @ kernel
        return logits + bias[None, :]


def fan_in(gain: float) -> Callable[..., jax.Array]:
    """Truncated normal with variance gain / fan-in."""
    return nn.initializers.variance_scaling(gain, "fan_in", "truncated_normal")


def by_channel(numbers: jax.Array, *, examples_last: bool) -> jax.Array:
    """One number a channel, shaped to meet feature maps."""
    return numbers.reshape((-1, 1, 1, 1) if examples_last else (1, 1, 1, -1))


def image_model(module: nn.Module, *, smallest_side: int = 1) -> Model:
    """Init and apply of a module whose first convolution is `Conv_0`, with the size of the images checked."""

    def check_images(inputs: jax.Array) -> None:
        if inputs.ndim != 4:
            raise ValueError(
                f"inputs have shape {inputs.shape}: images are [n, h, w, c]; "
                "a single one needs a leading axis, grey ones a last axis of 1"
            )
        if min(inputs.shape[1:3]) < smallest_side:
            raise ValueError(
                f"images are {inputs.shape[1]} x {inputs.shape[2]}: below {smallest_side} pixels a side the last maps "
                "are a single pixel, of which the norm would leave only the sign"
            )

    def init(key: jax.Array, inputs: jax.Array) -> Any:
        check_images(inputs)
        # By shape alone: op by op, the pass through a deep network would take longer than drawing its kernels.
        return module.lazy_init(key, jax.ShapeDtypeStruct(inputs.shape, inputs.dtype))["params"]

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        check_images(inputs)
        expected = params["Conv_0"]["kernel"].shape[2]
        if inputs.shape[3] != expected:
            raise ValueError(f"images have {inputs.shape[3]} channels; these parameters are for {expected}")
        return module.apply({"params": params}, inputs)  # pyright: ignore[reportReturnType]

    return Model(init, apply)
