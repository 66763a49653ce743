"""Streamed statistics against those of kept draws, and diagnostics on chains with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.sampling import (
    autocovariance,
    flag_rungs,
    init_statistics,
    mean,
    standard_error,
    summarise,
    update_statistics,
    variance,
)


def autoregressive(rho, shape, draws, seed=0):
    generator = np.random.default_rng(seed)
    x = np.empty((*shape, draws))
    x[..., 0] = generator.normal(size=shape)
    for t in range(1, draws):
        x[..., t] = rho * x[..., t - 1] + np.sqrt(1 - rho**2) * generator.normal(size=shape)
    return x


def stream(draws, lags):
    start = init_statistics(draws.shape[:-1], lags=lags)
    return jax.lax.scan(lambda s, x: (update_statistics(s, x), None), start, jnp.moveaxis(jnp.asarray(draws), -1, 0))[0]


def test_streamed_moments_equal_kept_ones():
    draws = 1000.0 + 1e-3 * autoregressive(0.7, (2, 3), 200)
    statistics = stream(draws, lags=6)
    centred = draws - draws.mean(-1, keepdims=True)
    expected = np.stack([(centred[..., k:] * centred[..., : 200 - k]).sum(-1) / 200 for k in range(7)])
    np.testing.assert_allclose(mean(statistics), draws.mean(-1), rtol=1e-14)
    np.testing.assert_allclose(variance(statistics), draws.var(-1, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(autocovariance(statistics), expected, rtol=1e-7, atol=1e-15)


def test_standard_error_of_an_autoregressive_chain():
    # Long-run variance of AR(1) is (1 + rho)/(1 - rho); averaged over 64 chains the estimate has a relative error of
    # about sqrt(2 * 60 / 4000 / 64) = 2 % plus a small downward bias from the cut, so 10 % is over four of them.
    rho, draws = 0.8, 4000
    statistics = stream(autoregressive(rho, (64,), draws), lags=40)
    estimate = float(jnp.mean(standard_error(statistics) ** 2))
    assert abs(estimate / ((1 + rho) / (1 - rho) / draws) - 1) < 0.1


def test_constant_chain_has_no_error_and_no_nan():
    statistics = stream(np.full((2, 10), 0.25), lags=3)
    assert float(jnp.max(standard_error(statistics))) == 0.0
    summary, diagnostics = summarise(np.full((1, 4, 10), 0.25))
    assert summary.standard_error[0] == 0.0 and diagnostics.r_hat[0] == 1.0


def test_summary_of_an_autoregressive_chain():
    rho = 0.5
    draws = autoregressive(rho, (3, 4), 2000)
    summary, diagnostics = summarise(draws)
    expected = 2000 * (1 - rho) / (1 + rho)
    np.testing.assert_allclose(diagnostics.ess, expected, rtol=0.25)
    assert (diagnostics.r_hat < 1.02).all()
    # Three rungs, five standard errors: a false alarm once in 600,000 runs.
    assert (np.abs(summary.mean) < 5 * summary.standard_error).all()


def test_disagreeing_and_stuck_chains_are_flagged():
    good = autoregressive(0.0, (3, 4), 300)
    bad = good.copy()
    bad[1, 0] += 3.0  # one chain in another mode
    bad[2, 0] = bad[2, 0, 0]  # one chain that never moves
    _, diagnostics = summarise(bad)
    texts = flag_rungs({"L": diagnostics}, max_r_hat=1.05, min_ess=50.0, divergences=np.array([0, 0, 0]))
    assert texts[0] == "" and "R-hat" in texts[1] and texts[2] != ""
    assert "2 divergences" in flag_rungs({"L": diagnostics}, max_r_hat=1.05, min_ess=50.0, divergences=[2, 0, 0])[0]


def test_bad_draws_are_refused():
    with pytest.raises(ValueError, match="chains >= 2"):
        summarise(np.zeros((1, 1, 10)))
    with pytest.raises(ValueError, match="not finite"):
        summarise(np.full((1, 2, 10), np.nan))
    with pytest.raises(ValueError, match="lags"):
        init_statistics((1,), lags=0)
