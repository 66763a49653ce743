"""The small CNN: its function, its count, replicas and examples with weights of their own, refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.losses import cross_entropy
from pbjax.models import ACTIVATIONS, small_cnn


def images(n=4, side=14, channels=1, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, side, side, channels)), jnp.float32)


def drawn(model, inputs, seed=0):
    """Parameters of the shapes of `init`, whose draws would be compiled; biases that are not zero."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5, leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), inputs))


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_trees_close(left, right, **tolerance):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def loss(apply):
    return lambda params, inputs, labels: cross_entropy(apply(params, inputs), labels, reduction="mean")


class Textbook(nn.Module):
    """The same network from flax's own layers: the parameters of one must fit the other."""

    channels: tuple[int, ...]
    kernel: int
    activation: str

    @nn.compact
    def __call__(self, inputs):
        for layer, width in enumerate(self.channels):
            convolution = nn.Conv(width, (self.kernel, self.kernel), 2, name=f"Conv_{layer}")
            inputs = ACTIVATIONS[self.activation](convolution(inputs))
        return nn.Dense(10, name="Dense_0")(inputs.reshape(inputs.shape[0], -1))


@pytest.mark.parametrize(
    ("side", "colours", "channels", "kernel", "activation"),
    [(14, 1, (12, 24), 3, "relu"), (9, 2, (3,), 2, "swish")],
)
def test_is_flax_own_network_with_the_same_parameters(side, colours, channels, kernel, activation):
    model = small_cnn(10, channels=channels, kernel=kernel, activation=activation)
    inputs = images(side=side, channels=colours)
    params = drawn(model, inputs)
    book = Textbook(channels, kernel, activation)
    shapes = jax.eval_shape(book.init, jax.random.key(0), inputs)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    labels = jnp.arange(4)
    value, gradient = jax.jit(jax.value_and_grad(loss(model.apply)))(params, inputs, labels)
    expected = jax.jit(jax.value_and_grad(loss(lambda p, x: book.apply({"params": p}, x))))(params, inputs, labels)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    assert_trees_close(gradient, expected[1], rtol=1e-4, atol=1e-6)


def test_count_of_parameters():
    params = jax.eval_shape(small_cnn(10).init, jax.random.key(0), images(1))
    by_hand = (3 * 3 * 1 * 12 + 12) + (3 * 3 * 12 * 24 + 24) + (4 * 4 * 24 * 10 + 10)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == by_hand == 6586


def test_replicas_in_one_program_are_replicas_one_by_one():
    model = small_cnn(10)
    params = stacked(*(drawn(model, images(1), seed) for seed in range(3)))
    batches = jnp.stack([images(5, seed=seed) for seed in range(3)])
    labels = jnp.arange(15).reshape(3, 5) % 10
    gradient = jax.jit(jax.grad(loss(model.apply)))
    together = jax.jit(jax.vmap(gradient))(params, batches, labels)
    for replica in range(3):
        own = jax.tree.map(lambda leaf, r=replica: leaf[r], params)
        expected = gradient(own, batches[replica], labels[replica])
        # float32 sums in another order; gradients are of order 0.1.
        assert_trees_close(jax.tree.map(lambda leaf, r=replica: leaf[r], together), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
def test_every_example_with_weights_of_its_own():
    model = small_cnn(10)
    inputs = images(3)
    params = stacked(*(drawn(model, inputs, seed) for seed in range(3)))
    logits = jax.jit(jax.vmap(lambda p, x: model.apply(p, x[None])[0]))(params, inputs)
    for example in range(3):
        own = jax.tree.map(lambda leaf, e=example: leaf[e], params)
        np.testing.assert_allclose(logits[example], model.apply(own, inputs)[example], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_product_with_the_hessian_is_the_slope_of_the_gradient():
    model = small_cnn(10, channels=(3, 4), activation="tanh")
    inputs, labels = images(6).astype(jnp.float64), jnp.arange(6)
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), drawn(model, inputs))
    gradient = jax.jit(jax.grad(lambda p: loss(model.apply)(p, inputs, labels)))
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), double)
    product = jax.jit(lambda p, d: jax.jvp(gradient, (p,), (d,))[1])(double, direction)

    def ahead(step):
        return gradient(jax.tree.map(lambda leaf, d: leaf + step * d, double, direction))

    slope = jax.tree.map(lambda up, down: (up - down) / 2e-5, ahead(1e-5), ahead(-1e-5))
    # Central differences: truncation 1e-10, rounding 1e-16 / 1e-5.
    assert_trees_close(product, slope, rtol=1e-5, atol=1e-8)


def test_initial_logits_are_of_moderate_size():
    inputs = images(64)
    for activation in ("relu", "tanh"):
        model = small_cnn(10, activation=activation)
        logits = jax.jit(model.apply)(model.init(jax.random.key(1), inputs[:1]), inputs)
        # Inputs of variance one: fan-in scaling keeps logits within a factor of ten of it.
        assert 0.1 < float(jnp.std(logits)) < 3.0, activation


def test_integer_pixels_are_taken_as_numbers():
    model = small_cnn(10)
    params = drawn(model, images(1))
    pixels = jnp.arange(196, dtype=jnp.uint8).reshape(1, 14, 14, 1)
    np.testing.assert_allclose(
        model.apply(params, pixels), model.apply(params, pixels.astype(jnp.float32)), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes = 0.*at least 1"),
        ({"channels": ()}, r"channels = \(\).*at least one convolution"),
        ({"channels": (12, 0)}, "channels = 0.*at least 1"),
        ({"kernel": 0}, "kernel = 0"),
        ({"activation": "mish"}, "'mish' is unknown; choose one of tanh"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        small_cnn(settings.pop("num_classes", 10), **settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 196), r"inputs have shape \(4, 196\): images are \[n, h, w, c\]"),
        ((14, 14, 1), r"inputs have shape \(14, 14, 1\).*leading axis"),
        ((4, 28, 28, 1), "28 x 28 give 1176 features, but the last layer was made for 384"),
        ((4, 14, 14, 3), "images have 3 channels; these parameters are for 1"),
    ],
)
def test_refuses_images_that_the_parameters_are_not_for(shape, message):
    model = small_cnn(10)
    params = drawn(model, images(1))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, params, jnp.zeros(shape))
