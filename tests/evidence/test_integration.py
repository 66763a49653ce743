"""Thermodynamic integration against quadrature, conjugate Gaussian regression, and its own definition."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.evidence import (
    SampleStatistics,
    independent_statistics,
    merge_rungs,
    thermodynamic_integration,
    thermodynamic_integration_with_errors,
    variance_form,
)
from tests.evidence.quadrature import Quadrature, geometric_ladder, well


def test_toy_table_of_the_reference_note():
    betas = geometric_ladder(2000.0, 25)
    exact = Quadrature(well, points=40001).exact(betas)
    sums = thermodynamic_integration(betas, exact.mean)
    found = [exact.kl[-1], sums.kl_left[-1], sums.kl_trapezium[-1], sums.kl_right[-1]]
    np.testing.assert_allclose(found, [6.5039, 8.1195, 6.6990, 5.2785], atol=6e-5)


def test_both_forms_agree_with_quadrature_on_a_fine_ladder():
    betas = geometric_ladder(2000.0, 4001)
    exact = Quadrature(well).exact(betas)
    sums = thermodynamic_integration(betas, exact.mean)
    second = variance_form(betas, exact.mean, variances=exact.variance)
    np.testing.assert_allclose(sums.kl_trapezium, exact.kl, atol=1e-4)
    np.testing.assert_allclose(second.kl, exact.kl, atol=1e-4)
    np.testing.assert_allclose(sums.trapezium, exact.neg_log_z, atol=1e-4)
    np.testing.assert_allclose(second.neg_log_z, exact.neg_log_z, atol=1e-4)
    np.testing.assert_allclose(second.corrected_kl, exact.kl, atol=1e-7)


class ConjugateRegression:
    """w ~ N(0, s² I), L(w) = |X w − y|²/(2 n c): Λ(b), m(b) and Var_b(L) in closed form for every b."""

    def __init__(
        self, rng: np.random.Generator, *, n: int = 40, dimension: int = 5, scale: float = 0.7, c: float = 20.0
    ):
        self.x = rng.normal(size=(n, dimension))
        self.y = self.x @ rng.normal(size=dimension) + 0.3 * rng.normal(size=n)
        self.n, self.scale, self.c = n, scale, c

    def posterior(self, beta: float) -> tuple[np.ndarray, np.ndarray]:
        precision = np.eye(self.x.shape[1]) / self.scale**2 + beta / (self.n * self.c) * self.x.T @ self.x
        covariance = np.linalg.inv(precision)
        return covariance @ (beta / (self.n * self.c) * self.x.T @ self.y), covariance

    def neg_log_z(self, beta: float) -> float:
        """y | b is N(0, s² X Xᵀ + (n c/b) I) up to the normaliser of the likelihood."""
        gram = self.scale**2 * self.x @ self.x.T * beta / (self.n * self.c) + np.eye(self.n)
        quadratic = beta / (self.n * self.c) * self.y @ np.linalg.solve(gram, self.y)
        return 0.5 * (np.linalg.slogdet(gram)[1] + quadratic)

    def mean(self, beta: float) -> float:
        mean, covariance = self.posterior(beta)
        residual = self.x @ mean - self.y
        return (residual @ residual + np.trace(self.x @ covariance @ self.x.T)) / (2 * self.n * self.c)

    def variance(self, beta: float) -> float:
        mean, covariance = self.posterior(beta)
        spread = self.x @ covariance @ self.x.T
        residual = self.x @ mean - self.y
        return (2 * np.trace(spread @ spread) + 4 * residual @ spread @ residual) / (2 * self.n * self.c) ** 2

    def kl(self, beta: float) -> float:
        """Between the Gaussians themselves, not from Λ."""
        mean, covariance = self.posterior(beta)
        d, s2 = mean.size, self.scale**2
        return 0.5 * (
            np.trace(covariance) / s2 + mean @ mean / s2 - d + d * np.log(s2) - np.linalg.slogdet(covariance)[1]
        )

    def draw(self, rng: np.random.Generator, betas: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        out = []
        for beta in betas:
            w = rng.multivariate_normal(*self.posterior(beta), size=shape)
            out.append(((w @ self.x.T - self.y) ** 2).sum(-1) / (2 * self.n * self.c))
        return np.array(out)


def test_conjugate_regression_every_rung_within_a_tenth_of_a_nat():
    model = ConjugateRegression(np.random.default_rng(0))
    betas = geometric_ladder(5000.0, 60, first=1.0)
    exact = np.array([(model.neg_log_z(b), model.kl(b)) for b in betas])
    means, variances = np.array([model.mean(b) for b in betas]), np.array([model.variance(b) for b in betas])
    sums = thermodynamic_integration(betas, means)
    np.testing.assert_allclose(exact[:, 0] - betas * means, exact[:, 1], atol=1e-9)  # two closed forms of the KL
    np.testing.assert_allclose(sums.trapezium, exact[:, 0], atol=0.1)
    np.testing.assert_allclose(sums.kl_trapezium, exact[:, 1], atol=0.1)
    corrected = variance_form(betas, means, variances=variances)
    np.testing.assert_allclose(corrected.corrected_neg_log_z, exact[:, 0], atol=2e-3)
    assert np.all(sums.kl_right <= exact[:, 1] + 1e-9)
    assert np.all(exact[:, 1] <= sums.kl_left + 1e-9)


def test_conjugate_regression_from_draws():
    # 60 rungs x 2 estimates, each within 4.5 standard errors: false alarm below 120 * 7e-6 = 8e-4, seed fixed.
    rng = np.random.default_rng(1)
    model = ConjugateRegression(rng)
    betas = geometric_ladder(5000.0, 60, first=1.0)
    estimate = thermodynamic_integration_with_errors(betas, independent_statistics(model.draw(rng, betas, (4, 500))))
    target = thermodynamic_integration(betas, np.array([model.mean(b) for b in betas]))
    for name in ("trapezium", "kl_trapezium", "left", "kl_left", "right", "kl_right"):
        error = np.asarray(getattr(estimate.standard_error, name))
        difference = np.asarray(getattr(estimate.value, name)) - np.asarray(getattr(target, name))
        assert np.all(np.abs(difference) <= 4.5 * error), name
    np.testing.assert_allclose(estimate.value.trapezium[-1], model.neg_log_z(5000.0), atol=0.1 + 0.5)


def test_standard_errors_are_those_of_the_linear_functional():
    # The definition: se² = Σ (d value/d m_j)² se_j², with the derivative from automatic differentiation.
    rng = np.random.default_rng(2)
    betas = np.sort(np.append(rng.uniform(0, 50, 6), 0.0))
    errors = rng.uniform(0.001, 0.01, 7)
    means = np.sort(rng.uniform(0, 1, 7))[::-1]
    statistics = SampleStatistics(means, np.full(7, 0.01), errors, rng.uniform(0, 1, (7, 3)), 100)
    estimate = thermodynamic_integration_with_errors(betas, statistics)
    jacobians = jax.jacobian(lambda m: thermodynamic_integration(betas, m))(jnp.asarray(means))
    for name in jacobians._fields:
        expected = np.sqrt(np.asarray(getattr(jacobians, name)) ** 2 @ errors**2)
        np.testing.assert_allclose(getattr(estimate.standard_error, name), expected, atol=1e-14, err_msg=name)
    # Rungs that exchange their states: the sum of the errors, which no dependence can exceed.
    dependent = thermodynamic_integration_with_errors(betas, statistics._replace(dependent_rungs=True))
    for name in jacobians._fields:
        expected = np.abs(np.asarray(getattr(jacobians, name))) @ errors
        np.testing.assert_allclose(getattr(dependent.standard_error, name), expected, atol=1e-14, err_msg=name)


def test_chain_errors_see_dependence_between_rungs_and_rung_errors_do_not():
    # One shift a chain, common to its rungs: the left sum's error is b times the shift's, not its root-sum-square.
    rng = np.random.default_rng(3)
    betas = np.linspace(0.0, 100.0, 26)
    chain_means = np.linspace(0.9, 0.1, 26)[:, None] + 0.01 * rng.normal(size=(1, 400))
    mean = chain_means.mean(1)
    statistics = SampleStatistics(mean, np.full(26, 1e-4), np.full(26, 0.01 / 20), chain_means, 400)
    estimate = thermodynamic_integration_with_errors(betas, statistics)
    spread = np.std(chain_means[0], ddof=1) / 20
    np.testing.assert_allclose(estimate.chain_standard_error.left[-1], 100 * spread, rtol=1e-10)
    np.testing.assert_allclose(estimate.standard_error.left[-1], 100 * 0.01 / 20 / 5, rtol=1e-10)
    one = thermodynamic_integration_with_errors(betas, statistics._replace(chain_means=mean[:, None]))
    assert np.all(np.isnan(one.chain_standard_error.left))


LOSSES = {
    "well": well,
    "slope": lambda w: 1 / (1 + np.exp(-3 * w)),
    "two wells": lambda w: 1 - 0.6 * np.exp(-8 * (w + 1) ** 2) - np.exp(-200 * (w - 2.5) ** 2) * 0.9,
    "step": lambda w: np.where(w > 1.5, 0.1, 0.9),
    "rare well": lambda w: 0.9 * (1 - np.exp(-((w - 4.5) ** 2) / 0.02)),
}
PROBLEMS = {name: Quadrature(loss, points=2001) for name, loss in LOSSES.items()}


def ladders(size):
    return st.lists(st.floats(1e-3, 3000.0), min_size=size, max_size=size, unique=True)


@hypothesis.given(name=st.sampled_from(sorted(LOSSES)), rungs=st.sampled_from([1, 3, 9]).flatmap(ladders))
@hypothesis.settings(max_examples=60)
def test_bracket_holds_on_every_ladder(name, rungs):
    betas = np.array([0.0, *sorted(rungs)])
    exact = PROBLEMS[name].exact(betas)
    sums = jax.tree.map(np.asarray, thermodynamic_integration(betas, exact.mean))
    slack = 1e-10 * (1 + betas)
    assert np.all(sums.right <= exact.neg_log_z + slack)
    assert np.all(exact.neg_log_z <= sums.left + slack)
    assert np.all(sums.kl_right <= exact.kl + slack)
    assert np.all(exact.kl <= sums.kl_left + slack)
    np.testing.assert_allclose(sums.trapezium, (sums.left + sums.right) / 2)
    np.testing.assert_allclose(sums.kl_left, sums.left - betas * exact.mean, atol=1e-9)


def test_trapezium_is_no_bound_where_m_is_concave():
    betas = np.linspace(0.0, 15.0, 5)
    exact = PROBLEMS["rare well"].exact(betas)
    assert thermodynamic_integration(betas, exact.mean).trapezium[-1] < exact.neg_log_z[-1] - 0.2


def test_cumulative_entries_are_the_sums_of_the_shorter_ladders():
    betas, means = np.array([0.0, 1.0, 3.0, 9.0]), np.array([0.9, 0.5, 0.3, 0.2])
    whole = thermodynamic_integration(betas, means)
    for k in range(1, 5):
        part = thermodynamic_integration(betas[:k], means[:k])
        for name in part._fields:
            np.testing.assert_allclose(getattr(whole, name)[k - 1], getattr(part, name)[-1], atol=1e-12)


def test_works_under_jit_vmap_and_grad():
    betas = jnp.array([0.0, 1.0, 3.0])
    means = jnp.array([[0.9, 0.5, 0.3], [0.8, 0.6, 0.1]])
    batch = jax.jit(jax.vmap(thermodynamic_integration, in_axes=(None, 0)))(betas, means)
    np.testing.assert_allclose(batch.left[:, -1], [0.9 + 2 * 0.5, 0.8 + 2 * 0.6])
    slope = jax.grad(lambda m: thermodynamic_integration(betas, m).kl_left[-1])(means[0])
    np.testing.assert_allclose(slope, [1.0, 2.0, -3.0])

    def total_error(m):
        statistics = SampleStatistics(m, m**2, 0.01 * m, m[:, None] * jnp.ones((1, 2)), 10)
        estimate = thermodynamic_integration_with_errors(betas, statistics)
        return sum(jnp.sum(x) for x in jax.tree.leaves(estimate))

    assert np.all(np.isfinite(jax.jit(jax.grad(total_error))(means[0])))


def test_float32_keeps_the_digits_of_a_small_kl():
    # b m = 60,000 · 0.5 in float32 has steps of 0.002 nats; the KL of 0.6 nats survives because it is summed by parts.
    betas, means = np.array([0.0, 30_000.0, 60_000.0]), np.array([0.5, 0.49999, 0.49998])
    expected = np.asarray(thermodynamic_integration(betas, means).kl_trapezium)
    sums = thermodynamic_integration(betas.astype(np.float32), means.astype(np.float32))
    assert sums.left.dtype == jnp.float32
    np.testing.assert_allclose(sums.kl_trapezium, expected, atol=60_000 * 6e-8)


@pytest.mark.parametrize(
    ("betas", "means", "words"),
    [
        ([1.0, 2.0], [0.5, 0.4], "start at 0"),
        ([0.0, 2.0, 2.0], [0.5, 0.4, 0.4], "increase"),
        ([0.0, 2.0, np.inf], [0.5, 0.4, 0.4], "increase"),
        ([0.0, 2.0], [0.5, 0.4, 0.3], "one value a rung"),
        ([[0.0, 2.0]], [[0.5, 0.4]], "vmap"),
    ],
)
def test_bad_ladders_are_refused(betas, means, words):
    with pytest.raises(ValueError, match=words):
        thermodynamic_integration(np.array(betas), np.array(means))


def test_a_broken_rung_spoils_only_later_ones():
    sums = thermodynamic_integration(np.arange(4.0), np.array([0.5, 0.4, np.nan, 0.2]))
    assert np.isfinite(sums.trapezium[:2]).all()
    assert np.isnan(sums.trapezium[2:]).all()


def test_independent_statistics_and_merge():
    draws = np.random.default_rng(4).uniform(size=(3, 4, 50))
    statistics = independent_statistics(draws)
    np.testing.assert_allclose(statistics.mean, draws.mean((1, 2)))
    np.testing.assert_allclose(statistics.standard_error, draws.reshape(3, -1).std(1, ddof=1) / np.sqrt(200))
    betas, merged = merge_rungs(
        np.array([0.0, 5.0, 9.0]), statistics, new_betas=np.array([2.0, 7.0, 20.0]), new_statistics=statistics
    )
    np.testing.assert_array_equal(betas, [0, 2, 5, 7, 9, 20])
    np.testing.assert_array_equal(merged.mean, np.asarray(statistics.mean)[[0, 0, 1, 1, 2, 2]])
    np.testing.assert_array_equal(merged.chain_means[2], statistics.chain_means[1])
    with pytest.raises(ValueError, match="chains"):
        merge_rungs(0.0, statistics, new_betas=1.0, new_statistics=independent_statistics(draws[:, :2]))
    with pytest.raises(ValueError, match="missing axes"):
        independent_statistics(draws[0])
    with pytest.raises(ValueError, match="fewer than 2"):
        independent_statistics(draws[:, :1, :1])
