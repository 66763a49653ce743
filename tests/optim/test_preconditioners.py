"""Preconditioners: what rescaling cannot change, and Shampoo against its sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pbjax.formal import symmetries
from pbjax.models import mlp
from pbjax.optim import scale_by_shampoo, scale_by_squared_weights


def trained(params, model, *transforms, steps=20):
    inputs = jax.random.normal(jax.random.key(1), (16, 5), jnp.float32)
    targets = jnp.sin(inputs[:, :2])
    optimiser = optax.chain(*transforms, optax.scale_by_learning_rate(0.02))

    def loss(w):
        return jnp.mean((model.apply(w, inputs) - targets) ** 2)

    def step(carry, _):
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w)
        updates, state = optimiser.update(gradient, state, w)
        return (optax.apply_updates(w, updates), state), value

    return jax.jit(lambda w: jax.lax.scan(step, (w, optimiser.init(w)), None, length=steps))(params)


def test_rescaling_changes_nothing_for_squared_weights_and_much_for_plain_descent():
    """Scales are powers of two, so the rescaled network moves as the other one to the last bit."""
    model = mlp((8, 2), activation="relu")
    params = model.init(jax.random.key(0), jnp.ones((1, 5)))
    drawn = symmetries.draw_rescaling(jax.random.key(2), params, strength=4.0, activation="relu")
    transform = scale_by_squared_weights()
    (first, _), losses = trained(params, model, transform)
    (second, _), other = trained(drawn.transform(params), model, transform)
    np.testing.assert_array_equal(losses, other)
    jax.tree.map(np.testing.assert_array_equal, drawn.transform(first), second)
    assert losses[-1] < 0.98 * losses[0]
    plain, rescaled = (trained(w, model)[1] for w in (params, drawn.transform(params)))
    assert abs(plain[-1] - rescaled[-1]) > 1e-3 * plain[-1]


def test_epsilon_moves_weights_at_zero():
    def moved(epsilon):
        transform = scale_by_squared_weights(epsilon=epsilon)
        return transform.update(jnp.array([2.0]), transform.init(None), jnp.zeros(1))[0].tolist()

    assert moved(0.0) == [0.0] and moved(0.25) == [0.5]


def test_shampoo_is_its_sums_written_out():
    epsilon = 1e-3
    transform = scale_by_shampoo(epsilon=epsilon)
    rng = np.random.default_rng(0)
    gradients = [{"kernel": rng.normal(size=(3, 5)), "bias": rng.normal(size=4)} for _ in range(3)]
    state = transform.init(jax.tree.map(jnp.asarray, gradients[0]))
    left, right, diagonal = epsilon * np.eye(3), epsilon * np.eye(5), np.full(4, epsilon)

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(values**-0.25) @ vectors.T

    for gradient in gradients:
        updates, state = jax.jit(transform.update)(jax.tree.map(jnp.asarray, gradient), state)
        g = gradient["kernel"]
        left, right, diagonal = left + g @ g.T, right + g.T @ g, diagonal + gradient["bias"] ** 2
        np.testing.assert_allclose(updates["kernel"], root(left) @ g @ root(right), rtol=1e-8)
        np.testing.assert_allclose(updates["bias"], gradient["bias"] / np.sqrt(diagonal), rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale_by_squared_weights(epsilon=-1.0), r"epsilon = -1.0"),
        (lambda: scale_by_shampoo(epsilon=0.0), r"epsilon = 0.0"),
        (lambda: scale_by_squared_weights().update(jnp.ones(1), optax.EmptyState()), r"params = None"),
    ],
)
def test_what_cannot_be_used_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
