"""Training against a conjugate problem with a known optimum, and its behaviour under vmap, tracing and compilation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pbjax import bounds, posteriors
from pbjax.posteriors import Gaussian, full_covariance

N, DELTA, BETA, PRIOR_SCALE = 40, 0.05, 30.0, 1.5
COMMON: dict[str, Any] = dict(n=N, delta=DELTA)


def squared_loss(w, batch):
    inputs, labels = batch
    return 0.5 * (inputs @ w - labels) ** 2


@pytest.fixture(scope="module")
def linear():
    """Linear regression with correlated features: prior N(0, s^2 I), Gibbs posterior Gaussian, log Z in closed form."""
    key, noise = jax.random.split(jax.random.key(0))
    inputs = jax.random.normal(key, (N, 3)) @ jnp.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 1.0]])
    labels = inputs @ jnp.array([1.0, -0.5, 0.3]) + 0.3 * jax.random.normal(noise, (N,))
    precision = BETA * inputs.T @ inputs / N + jnp.eye(3) / PRIOR_SCALE**2
    covariance = jnp.linalg.inv(precision)
    mean = covariance @ (BETA * inputs.T @ labels / N)
    logdet = 2 * 3 * jnp.log(PRIOR_SCALE) + jnp.linalg.slogdet(precision)[1]
    neg_log_z = 0.5 * (BETA * jnp.mean(labels**2) - mean @ precision @ mean + logdet)
    return {
        "data": (inputs, labels), "mean": mean, "precision": precision, "neg_log_z": neg_log_z,
        "prior": posteriors.init(jnp.zeros(3), scale=PRIOR_SCALE),
    }  # fmt: skip


def exact_risk(mean, covariance, data):
    inputs, labels = data
    return 0.5 * (jnp.mean((inputs @ mean - labels) ** 2) + jnp.trace(covariance @ inputs.T @ inputs) / N)


OPTIONS: dict[str, Any] = dict(
    objective="lambda", beta=BETA, learning_rate=0.05, num_steps=2000, num_samples=8, antithetic=True, **COMMON
)  # fmt: skip


def test_mean_field_reaches_the_best_factorised_gaussian(linear):
    """The optimum has the exact mean and the diagonal of the precision; its gap is half the missing log-determinant."""
    q, metrics = posteriors.train(
        jax.random.key(1), squared_loss, linear["prior"], linear["prior"], linear["data"], **OPTIONS
    )
    best_scale = jnp.diag(linear["precision"]) ** -0.5
    # Adam under a cosine stops within a few hundredths of a posterior standard deviation.
    assert np.all(np.abs(q.mean - linear["mean"]) < 0.05 * best_scale)
    np.testing.assert_allclose(jnp.exp(q.log_scale), best_scale, rtol=0.03)
    risk = exact_risk(q.mean, jnp.diag(jnp.exp(2 * q.log_scale)), linear["data"])
    gap = posteriors.variational_gap(risk, posteriors.kl(q, linear["prior"]), neg_log_z=linear["neg_log_z"], beta=BETA)
    least = 0.5 * (jnp.sum(jnp.log(jnp.diag(linear["precision"]))) - jnp.linalg.slogdet(linear["precision"])[1])
    assert least > 0.1
    assert least * (1 - 1e-6) <= gap.value * BETA < least + 0.005
    assert not gap.violated
    assert metrics.objective.shape == (100,)
    assert metrics.objective[-1] < metrics.objective[0]


def test_full_covariance_closes_the_gap(linear):
    start = full_covariance.from_diagonal(linear["prior"])
    q, _ = posteriors.train(
        jax.random.key(1), squared_loss, start, linear["prior"], linear["data"],
        family=full_covariance.family(jnp.zeros(3)), **OPTIONS,
    )  # fmt: skip
    risk = exact_risk(q.mean, q.scale_tril @ q.scale_tril.T, linear["data"])
    kl = full_covariance.kl(q, linear["prior"])
    gap = posteriors.variational_gap(risk, kl, neg_log_z=linear["neg_log_z"], beta=BETA)
    assert -1e-9 < gap.value * BETA < 0.01
    np.testing.assert_allclose(q.scale_tril @ q.scale_tril.T, jnp.linalg.inv(linear["precision"]), rtol=0.1, atol=2e-3)


def test_gap_identity_is_a_divergence_and_flags_an_impossible_evidence(linear):
    """For any Q, also an untrained one, the gap is KL(Q||Q_beta) / beta."""
    q = Gaussian(jnp.array([0.3, 0.2, -0.1]), jnp.array([-1.0, -2.0, 0.5]))
    covariance = jnp.diag(jnp.exp(2 * q.log_scale))
    risk = exact_risk(q.mean, covariance, linear["data"])
    shift = q.mean - linear["mean"]
    expected = 0.5 * (
        jnp.trace(linear["precision"] @ covariance) + shift @ linear["precision"] @ shift - 3
        - jnp.linalg.slogdet(linear["precision"])[1] - 2 * jnp.sum(q.log_scale)
    )  # fmt: skip
    kl = posteriors.kl(q, linear["prior"])
    gap = posteriors.variational_gap(risk, kl, neg_log_z=linear["neg_log_z"], beta=BETA)
    np.testing.assert_allclose(gap.value * BETA, expected, rtol=1e-10)
    too_large = BETA * risk + kl + jnp.array([-0.1, 0.3, 1.0])
    gaps = posteriors.variational_gap(risk, kl, neg_log_z=too_large, beta=BETA, neg_log_z_error=0.1)
    assert gaps.violated.tolist() == [False, False, True]
    assert posteriors.variational_gap(risk, kl, neg_log_z=jnp.nan, beta=BETA).violated


def test_vmapped_training_is_single_training(linear):
    options = dict(OPTIONS, num_steps=20, batch_size=8, num_records=4, num_samples=2)
    del options["beta"], options["learning_rate"]

    def run(beta, rate):
        return posteriors.train(
            jax.random.key(1), squared_loss, linear["prior"], linear["prior"], linear["data"],
            beta=beta, learning_rate=rate, batch_key=jax.random.key(2), **options,
        )  # fmt: skip

    betas, rates = jnp.array([3.0, 30.0]), jnp.array([0.1, 0.02])
    together = jax.vmap(run)(betas, rates)
    for replica in range(2):
        alone = run(betas[replica], rates[replica])
        jax.tree.map(lambda a, b, i=replica: np.testing.assert_allclose(a[i], b, rtol=1e-8), together, alone)


def test_every_epoch_visits_every_row_once(linear):
    """With plain gradient descent on ``mean over batch of w * row`` one epoch moves w by the sum over its batches."""
    rows = jnp.arange(1.0, 8.0)[:, None]
    q0 = posteriors.init(jnp.zeros(()), scale=1.0)
    q, _ = posteriors.train(
        jax.random.key(0), lambda w, batch: w * batch[:, 0], q0, q0, rows, objective="lambda", beta=1e12, n=7,
        delta=DELTA, learning_rate=1.0, schedule=jnp.ones_like, optimiser=optax.sgd, num_steps=14, batch_size=1,
        num_records=1,
    )  # fmt: skip
    np.testing.assert_allclose(q.mean, -2 * rows.sum(), rtol=1e-6)


@pytest.mark.parametrize("objective", posteriors.OBJECTIVES)
def test_every_objective_trains(linear, objective):
    def loss(w, batch):
        return jnp.tanh(squared_loss(w, batch))

    q, metrics = posteriors.train(
        jax.random.key(1), loss, linear["prior"], linear["prior"], linear["data"], objective=objective,
        learning_rate=0.05, num_steps=200, num_samples=2, antithetic=True, num_records=10, **COMMON,
    )  # fmt: skip
    assert np.all(np.isfinite(metrics.objective))
    assert metrics.objective[-1] < metrics.objective[0] - 0.05
    assert np.all(np.isfinite(q.mean))


@pytest.mark.parametrize("name", ["quadratic", "mcallester", "pac_bayes_kl", "lambda"])
def test_objectives_are_the_bounds_and_have_slope_where_those_are_vacuous(name):
    objective = posteriors.make_objective(name, n=1000, delta=DELTA)
    bound = {"lambda": bounds.lambda_bound}.get(name) or getattr(bounds, name)
    for risk, kl in ((0.02, 3.0), (0.2, 40.0), (0.0, 0.0)):
        np.testing.assert_allclose(objective(risk, kl), bound(risk, kl, n=1000, delta=DELTA), rtol=1e-6)
    for kl in (10.0, 3e3, 1e5, 1e8):
        slopes = jax.grad(objective, argnums=(0, 1))(0.6, kl)
        assert np.all(np.isfinite(slopes))
        assert np.all(np.array(slopes) > 0)


def test_fixed_lambda_and_bbb_are_one_objective():
    fixed = posteriors.make_objective("lambda", n=1000, delta=DELTA, beta=5000.0)
    bbb = posteriors.make_objective("bbb", n=1000, delta=DELTA, eta=0.2)
    np.testing.assert_allclose(fixed(0.2, 7.0), bbb(0.2, 7.0), rtol=1e-12)


def test_grid_picks_the_best_run_and_traces_once(linear):
    traces = []

    def loss(w, batch):
        traces.append(None)
        return jnp.mean(squared_loss(w, batch))

    def search(seed, prior_scale):
        prior = posteriors.init(jnp.zeros(3), scale=prior_scale)
        return posteriors.train_grid(
            jax.random.key(seed), loss, prior, prior, linear["data"], objective="lambda", learning_rates=[1e-4, 0.1],
            initial_scales=[1.0, 0.3, 0.1], beta=[10.0, BETA], num_steps=300, batch_size=20, rows_per_chunk=16,
            num_records=3, **COMMON,
        )  # fmt: skip

    result = search(0, PRIOR_SCALE)
    seen = len(traces)
    assert seen <= 6  # a fixed number: the scan body, the evaluation on whole chunks and on the remainder
    again = search(1, 2.0)
    assert len(traces) == seen  # another seed and prior: nothing is traced again
    assert result.objectives.shape == (2, 2, 3)
    np.testing.assert_allclose(result.objective, result.objectives.reshape(2, -1).min(axis=1))
    np.testing.assert_allclose(result.learning_rate, 0.1, rtol=1e-6)
    np.testing.assert_allclose(result.objective, result.risk + result.kl / jnp.array([10.0, BETA]), rtol=1e-10)
    assert result.posterior.mean.shape == (2, 3)
    assert not np.allclose(result.objective, again.objective)
    for index in range(2):
        q = jax.tree.map(lambda leaf, i=index: leaf[i], result.posterior)
        risk = exact_risk(q.mean, jnp.diag(jnp.exp(2 * q.log_scale)), linear["data"])
        np.testing.assert_allclose(result.risk[index], risk, rtol=0.3)


def test_a_diverged_run_never_wins(linear):
    result = posteriors.train_grid(
        jax.random.key(0), squared_loss, linear["prior"], linear["prior"], linear["data"], objective="lambda",
        learning_rates=[1e30, 0.01], initial_scales=1.0, beta=BETA, num_steps=50, num_records=1, optimiser=optax.sgd,
        **COMMON,
    )  # fmt: skip
    assert np.isinf(result.objectives[0, 0, 0])
    assert np.isfinite(result.objective[0])


def test_single_precision_stays_single(linear):
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (linear["prior"], linear["data"]))
    q, metrics = posteriors.train(jax.random.key(1), squared_loss, single[0], *single, **dict(OPTIONS, num_steps=10))
    assert q.mean.dtype == q.log_scale.dtype == jnp.float32
    assert metrics.kl.dtype == jnp.float64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(n=N + 1), "rows"), (dict(delta=1.0), "delta"), (dict(batch_size=N + 1), "batch_size"),
        (dict(beta=-1.0), "beta"), (dict(objective="elbo"), "unknown objective"), (dict(num_steps=0), "num_steps"),
        (dict(objective="quadratic"), "no inverse temperature"), (dict(num_samples=3), "antithetic"),
        (dict(learning_rate=0.0), "learning_rate"), (dict(eta=0.1), "no KL weight"),
    ],
)  # fmt: skip
def test_bad_input_is_named(linear, change, words):
    with pytest.raises(ValueError, match=words):
        posteriors.train(
            jax.random.key(0), squared_loss, linear["prior"], linear["prior"], linear["data"], **{**OPTIONS, **change}
        )
