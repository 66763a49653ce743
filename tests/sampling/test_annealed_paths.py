"""Annealed chains as a program: sums, chunks, gradients spent, rounding; and their limits on conjugate regression."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks._counting import Tally, counted_energy
from pbjax.evidence import bidirectional_bracket, importance_estimate, thermodynamic_integration
from pbjax.sampling import (
    add_to_sum,
    init_paths,
    init_reverse_paths,
    init_sum,
    make_schedule,
    path_chunk,
    path_sums,
    sum_value,
)
from tests.sampling.path_toys import D, cubic, exact_draws, regression, regression_exact

SCHEDULE = make_schedule(
    cubic(40.0, 7), step_sizes=np.linspace(0.5, 0.2, 7), num_integration_steps=[1, 2, 3, 4, 3, 2, 1]
)


def observe(z):
    return jnp.stack([regression(z), z[0].astype(jnp.float64)])


@cache
def compiled(**static):
    return jax.jit(partial(path_chunk, energy=regression, **static))


@cache
def compiled_start(chains):
    return jax.jit(partial(init_paths, chains=chains, dimension=D, energy=regression))


def advance(state, schedule=SCHEDULE, *, moves=7, **more):
    return compiled(moves=moves, **more)(state, schedule)


def start(seed=0, chains=6):
    return compiled_start(chains)(jax.random.key(seed))


@pytest.fixture(scope="module")
def whole():
    return advance(start(), observe=observe)


def test_sums_are_those_of_the_trace(whole):
    state, trace = whole
    sums = path_sums(state)
    betas = np.asarray(trace.beta)
    np.testing.assert_allclose(betas, cubic(40.0, 7), rtol=1e-15)
    before, after = np.asarray(trace.energy_before), np.asarray(trace.energy_after)
    np.testing.assert_array_equal(before[1:], after[:-1])
    heat = betas[:, None] * (before - after)
    exponent = np.diff(betas, prepend=0.0)[:, None] * before
    np.testing.assert_allclose(trace.heat, np.cumsum(heat, axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(-trace.log_weight, np.cumsum(exponent, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(sums.heat, trace.heat[-1])
    np.testing.assert_allclose(-sums.log_weight - sums.heat, betas[-1] * sums.energy, rtol=1e-12)
    # A stopped path is a path: the identity holds at every rung.
    np.testing.assert_allclose(-trace.log_weight - trace.heat, betas[:, None] * after, rtol=1e-11)
    assert (np.asarray(sums.slack) > 0).all() and (np.asarray(sums.slack) < 1e-9).all()
    assert ((np.asarray(trace.acceptance) >= 0) & (np.asarray(trace.acceptance) <= 1)).all()


def test_stored_energy_and_gradient_are_those_of_the_position(whole):
    state, trace = whole
    assert 0 < np.mean(np.asarray(trace.energy_before) != np.asarray(trace.energy_after)) <= 1
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(regression)))(state.position)
    np.testing.assert_allclose(state.energy, value, rtol=1e-14)
    # No cancellation: float32 to the last digits, also after a first rung of beta = 0.1.
    np.testing.assert_allclose(state.gradient, gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(trace.observed[-1, :, 0], state.energy, rtol=1e-14)
    assert state.position.dtype == jnp.float32 and state.energy.dtype == jnp.float64


def test_a_tiny_first_rung_does_not_spoil_the_gradient():
    schedule = make_schedule([1e-7, 1e4], step_sizes=[0.5, 1e-3], num_integration_steps=2)
    state, _ = advance(start(1), schedule, moves=1)
    gradient = jax.vmap(jax.grad(regression))(state.position)
    np.testing.assert_allclose(state.gradient, gradient, rtol=1e-6, atol=1e-7)


def assert_same_state(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_chunks_change_nothing_and_moves_beyond_the_end_do_nothing(whole):
    state, parts = start(), []
    for _ in range(3):
        state, trace = advance(state, moves=3, observe=observe)
        parts.append(trace)
    assert_same_state(state, whole[0])
    assert int(state.moves) == 7
    for name in ("heat", "log_weight", "energy_after", "observed", "beta"):
        joined = np.concatenate([np.asarray(getattr(part, name)) for part in parts])
        np.testing.assert_array_equal(joined[:7], getattr(whole[1], name))
        assert np.isnan(joined[7:]).all()
    assert not np.asarray(parts[-1].is_divergent)[1:].any()


def test_a_chain_does_not_depend_on_those_beside_it(whole):
    state, _ = advance(start(chains=2))
    np.testing.assert_array_equal(state.position, whole[0].position[:2])
    other, _ = advance(start(seed=1), observe=observe)
    assert not np.array_equal(other.position, whole[0].position)


@pytest.mark.parametrize("moves", [7, 3])
def test_gradients_spent_are_the_leapfrog_steps_and_one_to_start(moves):
    tally = Tally()
    energy = counted_energy(regression, tally)
    chains = 2
    state = jax.jit(lambda key: init_paths(key, chains=chains, dimension=D, energy=energy))(jax.random.key(0))
    jax.block_until_ready(state.gradient)
    assert tally.gradients == chains
    step = jax.jit(partial(path_chunk, energy=energy, moves=moves))
    for _ in range(math.ceil(7 / moves)):
        state, _ = step(state, SCHEDULE)
    jax.block_until_ready(state.position)
    assert tally.gradients == chains * SCHEDULE.num_gradients == chains * (1 + 16)


def test_jitter_keeps_the_mean_and_widens_the_steps(whole):
    jittered, _ = advance(start(), jitter=0.5)
    assert not np.array_equal(jittered.position, whole[0].position)


def test_the_slack_covers_what_float32_loses():
    with jax.enable_x64(False):
        energy = lambda z: jnp.mean(jnp.tanh(z - 0.5) ** 2)  # noqa: E731
        schedule = make_schedule(cubic(3000.0, 40), step_sizes=0.02, num_integration_steps=2)
        state = init_paths(jax.random.key(0), chains=4, dimension=5, energy=energy)
        state, trace = jax.jit(partial(path_chunk, energy=energy, moves=40))(state, schedule)
        sums = path_sums(state)
        assert sums.heat.dtype == jnp.float32
    before, after, betas = (np.asarray(x, np.float64) for x in (trace.energy_before, trace.energy_after, trace.beta))
    exact = np.sum(betas[:, None] * (before - after), axis=0)
    slack = np.asarray(sums.slack, np.float64)
    assert (np.abs(exact - np.asarray(sums.heat, np.float64)) <= slack).all()
    assert (slack > 1e-4).all()  # without float64 a certificate pays visibly


def test_compensated_sum_keeps_what_plain_summation_loses():
    # Small terms that a float32 sum of 1e8 cannot hold, and then the large one taken away again.
    small = np.random.default_rng(0).uniform(0.5, 1.5, 4000).astype(np.float32)
    terms = np.concatenate([[1e8], small, [-1e8]]).astype(np.float32)
    exact = math.fsum(terms.astype(np.float64))
    with jax.enable_x64(False):
        summed = jax.jit(lambda x: jax.lax.scan(lambda s, t: (add_to_sum(s, t), None), init_sum(()), x)[0])(terms)
        ours = float(sum_value(summed))
        plain = float(jax.jit(lambda x: jax.lax.scan(lambda s, t: (s + t, None), jnp.float32(0), x)[0])(terms))
    scale = float(np.sum(np.abs(terms.astype(np.float64))))
    allowed = 2**-24 * abs(exact) + (terms.size * 2.0**-24) ** 2 * scale
    assert abs(ours - exact) <= allowed < abs(plain - exact)


# --- conjugate regression: Λ, KL and exact draws are known -----------------------------------------------------------


def test_heat_comes_down_to_the_divergence_as_annealing_slows():
    beta, chains = 40.0, 400
    kl = regression_exact(beta)[3]
    means, errors, ideal = [], [], []
    for rungs in (20, 80, 320):
        betas = cubic(beta, rungs)
        widths = [np.sqrt(np.linalg.eigvalsh(regression_exact(b)[1])[0]) for b in betas]
        schedule = make_schedule(
            betas, step_sizes=0.9 * np.asarray(widths), num_integration_steps=3, moves_per_rung=320 // rungs
        )
        state, _ = advance(start(3, chains), schedule, moves=320, jitter=0.3)
        heat = np.asarray(path_sums(state).heat)
        means.append(heat.mean())
        errors.append(heat.std(ddof=1) / np.sqrt(chains))
        ladder = np.concatenate([[0.0], betas])
        risks = np.array([regression_exact(b)[4] for b in ladder])
        ideal.append(float(thermodynamic_integration(ladder, risks).kl_left[-1]))
    # E W is the left sum at the chain's own means; these chains follow their rungs, so it is near the ideal left sum,
    # above KL, and its excess over KL falls. Four standard errors on each of six comparisons: one false alarm in 2,600.
    assert (np.array(means) - kl > -4 * np.array(errors)).all()
    assert abs(means[2] - ideal[2]) < 4 * errors[2] + 0.02
    assert ideal[2] - kl < 0.05 < ideal[0] - kl
    assert means[0] - means[2] > 4 * np.hypot(errors[0], errors[2])


def test_bracket_from_both_directions_holds_the_evidence():
    beta, chains = 40.0, 300
    truth = regression_exact(beta)[2]
    rungs = 60
    for step_size, leapfrogs in ((0.25, 3), (0.01, 1)):  # the second hardly moves: a wide bracket, as valid
        schedule = make_schedule(cubic(beta, rungs), step_sizes=step_size, num_integration_steps=leapfrogs)
        forward, _ = advance(start(4, chains), schedule, moves=rungs)
        backward = init_reverse_paths(
            jax.random.key(5), exact_draws(beta, chains, seed=6), schedule=schedule, energy=regression
        )
        backward, trace = advance(backward, schedule, moves=rungs)
        np.testing.assert_allclose(trace.beta, cubic(beta, rungs)[::-1])
        weights, reverse = path_sums(forward).log_weight, path_sums(backward)
        # A - W = beta_K L(w_K) holds downwards too; its defect is in the slack.
        assert (np.asarray(reverse.slack) < 1e-9).all()
        bracket = bidirectional_bracket(weights, reverse.log_weight, delta=1e-4)
        assert float(bracket.lower) <= truth <= float(bracket.upper)
        if leapfrogs == 3:
            # E exp(A) = 1/Z downwards, E exp(-A) = Z upwards, each within 4.5 standard errors.
            for logs in (np.asarray(weights) + truth, -np.asarray(reverse.log_weight) - truth):
                ratio = np.exp(logs)
                assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(chains)
            assert abs(float(importance_estimate(weights).neg_log_z) - truth) < 0.5


# --- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"betas": []}, "betas has shape"),
        ({"betas": [0.0, 1.0]}, "beta = 0, is where every chain starts"),
        ({"betas": [2.0, 1.0]}, "never fall"),
        ({"betas": [1.0, np.inf]}, "betas = inf"),
        ({"step_sizes": 0.0}, "step_sizes = 0.0"),
        ({"step_sizes": [0.1, 0.2, 0.3]}, "step_sizes has shape"),
        ({"num_integration_steps": 0}, "num_integration_steps = 0"),
        ({"num_integration_steps": 1.5}, "num_integration_steps = 1.5"),
        ({"moves_per_rung": 0}, "moves_per_rung = 0"),
        ({"inverse_mass": [1.0, -1.0]}, "inverse_mass = -1.0"),
        ({"inverse_mass": np.ones((3, 2))}, "inverse_mass has shape"),
    ],
)
def test_bad_schedules_are_refused(change, words):
    given = {"betas": [1.0, 2.0], "step_sizes": 0.1, "num_integration_steps": 2, **change}
    with pytest.raises(ValueError, match=words):
        make_schedule(given.pop("betas"), **given)


def test_bad_chains_and_chunks_are_refused():
    with pytest.raises(ValueError, match="chains = 0"):
        init_paths(jax.random.key(0), chains=0, dimension=1, energy=regression)
    with pytest.raises(ValueError, match="positions has shape"):
        init_reverse_paths(jax.random.key(0), jnp.zeros(3, jnp.float32), schedule=SCHEDULE, energy=regression)
    with pytest.raises(ValueError, match="moves = 0"):
        path_chunk(start(), SCHEDULE, energy=regression, moves=0)
    with pytest.raises(ValueError, match=r"jitter = 1\.0"):
        path_chunk(start(), SCHEDULE, energy=regression, moves=1, jitter=1.0)
    broken = start()._replace(energy=jnp.full((6,), jnp.nan))
    broken = broken._replace(heat=add_to_sum(broken.heat, broken.energy))
    with pytest.raises(ValueError, match="not finite"):
        path_sums(broken)
