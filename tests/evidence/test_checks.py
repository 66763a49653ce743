"""The checks must stay quiet on good ladders, at a stated rate, and speak on bad ones."""

import numpy as np
import pytest

from pbjax.evidence import (
    SampleStatistics,
    first_order_transition,
    gap_identity,
    hysteresis,
    independent_statistics,
    thermodynamic_integration,
    violates_variational_bound,
)
from tests.evidence.quadrature import Quadrature, geometric_ladder, well


def statistics_of(mean, variance, draws=400):
    error = np.sqrt(variance / draws)
    return SampleStatistics(mean, variance, error, mean[:, None], draws)


SMOOTH = {
    "well": well,
    "slope": lambda w: 1 / (1 + np.exp(-3 * w)),
    "bowl": lambda w: np.minimum(w**2 / 50, 1),
    "shallow": lambda w: 0.5 + 0.1 * np.tanh(w),
}


@pytest.mark.parametrize("name", sorted(SMOOTH))
@pytest.mark.parametrize("rungs", [4, 6, 12, 40])
def test_a_coarse_ladder_on_a_smooth_curve_is_not_a_transition(name, rungs):
    betas = geometric_ladder(5000.0, rungs, first=1.0)
    exact = Quadrature(SMOOTH[name], points=4001).exact(betas)
    assert not np.any(first_order_transition(betas, statistics_of(exact.mean, exact.variance)).flagged)


def two_phases(w):
    """A broad basin at loss 0.5 and a hole at loss 0.05 that holds a prior mass of about e^-40."""
    return np.where(w > 0, np.minimum(0.5 + 0.02 * (w - 1) ** 2, 1), np.where(np.abs(w + 9.0) < 0.3, 0.05, 0.97))


def test_a_first_order_transition_is_flagged_however_fine_the_ladder():
    # Chains cannot cross: each rung shows the phase that dominates it, with the variance of that phase alone.
    problem = Quadrature(two_phases, points=8001, reach=12.0)
    for rungs in (10, 40, 160):
        betas = np.linspace(0.0, 300.0, rungs)
        means, variances = [], []
        for beta in betas:
            p = problem.probabilities(beta)
            hole = problem.loss < 0.1
            inside = hole if p[hole].sum() > 0.5 else ~hole
            p = np.where(inside, p, 0) / p[inside].sum()
            means.append(p @ problem.loss)
            variances.append(p @ (problem.loss - means[-1]) ** 2)
        found = first_order_transition(betas, statistics_of(np.array(means), np.array(variances)))
        assert np.sum(found.flagged) == 1
        assert found.drop[np.argmax(found.flagged)] > 0.3


def test_transition_false_alarms_are_as_rare_as_stated():
    # 400 noisy ladders at false_alarm = 0.05: at most 0.05 of them, plus 4 standard errors, may be flagged.
    rng = np.random.default_rng(0)
    betas = geometric_ladder(500.0, 10, first=1.0)
    problem = Quadrature(well, points=2001)
    alarms = 0
    for _ in range(400):
        statistics = independent_statistics(problem.draw(rng, betas, (4, 25)))
        alarms += bool(
            np.any(first_order_transition(betas, statistics, factor=1.0, min_nats=0, false_alarm=0.05).flagged)
        )
    assert alarms <= 400 * (0.05 + 4 * np.sqrt(0.05 * 0.95 / 400))


def test_transition_totality():
    broken = statistics_of(np.array([0.5, np.nan, 0.1]), np.array([0.01, 0.01, 0.01]))
    assert np.all(first_order_transition(np.array([0.0, 10.0, 20.0]), broken).flagged)
    exact = SampleStatistics(np.array([0.5, 0.4]), np.array([0.1, 0.1]), np.zeros(2), np.zeros((2, 1)), 1)
    assert not np.any(first_order_transition(np.array([0.0, 1.0]), exact).flagged)
    assert np.all(first_order_transition(np.array([0.0, 9.0]), exact._replace(variance=np.zeros(2))).flagged)
    with pytest.raises(ValueError, match="false_alarm"):
        first_order_transition(np.array([0.0, 1.0]), exact, false_alarm=1.5)


def test_hysteresis_false_alarms_and_power():
    rng = np.random.default_rng(1)
    betas = geometric_ladder(500.0, 10, first=1.0)
    problem = Quadrature(well, points=2001)
    alarms = 0
    for _ in range(300):
        up, down = (independent_statistics(problem.draw(rng, betas, (4, 50))) for _ in range(2))
        alarms += bool(np.any(hysteresis(betas, up, downward=down, false_alarm=0.05).flagged))
    # The rungs' 0-1-like losses are skewed, so the normal quantile is allowed 4 binomial standard errors and a half.
    assert alarms <= 300 * (0.05 * 1.5 + 4 * np.sqrt(0.05 * 0.95 / 300))

    late = up._replace(mean=np.asarray(up.mean) + np.where(np.arange(10) == 7, 0.1, 0.0))
    found = hysteresis(betas, late, downward=up)
    assert np.flatnonzero(found.flagged).tolist() == [7]
    step = (betas[8] - betas[6]) / 2
    np.testing.assert_allclose(found.neg_log_z_difference, 0.1 * step, rtol=1e-6)
    assert np.all(hysteresis(betas, up._replace(mean=np.full(10, np.nan)), downward=down).flagged)


def test_gap_identity_is_the_kl_to_the_gibbs_posterior():
    problem = Quadrature(well, points=4001)
    beta = 300.0
    gibbs = problem.probabilities(beta)
    q = np.exp(-((problem.w - 1.9) ** 2) / (2 * 0.1**2))
    q /= q.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(q > 0, q * np.log(q / gibbs), 0).sum()
        kl = np.where(q > 0, q * (np.log(q) - problem.log_prior), 0).sum()
    neg_log_z = problem.exact(np.array([beta])).neg_log_z[0]
    gap = gap_identity(q @ problem.loss, kl, neg_log_z=neg_log_z, beta=beta)
    np.testing.assert_allclose(gap, divergence / beta, rtol=1e-9)
    check = violates_variational_bound(neg_log_z, beta, risk=q @ problem.loss, kl=kl)
    assert not check.violated
    np.testing.assert_allclose(check.gap, divergence, rtol=1e-9)


def test_the_gibbs_posterior_itself_is_on_the_boundary():
    # Chains that keep L too high over-state Λ: the exact Q_b then beats it, beyond error.
    betas = geometric_ladder(2000.0, 400)
    exact = Quadrature(well).exact(betas)
    fine = thermodynamic_integration(betas, exact.mean)
    settings = {"risk": exact.mean[-1], "kl": exact.kl[-1]}
    good = violates_variational_bound(fine.trapezium[-1], 2000.0, **settings, neg_log_z_standard_error=0.05)
    assert not good.violated
    cooled_too_fast = thermodynamic_integration(betas, exact.mean + 0.001)
    bad = violates_variational_bound(cooled_too_fast.trapezium[-1], 2000.0, **settings, neg_log_z_standard_error=0.05)
    assert bad.violated
    np.testing.assert_allclose(bad.gap - good.gap, -2.0, rtol=1e-6)
    risky = violates_variational_bound(
        cooled_too_fast.trapezium[-1], 2000.0, **settings, neg_log_z_standard_error=0.05, risk_standard_error=0.01
    )
    assert not risky.violated  # the risk's error counts beta times: 20 nats
    assert violates_variational_bound(np.nan, 2000.0, **settings).violated
    with pytest.raises(ValueError, match="beta"):
        gap_identity(0.1, 1.0, neg_log_z=1.0, beta=0.0)
