"""A small convolutional network, fast on CPUs for one network and for many replicas at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from pbjax._checks import check_range
from pbjax.models.convolution import Classifier, Convolution, image_model, padding
from pbjax.models.mlp import ACTIVATIONS, Model

# Functions that lose half of a symmetric input's power: He's initial variance 2 / fan-in makes up for it.
HALVING = ("relu", "swish", "gelu")

STRIDE = 2


class SmallCNN(nn.Module):
    """Convolutions `Conv_0 ..` of stride 2, each followed by the activation, then `Dense_0`.

    Attributes:
        num_classes: width of the last layer.
        channels: output channels of every convolution.
        kernel: side of the kernels.
        activation: a key of `ACTIVATIONS`.
    """

    num_classes: int
    channels: Sequence[int] = (12, 24)
    kernel: int = 3
    activation: str = "relu"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        maps = inputs.transpose(3, 1, 2, 0)
        gain = 2.0 if self.activation in HALVING else 1.0
        for layer, channels in enumerate(self.channels):
            convolution = Convolution(channels, self.kernel, STRIDE, gain=gain, name=f"Conv_{layer}")
            maps = ACTIVATIONS[self.activation](convolution(maps))
        return Classifier(self.num_classes, name="Dense_0")(maps)


def small_cnn(
    num_classes: int, *, channels: Sequence[int] = (12, 24), kernel: int = 3, activation: str = "relu"
) -> Model:
    r"""Stride-2 convolutions and a linear layer, $h_{l+1} = \phi(K_l * h_l + b_l)$, logits $= W^\top h_L + b$.

    Meant for 14 x 14 grey images, which the default channels take to 7 x 7 x 12 and 4 x 4 x 24, with 6,586 weights for
    ten classes; other sizes and colours work. SAME padding. The convolutions are products over patches
    (`patch_convolution`), so `vmap` over replicas or over examples with weights of their own stays a batched product.
    Initial kernels are truncated normals with variance 2 / fan-in under relu, swish and gelu and 1 / fan-in otherwise
    and in the last layer; biases start at zero.

    Args:
        num_classes: number of classes, >= 1.
        channels: output channels of every convolution, at least one.
        kernel: side of the square kernels, pixels, >= 1.
        activation: a key of `ACTIVATIONS`.

    Returns:
        A `Model` for images [n, h, w, c], with parameters `{"Conv_0": {"kernel" [kernel, kernel, c, channels],
        "bias" [channels]}, ..., "Dense_0": {"kernel" [h' w' channels, num_classes], "bias" [num_classes]}}`.

    Raises:
        ValueError: a count below 1 or an unknown activation; at `init` and `apply`, inputs that are not [n, h, w, c];
            at `apply`, images of another size or number of channels than at `init`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = small_cnn(10)
        >>> params = model.init(jax.random.key(0), jnp.zeros((1, 14, 14, 1)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        6586
        >>> model.apply(params, jnp.ones((2, 14, 14, 1))).shape
        (2, 10)
    """
    channels = tuple(channels)
    if not channels:
        raise ValueError("channels = (): give at least one convolution, for example (12, 24)")
    for name, count in (("num_classes", num_classes), ("channels", channels), ("kernel", kernel)):
        check_range(name, count, low=1, whole=True, remedy="it must be a whole number of at least 1")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    module = SmallCNN(int(num_classes), tuple(int(count) for count in channels), int(kernel), activation)
    model = image_model(module)

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        if inputs.ndim == 4:  # otherwise the model's own check has the better words
            height, width = inputs.shape[1:3]
            for _ in channels:
                height, width = (padding(size, kernel_size=kernel, stride=STRIDE)[0] for size in (height, width))
            rows, expected = height * width * channels[-1], params["Dense_0"]["kernel"].shape[0]
            if rows != expected:
                raise ValueError(
                    f"images of {inputs.shape[1]} x {inputs.shape[2]} give {rows} features, but the last layer was "
                    f"made for {expected}: apply the parameters to images of the size they were initialised with"
                )
        return model.apply(params, inputs)

    return Model(model.init, apply)
