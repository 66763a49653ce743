"""Layers for images: products over patches against XLA's convolution, filter response norm against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbjax.models import FilterResponseNorm, patch_convolution
from pbjax.models.convolution import Classifier, Convolution


def draws(*shape, seed=0, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def direct(inputs, kernel, *, stride):
    order = ("CHWN", "HWIO", "CHWN")
    return jax.lax.conv_general_dilated(inputs, kernel, (stride, stride), "SAME", dimension_numbers=order)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(7, 7, (3, 3)), (14, 14, (3, 3)), (6, 5, (2, 3)), (1, 2, (3, 3)), (5, 6, (1, 1))]
)
def test_patch_convolution_is_the_convolution(height, width, kernel, stride):
    """Values, the gradient and the forward derivative, at odd and even sizes."""
    point = draws(2, height, width, 3), draws(*kernel, 2, 4, seed=1)
    tangents = draws(2, height, width, 3, seed=2), draws(*kernel, 2, 4, seed=3)

    def everything(convolve):
        def of(*point):
            return convolve(*point, stride=stride)

        def run(point, tangents):
            outputs, slopes = jax.jvp(of, point, tangents)
            return outputs, slopes, jax.vjp(of, *point)[1](jnp.cos(outputs))

        return jax.jit(run)(point, tangents)

    ours, theirs = jax.tree.leaves(everything(patch_convolution)), jax.tree.leaves(everything(direct))
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_patch_convolution_has_no_convolution_under_vmap_over_kernels():
    """What the function is for: XLA gets products with a batch axis, of first and second derivatives too."""
    kernels, inputs = draws(5, 3, 3, 2, 4), draws(5, 2, 8, 8, 3)

    def total(kernel, inputs):
        return jnp.sum(jnp.sin(patch_convolution(inputs, kernel, stride=2)))

    def product(kernel, inputs):
        return jax.jvp(lambda k: jax.grad(total)(k, inputs), (kernel,), (kernel,))

    text = str(jax.make_jaxpr(jax.vmap(product))(kernels, inputs))
    assert "dot_general" in text
    assert "conv_general" not in text and "scatter" not in text and "gather" not in text


@pytest.mark.parametrize("module", ["convolution", "classifier"])
def test_both_orders_of_axes_are_the_same_function_of_the_same_parameters(module):
    inputs = draws(3, 6, 5, 2)
    make = {
        "convolution": lambda last: Convolution(4, 3, 2, examples_last=last),
        "classifier": lambda last: Classifier(4, examples_last=last),
    }[module]
    turned = inputs.transpose(3, 1, 2, 0)
    params = make(True).init(jax.random.key(0), turned)
    shapes = jax.tree.map(jnp.shape, make(False).init(jax.random.key(0), inputs))
    assert jax.tree.map(jnp.shape, params) == shapes
    params = jax.tree.map(lambda leaf: draws(*leaf.shape, seed=leaf.size), params)  # biases that are not zero
    ours = make(True).apply(params, turned)
    ours = ours.transpose(3, 1, 2, 0) if ours.ndim == 4 else ours
    np.testing.assert_allclose(ours, make(False).apply(params, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_initial_kernels_have_variance_gain_over_fan_in(gain):
    params = Convolution(128, 3, gain=gain).init(jax.random.key(0), jnp.zeros((32, 4, 4, 1)))["params"]
    kernel = np.asarray(params["kernel"])
    # 36,864 draws: the mean square is off by 1 % (one standard deviation, for a kurtosis below 3); 5 of them.
    assert abs(np.mean(kernel**2) * 9 * 32 / gain - 1) < 5 * np.sqrt(2 / kernel.size)
    assert np.all(np.asarray(params["bias"]) == 0)


# The norm


def norm_by_loops(maps, scale, bias, threshold, epsilon):
    """Singh and Krishnan's definition on [n, h, w, c], number by number."""
    n, height, width, channels = maps.shape
    outputs = np.zeros_like(maps)
    for e in range(n):
        for c in range(channels):
            power = 0.0
            for i in range(height):
                for j in range(width):
                    power += maps[e, i, j, c] ** 2 / (height * width)
            for i in range(height):
                for j in range(width):
                    y = scale[c] * maps[e, i, j, c] / np.sqrt(power + abs(epsilon)) + bias[c]
                    outputs[e, i, j, c] = y if threshold is None else max(y, threshold[c])
    return outputs


@pytest.mark.parametrize("examples_last", [False, True])
@pytest.mark.parametrize("threshold", [False, True])
def test_filter_response_norm_is_its_definition(threshold, examples_last):
    maps = np.asarray(draws(3, 4, 5, 2))
    names = ["scale", "bias", *(["threshold"] if threshold else [])]
    params = {name: draws(2, seed=seed) for seed, name in enumerate(names)}
    norm = FilterResponseNorm(epsilon=0.01, threshold=threshold, examples_last=examples_last)
    turned = jnp.asarray(maps.transpose(3, 1, 2, 0) if examples_last else maps)
    outputs = norm.apply({"params": params}, turned)
    outputs = outputs.transpose(3, 1, 2, 0) if examples_last else outputs
    expected = norm_by_loops(maps, *(np.asarray(params.get(name, 0)) for name in ("scale", "bias")), None, 0.01)
    if threshold:
        expected = np.maximum(expected, np.asarray(params["threshold"]))
    np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-13)


def test_filter_response_norm_starts_as_root_mean_square_normalisation():
    maps = draws(2, 4, 4, 3)
    for threshold in (False, True):
        norm = FilterResponseNorm(threshold=threshold)
        params = norm.init(jax.random.key(0), maps)
        assert set(params["params"]) == {"scale", "bias"} | ({"threshold"} if threshold else set())
        outputs = norm.apply(params, maps)
        if threshold:
            assert float(outputs.min()) == 0.0
        else:
            np.testing.assert_allclose(jnp.mean(outputs**2, axis=(1, 2)), 1.0, rtol=1e-5)


@given(factors=st.lists(st.floats(0.1, 1e6), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_filter_response_norm_ignores_the_scale_of_every_channel_of_every_example(factors, seed):
    maps = draws(2, 3, 4, 3, seed=seed)
    norm = FilterResponseNorm(epsilon=1e-12)
    params = norm.init(jax.random.key(0), maps)
    scaled = maps * jnp.asarray(factors).reshape(2, 1, 1, 3)
    np.testing.assert_allclose(norm.apply(params, scaled), norm.apply(params, maps), rtol=1e-8)


def test_filter_response_norm_of_zeros_is_its_bias_with_a_finite_slope():
    norm, maps = FilterResponseNorm(), jnp.zeros((1, 2, 2, 1))
    params = norm.init(jax.random.key(0), maps)
    value, slope = jax.value_and_grad(lambda x: norm.apply(params, x).sum())(maps)
    assert value == 0.0
    np.testing.assert_allclose(slope, 1e3, rtol=1e-6)  # 1 / sqrt(epsilon)


def test_filter_response_norm_squares_half_precision_in_float32():
    # The square of 300 is more than float16 holds, 65,504.
    maps = jnp.full((1, 4, 4, 1), 300.0, jnp.float16)
    params = {"params": {"scale": jnp.ones(1, jnp.float16), "bias": jnp.zeros(1, jnp.float16)}}
    outputs = FilterResponseNorm().apply(params, maps)
    assert outputs.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(outputs, np.float32), 1.0, rtol=2e-3)


@pytest.mark.parametrize("epsilon", [0.0, -1e-6, float("nan")])
def test_filter_response_norm_refuses_an_epsilon_that_is_not_positive(epsilon):
    with pytest.raises(ValueError, match=r"epsilon = .*1e-6 is usual"):
        FilterResponseNorm(epsilon=epsilon).init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
