"""The local estimator against direct draws, and risks on whole data sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pbjax import posteriors
from pbjax.posteriors import MEAN_FIELD, Gaussian

WIDTHS = (5, 4, 3)
KEY = jax.random.key(0)


def net(params, inputs):
    hidden = jnp.tanh(inputs @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None])
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"][None]


def random_like(key, scale):
    shapes = {
        f"Dense_{i}": {"kernel": jnp.zeros(WIDTHS[i : i + 2]), "bias": jnp.zeros(WIDTHS[i + 1])} for i in range(2)
    }
    return jax.jit(posteriors.sample)(key, posteriors.init(shapes, scale=scale))


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    q = Gaussian(random_like(keys[0], 0.7), jax.tree.map(lambda leaf: leaf - 1.0, random_like(keys[1], 0.3)))
    return q, jax.random.normal(keys[2], (37, 5)), jax.random.randint(keys[3], (37,), 0, 3)


def losses_fn(params, inputs, labels):
    logits = net(params, inputs)
    wrong = (jnp.argmax(logits, axis=1) != labels).astype(logits.dtype)
    return {"zero_one": wrong, "squared": jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) ** 2, axis=1)}


def test_local_logits_have_the_law_of_direct_ones(problem):
    """Mean and variance of 111 logits each from 5,000 draws, 5 standard errors: false alarm about 1e-4."""
    q, inputs, _ = problem
    keys, count = jax.random.split(KEY, 5000), 5000
    local = jax.vmap(lambda key: posteriors.local_apply(key, q, inputs=inputs, activation="tanh"))
    direct = jax.vmap(lambda key: net(posteriors.sample(key, q), inputs))
    local, direct = (np.asarray(jax.jit(draw)(keys)) for draw in (local, direct))
    error = np.sqrt((local.var(0) + direct.var(0)) / count)
    assert np.all(np.abs(local.mean(0) - direct.mean(0)) < 5 * error)
    squares = [(draws - draws.mean(0)[None]) ** 2 for draws in (local, direct)]
    error = np.sqrt((squares[0].var(0) + squares[1].var(0)) / count)
    assert np.all(np.abs(squares[0].mean(0) - squares[1].mean(0)) < 5 * error)


def test_local_gradient_is_unbiased_and_quieter(problem):
    """Equal means of the gradient (62 numbers, 5 standard errors), at less than half the total variance."""
    q, inputs, labels = problem
    direct = posteriors.direct_estimator(lambda p, batch: losses_fn(p, *batch)["squared"], MEAN_FIELD)

    def loss(logits, labels):
        return jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) ** 2, axis=1)

    local = posteriors.local_estimator(loss, activation=jnp.tanh)
    keys = jax.random.split(jax.random.key(2), 4000)

    def gradients(estimate):
        def one(key):
            return ravel_pytree(jax.grad(lambda q: estimate(key, q, (inputs, labels)))(q))[0]

        return np.asarray(jax.jit(jax.vmap(one))(keys))

    draws = [gradients(direct), gradients(local)]
    variances = [draw.var(0) for draw in draws]
    assert np.all(np.abs(draws[0].mean(0) - draws[1].mean(0)) < 5 * np.sqrt(sum(variances) / len(keys)))
    assert variances[1].sum() < 0.5 * variances[0].sum()


def test_local_estimator_averages_its_samples(problem):
    q, inputs, labels = problem
    estimate = posteriors.local_estimator(lambda logits, labels: logits[:, 0], activation="tanh", num_samples=3)
    key = jax.random.key(0)
    once = jax.jit(lambda k: posteriors.local_apply(k, q, inputs=inputs, activation="tanh")[:, 0].mean())
    single = [once(k) for k in jax.random.split(key, 3)]
    np.testing.assert_allclose(jax.jit(estimate)(key, q, (inputs, labels)), np.mean(single), rtol=1e-10)


def test_local_gradient_is_finite_without_variance():
    q = Gaussian({"Dense_0": {"kernel": jnp.ones((2, 2))}}, {"Dense_0": {"kernel": jnp.zeros((2, 2))}})

    def total(q):
        return posteriors.local_apply(jax.random.key(0), q, inputs=jnp.zeros((1, 2)), activation="tanh").sum()

    gradient = jax.jit(jax.grad(total))(q)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_posterior_risk_is_the_average_over_draws_whatever_the_chunks(problem):
    q, inputs, labels = problem
    key, count = jax.random.key(3), 11
    draw = jax.jit(lambda j: posteriors.sample(jax.random.fold_in(key, j), q))
    draws = [draw(j) for j in range(count)]
    losses = jax.jit(losses_fn)
    expected = np.array([losses(draw, inputs, labels)["squared"].mean() for draw in draws])
    for draws_per_chunk, rows_per_chunk in ((4, 10), (100, 1000)):
        risk = posteriors.posterior_risk(
            key, q, losses_fn, inputs, labels, num_draws=count, draws_per_chunk=draws_per_chunk,
            rows_per_chunk=rows_per_chunk,
        )  # fmt: skip
        np.testing.assert_allclose(risk.mean["squared"], expected.mean(), rtol=1e-10)
        np.testing.assert_allclose(risk.standard_error["squared"], expected.std(ddof=1) / count**0.5, rtol=1e-8)
        assert risk.num_draws == count


def test_posterior_risk_counts_errors_exactly_over_single_precision(problem):
    """A point posterior: every draw has the same count of errors, and sums are float64 over float32 losses."""
    q, inputs, labels = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, problem)
    q = Gaussian(q.mean, jax.tree.map(lambda leaf: jnp.full_like(leaf, -30.0), q.log_scale))
    risk = posteriors.posterior_risk(jax.random.key(0), q, losses_fn, inputs, labels, num_draws=6, rows_per_chunk=9)
    assert risk.mean["zero_one"].dtype == jnp.float64
    np.testing.assert_allclose(risk.mean["zero_one"], losses_fn(q.mean, inputs, labels)["zero_one"].mean(), rtol=1e-7)
    assert risk.standard_error["zero_one"] == 0


def test_one_draw_has_no_standard_error(problem):
    q, inputs, labels = problem
    risk = posteriors.posterior_risk(jax.random.key(0), q, losses_fn, inputs, labels, num_draws=1)
    assert np.isinf(risk.standard_error["squared"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q, x, y: posteriors.local_apply(KEY, q, inputs=x, activation="step"), "unknown activation"),
        (lambda q, x, y: posteriors.local_apply(KEY, Gaussian({"w": x}, {}), inputs=x, activation="tanh"), "Dense_0"),
        (lambda q, x, y: posteriors.posterior_risk(KEY, q, losses_fn, x, y[:-1], num_draws=2), "as many labels"),
        (lambda q, x, y: posteriors.posterior_risk(KEY, q, losses_fn, x, y, num_draws=0), "num_draws"),
        (lambda q, x, y: posteriors.direct_estimator(lambda w, b: w, MEAN_FIELD, num_samples=0), "num_samples"),
        (lambda q, x, y: posteriors.local_estimator(jnp.subtract, activation="tanh", num_samples=0), "num_samples"),
    ],
)  # fmt: skip
def test_bad_input_is_named(problem, call, words):
    with pytest.raises(ValueError, match=words):
        call(*problem)
