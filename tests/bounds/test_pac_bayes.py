"""The PAC-Bayes family: formulas in 50 digits, orderings, published rows, vacuous and refused input."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbjax.bounds import (
    best_lambda,
    catoni,
    catoni_grid,
    free_energy,
    kl_inverse,
    lambda_bound,
    mcallester,
    pac_bayes_kl,
    quadratic,
    sampled_risk,
    two_stage,
)

GRID = np.geomspace(0.01, 10.0, 20)

# Every bound as a function of (risk, kl, n, delta), with nothing else left open.
BOUNDS = {
    "pac_bayes_kl": pac_bayes_kl,
    "mcallester": mcallester,
    "quadratic": quadratic,
    "lambda_bound": lambda_bound,
    "lambda_bound_fixed": lambda risk, kl, *, n, delta: lambda_bound(risk, kl, n=n, delta=delta, lambda_=0.7),
    "catoni": lambda risk, kl, *, n, delta: catoni(risk, kl, n=n, delta=delta, parameter=0.5),
    "catoni_grid": lambda risk, kl, *, n, delta: catoni_grid(risk, kl, n=n, delta=delta, parameters=GRID),
    "two_stage": lambda risk, kl, *, n, delta: two_stage(risk, 1000, kl, n=n, delta=delta, delta_monte_carlo=0.01),
    "free_energy": lambda risk, kl, *, n, delta: free_energy(kl + 300.0 * risk, 300.0, n=n, delta=delta),
}


def exact(name, risk, kl, n, delta):
    risk, kl, n, delta = (mpmath.mpf(x) for x in (risk, kl, n, delta))
    half = (kl + mpmath.log(2 * mpmath.sqrt(n) / delta)) / (2 * n)
    confidence = mpmath.log(1 / delta)
    if name == "mcallester":
        return risk + mpmath.sqrt(half)
    if name in ("quadratic", "lambda_bound"):
        return (mpmath.sqrt(risk + half) + mpmath.sqrt(half)) ** 2
    if name == "lambda_bound_fixed":
        lam = mpmath.mpf(0.7)
        return risk / (1 - lam / 2) + 2 * half / (lam * (1 - lam / 2))
    if name == "catoni":
        c = mpmath.mpf(0.5)
        return (1 - mpmath.exp(-c * risk - (kl + confidence) / n)) / (1 - mpmath.exp(-c))
    if name == "catoni_grid":
        return min(
            (1 - mpmath.exp(-c * risk - (kl + confidence + mpmath.log(len(GRID))) / n)) / (1 - mpmath.exp(-c))
            for c in map(mpmath.mpf, GRID)
        )
    if name == "free_energy":
        return (1 - mpmath.exp(-(kl + 300 * risk) / n - (2 * half - kl / n))) / (1 - mpmath.exp(-300 / n))
    raise KeyError(name)


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - {"pac_bayes_kl", "two_stage"}))
def test_formula_rounded_up(name):
    rng = np.random.default_rng(0)
    for _ in range(40):
        risk, kl = float(rng.uniform(0, 0.6)), float(10 ** rng.uniform(-2, 3))
        n, delta = int(10 ** rng.uniform(2, 6)), float(10 ** rng.uniform(-4, -0.1))
        with mpmath.workdps(50):
            expected = min(exact(name, risk, kl, n, delta), mpmath.mpf(1))
            value = mpmath.mpf(float(BOUNDS[name](risk, kl, n=n, delta=delta)))
            assert expected <= value <= expected * (1 + mpmath.mpf(1e-13))


def test_pac_bayes_kl_is_the_inverse_at_a_rounded_up_complexity():
    for risk, kl, n, delta in [(0.0, 0.0, 1, 0.5), (0.02, 100.0, 60_000, 0.05), (0.3, 5.0, 250, 1e-3)]:
        with mpmath.workdps(50):
            nats = (mpmath.mpf(kl) + mpmath.log(2 * mpmath.sqrt(n) / mpmath.mpf(delta))) / n
            value = float(pac_bayes_kl(risk, kl, n=n, delta=delta))
            assert value >= float(kl_inverse(risk, float(nats) * (1 - 1e-15)))
            assert value <= float(kl_inverse(risk, float(nats) * (1 + 1e-14)))


CASES = {"risk": st.floats(0, 1), "kl": st.floats(0, 1e5), "n": st.integers(1, 10**7), "delta": st.floats(1e-8, 0.99)}


@settings(max_examples=60)
@given(**CASES)
def test_kl_is_at_most_quadratic_and_mcallester(risk, kl, n, delta):
    bound = pac_bayes_kl(risk, kl, n=n, delta=delta)
    assert bound <= quadratic(risk, kl, n=n, delta=delta)
    assert bound <= mcallester(risk, kl, n=n, delta=delta)
    assert risk <= bound <= 1


@settings(max_examples=50)
@given(**CASES, factor=st.floats(0.1, 10))
def test_smallest_lambda_bound_is_quadratic(risk, kl, n, delta, factor):
    given_n = {"n": n, "delta": delta, "clip": False}
    least = float(quadratic(risk, kl, **given_n))
    np.testing.assert_allclose(lambda_bound(risk, kl, **given_n), least, rtol=1e-13)
    lam = float(best_lambda(risk, kl, n=n, delta=delta))
    assert 0 < lam <= 1
    np.testing.assert_allclose(lambda_bound(risk, kl, **given_n, lambda_=lam), least, rtol=1e-13)
    other = min(lam * factor, 1.99)
    assert lambda_bound(risk, kl, **given_n, lambda_=other) >= least * (1 - 1e-13)


@settings(max_examples=60)
@given(**CASES)
def test_quadratic_beats_mcallester_exactly_when_the_roots_sum_to_at_most_half(risk, kl, n, delta):
    half = (kl + np.log(2 * np.sqrt(n) / delta)) / (2 * n)
    roots = np.sqrt(half) + np.sqrt(risk + half)
    if abs(roots - 0.5) > 1e-9:  # closer, rounding decides
        bounds = [f(risk, kl, n=n, delta=delta, clip=False) for f in (quadratic, mcallester)]
        assert (bounds[0] <= bounds[1]) == (roots <= 0.5)


@settings(max_examples=25)
@given(**CASES)
def test_every_bound_lies_in_the_unit_interval_and_grows_with_its_inputs(risk, kl, n, delta):
    for bound in (pac_bayes_kl, BOUNDS["catoni"], BOUNDS["lambda_bound_fixed"], BOUNDS["two_stage"]):
        value = float(bound(risk, kl, n=n, delta=delta))
        assert risk <= value <= 1
        slack = 1 + 1e-14
        assert value <= float(bound(min(risk * 1.1, 1.0), kl, n=n, delta=delta)) * slack
        assert value <= float(bound(risk, kl * 1.1, n=n, delta=delta)) * slack
        assert value <= float(bound(risk, kl, n=n, delta=delta / 2)) * slack


@settings(max_examples=30)
@given(**CASES)
def test_catoni_with_its_best_parameter_is_the_kl_inverse_at_the_same_confidence(risk, kl, n, delta):
    # sup_C {-C q - log(1 - p (1 - e^-C))} = kl(q||p): no fixed C is below, and a fine grid comes close to, the inverse.
    inverse = float(kl_inverse(risk, (kl - np.log(delta)) / n))
    grid = np.geomspace(1e-6, 50.0, 4000)
    values = np.asarray(catoni(risk, kl, n=n, delta=delta, parameter=grid))
    assert values.min() >= inverse * (1 - 1e-13)
    assert values.min() <= inverse + 1e-3


def test_catoni_grid_pays_for_its_union():
    inputs = {"n": 10_000, "delta": 0.05}
    grid = np.array([0.1, 0.5, 2.0])
    weights = np.array([0.2, 0.5, 0.3])
    expected = min(
        float(catoni(0.1, 50.0, n=10_000, delta=0.05 * w, parameter=c)) for w, c in zip(weights, grid, strict=True)
    )
    np.testing.assert_allclose(catoni_grid(0.1, 50.0, **inputs, parameters=grid, weights=weights), expected, rtol=1e-13)
    single = catoni_grid(0.1, 50.0, **inputs, parameters=grid[1:2])
    np.testing.assert_allclose(single, catoni(0.1, 50.0, **inputs, parameter=0.5), rtol=1e-13)


def gibbs(betas):
    """Lambda(beta) and the mean loss under the Gibbs posterior of a 1-D toy, by quadrature."""
    x = np.linspace(-10.0, 10.0, 40_001)
    loss = 1 - np.exp(-((x - 2) ** 2) / (2 * 0.3**2))
    log_prior = -(x**2) / 2
    log_prior -= np.log(np.exp(log_prior).sum())
    free, mean = [], []
    for beta in betas:
        log_weight = log_prior - beta * loss
        top = log_weight.max()
        weight = np.exp(log_weight - top)
        free.append(-top - np.log(weight.sum()))
        mean.append((weight * loss).sum() / weight.sum())
    return np.array(free), np.array(mean)


def test_smallest_free_energy_bound_is_the_smallest_kl_inverse():
    n, delta = 1000, 0.05
    betas = np.arange(4960.0, 5041.0, 2.0)
    free, mean = gibbs(betas)
    from_free_energy = np.asarray(free_energy(free, betas, n=n, delta=delta))
    from_kl = np.asarray(pac_bayes_kl(mean, np.maximum(free - betas * mean, 0), n=n, delta=delta))
    assert abs(from_free_energy.min() - 0.0145974) < 5e-8
    assert abs(from_kl.min() - 0.0145974) < 5e-8
    np.testing.assert_allclose(from_free_energy.min(), from_kl.min(), rtol=1e-8)  # both on a grid of step 2
    # The self-consistent temperature n (logit(bound) - logit(mean)), given as 4997.8.
    i = from_kl.argmin()
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    assert abs(n * (logit(from_kl[i]) - logit(mean[i])) - 4997.8) < 0.5
    assert abs(betas[from_free_energy.argmin()] - 4997.8) <= 4
    assert (from_free_energy >= from_kl * (1 - 1e-12)).all()  # the linear relaxation never wins


def test_free_energy_with_beta_fixed_in_advance_is_catoni_at_the_gibbs_posterior():
    beta, n = 800.0, 1000
    (free,), (mean,) = gibbs([beta])
    expected = catoni(mean, free - beta * mean, n=n, delta=0.05, parameter=beta / n)
    fixed = free_energy(free, beta, n=n, delta=0.05, fixed_beta=True)
    np.testing.assert_allclose(fixed, expected, rtol=1e-12)
    assert fixed < free_energy(free, beta, n=n, delta=0.05)


def test_free_energy_at_zero_temperature_is_vacuous():
    assert free_energy(0.0, 0.0, n=100, delta=0.05) == 1.0
    assert jax.jit(jax.grad(lambda b: free_energy(0.0, b, n=100, delta=0.05)))(0.0) == 0.0


@pytest.mark.parametrize(
    ("risk", "kl_over_n", "n", "certificate"),
    [
        (0.0373, 0.00022, 30_000, 0.0455),  # MNIST FCN learnt f_classic
        (0.0294, 0.02032, 30_000, 0.0777),  # MNIST FCN learnt f_lambda
        (0.0138, 0.24945, 30_000, 0.2658),  # MNIST FCN learnt f_bbb
        (0.0201, 0.00414, 30_000, 0.0369),  # MNIST CNN learnt f_quad
        (0.2461, 0.08728, 60_000, 0.4480),  # Fashion FCN data-free f_quad
        (0.1349, 0.00526, 30_000, 0.1746),  # Fashion FCN learnt f_quad
        (0.9203, 0.00029, 50_000, 0.9297),  # CIFAR-10 CNN9 data-free f_quad
        (0.3003, 0.03373, 25_000, 0.4277),  # CIFAR-10 CNN9 learnt f_quad
        (0.2416, 0.04760, 25_000, 0.3881),  # CIFAR-10 CNN13 learnt f_quad
    ],
)
def test_published_audit_rows(risk, kl_over_n, n, certificate):
    # Independent audit of PBB (marcycn/pacbayes-cert), columns rounded to 1e-4 and 1e-5. Its outer step spends 0.005
    # and log 999 nats more for the choice of the prior's scale.
    assert abs(float(pac_bayes_kl(risk, kl_over_n * n, n=n, delta=0.005 / 999)) - certificate) < 1.2e-4


@pytest.mark.parametrize("name", sorted(BOUNDS))
@pytest.mark.parametrize("position", range(4))
def test_nan_is_vacuous_and_has_no_nan_slope(name, position):
    bound = lambda *x: BOUNDS[name](x[0], x[1], n=x[2], delta=x[3])  # noqa: E731
    inputs = [0.1, 5.0, 1000.0, 0.05]
    inputs[position] = np.nan
    assert bound(*inputs) == 1.0
    if position == 1 and name in ("pac_bayes_kl", "lambda_bound", "catoni", "free_energy"):
        assert not np.isnan(jax.jit(jax.grad(bound, (0, 1)))(*inputs)).any()


@pytest.mark.parametrize("name", sorted(BOUNDS))
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"risk": -0.1}, r"-0\.1|-25"),
        ({"kl": -40.0}, "-40|-10"),
        ({"n": 0}, "n = 0: .*whole number"),
        ({"n": 10.5}, r"n = 10\.5"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
    ],
)
def test_out_of_range_is_refused(name, changed, message):
    inputs = {"risk": 0.1, "kl": 5.0, "n": 1000, "delta": 0.05} | changed
    with pytest.raises(ValueError, match=message):
        BOUNDS[name](inputs["risk"], inputs["kl"], n=inputs["n"], delta=inputs["delta"])


@pytest.mark.parametrize("lambda_", [0.0, 2.0, -1.0])
def test_lambda_out_of_range(lambda_):
    with pytest.raises(ValueError, match="strictly between 0 and 2"):
        lambda_bound(0.1, 1.0, n=10, delta=0.1, lambda_=lambda_)
    assert jax.jit(lambda x: lambda_bound(0.1, 1.0, n=10, delta=0.1, lambda_=x))(lambda_) == 1.0


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.0], [0.0, 1.0]])
def test_grid_weights_must_be_shares(weights):
    with pytest.raises(ValueError, match="weights"):
        catoni_grid(0.1, 1.0, n=10, delta=0.1, parameters=np.array([0.1, 1.0]), weights=np.array(weights))


@pytest.mark.parametrize("name", sorted(set(BOUNDS) - {"lambda_bound_fixed"}))
def test_jit_vmap_grad(name):
    bound = lambda risk, kl: BOUNDS[name](risk, kl, n=1000, delta=0.05)  # noqa: E731
    risks, kls, step = np.array([0.0, 0.02, 0.3]), np.array([0.0, 20.0, 100.0]), 1e-6
    value, slopes = jax.jit(jax.vmap(jax.value_and_grad(bound, (0, 1))))(risks, kls)
    np.testing.assert_allclose(value, bound(risks, kls), rtol=1e-13)
    assert jnp.isfinite(jnp.stack(slopes)).all()
    for i, along in enumerate(np.eye(2) * step):
        inside = np.array([0.0, 1.0, 1.0])  # the first case sits on the edge of both ranges
        ahead = bound(risks + along[0], kls + along[1])
        behind = bound(risks - inside * along[0], kls - inside * along[1])
        np.testing.assert_allclose(slopes[i][1:], ((ahead - behind) / (2 * step))[1:], rtol=1e-5, atol=1e-9)


def test_slope_of_the_objectives_survives_where_the_certificate_is_vacuous():
    for bound in (mcallester, quadratic, lambda_bound):
        objective = lambda kl: bound(0.9, kl, n=100, delta=0.05, clip=False)  # noqa: B023, E731
        assert objective(500.0) > 1
        assert jax.grad(objective)(500.0) > 0
        assert bound(0.9, 500.0, n=100, delta=0.05) == 1.0
        assert np.isnan(objective(np.nan))


def test_infinite_divergence_is_vacuous():
    for name in sorted(set(BOUNDS)):
        assert BOUNDS[name](0.1, np.inf, n=100, delta=0.05) == 1.0


def test_float32_certificates_are_not_below_float64_ones():
    cases = [(0.1, 50.0, 1000, 0.05), (0.0, 1.0, 60_000, 0.025), (0.02, 3000.0, 57_000, 0.01)]
    for name in ("pac_bayes_kl", "quadratic", "mcallester", "lambda_bound", "catoni", "free_energy"):
        for risk, kl, n, delta in cases:
            high = float(BOUNDS[name](risk, kl, n=n, delta=delta))
            with jax.enable_x64(False):
                low = BOUNDS[name](risk, kl, n=n, delta=delta)
                assert low.dtype == jnp.float32
            assert high <= float(low) <= high * (1 + 2e-5)


@pytest.mark.parametrize(("m", "delta", "bound"), [(2000, 0.005, 0.0326), (150_000, 0.01, 0.0210)])
def test_price_of_finitely_many_draws(m, delta, bound):
    interval = sampled_risk(0.0198, m, delta=delta, two_sided=True)
    assert abs(float(interval.upper) - bound) < 5e-5
    assert interval.lower < 0.0198
    assert interval.upper == sampled_risk(0.0198, m, delta=delta / 2)


def test_sampled_risk_covers():
    # True mean 0.1, m = 200, two-sided at delta = 0.2 in 4000 repeats: a miss rate above 0.2 + 5 standard errors
    # (0.032) has false-alarm rate below 1e-6, as the bound is conservative.
    hits = np.random.default_rng(1).binomial(200, 0.1, size=4000) / 200
    lower, upper = sampled_risk(hits, 200, delta=0.2, two_sided=True)
    missed = np.mean((np.asarray(lower) > 0.1) | (np.asarray(upper) < 0.1))
    assert 0.01 < missed < 0.232


def test_two_stage_is_one_inversion_inside_another():
    inner = sampled_risk(0.02, 1000, delta=0.01)
    expected = pac_bayes_kl(inner, 100.0, n=60_000, delta=0.04)
    assert two_stage(0.02, 1000, 100.0, n=60_000, delta=0.04, delta_monte_carlo=0.01) == expected
    with pytest.raises(ValueError, match="stay below 1"):
        two_stage(0.02, 1000, 100.0, n=60_000, delta=0.5, delta_monte_carlo=0.5)
    assert two_stage(0.02, np.nan, 100.0, n=60_000, delta=0.04, delta_monte_carlo=0.01) == 1.0
    with pytest.raises(ValueError, match="m = 0"):
        sampled_risk(0.1, 0, delta=0.05)
