"""Upper limits on means from the draws: coverage exactly where the draws can be listed, the formulas, the edges."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from pbjax.bounds import betting, empirical_bernstein, sampled_risk

DELTA, M = 0.1, 10
SEQUENCES = np.array(list(itertools.product([0, 1], repeat=M)))  # all 1,024, in order
BOTH = {"empirical Bernstein": empirical_bernstein, "betting": betting}
LIMITS = {name: jax.jit(lambda x, f=f: f(x, delta=DELTA)) for name, f in BOTH.items()}
# (low, high, probability of high): Bernoulli laws, tiny variances, a rare large value.
TWO_POINTS = [
    (0.0, 1.0, 0.02), (0.0, 1.0, 0.2), (0.0, 1.0, 0.3), (0.0, 1.0, 0.5), (0.0, 1.0, 0.8), (0.0, 1.0, 0.98),
    (0.0, 1e-3, 0.5), (0.5, 0.5 + 1e-9, 0.5), (0.1, 0.11, 0.2), (0.02, 1.0, 0.01), (0.0, 0.9, 0.25), (0.6, 1.0, 0.4),
]  # fmt: skip


def failure(limits, low, high, p):
    """P(limit < mean) exactly, from the limit of every sequence."""
    ones = SEQUENCES.sum(1)
    return np.sum(p**ones * (1 - p) ** (M - ones) * (limits < low + (high - low) * p))


@pytest.mark.parametrize("name", sorted(BOTH))
@pytest.mark.parametrize(("low", "high", "p"), TWO_POINTS)
def test_exact_coverage_of_two_point_laws(name, low, high, p):
    limits = np.asarray(LIMITS[name](low + (high - low) * SEQUENCES))
    assert failure(limits, low, high, p) <= DELTA
    if name == "betting":  # never vacuous below 1, unlike the explicit formula at ten draws
        assert (limits < 1).any()


def test_betting_is_not_slack_everywhere():
    worst = max(
        failure(np.asarray(LIMITS["betting"](low + (high - low) * SEQUENCES)), low, high, p)
        for low, high, p in TWO_POINTS
    )
    assert worst > DELTA / 4


def test_an_order_chosen_after_seeing_the_draws_breaks_betting():
    # Small draws first: the gambler stops ahead. The control that coverage can fail.
    chosen = np.sort(SEQUENCES, axis=1).astype(float)
    assert failure(np.asarray(LIMITS["betting"](chosen)), 0.0, 1.0, 0.3) > 1.5 * DELTA


def test_a_bet_that_sees_its_own_draw_breaks_betting():
    # Stakes from the variance after the draw and at most what it can take: the definition, peeking.
    x, mean = SEQUENCES.astype(float), 0.3
    stake = np.where(x > mean, 0.1, 0.9) / (1 - mean)
    capital = np.cumprod(1 - stake * (x - mean), axis=1).max(1)
    ones = SEQUENCES.sum(1)
    assert np.sum(0.3**ones * 0.7 ** (M - ones) * (capital >= 1 / DELTA)) > 1.5 * DELTA


@pytest.mark.parametrize("name", sorted(BOTH))
@pytest.mark.parametrize(
    ("law", "truth"),
    [
        (lambda rng, size: rng.beta(2, 60, size), 2 / 62),
        (lambda rng, size: rng.beta(0.5, 0.5, size), 0.5),
        (lambda rng, size: rng.beta(2000, 100, size), 2000 / 2100),
        (lambda rng, size: 0.03 + 1e-6 * rng.uniform(-1, 1, size), 0.03),
    ],
    ids=["beta(2, 60)", "beta(1/2, 1/2)", "beta(2000, 100)", "tiny variance"],
)
def test_coverage_of_continuous_laws(name, law, truth):
    repeats, draws = 4000, 40
    values = law(np.random.default_rng(0), (repeats, draws))
    violations = int(np.sum(np.asarray(LIMITS[name](values)) < truth))
    assert violations <= binom.ppf(1 - 1e-4, repeats, DELTA)


def test_both_formulas_by_hand():
    x = np.random.default_rng(1).beta(2, 20, 50)
    nats = math.log(2 / DELTA)
    expected = x.mean() + math.sqrt(2 * x.var(ddof=1) * nats / 50) + 7 * nats / 3 / 49
    np.testing.assert_allclose(LIMITS["empirical Bernstein"](x), expected, rtol=1e-12)
    # The capital at the limit, round by round, is 1/delta at its best.
    limit, capital, best = float(LIMITS["betting"](x)), 1.0, 1.0
    total, spread, variance = 0.5, 0.25, 0.25
    for i, value in enumerate(x, start=1):
        bet = min(math.sqrt(2 * math.log(1 / DELTA) / (50 * variance)), 0.9 / (1 - limit))
        capital *= 1 - bet * (value - limit)
        best = max(best, capital)
        total += value
        spread += (value - total / (i + 1)) ** 2
        variance = spread / (i + 1)
    np.testing.assert_allclose(best, 1 / DELTA, rtol=1e-9)
    assert best >= 1 / DELTA


def test_a_small_variance_pays():
    x = np.clip(0.03 + 0.003 * np.random.default_rng(2).normal(size=1000), 0, 1)
    game, formula = (float(f(x, delta=0.0125)) for f in (betting, empirical_bernstein))
    assert x.mean() < game < formula < float(sampled_risk(x.mean(), 1000, delta=0.0125))
    assert game - x.mean() < 0.3 * (float(sampled_risk(x.mean(), 1000, delta=0.0125)) - x.mean())


def test_edges():
    for f in BOTH.values():
        assert float(f(np.ones(20), delta=0.05)) == 1.0
        assert float(f(np.array([0.1, np.nan, 0.2]), delta=0.05)) == 1.0
        assert 0 < float(f(np.zeros(200), delta=0.05)) < 0.1
        assert f(np.full((3, 1, 30), 0.2), delta=np.array([0.1, 0.01])).shape == (3, 2)
        with pytest.raises(ValueError, match=r"values = 1.2"):
            f(np.array([1.2, 0.1]), delta=0.05)
        with pytest.raises(ValueError, match="at least one"):
            f(np.zeros(0), delta=0.05)
        with pytest.raises(ValueError, match="delta"):
            f(np.zeros(3), delta=0.0)
    assert float(empirical_bernstein(np.zeros(1), delta=0.05)) == 1.0
    # One draw of 0 doubles the capital of a bet of sqrt(8 log 2) = 2.35 on a mean of 1/2.35.
    np.testing.assert_allclose(betting(np.zeros(1), delta=0.5), 1 / 1.9, rtol=1e-9)


@pytest.mark.slow
def test_transformations_and_float32():
    x = np.random.default_rng(3).beta(2, 20, (4, 30))
    for name, f in BOTH.items():
        whole = np.asarray(LIMITS[name](x))
        np.testing.assert_allclose(jax.vmap(lambda row, f=f: f(row, delta=DELTA))(jnp.asarray(x)), whole, rtol=1e-12)
        slope = jax.grad(lambda row, f=f: f(row, delta=DELTA))(jnp.asarray(x[0]))
        assert np.isfinite(slope).all() and float(slope.sum()) > 0
        with jax.enable_x64(False):
            narrow = np.asarray(f(x, delta=DELTA))
        assert (narrow >= whole).all()
        np.testing.assert_allclose(narrow, whole, rtol=2e-3)
