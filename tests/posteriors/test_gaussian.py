"""Diagonal and full Gaussians against closed forms, quadrature and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from pbjax import posteriors
from pbjax.posteriors import FullGaussian, Gaussian, full_covariance

moderate = st.floats(-2.0, 2.0)


def tree(key: jax.Array, scale: float = 1.0):
    kernel, bias = jax.random.split(key)
    return {
        "Dense_0": {"kernel": scale * jax.random.normal(kernel, (3, 2)), "bias": scale * jax.random.normal(bias, (2,))}
    }


def unit(size: int) -> Gaussian:
    return posteriors.init(jnp.zeros(size), scale=1.0)


def random_gaussian(seed: int) -> Gaussian:
    mean, log_scale = jax.random.split(jax.random.key(seed))
    return Gaussian(tree(mean), tree(log_scale, 0.5))


@given(mean_q=moderate, log_q=moderate, mean_p=moderate, log_p=moderate)
@settings(max_examples=25)
def test_kl_is_the_integral_of_the_log_ratio(mean_q, log_q, mean_p, log_p):
    q, p = (Gaussian(jnp.array(m), jnp.array(s)) for m, s in ((mean_q, log_q), (mean_p, log_p)))
    grid = mean_q + np.exp(log_q) * np.linspace(-9, 9, 2001)
    log_density_q = jax.vmap(lambda w: posteriors.log_density(q, w))(grid)
    log_density_p = jax.vmap(lambda w: posteriors.log_density(p, w))(grid)
    integral = np.trapezoid(np.exp(log_density_q) * (log_density_q - log_density_p), grid)
    np.testing.assert_allclose(posteriors.kl(q, p), integral, rtol=1e-8, atol=1e-8)


def test_log_density_agrees_with_the_multivariate_normal():
    q, w = random_gaussian(0), tree(jax.random.key(9))
    flat = [ravel_pytree(t)[0] for t in (w, q.mean, q.log_scale)]
    expected = jax.scipy.stats.norm.logpdf(flat[0], flat[1], jnp.exp(flat[2])).sum()
    np.testing.assert_allclose(posteriors.log_density(q, w), expected, rtol=1e-12)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_kl_is_positive_and_zero_only_at_equality(seed):
    q, p = random_gaussian(seed), random_gaussian(seed + 1)
    assert posteriors.kl(q, p) > 0
    assert posteriors.kl(q, q) == 0


def test_kl_gradient_in_closed_form():
    q, p = random_gaussian(1), random_gaussian(2)
    gradient = jax.grad(posteriors.kl)(q, p)
    expected_mean = jax.tree.map(lambda a, b, s: (a - b) * jnp.exp(-2 * s), q.mean, p.mean, p.log_scale)
    expected_scale = jax.tree.map(lambda a, b: jnp.expm1(2 * (a - b)), q.log_scale, p.log_scale)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), gradient, Gaussian(expected_mean, expected_scale)
    )


def test_draws_have_the_stated_moments():
    """A draw count of 40,000 and 4.5 standard errors on 16 numbers: false alarm about 1e-4."""
    q, count = random_gaussian(3), 40_000
    draws = posteriors.sample(jax.random.key(0), q, shape=(count,))
    for draw, mean, log_scale in zip(*map(jax.tree.leaves, (draws, *q)), strict=True):
        scale = np.exp(log_scale)
        assert np.all(np.abs(draw.mean(0) - mean) < 4.5 * scale / count**0.5)
        assert np.all(np.abs(draw.std(0) / scale - 1) < 4.5 / (2 * count) ** 0.5)


def test_draws_keep_dtype_and_leaves_differ():
    q = posteriors.init({"a": jnp.zeros(4, jnp.float32), "b": jnp.zeros(4, jnp.float32)}, scale=1.0)
    draw = posteriors.sample(jax.random.key(0), q)
    assert draw["a"].dtype == jnp.float32
    assert not np.allclose(draw["a"], draw["b"])
    assert posteriors.kl(q, q).dtype == jnp.float64  # sums are wide over narrow parameters


def test_fan_in_prior_scales_kernels_and_biases_alike():
    params = {
        "Dense_0": {"kernel": jnp.zeros((16, 3)), "bias": jnp.zeros(3)},
        "Conv_0": {"kernel": jnp.zeros((3, 3, 4, 5))},
    }
    prior = posteriors.fan_in_prior(params, scale=2.0)
    np.testing.assert_allclose(jnp.exp(prior.log_scale["Dense_0"]["kernel"]), 0.5, rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(prior.log_scale["Dense_0"]["bias"]), 0.5, rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(prior.log_scale["Conv_0"]["kernel"]), 2 / 6, rtol=1e-12)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(prior.mean))
    centre = jax.tree.map(jnp.ones_like, params)
    assert all(np.all(m == 1) for m in jax.tree.leaves(posteriors.fan_in_prior(params, scale=2.0, centre=centre).mean))


def random_full(seed: int, size: int = 8) -> FullGaussian:
    mean, factor = jax.random.split(jax.random.key(seed))
    raw = jnp.tril(jax.random.normal(factor, (size, size)))
    scale_tril = jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diag(raw)))
    return FullGaussian(jax.random.normal(mean, (size,)), scale_tril)


def test_full_log_density_and_kl_against_dense_linear_algebra():
    q, p = random_full(0), random_gaussian(4)
    covariance = q.scale_tril @ q.scale_tril.T
    w = jax.random.normal(jax.random.key(5), (8,))
    expected = jax.scipy.stats.multivariate_normal.logpdf(w, q.mean, covariance)
    np.testing.assert_allclose(full_covariance.log_density(q, w), expected, rtol=1e-9)
    mean, variance = ravel_pytree(p.mean)[0], jnp.exp(2 * ravel_pytree(p.log_scale)[0])
    expected = 0.5 * (
        jnp.sum(jnp.diag(covariance) / variance) - 8 + jnp.sum((q.mean - mean) ** 2 / variance)
        + jnp.sum(jnp.log(variance)) - jnp.linalg.slogdet(covariance)[1]
    )  # fmt: skip
    np.testing.assert_allclose(full_covariance.kl(q, p), expected, rtol=1e-9)


def test_full_covariance_of_a_diagonal_gaussian_is_that_gaussian():
    q, p = random_gaussian(6), random_gaussian(7)
    full = full_covariance.from_diagonal(q)
    np.testing.assert_allclose(full_covariance.kl(full, p), posteriors.kl(q, p), rtol=1e-12)
    w = tree(jax.random.key(8))
    np.testing.assert_allclose(
        full_covariance.log_density(full, ravel_pytree(w)[0]), posteriors.log_density(q, w), rtol=1e-12
    )


def test_full_draws_have_the_stated_covariance():
    """36 covariances of 8 numbers, 5 standard errors: false alarm about 2e-5."""
    q, count = random_full(1), 40_000
    draws = full_covariance.sample(jax.random.key(0), q, shape=(count,))
    covariance = np.asarray(q.scale_tril @ q.scale_tril.T)
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / count)
    assert np.all(np.abs(np.cov(draws.T) - covariance) < 5 * error)


def test_full_parametrisation_is_a_bijection():
    family, q = full_covariance.family(tree(jax.random.key(0))), random_full(2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), family.constrain(family.unconstrain(q)), q)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: posteriors.init(jnp.zeros(2), scale=0.0), "scale must be positive"),
        (lambda: posteriors.fan_in_prior({"kernel": jnp.zeros((2, 2))}, scale=-1.0), "scale must be positive"),
        (lambda: posteriors.fan_in_prior({"LayerNorm_0": {"scale": jnp.zeros(2)}}, scale=1.0), "no kernel"),
        (lambda: posteriors.fan_in_prior({"kernel": jnp.zeros((2, 2))}, scale=1.0, centre={"kernel": 0.0}), "centre"),
        (lambda: posteriors.kl(unit(2), unit(3)), "shapes"),
        (lambda: full_covariance.kl(random_full(0), unit(3)), "3 parameters"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
