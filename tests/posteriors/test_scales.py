"""Scales trained on a bound around a mean that stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax import bounds
from pbjax.posteriors import Gaussian, fit_scales, init, kl

GRID = tuple(float(s) for s in np.geomspace(0.01, 10.0, 31))
MEAN, CENTRE = jnp.array([1.0, -1.0, 0.5, 0.0]), jnp.array([0.9, -1.2, 0.5, 0.1])
CURVATURE = jnp.array([4.0, 1.0, 0.25, 0.0])


def _quadratic(key, q, batch):
    """E of a quadratic around the mean, in closed form: no noise."""
    return 0.05 + 0.5 * jnp.sum(CURVATURE * jnp.exp(2 * q.log_scale))


def _fit(**options):
    given = {
        "estimator": _quadratic, "prior_scales": GRID, "n": 1000, "delta": 0.025, "num_steps": 2000, "batch_size": 10,
    }  # fmt: skip
    return fit_scales(jax.random.key(0), MEAN, CENTRE, jnp.zeros(1000), **{**given, **options})


def _bound(log_scale, log_prior, n=1000):
    q = Gaussian(MEAN, log_scale)
    divergence = kl(q, init(CENTRE, scale=jnp.exp(log_prior)))
    return bounds.pac_bayes_kl(_quadratic(None, q, None), divergence, n=n, delta=0.025)


def test_the_bound_is_stationary_in_every_scale():
    fit = _fit(num_steps=4000)
    slope = jax.grad(_bound)(fit.posterior.log_scale, jnp.log(fit.prior_scale))
    # The prior was rounded to the grid after training, so the optimum moved by at most half a step of it (12 %).
    start = jax.grad(_bound)(jnp.full(4, jnp.log(GRID[15])), jnp.log(GRID[15]))
    assert jnp.abs(slope).max() < 0.05 * jnp.abs(start).max()
    np.testing.assert_array_equal(fit.posterior.mean, MEAN)
    assert float(fit.prior_scale) in GRID
    np.testing.assert_allclose(fit.kl, kl(fit.posterior, fit.prior), rtol=1e-12)


def test_flat_directions_keep_the_prior_scale_and_sharp_ones_do_not():
    scales = jnp.exp(_fit(num_steps=4000).posterior.log_scale)
    assert scales[0] < scales[1] < scales[2] < scales[3]


def test_no_prior_scale_of_the_grid_is_much_better_than_the_chosen_one():
    fit = _fit(num_steps=4000)
    own = float(_bound(fit.posterior.log_scale, jnp.log(fit.prior_scale)))
    for scale in GRID:
        assert float(_bound(fit.posterior.log_scale, jnp.log(scale))) > own * (1 - 0.01)


def test_weights_far_from_the_centre_get_scales_too():
    # The kl bound is 1 there, with no slope to follow.
    far = jnp.full(400, 3.0)

    def fit(steps):
        return fit_scales(
            jax.random.key(0), far, jnp.zeros(400), jnp.zeros(1000),
            estimator=lambda key, q, batch: 0.05 + 0.001 * jnp.mean(jnp.exp(2 * q.log_scale)), prior_scales=GRID,
            n=1000, delta=0.025, num_steps=steps, batch_size=10,
        )  # fmt: skip

    made = fit(1000)
    # With sigma free, KL is least at sigma = sigma_p, where it is |m|^2/(2 sigma_p^2): the prior must be wide.
    assert made.prior_scale > 3.0
    assert bounds.pac_bayes_kl(0.1, made.kl, n=1000, delta=0.025) < 0.6


def test_equal_weights_start_at_the_end_of_the_grid():
    made = fit_scales(
        jax.random.key(0), MEAN, MEAN, jnp.zeros(1000), estimator=_quadratic, prior_scales=GRID, n=1000, delta=0.025,
        num_steps=500, batch_size=10,
    )  # fmt: skip
    assert jnp.isfinite(made.kl)
    assert jnp.isfinite(made.objective).all()


def test_more_data_gives_a_smaller_bound():
    small, large = (_fit(n=n) for n in (1000, 100_000))
    assert large.objective[-1] < small.objective[-1]


def test_one_program_over_replicas():
    keys = jax.random.split(jax.random.key(1), 2)
    options = {
        "estimator": _quadratic, "prior_scales": GRID, "n": 1000, "delta": 0.025, "num_steps": 100, "batch_size": 10,
    }  # fmt: skip
    call = lambda key, mean: fit_scales(key, mean, CENTRE, jnp.zeros(1000), **options)  # noqa: E731
    means = jnp.stack([MEAN, 2 * MEAN])
    together = jax.jit(jax.vmap(call))(keys, means)
    for index in range(2):
        alone = call(keys[index], means[index])
        np.testing.assert_allclose(together.posterior.log_scale[index], alone.posterior.log_scale, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_scales": (0.1, 0.05)}, "must increase"),
        ({"prior_scales": (0.0, 1.0)}, "positive"),
        ({"num_steps": 15}, "must divide"),
        ({"delta": 1.5}, "delta"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        _fit(**options)
