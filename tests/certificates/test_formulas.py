"""Each route against its own definition, written out with the bounds' functions."""

import jax
import numpy as np
import pytest
from scipy.stats import norm, t

from pbjax import bounds, certificates
from pbjax.certificates import gibbs_asymptotic, gibbs_chains, gibbs_iid, gibbs_plugin, mean_field
from pbjax.certificates.limits import Means, asymptotic_limits, unit_limits
from pbjax.evidence import SampleStatistics, thermodynamic_integration
from tests.evidence.quadrature import Quadrature, geometric_ladder, well

N, DELTA = 1000, 0.05
SETTINGS = {"n": N, "delta": DELTA}


def exact_statistics(betas, *, draws=10**9, error=1e-9):
    exact = Quadrature(well).exact(betas)
    return SampleStatistics(
        exact.mean, exact.variance, np.full(betas.size, error), np.repeat(exact.mean[:, None], 3, 1), draws
    )


def test_plug_in_is_the_bound_at_the_trapezium():
    betas = geometric_ladder(2000.0, 5)
    energy = exact_statistics(betas)
    made = gibbs_plugin(betas, energy, loss="surrogate", **SETTINGS)
    sums = thermodynamic_integration(betas, energy.mean)
    expected = bounds.pac_bayes_kl(energy.mean, sums.kl_trapezium, n=N, delta=DELTA)[1:]
    np.testing.assert_allclose([c.value for c in made], expected, rtol=1e-12)
    np.testing.assert_allclose([c.kl_high for c in made], sums.kl_left[1:], rtol=1e-9)
    np.testing.assert_allclose([c.kl_low for c in made], sums.kl_right[1:], rtol=1e-9, atol=1e-12)


def test_surrogate_certificates_reach_the_optimum_of_the_reference_note():
    # Section 2.1: on the toy, both optimised certificates are 0.0145974 at beta about 5000.
    betas = geometric_ladder(10_000.0, 4001)
    energy = exact_statistics(betas)
    plugin = gibbs_plugin(betas, energy, loss="surrogate", **SETTINGS)
    best = min(plugin, key=lambda c: c.value)
    assert abs(best.value - 0.0145974) < 2e-7
    assert 4800 < best.beta < 5200
    free = [float(np.min(bounds.free_energy(Quadrature(well).exact(betas[1:]).neg_log_z, betas[1:], n=N, delta=DELTA)))]
    assert abs(free[0] - best.value) < 2e-7


@pytest.mark.parametrize("route", [gibbs_iid, gibbs_chains, gibbs_asymptotic])
def test_surrogate_value_is_the_worst_case_over_the_limits(route):
    # Brute force over q in [low, high] of kl_inverse(q, (Λ − b q + log)/n), at limits of very different width.
    betas = np.array([0.0, 100.0, 400.0, 3000.0, 20_000.0])
    exact = Quadrature(well).exact(betas)
    for draws in (2000, 10**6):
        error = np.sqrt(exact.variance / draws)
        energy = SampleStatistics(
            exact.mean, exact.variance, error, np.tile(exact.mean[:, None], (1, draws // 10)), draws
        )
        for made in route(betas, energy, loss="surrogate", **SETTINGS):
            low, high, lam = (made.inputs[f"limit_{x}"] for x in ("energy_low", "energy_high", "neg_log_z"))
            q = np.linspace(low, high, 1001)
            kl = np.maximum(lam - made.beta * q, 0)
            brute = np.max(bounds.pac_bayes_kl(q, kl, n=N, delta=made.delta_ledger["pac_bayes_kl"]))
            free = float(bounds.free_energy(lam, made.beta, n=N, delta=made.delta_ledger["pac_bayes_kl"]))
            assert brute - 1e-12 <= made.value <= brute + 1e-5
            assert made.value <= free * (1 + 1e-9)
            # Nor above the bound with the worst risk and the worst KL taken separately.
            apart = float(
                bounds.pac_bayes_kl(high, lam - made.beta * low, n=N, delta=made.delta_ledger["pac_bayes_kl"])
            )
            assert made.value <= apart * (1 + 1e-9)


def test_iid_route_spelled_out():
    betas = np.array([0.0, 10.0, 40.0])
    energy = SampleStatistics(np.array([0.6, 0.4, 0.3]), np.full(3, 0.01), np.full(3, 0.001), np.zeros((3, 1)), 5000)
    risk = SampleStatistics(np.array([0.5, 0.3, 0.1]), np.full(3, 0.01), np.full(3, 0.001), np.zeros((3, 1)), 5000)
    made = gibbs_iid(betas, energy, risk=risk, loss="zero_one", **SETTINGS)[1]
    each = 0.025 / 6  # two rungs before the last, two lower limits, two risks
    upper = np.asarray(bounds.sampled_risk(energy.mean, 5000, delta=each))
    lower = float(bounds.kl_inverse_lower(0.3, np.log(1 / each) / 5000))
    kl = 10 * upper[0] + 30 * upper[1] - 40 * lower
    expected = bounds.pac_bayes_kl(bounds.sampled_risk(0.1, 5000, delta=each), kl, n=N, delta=0.025)
    np.testing.assert_allclose(made.value, expected, rtol=1e-9)
    np.testing.assert_allclose(made.kl_high, kl, rtol=1e-9)
    np.testing.assert_allclose(
        [made.delta_ledger[k] for k in ("pac_bayes_kl", "energy_upper", "energy_lower", "risk_upper")],
        [0.025, 2 * each, 2 * each, 2 * each],
    )
    surrogate = gibbs_iid(betas, energy, loss="surrogate", **SETTINGS)[0]
    assert surrogate.inputs["one_sided_limits"] == 5
    alone = gibbs_iid(betas, energy, loss="surrogate", rungs_inspected=[2], monte_carlo_share=0.8, **SETTINGS)[1]
    np.testing.assert_allclose(alone.delta_ledger["energy_upper"], 0.04 * 3 / 4)


def test_chain_route_is_the_iid_route_of_the_chain_means():
    rng = np.random.default_rng(0)
    betas = np.array([0.0, 10.0, 40.0])
    chain_means = np.array([0.6, 0.4, 0.3])[:, None] + 0.01 * rng.normal(size=(3, 150))
    mean = chain_means.mean(1)
    energy = SampleStatistics(mean, np.full(3, 0.01), np.full(3, 1e-5), chain_means, 10**6)
    as_draws = energy._replace(num_draws=150)
    for risk in (None, energy):
        by_chain = gibbs_chains(betas, energy, risk=risk, loss="x", **SETTINGS)
        by_draw = gibbs_iid(betas, as_draws, risk=None if risk is None else as_draws, loss="x", **SETTINGS)
        np.testing.assert_allclose([c.value for c in by_chain], [c.value for c in by_draw], rtol=1e-12)


def test_asymptotic_route_spelled_out():
    betas = np.array([0.0, 10.0, 40.0])
    error, variance = np.array([0.002, 0.001, 0.003]), np.array([0.01, 0.004, 0.0018])
    energy = SampleStatistics(np.array([0.6, 0.4, 0.3]), variance, error, np.zeros((3, 1)), 10**6)
    risk = energy._replace(mean=np.array([0.5, 0.3, 0.1]))
    made = gibbs_asymptotic(betas, energy, risk=risk, loss="zero_one", rungs_inspected=[2], **SETTINGS)[1]
    quantile = t.ppf(1 - 0.025 / 2, 0.0018 / 0.003**2 - 1)  # the least effective number of draws is 200
    kl = 10 * 0.6 + 30 * 0.4 - 40 * 0.3 + quantile * np.sqrt((10 * 0.002) ** 2 + (30 * 0.001) ** 2 + (40 * 0.003) ** 2)
    expected = bounds.pac_bayes_kl(0.1 + quantile * 0.003, kl, n=N, delta=0.025)
    np.testing.assert_allclose(made.kl_high, kl, rtol=1e-9)
    np.testing.assert_allclose(made.value, expected, rtol=1e-9)
    # After replica exchange the rungs of a chain depend on each other: their errors add up.
    exchanged = energy._replace(dependent_rungs=True)
    dependent = gibbs_asymptotic(betas, exchanged, risk=risk, loss="zero_one", rungs_inspected=[2], **SETTINGS)[1]
    kl = 10 * 0.6 + 30 * 0.4 - 40 * 0.3 + quantile * (10 * 0.002 + 30 * 0.001 + 40 * 0.003)
    np.testing.assert_allclose(dependent.kl_high, kl, rtol=1e-9)
    assert dependent.value > made.value and dependent.standard_error > made.standard_error
    assert "rungs dependent in any way" in dependent.assumption and "rungs independent" in made.assumption


def test_between_chain_variance_uses_the_joint_sums():
    rng = np.random.default_rng(1)
    betas = np.array([0.0, 10.0, 40.0])
    chain_means = np.array([0.6, 0.4, 0.3])[:, None] + 0.01 * rng.normal(size=(3, 6))
    energy = SampleStatistics(chain_means.mean(1), np.full(3, 0.01), np.full(3, 1e-9), chain_means, 600)
    made = gibbs_asymptotic(
        betas, energy, risk=energy, loss="zero_one", rungs_inspected=[2], between_chains=True, **SETTINGS
    )[1]
    sums = 10 * chain_means[0] + 30 * chain_means[1] - 40 * chain_means[2]
    kl = sums.mean() + t.ppf(1 - 0.0125, 5) * sums.std(ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(made.kl_high, kl, rtol=1e-9)


def test_a_standard_error_of_zero_is_not_certainty():
    betas = np.array([0.0, 10.0, 40.0])
    energy = SampleStatistics(np.array([0.6, 0.4, 0.3]), np.full(3, 0.01), np.full(3, 0.001), np.zeros((3, 4)), 10**4)
    stuck = energy._replace(standard_error=np.array([0.001, 0.0, 0.001]))
    made = gibbs_asymptotic(betas, stuck, loss="surrogate", **SETTINGS)
    assert made[1].inputs["limit_neg_log_z"] >= 10 * 0.6 + 30 * 1.0  # the frozen mean counts as 1
    assert (made[0].inputs["limit_energy_low"], made[0].inputs["limit_energy_high"]) == (0.0, 1.0)
    # A training error of zero on every draw, while the energy moves: kl inversion at the energy's 10,000 draws.
    zero = energy._replace(mean=np.zeros(3), variance=np.zeros(3), standard_error=np.zeros(3))
    [_, made] = gibbs_asymptotic(betas, energy, risk=zero, loss="zero_one", **SETTINGS)
    np.testing.assert_allclose(made.inputs["limit_risk"], bounds.sampled_risk(0.0, 10**4, delta=0.025 / 4), rtol=1e-9)
    [_, made] = gibbs_asymptotic(betas, stuck._replace(standard_error=np.zeros(3)), risk=zero, loss="x", **SETTINGS)
    assert made.value == 1.0
    [_, made] = gibbs_asymptotic(betas, energy, risk=zero, loss="x", between_chains=True, **SETTINGS)
    assert made.value == 1.0  # four chains that agree exactly are no evidence either


def test_one_chain_has_no_between_chain_variance():
    energy = exact_statistics(np.array([0.0, 5.0, 10.0]))
    one = energy._replace(chain_means=energy.chain_means[:, :1] + 0.0)
    assert gibbs_asymptotic(np.array([0.0, 5.0, 10.0]), one, loss="x", between_chains=True, **SETTINGS)[0].value == 1.0


def test_standard_error_is_the_delta_method():
    betas = np.array([0.0, 10.0, 40.0])
    mean, error = np.array([0.6, 0.4, 0.3]), np.array([0.002, 0.001, 0.003])
    energy = SampleStatistics(mean, np.full(3, 0.01), error, mean[:, None], 10**6)

    def plug_in(m):
        return bounds.pac_bayes_kl(m[2], thermodynamic_integration(betas, m).kl_trapezium[2], n=N, delta=DELTA)

    slope = np.asarray(jax.grad(plug_in)(jax.numpy.asarray(mean)))
    made = gibbs_plugin(betas, energy, loss="surrogate", **SETTINGS)[1]
    np.testing.assert_allclose(made.standard_error, np.sqrt(np.sum((slope * error) ** 2)), rtol=1e-6)


def test_few_chains_are_honestly_vacuous_and_many_are_not():
    betas = np.array([0.0, 100.0, 300.0, 600.0, 1000.0])
    mean = np.array([0.6, 0.3, 0.2, 0.15, 0.14])
    for chains, vacuous in ((4, True), (3000, False)):
        energy = SampleStatistics(mean, np.full(5, 0.001), np.full(5, 1e-4), np.tile(mean[:, None], (1, chains)), 10**5)
        made = gibbs_chains(betas, energy, loss="surrogate", n=1000, delta=DELTA)
        assert all(c.value > 0.95 for c in made) == vacuous
        assert (min(c.value for c in made) < 0.4) != vacuous


def test_mean_field_is_the_two_stage_bound():
    made = mean_field(
        0.08, 10_000, 100.0, loss="zero_one", monte_carlo_share=0.2, draw_standard_error=0.001, **SETTINGS
    )
    expected = bounds.two_stage(0.08, 10_000, 100.0, n=N, delta=0.04, delta_monte_carlo=0.01)
    np.testing.assert_allclose(made.value, expected, rtol=1e-12)
    slope = jax.grad(lambda q: bounds.pac_bayes_kl(q, 100.0, n=N, delta=0.04))(0.08)
    np.testing.assert_allclose(made.standard_error, 0.001 * slope, rtol=1e-6)
    assert mean_field(np.nan, 10, 1.0, loss="x", **SETTINGS).value == 1.0
    assert mean_field(0.1, 10, np.nan, loss="x", **SETTINGS).value == 1.0
    assert "prior knows" not in made.assumption
    informed = mean_field(0.1, 10, 1.0, loss="x", prior_data="the first 500 rows", **SETTINGS)
    assert "the prior knows the first 500 rows and none of the certified examples" in informed.assumption
    assert informed.value == mean_field(0.1, 10, 1.0, loss="x", **SETTINGS).value
    assert mean_field(0.1, 10**6, np.inf, loss="x", **SETTINGS).value == 1.0
    better = mean_field(0.08, 10_000, 90.0, loss="zero_one", **SETTINGS).value
    assert better < mean_field(0.08, 10_000, 100.0, loss="zero_one", **SETTINGS).value
    for bad, words in [((1.2, 10, 1.0), "empirical_mean"), ((0.1, 0, 1.0), "num_draws"), ((0.1, 10, -1.0), "kl")]:
        with pytest.raises(ValueError, match=words):
            mean_field(*bad, loss="x", **SETTINGS)


def test_held_out_tails():
    exact = certificates.test_set(20, **SETTINGS)
    np.testing.assert_allclose(exact.value, bounds.test_set(20, n=N, delta=DELTA), rtol=1e-12)
    loose = certificates.test_set(20, tail="chernoff", **SETTINGS)
    np.testing.assert_allclose(loose.value, bounds.sampled_risk(0.02, N, delta=DELTA), rtol=1e-12)
    assert exact.value < loose.value
    assert certificates.test_set(np.nan, **SETTINGS).value == 1.0
    assert certificates.test_set(N, **SETTINGS).value == 1.0
    for bad, words in [({"errors": 1.5}, "chernoff"), ({"errors": N + 1}, "errors"), ({"errors": -1}, "errors")]:
        with pytest.raises(ValueError, match=words):
            certificates.test_set(**bad, **SETTINGS)
    with pytest.raises(ValueError, match="tail"):
        certificates.test_set(1, tail="normal", **SETTINGS)


def as_means(mean, error, *, draws, chain_means):
    variance = np.asarray(error) ** 2 * draws
    ess = np.divide(variance, np.asarray(error) ** 2, out=np.zeros(len(mean)), where=np.asarray(error) > 0)
    return Means(np.asarray(mean), np.asarray(error), ess, chain_means, np.full(len(mean), draws))


def test_asymptotic_limits_cover_at_their_level_and_not_much_more():
    # One inspected rung at Monte-Carlo budget 0.2: the KL limit alone has 0.1. The window is 4 binomial standard errors
    # wide on either side (false alarm 6e-5); the draws are normal, so there is no bias to allow for.
    rng = np.random.default_rng(2)
    betas = np.array([0.0, 20.0, 50.0, 120.0])
    truth, scale = np.array([0.6, 0.4, 0.3, 0.25]), np.array([0.05, 0.03, 0.04, 0.02])
    target = float(np.sum(np.diff(betas) * (truth[:-1] - truth[-1])))
    missed = missed_risk = 0
    for _ in range(1000):
        mean = truth + scale / np.sqrt(400) * rng.normal(size=4)
        energy = as_means(mean, scale / 20, draws=400, chain_means=mean[:, None])
        limits = asymptotic_limits(betas, energy, risk=energy, rungs=(3,), delta=0.2, by_chain=False)
        missed += limits.kl[3] < target
        missed_risk += limits.risk[3] < truth[3]
    for count in (missed, missed_risk):
        assert abs(count / 1000 - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 1000)


def test_between_chain_limits_cover_with_few_chains():
    rng = np.random.default_rng(3)
    betas = np.array([0.0, 20.0, 50.0])
    truth = np.array([0.6, 0.4, 0.3])
    target = float(np.sum(np.diff(betas) * (truth[:-1] - truth[-1])))
    missed = 0
    for _ in range(800):
        # A shift common to all rungs of a chain: independent rungs would be the wrong assumption.
        chains = truth[:, None] + 0.02 * rng.normal(size=4) + 0.01 * rng.normal(size=(3, 4))
        energy = as_means(chains.mean(1), np.full(3, 0.01), draws=40, chain_means=chains)
        limits = asymptotic_limits(betas, energy, risk=energy, rungs=(2,), delta=0.2, by_chain=True)
        missed += limits.kl[2] < target
    assert abs(missed / 800 - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 800)
    assert norm.ppf(0.9) < t.ppf(0.9, 3)  # what a normal quantile would have got wrong


def test_unit_limits_hold_together_at_their_level():
    # Bernoulli draws, the hardest in [0, 1]: at most delta of the repeats may violate any of the limits used.
    rng = np.random.default_rng(4)
    betas = np.array([0.0, 5.0, 20.0])
    truth = np.array([0.5, 0.2, 0.05])
    repeats, delta, failures = 400, 0.5, 0
    for _ in range(repeats):
        mean = rng.binomial(60, truth) / 60
        energy = as_means(mean, np.full(3, 0.1), draws=60, chain_means=mean[:, None])
        limits = unit_limits(betas, energy, risk=None, rungs=(1, 2), delta=delta, by_chain=False)
        neg_log_z = 5 * truth[0] + 15 * truth[1]
        failures += (
            limits.neg_log_z[2] < neg_log_z
            or np.any(limits.energy_high[1:] < truth[1:])
            or np.any(limits.energy_low[1:] > truth[1:])
        )
    assert failures / repeats <= delta
    assert failures > 0  # a limit that is never missed was not put to the test


def test_float32_never_gives_a_smaller_certificate():
    betas = geometric_ladder(2000.0, 5)
    energy = exact_statistics(betas, draws=5000, error=1e-3)
    for route in (gibbs_plugin, gibbs_iid):
        wide = [c.value for c in route(betas, energy, loss="x", **SETTINGS)]
        with jax.enable_x64(False):
            narrow = [c.value for c in route(betas, energy, loss="x", **SETTINGS)]
        assert np.all(np.array(narrow) >= np.array(wide))
        np.testing.assert_allclose(narrow, wide, rtol=1e-4)
