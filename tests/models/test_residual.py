"""Residual networks: counts from closed forms, both kinds of convolution, replicas, gradients, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.losses import cross_entropy
from pbjax.models import resnet_frn, wide_resnet


def images(n=2, side=8, seed=0, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, side, side, 3)), dtype)


def count(model, channels=3):
    inputs = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), inputs)))


def resnet_count(n, width, classes, *, per_channel):
    """Every convolution to o channels has its kernel and `per_channel` more numbers a channel (bias and norm)."""
    widths = [width, 2 * width, 4 * width]
    convolutions = [(9, 3, width)]
    before = width
    for w in widths:
        convolutions += [(9, before, w)] + (2 * n - 1) * [(9, w, w)]
        convolutions += [(1, before, w)] if before != w else []
        before = w
    return sum(k * i * o + per_channel * o for k, i, o in convolutions) + (before + 1) * classes


def wide_resnet_count(n, k, classes, *, per_channel):
    """16 [1 + 36 k + ...] written out: norms stand before convolutions, on the channels that these read."""
    total, before = 9 * 3 * 16, 16
    for w in (16 * k, 32 * k, 64 * k):
        total += 9 * before * w + (2 * n - 1) * 9 * w * w
        total += before * w if before != w else 0
        total += per_channel * (before + (2 * n - 1) * w)
        before = w
    return total + per_channel * before + (before + 1) * classes


@pytest.mark.parametrize(("depth", "width", "classes"), [(20, 16, 10), (20, 16, 100), (32, 16, 10), (8, 4, 7)])
def test_count_of_resnet(depth, width, classes):
    n = (depth - 2) // 6
    smooth = resnet_frn(classes, depth=depth, width=width, threshold=False)
    assert count(resnet_frn(classes, depth=depth, width=width)) == resnet_count(n, width, classes, per_channel=4)
    assert count(smooth) == resnet_count(n, width, classes, per_channel=3)


def test_count_of_resnet_20_on_cifar_10():
    # Kernels 270,256 + 650 of the last layer, and four numbers for each of 784 channels, shortcuts' included.
    assert count(resnet_frn(10)) == 270_256 + 650 + 4 * 784 == 274_042


@pytest.mark.parametrize(("depth", "k", "classes"), [(28, 10, 10), (28, 10, 100), (16, 4, 10), (10, 1, 10)])
def test_count_of_wide_resnet(depth, k, classes):
    n = (depth - 4) // 6
    assert count(wide_resnet(classes, depth=depth, width=k)) == wide_resnet_count(n, k, classes, per_channel=2)
    three = wide_resnet(classes, depth=depth, width=k, norm="frn_threshold")
    assert count(three) == wide_resnet_count(n, k, classes, per_channel=3)


def test_count_of_wide_resnet_28_10_and_of_the_copy_with_a_unit_too_many():
    assert count(wide_resnet(10)) == 36_479_194
    assert count(wide_resnet(10, depth=34)) == 46_160_474


NETWORKS = {
    "resnet": lambda **k: resnet_frn(10, depth=8, width=2, **k),
    "wide resnet": lambda **k: wide_resnet(10, depth=10, width=1, **k),
}


def shaken(model, seed=7):
    """Parameters none of which is at a special value, of the shapes of `init` (whose draws would be compiled)."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1
        return jnp.asarray((leaf.ndim == 1) + rng.normal(size=leaf.shape) * (0.1 if leaf.ndim == 1 else fan_in**-0.5))

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), images(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_patches_and_direct_convolutions_are_one_function(name):
    inputs, labels = images(side=9), jnp.array([1, 7])
    results = []
    for convolution in ("patches", "direct"):
        model = NETWORKS[name](convolution=convolution)
        params = shaken(model)
        mean = jax.jit(
            jax.value_and_grad(lambda p, m=model: cross_entropy(m.apply(p, inputs), labels, reduction="mean"))
        )
        results.append(mean(params))
    (value, gradient), (value_direct, gradient_direct) = results
    np.testing.assert_allclose(value, value_direct, rtol=1e-12)
    assert jax.tree.structure(gradient) == jax.tree.structure(gradient_direct)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradient_direct), strict=True):
        assert np.all(np.isfinite(a)) and np.any(a != 0)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_unit_of_resnet_by_hand():
    """Depth 8, layer by layer from XLA's own convolutions: where norm, activation and shortcut stand."""
    model = resnet_frn(10, depth=8, width=4)
    inputs = images()
    params = shaken(model)

    def convolve(maps, at, stride=1):
        order = ("NHWC", "HWIO", "NHWC")
        outputs = jax.lax.conv_general_dilated(maps, at["kernel"], (stride, stride), "SAME", dimension_numbers=order)
        return outputs + at["bias"][None, None, None]

    def norm(maps, at):
        at = {name: number[None, None, None] for name, number in at.items()}
        power = jnp.mean(maps**2, axis=(1, 2), keepdims=True)
        return jnp.maximum(at["scale"] * maps / jnp.sqrt(power + 1e-6) + at["bias"], at["threshold"])

    maps = jax.nn.swish(norm(convolve(inputs, params["Conv_0"]), params["Norm_0"]))
    for stage in range(3):
        unit, stride = params[f"Unit_{stage}_0"], 2 if stage else 1
        hidden = jax.nn.swish(norm(convolve(maps, unit["Conv_0"], stride), unit["Norm_0"]))
        hidden = norm(convolve(hidden, unit["Conv_1"]), unit["Norm_1"])
        if stage:
            maps = norm(convolve(maps, unit["Conv_shortcut"], stride), unit["Norm_shortcut"])
        maps = jax.nn.swish(maps + hidden)
    logits = maps.mean(axis=(1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    np.testing.assert_allclose(jax.jit(model.apply)(params, inputs), logits, rtol=1e-10, atol=1e-12)


def test_a_unit_of_wide_resnet_by_hand():
    model = wide_resnet(10, depth=10, width=2)
    inputs = images()
    params = shaken(model)

    def convolve(maps, at, stride=1):
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(maps, at["kernel"], (stride, stride), "SAME", dimension_numbers=order)

    def active(maps, at):
        power = jnp.mean(maps**2, axis=(1, 2), keepdims=True)
        scale, bias = at["scale"][None, None, None], at["bias"][None, None, None]
        return jax.nn.swish(scale * maps / jnp.sqrt(power + 1e-6) + bias)

    maps = convolve(inputs, params["Conv_0"])
    for stage in range(3):
        unit, stride = params[f"Unit_{stage}_0"], 2 if stage else 1
        before = active(maps, unit["Norm_0"])
        hidden = convolve(active(convolve(before, unit["Conv_0"], stride), unit["Norm_1"]), unit["Conv_1"])
        maps = convolve(before, unit["Conv_shortcut"], stride) + hidden
    maps = active(maps, params["Norm_0"]).mean(axis=(1, 2))
    logits = maps @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    np.testing.assert_allclose(jax.jit(model.apply)(params, inputs), logits, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_gradient_under_jit_is_finite_and_reaches_every_parameter():
    model = resnet_frn(10, depth=8, width=2)
    inputs, labels = images(side=9), jnp.array([1, 7])

    def mean(params):
        return cross_entropy(model.apply(params, inputs), labels, reduction="mean")

    for leaf in jax.tree.leaves(jax.jit(jax.grad(mean))(shaken(model))):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0)


@pytest.mark.slow
def test_neither_replicas_nor_examples_of_one_program_see_each_other():
    model = resnet_frn(10, depth=8, width=2)
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), shaken(model, 0), shaken(model, 1))
    batches = jnp.stack([images(seed=0), images(seed=1)])
    together = jax.jit(jax.vmap(model.apply))(params, batches)
    first = jax.jit(lambda *both: jax.lax.map(lambda one: model.apply(*one), both))(params, batches[:, :1])
    np.testing.assert_allclose(together[:, :1], first, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("depth", [19, 21, 5, 2, 0, -4])
def test_refuses_a_depth_between_two_resnets(depth):
    below = {19: 14, 21: 20}.get(depth, 8)
    message = rf"depth = {depth}: a ResNet has depth 6n \+ 2.*nearest are {below}, {below + 6}"
    with pytest.raises(ValueError, match=message):
        resnet_frn(10, depth=depth)


@pytest.mark.parametrize(("depth", "below"), [(27, 22), (29, 28), (4, 10)])
def test_refuses_a_depth_between_two_wide_resnets(depth, below):
    with pytest.raises(ValueError, match=rf"depth = {depth}: a WideResNet .*6n \+ 4.*nearest are {below}, {below + 6}"):
        wide_resnet(10, depth=depth)


@pytest.mark.parametrize("make", [resnet_frn, wide_resnet])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width = 0.*at least 1"),
        ({"activation": "mish"}, "'mish' is unknown"),
        ({"convolution": "fft"}, "'fft' is unknown; choose one of patches, direct, or None"),
    ],
)
def test_refuses_settings(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(10, **settings)


def test_refuses_a_norm_with_batch_statistics():
    with pytest.raises(ValueError, match="norm 'batch' is unknown; choose one of frn, frn_threshold"):
        wide_resnet(10, norm="batch")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8, 3), r"inputs have shape \(8, 8, 3\): images are"),
        ((2, 4, 8, 3), "images are 4 x 8: below 5 pixels a side"),
        ((2, 8, 8, 1), "images have 1 channels; these parameters are for 3"),
    ],
)
def test_refuses_images(shape, message):
    model = resnet_frn(10, depth=8, width=4)
    params = jax.eval_shape(model.init, jax.random.key(0), images(1))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, params, jnp.zeros(shape))


def test_the_default_convolution_is_patches_on_cpus():
    jaxpr = str(jax.make_jaxpr(lambda x: resnet_frn(10, depth=8, width=4).init(jax.random.key(0), x))(images(1)))
    assert ("conv_general" in jaxpr) == (jax.default_backend() != "cpu")
