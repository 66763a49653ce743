"""The pilot of annealed chains: ladder against the closed form, budget, acceptance, heat against a plain ladder."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.sampling import (
    PilotTrace,
    choose_schedule,
    init_paths,
    init_pilot,
    path_chunk,
    path_sums,
    pilot,
    pilot_chunk,
    provisional_ladder,
)

DIMENSION, BETA, BUDGET, PILOT = 12, 1e4, 241, 1200


def bounded(z):
    """A bounded loss with its minimum away from the prior's mean."""
    return 1 - jnp.exp(-0.5 * jnp.mean(jnp.square(z.astype(jnp.float64) - 1.0)))


def observe(z):
    return jnp.stack([bounded(z), z[0].astype(jnp.float64)])


choose = partial(
    pilot, energy=bounded, dimension=DIMENSION, beta=BETA, gradients=BUDGET, pilot_gradients=PILOT,
    num_integration_steps=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def chosen():
    return choose(jax.random.key(0), observe=observe)


def reported(schedule, *, seed=1, chains=100):
    start = jax.jit(partial(init_paths, chains=chains, dimension=DIMENSION, energy=bounded))
    advance = jax.jit(partial(path_chunk, energy=bounded, moves=schedule.num_moves))
    return advance(start(jax.random.key(seed)), schedule)


# --- the ladder against a closed form: L = |z|^2 / (2 d) has m(b) = 1 / (2 (1 + b / d)) ------------------------------


def quadratic_trace(moves=4000, *, beta=1e4, dimension=10):
    """What an endless, noiseless pilot of the quadratic would have seen, at a step size that never changes."""
    betas = np.geomspace(beta * 1e-5, beta, moves)
    energy = 0.5 / (1 + betas / dimension)
    drop = -np.diff(energy, prepend=0.5)
    column = (moves, 1)
    return PilotTrace(
        beta=jnp.asarray(betas),
        energy=jnp.asarray(energy).reshape(column),
        acceptance=jnp.full(column, 0.8),
        step_size=jnp.full(moves, 0.1),
        num_integration_steps=jnp.full(moves, 3),
        heat=jnp.asarray(betas * drop).reshape(column),
        observed=None,
    )


def test_rungs_have_constant_thermodynamic_length():
    dimension = 10
    schedule, _ = choose_schedule(quadratic_trace(), gradients=1001, num_integration_steps=5, floor=0.0)
    betas = np.append(0.0, np.asarray(schedule.betas))
    # Var_b(L) = -m'(b) = 1 / (2 d (1 + b/d)^2), whose root integrates to sqrt(d / 2) log(1 + b / d).
    lengths = np.diff(np.sqrt(dimension / 2) * np.log1p(betas / dimension))
    equal = np.sqrt(dimension / 2) * np.log1p(betas[-1] / dimension) / schedule.num_moves
    # 24 windows over five decades are the resolution: the lengths differ between moves of one window, not on average.
    averages = np.array([part.mean() for part in np.array_split(lengths, 12)])
    np.testing.assert_allclose(averages, equal, rtol=0.1)
    plain = np.diff(np.log1p(np.append(0.0, provisional_ladder(1e4, moves=200)) / dimension))
    assert plain.max() / plain.min() > 5  # the cubic ladder is far from it


def test_smaller_steps_draw_more_rungs():
    trace = quadratic_trace()
    step = 0.1 / np.sqrt(1 + np.asarray(trace.beta))
    schedule = choose_schedule(trace._replace(step_size=jnp.asarray(step)), gradients=1001, step_exponent=1.0)[0]
    plain = choose_schedule(trace._replace(step_size=jnp.asarray(step)), gradients=1001, step_exponent=0.0)[0]
    assert np.median(schedule.betas) > 3 * np.median(plain.betas)


@pytest.mark.parametrize("had", [0.5, 0.8, 0.95])
def test_step_sizes_move_to_the_target_acceptance(had):
    trace = quadratic_trace(moves=40)
    trace = trace._replace(acceptance=jnp.full((40, 1), had))
    schedule, _ = choose_schedule(trace, gradients=101, target_acceptance=0.8)
    steps = np.asarray(schedule.step_sizes)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-12)
    # 2 Phi(-c step^2) = acceptance, by Phi^{-1}: 0.4 -> -0.2533, 0.25 -> -0.6745, 0.475 -> -0.0627.
    factor = {0.5: (0.2533 / 0.6745) ** 0.5, 0.8: 1.0, 0.95: (0.2533 / 0.0627) ** 0.5}[had]
    np.testing.assert_allclose(steps[0], 0.1 * np.clip(factor, 1 / 1.5, 1.5), rtol=1e-3)


# --- as a program ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [2, 3, 50, 801, 1000])
def test_the_budget_is_spent_exactly(budget):
    schedule, _ = choose_schedule(quadratic_trace(40), gradients=budget, num_integration_steps=7)
    assert schedule.num_gradients == budget
    counts = np.asarray(schedule.num_integration_steps)
    assert counts.min() >= 1
    assert counts.max() <= 8
    assert np.all(np.diff(schedule.betas) >= 0)
    assert float(schedule.betas[-1]) == 1e4


def test_same_key_same_schedule(chosen):
    schedule, report = chosen
    again, _ = choose(jax.random.key(0), observe=observe)
    for x, y in zip(jax.tree.leaves(schedule), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
    assert schedule.num_gradients == BUDGET
    assert PILOT // 2 < report.gradients <= PILOT  # trajectories are shorter where the steps are long
    np.testing.assert_array_equal(report.observed[:, 0], report.last_energy)


@pytest.mark.slow
def test_chunks_change_nothing():
    betas = jnp.asarray(provisional_ladder(50.0, moves=10))
    run = partial(pilot_chunk, energy=bounded, num_integration_steps=3)
    start = init_pilot(jax.random.key(0), energy=bounded, dimension=DIMENSION, chains=2)
    whole, trace = jax.jit(partial(run, moves=10))(start, betas)
    advance = jax.jit(partial(run, moves=4))
    state, parts = start, []
    for _ in range(3):
        state, part = advance(state, betas)
        parts.append(part)
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    assert bool(jnp.all(jnp.isnan(joined.beta[10:])))
    np.testing.assert_array_equal(joined.energy[:10], trace.energy)
    np.testing.assert_array_equal(state.position, whole.position)
    one, _ = choose_schedule(joined, gradients=100)
    two, _ = choose_schedule(trace, gradients=100)
    np.testing.assert_array_equal(one.betas, two.betas)


@pytest.mark.slow
def test_acceptance_of_the_reported_chain_is_near_the_target(chosen):
    _, trace = reported(chosen[0])
    acceptance = np.asarray(trace.acceptance).mean(1)
    # One pilot chain knows the acceptance of a window of eight moves to about 0.1. The first quarter may accept more:
    # its step size is capped.
    late = np.array([part.mean() for part in np.array_split(acceptance, 4)])[1:]
    assert np.all(late > 0.5)
    assert abs(late.mean() - 0.8) < 0.12


@pytest.mark.slow
def test_less_heat_than_a_cubic_ladder_at_equal_gradients(chosen):
    schedule = chosen[0]
    cubic = schedule._replace(betas=jnp.asarray(provisional_ladder(BETA, moves=schedule.num_moves)))
    # The same step sizes as a function of beta, so that only the placing of the rungs differs.
    log_steps = np.interp(np.log(cubic.betas), np.log(schedule.betas), np.log(schedule.step_sizes))
    cubic = cubic._replace(step_sizes=jnp.exp(jnp.asarray(log_steps)))
    heats = [np.asarray(path_sums(reported(at)[0]).heat) for at in (schedule, cubic)]
    difference = heats[1].mean() - heats[0].mean()
    error = np.sqrt(sum(heat.var(ddof=1) / heat.size for heat in heats))
    assert difference > 4 * error, (heats[0].mean(), heats[1].mean(), error)  # one false pass in 30,000


def test_a_schedule_may_stop_before_the_pilot_did():
    schedule, report = choose_schedule(quadratic_trace(), gradients=501, beta=200.0, num_integration_steps=5)
    assert float(schedule.betas[-1]) == 200.0
    assert schedule.num_gradients == 501
    assert report.rung_share[-1] > 1
    # The report foretells the heat of a chain that stops: W = A - b L, here with A the integral of m.
    k = int(np.searchsorted(report.last_betas, 200.0))
    b = report.last_betas[k]
    np.testing.assert_allclose(report.last_energy[k], 0.5 / (1 + b / 10), rtol=1e-12)
    np.testing.assert_allclose(report.heat[k], 5 * np.log1p(b / 10) - b * report.last_energy[k], rtol=0.02)


def test_bad_input():
    with pytest.raises(ValueError, match=r"pilot_gradients = 17: .* at least 18"):
        choose(jax.random.key(0), pilot_gradients=17)
    with pytest.raises(ValueError, match="gradients = 1"):
        choose(jax.random.key(0), gradients=1)
    with pytest.raises(ValueError, match=r"beta = -1\.0"):
        choose(jax.random.key(0), beta=-1.0)
    with pytest.raises(ValueError, match=r"target_acceptance = 1\.0"):
        choose(jax.random.key(0), target_acceptance=1.0)
    with pytest.raises(ValueError, match="made 3 moves"):
        choose_schedule(quadratic_trace(3), gradients=10)
    trace = quadratic_trace(40)
    with pytest.raises(ValueError, match=r"beta = 20000\.0: the pilot reached \(0, 10000\]"):
        choose_schedule(trace, gradients=10, beta=2e4)
    with pytest.raises(ValueError, match="not finite"):
        choose_schedule(trace._replace(energy=trace.energy.at[3].set(jnp.inf)), gradients=10)
