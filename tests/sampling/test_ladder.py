"""HMC over a ladder on targets whose every moment is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.evidence import thermodynamic_integration_with_errors
from pbjax.sampling import (
    HMCSettings,
    adapt_chunk,
    anneal_chunk,
    freeze,
    hmc,
    init_anneal,
    init_ladder,
    sample_chunk,
    summarise,
)

# Conjugate regression in whitened coordinates: L(z) = |A z - y|^2 / (2 n), so Q_beta is Gaussian for every beta.
N, D = 12, 3
A = np.random.default_rng(0).normal(size=(N, D))
Y = np.random.default_rng(1).normal(size=N)


def energy(z):
    return 0.5 * jnp.mean(jnp.square(jnp.asarray(A) @ z.astype(jnp.float64) - jnp.asarray(Y)))


def exact(beta):
    """Mean [D], covariance [D, D] and -log Z of the Gibbs posterior."""
    precision = np.eye(D) + beta / N * A.T @ A
    covariance = np.linalg.inv(precision)
    mean = covariance @ A.T @ Y * beta / N
    marginal = np.eye(N) + beta / N * A @ A.T
    neg_log_z = 0.5 * np.linalg.slogdet(marginal)[1] + 0.5 * beta / N * Y @ np.linalg.solve(marginal, Y)
    return mean, covariance, neg_log_z


def start(betas, chains, seed=0, lags=20):
    z = jax.random.normal(jax.random.key(seed), (len(betas), chains, D), jnp.float32)
    return init_ladder(
        jax.random.key(seed + 1),
        z,
        betas=jnp.asarray(betas),
        energy=energy,
        step_sizes=jnp.full(len(betas), 0.3),
        num_functionals=1 + D,
        lags=lags,
    )


def observe(z):
    return jnp.concatenate([energy(z)[None], z.astype(jnp.float64)])


SETTINGS = HMCSettings(num_integration_steps=6, jitter=0.3, target_acceptance=0.8)


@pytest.fixture(scope="module")
def run():
    """A ladder, adapted and sampled: betas, state, draws [F, K, C, D]."""
    betas = np.concatenate([np.geomspace(0.2, 60.0, 24)])
    state = start(betas, 4)
    adapt = jax.jit(partial(adapt_chunk, energy=energy, settings=SETTINGS, moves=200, total_moves=200))
    state, acceptance = adapt(state, jnp.asarray(betas))
    state = freeze(state, total_moves=200)
    sample = jax.jit(partial(sample_chunk, energy=energy, observe=observe, settings=SETTINGS, draws=1500))
    state, (draws, positions) = sample(state, jnp.asarray(betas))
    assert positions is None
    return betas, acceptance, state, draws


def test_moments_of_every_rung(run):
    betas, _, _, draws = run
    assert draws.functionals.shape == (1 + D, 24, 4, 1500)
    for coordinate in range(D):
        summary, _ = summarise(draws.functionals[1 + coordinate])
        expected = np.array([exact(beta)[0][coordinate] for beta in betas])
        # 72 comparisons at five standard errors: a false alarm once in 24,000 runs.
        assert (np.abs(summary.mean - expected) < 5 * summary.standard_error).all()
        spread = np.array([exact(beta)[1][coordinate, coordinate] for beta in betas])
        # Variance of a variance estimate, 2 s^4 / ESS with ESS of the square near half the draws: five of them.
        np.testing.assert_allclose(summary.variance / spread, 1.0, atol=5 * np.sqrt(2 / 1500))


def test_evidence_and_kl_against_the_closed_form(run):
    betas, _, _, draws = run
    prior = jax.vmap(energy)(jax.random.normal(jax.random.key(9), (6000, D), jnp.float32))
    summary, _ = summarise(np.concatenate([np.asarray(prior).reshape(1, 4, 1500), draws.functionals[0]]))
    ladder = np.concatenate([[0.0], betas])
    estimate = thermodynamic_integration_with_errors(ladder, summary)
    truth = np.array([exact(beta)[2] for beta in ladder])
    slack = 4 * np.asarray(estimate.standard_error.left)
    assert (np.asarray(estimate.value.left) >= truth - slack).all()
    assert (np.asarray(estimate.value.right) <= truth + slack).all()
    assert abs(float(estimate.value.trapezium[-1]) - truth[-1]) < 0.1


def test_acceptance_reaches_its_target_or_the_trajectory_its_cap(run):
    _, _, state, draws = run
    mean = np.asarray(draws.acceptance).mean(axis=(1, 2))
    capped = np.asarray(state.log_step) > SETTINGS.max_log_step - 0.01
    assert capped.any() and not capped.all()  # the target is a wide Gaussian on the low rungs, a narrow one above
    assert (np.abs(mean - SETTINGS.target_acceptance)[~capped] < 0.1).all(), mean
    assert (mean[capped] > SETTINGS.target_acceptance - 0.1).all(), mean
    assert not np.asarray(draws.divergent).any()


def test_streamed_statistics_are_those_of_the_draws(run):
    _, _, state, draws = run
    from pbjax.sampling import mean, variance

    np.testing.assert_allclose(mean(state.statistics), draws.functionals.mean(-1), rtol=1e-10)
    np.testing.assert_allclose(variance(state.statistics), np.var(draws.functionals, axis=-1, ddof=1), rtol=1e-8)


def test_chunks_do_not_change_the_chain():
    betas = np.array([1.0, 5.0])
    sample = partial(sample_chunk, energy=energy, observe=observe, settings=SETTINGS)
    whole, (draws, positions) = sample(start(betas, 2), jnp.asarray(betas), draws=8, keep_positions=True)
    state, parts = start(betas, 2), []
    for _ in range(2):
        state, (part, _) = sample(state, jnp.asarray(betas), draws=4)
        parts.append(part.functionals)
    np.testing.assert_array_equal(np.concatenate(parts, -1), draws.functionals)
    np.testing.assert_array_equal(state.kernel.position, whole.kernel.position)
    assert positions.shape == (8, 4, D)


def test_retempering_equals_a_fresh_start():
    z = jax.random.normal(jax.random.key(5), (4, D), jnp.float32)
    old, new = jnp.array([0.5, 1.0, 10.0, 1e4]), jnp.array([0.7, 2.0, 5.0, 6e4])
    moved, fresh = hmc.retemper(hmc.init(z, old, energy), old, new), hmc.init(z, new, energy)
    np.testing.assert_allclose(moved.logdensity, fresh.logdensity, rtol=1e-12)
    np.testing.assert_allclose(moved.logdensity_grad, fresh.logdensity_grad, rtol=1e-5, atol=1e-5)


def test_kernel_leaves_exact_draws_exact():
    # Draws from Q_beta stay draws from Q_beta whatever the step size; without the accept test a step this large
    # inflates the variance by far more than the tolerance.
    beta, replicas = 20.0, 4000
    mean, covariance, _ = exact(beta)
    largest = 1.6 * np.sqrt(np.linalg.eigvalsh(covariance)[0])  # the leapfrog is unstable from 2
    z = np.random.default_rng(2).multivariate_normal(mean, covariance, replicas).astype(np.float32)
    state = hmc.init(jnp.asarray(z), jnp.full(replicas, beta), energy)
    for index in range(3):
        state, info = hmc.step(
            jax.random.key(index), state, betas=jnp.full(replicas, beta), step_sizes=jnp.full(replicas, largest),
            energy=energy, num_integration_steps=3,
        )  # fmt: skip
    assert 0.2 < float(info.acceptance.mean()) < 0.9
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    white = (np.asarray(state.position, np.float64) - mean) @ root
    # Each of 3 + 6 statistics within five standard errors.
    assert (np.abs(white.mean(0)) < 5 / np.sqrt(replicas)).all()
    np.testing.assert_allclose(np.cov(white.T), np.eye(D), atol=5 * np.sqrt(2 / replicas))


def test_positions_stay_float32_and_densities_float64():
    state = start([1.0], 2)
    after, _ = hmc.step(
        jax.random.key(0), state.kernel, betas=jnp.ones(2), step_sizes=jnp.full(2, 0.1), energy=energy,
        num_integration_steps=2, jitter=0.2,
    )  # fmt: skip
    assert after.position.dtype == jnp.float32 and after.logdensity_grad.dtype == jnp.float32
    assert after.logdensity.dtype == jnp.float64


def test_annealing_follows_the_curve_up_and_down():
    betas = np.geomspace(0.5, 40.0, 12)
    z = jax.random.normal(jax.random.key(0), (64, D), jnp.float32)
    state = init_anneal(jax.random.key(1), z, beta=betas[0], energy=energy, step_size=0.3)
    walk = jax.jit(partial(anneal_chunk, energy=energy, settings=SETTINGS, moves=8))
    state, up = walk(state, jnp.asarray(betas))
    state, down = walk(state, jnp.asarray(betas[::-1].copy()))
    truth = []
    for beta in betas:
        mean, covariance, _ = exact(beta)
        truth.append(0.5 * np.mean((A @ mean - Y) ** 2) + 0.5 * np.trace(A @ covariance @ A.T) / N)
    for trace in (np.asarray(up.mean), np.asarray(down.mean)[::-1]):
        error = np.sqrt(np.asarray(up.variance) / 64)  # 64 chains; moves within a rung count as one
        assert (np.abs(trace - truth) < 5 * error).all()
    assert up.position.shape == (12, 64, D)
    assert (np.asarray(up.step_size) > 0.05).all()


def test_log_density_is_traced_a_fixed_number_of_times():
    calls = 0

    def counting(z):
        nonlocal calls
        calls += 1
        return energy(z)

    counts = []
    for moves in (2, 20):
        calls = 0
        betas = jnp.array([1.0, 2.0])
        sample = jax.jit(partial(sample_chunk, energy=counting, observe=observe, settings=SETTINGS, draws=moves))
        state = start([1.0, 2.0], 2)
        for _ in range(3):
            state, _ = sample(state, betas)
        counts.append(calls)
    assert counts[0] == counts[1] <= 2, counts
