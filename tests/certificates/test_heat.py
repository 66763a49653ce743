"""Heat and importance-sampling certificates: their formulas, their ledgers, and what they refuse."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import t

from pbjax import bounds
from pbjax.certificates import (
    Certificate,
    ais_free_energy,
    heat_law_asymptotic,
    heat_law_rigorous,
    heat_mean,
    heat_single,
)
from pbjax.evidence import effective_sample_size, importance_estimate

N, DELTA, BETA = 3000, 0.05, 3000.0
RNG = np.random.default_rng(0)
HEAT = 80.0 + 5 * RNG.normal(size=400)
RISK = np.clip(0.1 + 0.01 * RNG.normal(size=400), 0, 1)
WEIGHTS = -500.0 + RNG.normal(size=400)
SETTINGS = {"n": N, "delta": DELTA, "loss": "zero_one"}

EVERY = {
    "single": lambda **s: heat_single(s.pop("heat", HEAT[:1]), RISK[:1], **{**SETTINGS, **s}),
    "single, three looked at": lambda **s: heat_single(s.pop("heat", HEAT[:3]), RISK[:3], **{**SETTINGS, **s}),
    "mean": lambda **s: [heat_mean(s.pop("heat", HEAT), RISK, **{**SETTINGS, **s})],
    "law, rigorous": lambda **s: [heat_law_rigorous(s.pop("heat", HEAT), RISK, beta=BETA, **{**SETTINGS, **s})],
    "law, empirical Bernstein": lambda **s: [
        heat_law_rigorous(s.pop("heat", HEAT), RISK, beta=BETA, limit="empirical_bernstein", **{**SETTINGS, **s})
    ],
    "law, betting": lambda **s: [
        heat_law_rigorous(s.pop("heat", HEAT), RISK, beta=BETA, limit="betting", **{**SETTINGS, **s})
    ],
    "law, asymptotic": lambda **s: [heat_law_asymptotic(s.pop("heat", HEAT), RISK, beta=BETA, **{**SETTINGS, **s})],
    "ais": lambda **s: ais_free_energy(BETA, WEIGHTS, energy=RISK, **{**SETTINGS, **s}),
    "ais, two rungs": lambda **s: ais_free_energy(
        np.array([BETA, 2 * BETA]), np.stack([WEIGHTS, 1.5 * WEIGHTS]), energy=np.stack([RISK, RISK]),
        **{**SETTINGS, **s},
    ),
}  # fmt: skip


@pytest.fixture(params=sorted(EVERY))
def make(request):
    return EVERY[request.param]


def values(made):
    return np.array([certificate.value for certificate in made])


def test_range_words_and_plain_data(make):
    for certificate in make(union=2, flag="look here"):
        assert isinstance(certificate, Certificate)
        assert certificate.empirical_risk < certificate.value < 0.6
        assert "frozen before" in certificate.assumption
        assert ("asymptotically" in certificate.assumption) == (certificate.route == "heat_law_asymptotic")
        assert certificate.flag == "look here"
        assert certificate.kl is None
        json.dumps(dataclasses.asdict(certificate), allow_nan=True)
        assert certificate.row()["method"] == certificate.route


@pytest.mark.parametrize("union", [1, 1000])
def test_ledger_sums_to_delta(make, union):
    for certificate in make(union=union, delta=0.037):
        assert math.isclose(sum(certificate.delta_ledger.values()), 0.037, rel_tol=1e-12)
        assert all(share > 0 for share in certificate.delta_ledger.values())
        assert ("union" in certificate.delta_ledger) == (union > 1)


def test_a_union_costs_what_a_smaller_delta_costs(make):
    np.testing.assert_allclose(values(make(union=10)), values(make(delta=0.005)), rtol=1e-12)
    assert np.all(values(make(union=10)) > values(make()))


def test_slack_and_fewer_examples_cost(make):
    assert np.all(values(make(slack=1.0)) > values(make()))
    assert np.all(values(make(slack=1e-9)) >= values(make()))
    assert np.all(values(make(n=2900)) > values(make()))


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"delta": 0.0}, "delta"), ({"n": 0}, "n = 0"), ({"union": 0}, "union"), ({"slack": -1.0}, "slack = -1")],
)
def test_bad_settings_are_refused(make, bad, words):
    with pytest.raises(ValueError, match=words):
        make(**bad)


def test_single_spelled_out():
    made = heat_single(np.array([100.0, 90.0]), np.array([0.1, 0.12]), slack=0.5, union=4, **SETTINGS)
    own = 0.05 / 4 / 2
    expected = bounds.kl_inverse(np.array([0.1, 0.12]), (np.array([100.5, 90.5]) + np.log(2 * np.sqrt(N) / own)) / N)
    np.testing.assert_allclose(values(made), expected, rtol=1e-12)
    assert made[0].inputs["heat"] == 100.0 and made[0].inputs["networks_inspected"] == 2
    np.testing.assert_allclose(
        [made[0].delta_ledger[k] for k in ("heat", "other_networks", "union")], [own, own, 0.0375]
    )
    # A chain that gave off no heat knows no more than the prior: the test-set-like price of one fixed network.
    cold, none = (heat_single(w, 0.1, **SETTINGS)[0].value for w in (-30.0, 0.0))
    assert cold == none == float(bounds.pac_bayes_kl(0.1, 0.0, n=N, delta=DELTA))
    assert heat_single(math.nan, 0.1, **SETTINGS)[0].value == 1.0
    assert heat_single(10.0, math.nan, **SETTINGS)[0].value == 1.0
    assert [c.value == 1.0 for c in heat_single([math.nan, 1.0], [0.1, 0.1], **SETTINGS)] == [True, False]


def test_mean_spelled_out():
    made = heat_mean(HEAT, RISK, slack=0.25, **SETTINGS)
    expected = bounds.pac_bayes_kl(RISK.mean(), HEAT.mean() + 0.25, n=N, delta=DELTA)
    np.testing.assert_allclose(made.value, expected, rtol=1e-12)
    assert made.value >= float(expected)
    shares = np.arange(1, 401) / np.arange(1, 401).sum()
    weighted = heat_mean(HEAT, RISK, weights=shares, **SETTINGS)
    np.testing.assert_allclose(
        weighted.value, bounds.pac_bayes_kl(shares @ RISK, shares @ HEAT, n=N, delta=DELTA), rtol=1e-12
    )
    # The kl-inverse is concave: the price of one statement on the mean, against single ones at the same delta each.
    singles = [heat_single(w, q, **SETTINGS)[0].value for w, q in zip(HEAT[:20], RISK[:20], strict=True)]
    assert np.mean(singles) < heat_mean(HEAT[:20], RISK[:20], **SETTINGS).value < np.mean(singles) + 0.001
    # A negative heat counts in the mean, and only the mean is clipped.
    both, one = heat_mean([-50.0, 150.0], [0.1, 0.1], **SETTINGS), heat_mean([50.0], [0.1], **SETTINGS)
    np.testing.assert_allclose(both.value, one.value, rtol=1e-12)
    cooled = heat_mean([-50.0, 10.0], [0.1, 0.1], **SETTINGS)
    np.testing.assert_allclose(cooled.value, heat_single(0.0, 0.1, **SETTINGS)[0].value, rtol=1e-12)
    assert heat_mean([math.nan, 10.0], [0.1, 0.1], **SETTINGS).value == 1.0


def test_fixed_parameter_spelled_out():
    w, q, c = np.array([100.0, 90.0]), np.array([0.1, 0.12]), 1.3
    made = heat_single(w, q, slack=0.5, union=4, parameter=c, **SETTINGS)
    nats = w + 0.5 + np.log(8 / DELTA)
    expected = (1 - np.exp(-(c * N * q + nats) / N)) / (1 - np.exp(-c))
    np.testing.assert_allclose(values(made), expected, rtol=1e-12)
    assert (values(made) >= expected).all()
    assert made[0].inputs["parameter"] == c and "C = 1.3 was fixed before" in made[0].assumption
    shares = np.array([0.25, 0.75])
    mean = heat_mean(w, q, weights=shares, parameter=c, **SETTINGS)
    nats = shares @ w + np.log(1 / DELTA)
    np.testing.assert_allclose(mean.value, (1 - np.exp(-c * shares @ q - nats / N)) / (1 - np.exp(-c)), rtol=1e-12)
    assert heat_single(-30.0, 0.1, parameter=c, **SETTINGS)[0].value == (
        heat_single(0.0, 0.1, parameter=c, **SETTINGS)[0].value
    )
    assert heat_single(math.nan, 0.1, parameter=c, **SETTINGS)[0].value == 1.0
    with pytest.raises(ValueError, match="parameter = 0"):
        heat_single(1.0, 0.1, parameter=0.0, **SETTINGS)


def test_fixed_parameter_against_the_kl_form():
    # The kl inverse is the least of Catoni's forms over C; what a fixed C saves is log(2 sqrt(n)) and nothing else.
    kl_form = heat_single(100.0, 0.1, **SETTINGS)[0].value
    grid = np.geomspace(0.1, 5, 400)
    dear = [heat_single(100.0, 0.1, n=N, delta=DELTA / (2 * np.sqrt(N)), loss="x", parameter=c)[0].value for c in grid]
    assert min(dear) >= kl_form * (1 - 1e-12)
    np.testing.assert_allclose(min(dear), kl_form, rtol=1e-4)
    best = grid[np.argmin(dear)]
    np.testing.assert_allclose(best, np.log(kl_form / (1 - kl_form)) - np.log(0.1 / 0.9), rtol=0.02)
    assert heat_single(100.0, 0.1, parameter=best, **SETTINGS)[0].value < kl_form - 0.001
    assert heat_single(100.0, 0.1, parameter=10 * best, **SETTINGS)[0].value > kl_form  # a bad guess costs


def test_law_spelled_out():
    made = heat_law_rigorous(HEAT, RISK, beta=BETA, monte_carlo_share=0.4, **SETTINGS)
    heat = BETA * bounds.sampled_risk(HEAT.mean() / BETA, 400, delta=0.01)
    risk = bounds.sampled_risk(RISK.mean(), 400, delta=0.01)
    np.testing.assert_allclose(made.value, bounds.pac_bayes_kl(risk, heat, n=N, delta=0.03), rtol=1e-9)
    negative = heat_law_rigorous(np.where(np.arange(400) < 200, -HEAT, HEAT), RISK, beta=BETA, **SETTINGS)
    clipped = heat_law_rigorous(np.where(np.arange(400) < 200, 0.0, HEAT), RISK, beta=BETA, **SETTINGS)
    np.testing.assert_allclose(negative.value, clipped.value, rtol=1e-12)

    loose = heat_law_asymptotic(HEAT, RISK, beta=BETA, monte_carlo_share=0.4, **SETTINGS)
    heat, risk = (x.mean() + t.ppf(0.99, 399) * x.std(ddof=1) / 20 for x in (HEAT, RISK))
    np.testing.assert_allclose(loose.value, bounds.pac_bayes_kl(risk, heat, n=N, delta=0.03), rtol=1e-9)
    assert heat_mean(HEAT, RISK, **SETTINGS).value < loose.value < made.value
    # No spread is no evidence: one chain, or chains that agree exactly, get the rigorous limit.
    for chains in (1, 50):
        same = (np.full(chains, 60.0), np.full(chains, 0.1))
        assert (
            heat_law_asymptotic(*same, beta=BETA, **SETTINGS).value
            == heat_law_rigorous(*same, beta=BETA, **SETTINGS).value
        )
    assert heat_law_rigorous([math.nan, 1.0], [0.1, 0.1], beta=BETA, **SETTINGS).value == 1.0
    assert heat_law_asymptotic([math.nan, 1.0], [0.1, 0.1], beta=BETA, **SETTINGS).value == 1.0
    with pytest.raises(ValueError, match="at most beta"):
        heat_law_rigorous([3100.0], [0.1], beta=BETA, **SETTINGS)
    with pytest.raises(ValueError, match="beta = 0"):
        heat_law_rigorous([0.0], [0.1], beta=0.0, **SETTINGS)


@pytest.mark.parametrize(
    ("limit", "function"), [("empirical_bernstein", bounds.empirical_bernstein), ("betting", bounds.betting)]
)
def test_law_with_limits_from_the_draws(limit, function):
    made = heat_law_rigorous(HEAT, RISK, beta=BETA, limit=limit, monte_carlo_share=0.4, **SETTINGS)
    heat, risk = BETA * function(HEAT / BETA, delta=0.01), function(RISK, delta=0.01)
    np.testing.assert_allclose(made.value, bounds.pac_bayes_kl(risk, heat, n=N, delta=0.03), rtol=1e-9)
    assert made.inputs["limit"] == limit and "was chosen before the chains ran" in made.assumption
    # These heats and risks vary by little of their range.
    plain = heat_law_rigorous(HEAT, RISK, beta=BETA, monte_carlo_share=0.4, **SETTINGS)
    assert heat_mean(HEAT, RISK, **SETTINGS).value < made.value < plain.value
    assert heat_law_rigorous([math.nan, 1.0], [0.1, 0.1], beta=BETA, limit=limit, **SETTINGS).value == 1.0
    with pytest.raises((ValueError, TypeError), match="hoeffding"):  # a TypeError where types are checked
        heat_law_rigorous(HEAT, RISK, beta=BETA, limit="hoeffding", **SETTINGS)


def test_ais_spelled_out():
    betas, weights = np.array([2000.0, 4000.0]), np.stack([WEIGHTS, WEIGHTS - 100])
    made = ais_free_energy(betas, weights, slack=0.5, monte_carlo_share=0.2, **SETTINGS)
    neg_log_z = 0.5 - (logsumexp(weights, axis=1) - np.log(400)) + np.log(2 / 0.01)
    np.testing.assert_allclose([c.inputs["limit_neg_log_z"] for c in made], neg_log_z, rtol=1e-12)
    np.testing.assert_allclose(values(made), bounds.free_energy(neg_log_z, betas, n=N, delta=0.04), rtol=1e-12)
    assert all(math.isnan(c.empirical_risk) for c in made)
    [with_energy] = ais_free_energy(BETA, WEIGHTS, energy=RISK, **SETTINGS)
    shares = np.exp(WEIGHTS - WEIGHTS.max())
    np.testing.assert_allclose(with_energy.empirical_risk, shares @ RISK / shares.sum(), rtol=1e-12)
    # An energy of at most 1 has Λ of at most beta, however bad the chains.
    [hopeless] = ais_free_energy(1000.0, np.full(5, -1000.0), **SETTINGS)
    assert hopeless.inputs["limit_neg_log_z"] == 1000.0
    assert hopeless.value == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: heat_single([1.0, 2.0], [0.1], **SETTINGS), "2 heats for 1 empirical risks"),
        (lambda: heat_single(1.0, 1.2, **SETTINGS), "empirical_risk = 1.2"),
        (lambda: heat_single(math.inf, 0.1, slack=[0.0, 1.0], **SETTINGS), "slack has shape"),
        (lambda: heat_mean([1.0, 2.0], [0.1, 0.1], weights=[0.5, 0.6], **SETTINGS), "probabilities that sum to 1"),
        (lambda: heat_mean([1.0, 2.0], [0.1, 0.1], weights=[-0.5, 1.5], **SETTINGS), "weights = -0.5"),
        (lambda: heat_mean(np.ones((2, 2)), np.ones((2, 2)), **SETTINGS), "heat has shape"),
        (lambda: ais_free_energy([1.0, 2.0], WEIGHTS, **SETTINGS), "betas and log_weights"),
        (lambda: ais_free_energy(0.0, WEIGHTS, **SETTINGS), "betas = 0"),
        (lambda: ais_free_energy(1.0, np.array([math.nan, 0.0]), **SETTINGS), "log-weight is finite"),
        (lambda: ais_free_energy(1.0, WEIGHTS, energy=RISK[:5], **SETTINGS), "energy has shape"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_infinite_heat_is_vacuous():
    assert heat_single(math.inf, 0.1, **SETTINGS)[0].value == 1.0


def test_float32_never_gives_a_smaller_certificate():
    for name in ("single", "mean", "law, rigorous", "ais"):
        make = EVERY[name]
        wide = values(make())
        with jax.enable_x64(False):
            narrow = values(make())
        # The log-weights of annealed importance sampling themselves become float32: 500 nats to 1e-5.
        assert np.all(narrow >= wide - (1e-7 if name.startswith("ais") else 0.0)), name
        np.testing.assert_allclose(narrow, wide, rtol=1e-4)


def test_effective_sample_size_and_estimate_by_hand():
    weights = np.array([0.5, 0.25, 0.25, 0.0])
    with np.errstate(divide="ignore"):
        logs = np.log(weights) + 1000.0
    np.testing.assert_allclose(effective_sample_size(logs), 1 / np.sum(weights**2), rtol=1e-12)
    estimate = importance_estimate(logs)
    np.testing.assert_allclose(estimate.neg_log_z, -1000.0 - np.log(0.25), rtol=1e-12)
    np.testing.assert_allclose(
        estimate.standard_error, weights.std(ddof=1) / 2 / weights.mean(), rtol=1e-9
    )  # delta method: relative standard error of the mean weight
    assert float(effective_sample_size(np.full(3, -np.inf))) == 1.0
    assert math.isnan(float(importance_estimate(np.zeros(1)).standard_error))
    with pytest.raises(ValueError, match="log_weights has shape"):
        effective_sample_size(np.zeros((2, 0)))
    with pytest.raises(ValueError, match="log_weights = inf"):
        importance_estimate(np.array([np.inf]))
