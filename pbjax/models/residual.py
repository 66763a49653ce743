"""Residual networks without batch statistics: ResNet-(6n+2) and WideResNet-(6n+4) with filter response norm."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pbjax._checks import check_range
from pbjax.models.convolution import Classifier, Convolution, FilterResponseNorm, image_model
from pbjax.models.mlp import ACTIVATIONS, Model

CONVOLUTIONS = ("patches", "direct")
NORMS = ("frn", "frn_threshold")

# Two halvings lead to the last stage; 4 pixels would leave it a single one.
SMALLEST_SIDE = 5


class Layers(NamedTuple):
    """What all layers of one network share.

    Attributes:
        use_bias: whether convolutions have a bias.
        threshold: whether the norm has its threshold.
        activation: a key of `ACTIVATIONS`.
        examples_last: whether maps are [c, h, w, n], for products over patches, or [n, h, w, c].
    """

    use_bias: bool
    threshold: bool
    activation: str
    examples_last: bool

    def convolve(self, maps: jax.Array, features: int, *, size: int = 3, stride: int = 1, name: str) -> jax.Array:
        convolution = Convolution(
            features, size, stride, use_bias=self.use_bias, examples_last=self.examples_last, name=name
        )
        return convolution(maps)

    def norm(self, maps: jax.Array, *, name: str) -> jax.Array:
        return FilterResponseNorm(threshold=self.threshold, examples_last=self.examples_last, name=name)(maps)

    def activate(self, maps: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.activation](maps)


class PostActivationUnit(nn.Module):
    r"""$\phi(S(x) + N(K_1 * \phi(N(K_0 * x))))$ with norm N, activation phi and shortcut S.

    S is the identity where shapes agree and a 1 x 1 convolution with a norm of its own elsewhere.

    Attributes:
        features: output channels.
        stride: step of K_0 and of the shortcut.
        layers: what the network shares.
    """

    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        at = self.layers
        maps = at.convolve(inputs, self.features, stride=self.stride, name="Conv_0")
        maps = at.activate(at.norm(maps, name="Norm_0"))
        maps = at.norm(at.convolve(maps, self.features, name="Conv_1"), name="Norm_1")
        shortcut = inputs
        if shortcut.shape != maps.shape:
            shortcut = at.convolve(inputs, self.features, size=1, stride=self.stride, name="Conv_shortcut")
            shortcut = at.norm(shortcut, name="Norm_shortcut")
        return at.activate(maps + shortcut)


class PreActivationUnit(nn.Module):
    r"""$S(x) + K_1 * \phi(N(K_0 * \phi(N(x))))$ with norm N, activation phi and shortcut S.

    S is the identity where shapes agree and a 1 x 1 convolution of $\phi(N(x))$ elsewhere.

    Attributes:
        features: output channels.
        stride: step of K_0 and of the shortcut.
        layers: what the network shares.
    """

    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        at = self.layers
        active = at.activate(at.norm(inputs, name="Norm_0"))
        maps = at.convolve(active, self.features, stride=self.stride, name="Conv_0")
        maps = at.convolve(at.activate(at.norm(maps, name="Norm_1")), self.features, name="Conv_1")
        shortcut = inputs
        if shortcut.shape != maps.shape:
            shortcut = at.convolve(active, self.features, size=1, stride=self.stride, name="Conv_shortcut")
        return maps + shortcut


class ResidualNetwork(nn.Module):
    """`Conv_0`, units `Unit_{stage}_{index}` of widths w, 2w, 4w in three stages, a mean over pixels, `Dense_0`.

    Attributes:
        num_classes: width of the last layer.
        units: units a stage.
        stem: output channels of `Conv_0`.
        width: output channels of the first stage.
        preactivation: norm and activation before each convolution (WideResNet) or after it (ResNet).
        use_bias: whether convolutions have a bias.
        threshold: whether the norm has its threshold.
        activation: a key of `ACTIVATIONS`.
        convolution: "patches", "direct", or None for patches on CPUs and direct elsewhere.
    """

    num_classes: int
    units: int
    stem: int
    width: int
    preactivation: bool
    use_bias: bool
    threshold: bool
    activation: str
    convolution: str | None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        # Where XLA has fast convolutions in a scan, patches would only cost memory.
        form = self.convolution or ("patches" if jax.default_backend() == "cpu" else "direct")
        at = Layers(self.use_bias, self.threshold, self.activation, examples_last=form == "patches")
        unit = PreActivationUnit if self.preactivation else PostActivationUnit

        maps = inputs.transpose(3, 1, 2, 0) if at.examples_last else inputs
        maps = at.convolve(maps, self.stem, name="Conv_0")
        if not self.preactivation:
            maps = at.activate(at.norm(maps, name="Norm_0"))
        for stage in range(3):
            for index in range(self.units):
                stride = 2 if stage > 0 and index == 0 else 1
                maps = unit(self.width * 2**stage, stride, at, name=f"Unit_{stage}_{index}")(maps)
        if self.preactivation:
            maps = at.activate(at.norm(maps, name="Norm_0"))
        maps = jnp.mean(maps, axis=(1, 2), keepdims=True)
        return Classifier(self.num_classes, gain=2.0, examples_last=at.examples_last, name="Dense_0")(maps)


def resnet_frn(
    num_classes: int,
    *,
    depth: int = 20,
    width: int = 16,
    activation: str = "swish",
    threshold: bool = True,
    convolution: str | None = None,
) -> Model:
    r"""ResNet-(6n+2) for small images with filter response norm in place of batch norm: no state, no batch effects.

    A 3 x 3 convolution to `width` channels, then three stages of n units $\phi(S(x) + N(K_1 * \phi(N(K_0 * x))))$ with
    `width`, 2 `width` and 4 `width` channels, the first unit of stages two and three of stride 2, a mean over pixels
    and a linear layer. The defaults are ResNet-20-FRN-Swish as `cs-giung/bdlx` trains it on CIFAR: biases in every
    convolution, the norm with its threshold before the activation, epsilon fixed at 1e-6, projection shortcuts with a
    bias and a norm of their own, He initialisation, of the last layer too. With ten classes it has 274,042 weights.

    Ours are the choice of patches or direct convolutions, SAME padding as XLA counts it (for an even size and stride 2
    the odd zero goes below and to the right), and `threshold=False` for a network that is smooth wherever its
    activation is: the threshold, zero at the start, puts a kink in front of the swish.

    Args:
        num_classes: number of classes, >= 1.
        depth: layers with weights, 6n + 2.
        width: channels of the first stage, >= 1.
        activation: a key of `ACTIVATIONS`.
        threshold: whether the norm ends in max(y, tau).
        convolution: "patches" (products, for CPUs and for `vmap` over replicas there), "direct" (XLA's convolution),
            or None for the one that suits the default backend. Parameters are the same.

    Returns:
        A `Model` for images [n, h, w, c] with sides of at least 5 pixels.

    Raises:
        ValueError: a depth that is not 6n + 2, with the nearest ones that are; a count below 1; an unknown activation
            or convolution; at `init` and `apply`, images of a wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = resnet_frn(10)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        274042

    References:
        He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2. Singh, Krishnan, "Filter
        response normalization layer", CVPR 2020. Izmailov et al., "What are Bayesian neural network posteriors really
        like?", ICML 2021, which trains the same network by Hamiltonian Monte Carlo.
    """
    _check(num_classes, width, activation, convolution)
    units = _units(depth, offset=2, family="ResNet")
    module = ResidualNetwork(
        num_classes=int(num_classes),
        units=units,
        stem=int(width),
        width=int(width),
        preactivation=False,
        use_bias=True,
        threshold=threshold,
        activation=activation,
        convolution=convolution,
    )
    return image_model(module, smallest_side=SMALLEST_SIDE)


def wide_resnet(
    num_classes: int,
    *,
    depth: int = 28,
    width: int = 10,
    norm: str = "frn",
    activation: str = "swish",
    convolution: str | None = None,
) -> Model:
    r"""WideResNet-(6n+4)-k, pre-activation units $S(x) + K_1 * \phi(N(K_0 * \phi(N(x))))$, without batch statistics.

    A 3 x 3 convolution to 16 channels, three stages of n = (depth - 4)/6 units with 16k, 32k and 64k channels, the
    first unit of stages two and three of stride 2, a last norm and activation, a mean over pixels and a linear layer.
    Convolutions have no bias; shortcuts are bare 1 x 1 convolutions where the shape changes.

    WRN-28-10 has 36,479,194 weights with ten classes and the norm's two numbers a channel, as with batch norm. A
    widely copied version puts n + 1 units in a stage, which makes "28" a network of depth 34 with 46,160,474.

    Ours are filter response norm where the paper has batch norm, and He initialisation of the last layer too.

    Args:
        num_classes: number of classes, >= 1.
        depth: layers with weights, shortcuts not counted, 6n + 4.
        width: the widening factor k, >= 1.
        norm: "frn", two numbers a channel, or "frn_threshold", three.
        activation: a key of `ACTIVATIONS`.
        convolution: "patches" (products, for CPUs and for `vmap` over replicas there), "direct" (XLA's convolution),
            or None for the one that suits the default backend. Parameters are the same.

    Returns:
        A `Model` for images [n, h, w, c] with sides of at least 5 pixels.

    Raises:
        ValueError: a depth that is not 6n + 4, with the nearest ones that are; a count below 1; an unknown norm,
            activation or convolution; at `init` and `apply`, images of a wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = wide_resnet(10)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        36479194

    References:
        Zagoruyko, Komodakis, "Wide residual networks", BMVC 2016, table 1.
    """
    _check(num_classes, width, activation, convolution)
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown; choose one of {', '.join(NORMS)}")
    units = _units(depth, offset=4, family="WideResNet")
    module = ResidualNetwork(
        num_classes=int(num_classes),
        units=units,
        stem=16,
        width=16 * int(width),
        preactivation=True,
        use_bias=False,
        threshold=norm == "frn_threshold",
        activation=activation,
        convolution=convolution,
    )
    return image_model(module, smallest_side=SMALLEST_SIDE)


def _check(num_classes: int, width: int, activation: str, convolution: str | None) -> None:
    for name, count in (("num_classes", num_classes), ("width", width)):
        check_range(name, count, low=1, whole=True, remedy="it must be a whole number of at least 1")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    if convolution is not None and convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution {convolution!r} is unknown; choose one of {', '.join(CONVOLUTIONS)}, or None")


def _units(depth: int, *, offset: int, family: str) -> int:
    """Units a stage, (depth - offset)/6; a depth between two networks is refused with both named."""
    units, rest = divmod(depth - offset, 6)
    if rest or units < 1:
        below, above = 6 * max(units, 1) + offset, 6 * max(units + 1, 2) + offset
        raise ValueError(
            f"depth = {depth}: a {family} has depth 6n + {offset}, n >= 1; the nearest are {below}, {above}"
        )
    return units
