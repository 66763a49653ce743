"""Replica exchange: the product law is left alone, the record counts right, and a second mode is found."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks._counting import Tally, counted_energy
from pbjax.sampling import (
    EnergyState,
    HMCSettings,
    exchange,
    init_ladder,
    sample_chunk,
    summarise,
    summarise_exchange,
)
from tests.sampling.path_toys import D, regression, regression_exact
from tests.sampling.two_wells import MASS_LEFT, MEAN_ENERGY, run

# --- one round of swaps, against an enumerated law --------------------------------------------------------------------

LEVELS = np.array([0.05, 0.2, 0.5, 0.9])  # the energies of a space of four points under a uniform prior
TOY_BETAS = np.array([1.0, 4.0, 9.0])
CHAINS = 100_000
QUIET, LOUD = 4.5, 15.0  # standard errors: 64 cells at 4.5 are a false alarm once in 2,300 seeds; mutants are beyond 15


def toy_law():
    law = np.exp(-TOY_BETAS[:, None] * LEVELS)
    law /= law.sum(1, keepdims=True)
    return np.einsum("i,j,k->ijk", *law)


def swapped_cells(rounds, *, betas=TOY_BETAS, parity=0):
    """Counts of (level on rung 0, 1, 2) before and after, and of both together, from exact draws of the product."""
    law = toy_law()
    cell = np.random.default_rng(0).choice(law.size, CHAINS, p=law.ravel())
    before = np.stack(np.unravel_index(cell, law.shape))
    energy = jnp.asarray(LEVELS[before]).reshape(-1)
    state = EnergyState(energy[:, None].astype(jnp.float32), energy, energy[:, None].astype(jnp.float32))
    record = exchange.init_record(3, CHAINS)._replace(parity=jnp.asarray(parity, jnp.int32))
    for index in range(rounds):
        state, record = exchange.swap(jax.random.key(index), state, record, betas=jnp.asarray(betas))
    after = np.abs(np.asarray(state.energy).reshape(3, -1)[..., None] - LEVELS).argmin(-1)
    np.testing.assert_allclose(state.position[:, 0], state.energy, rtol=1e-6)  # all of a replica moves together
    joint = np.zeros((law.size, law.size))
    np.add.at(joint, (cell, np.ravel_multi_index(tuple(after), law.shape)), 1)
    return joint, record


def worst_cell(joint):
    expected = toy_law().ravel() * CHAINS
    return np.max(np.abs(joint.sum(0) - expected) / np.sqrt(expected * (1 - expected / CHAINS)))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_swaps_leave_the_product_law_alone(rounds):
    assert worst_cell(swapped_cells(rounds)[0]) < QUIET


@pytest.mark.parametrize("parity", [0, 1])
def test_one_round_is_in_detailed_balance(parity):
    # Both rounds one after the other leave the law alone too, but are not reversible.
    joint, _ = swapped_cells(1, parity=parity)
    both = joint + joint.T
    score = np.abs(joint - joint.T) / np.sqrt(np.maximum(both, 1))
    moved = both * (1 - np.eye(len(joint))) > 50
    assert moved.sum() >= 20
    assert score[moved].max() < QUIET


def test_acceptance_is_the_expectation_over_the_product_law():
    _, record = swapped_cells(2)
    law = toy_law()
    for pair, axes in ((0, (0, 1)), (1, (1, 2))):
        marginal = law.sum(3 - sum(axes))
        step, drop = TOY_BETAS[axes[1]] - TOY_BETAS[axes[0]], LEVELS[None, :] - LEVELS[:, None]
        probability = np.minimum(1, np.exp(step * drop))
        expected = (marginal * probability).sum()
        found = summarise_exchange(record).acceptance[pair]
        assert abs(found.mean() - expected) < QUIET * found.std() / np.sqrt(CHAINS)


def test_the_wrong_sign_breaks_it():
    # Decreasing betas turn the sign of (b_i - b_j) around.
    assert worst_cell(swapped_cells(1, betas=TOY_BETAS[::-1].copy())[0]) > LOUD


def test_a_swap_without_accept_step_breaks_it(monkeypatch):
    monkeypatch.setattr(exchange.jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    assert worst_cell(swapped_cells(1)[0]) > LOUD


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_record_follows_every_replica():
    rungs, chains, rounds = 4, 3, 400
    betas = jnp.asarray([1.0, 2.0, 3.0, 4.0])
    energy = jax.random.uniform(jax.random.key(0), (rungs * chains,), jnp.float64)
    name = jnp.repeat(jnp.arange(rungs), chains)  # a position that is the replica's own name
    state = EnergyState(name[:, None].astype(jnp.float32), energy, name[:, None].astype(jnp.float32))

    def one(carry, key):
        state, record = exchange.swap(key, *carry, betas=betas)
        return (state, record), record.replica

    start = (state, exchange.init_record(rungs, chains))
    (state, record), where = jax.lax.scan(one, start, jax.random.split(jax.random.key(1), rounds))
    np.testing.assert_array_equal(state.position[:, 0].reshape(rungs, chains), record.replica)
    assert np.asarray(record.attempts).tolist() == [rounds // 2] * (rungs - 1)
    # Round trips again, replica by replica, from the whole history.
    history = np.concatenate([np.arange(rungs)[None, :, None].repeat(chains, 2), np.asarray(where)])
    trips = np.zeros((rungs, chains), int)
    for replica in range(rungs):
        for chain in range(chains):
            rung = np.argmax(history[:, :, chain] == replica, axis=1)
            ends = rung[(rung == 0) | (rung == rungs - 1)]
            turns = ends[np.concatenate([[True], np.diff(ends) != 0])] if ends.size else ends
            trips[replica, chain] = max(0, (turns[np.argmax(turns == 0) :].size - 1) // 2) if (turns == 0).any() else 0
    assert trips.sum() > 20
    np.testing.assert_array_equal(summarise_exchange(record).round_trips, trips.sum(0))
    for chain in range(chains):
        np.testing.assert_array_equal(
            np.asarray(record.round_trips)[:, chain], trips[np.asarray(record.replica)[:, chain], chain]
        )


def test_one_rung_is_refused():
    with pytest.raises(ValueError, match="no neighbour"):
        exchange.init_record(1, 4)


# --- in the ladder ----------------------------------------------------------------------------------------------------

REGRESSION_BETAS = np.geomspace(0.2, 60.0, 9)
SETTINGS = HMCSettings(num_integration_steps=6, jitter=0.3, target_acceptance=0.8)


def observe(z):
    return jnp.concatenate([regression(z)[None], z.astype(jnp.float64)])


@cache
def sampled():
    """The regression ladder at fixed step sizes, after draws that are thrown away."""
    z = jax.random.normal(jax.random.key(0), (len(REGRESSION_BETAS), 4, D), jnp.float32)
    betas = jnp.asarray(REGRESSION_BETAS)
    state = init_ladder(
        jax.random.key(1), z, betas=betas, energy=regression, step_sizes=0.3 / jnp.sqrt(1 + betas),
        num_functionals=1 + D, lags=20, exchange=True,
    )  # fmt: skip
    sample = jax.jit(partial(sample_chunk, energy=regression, observe=observe, settings=SETTINGS, draws=1000))
    return sample(sample(state, betas)[0], betas)


def scores(draws):
    """Errors of every mean at every rung in standard errors that account for autocorrelation, [1 + D, K]."""
    out = []
    exact = [regression_exact(beta) for beta in REGRESSION_BETAS]
    for f in range(1 + D):
        summary, _ = summarise(draws.functionals[f], dependent_rungs=True)
        truth = np.array([risk if f == 0 else mean[f - 1] for mean, _, _, _, risk in exact])
        out.append((summary.mean - truth) / summary.standard_error)
    return np.abs(np.array(out))


@pytest.mark.slow
def test_moments_of_every_rung_with_exchange():
    state, (draws, _) = sampled()
    assert scores(draws).max() < 5  # 36 comparisons at five standard errors: a false alarm once in 48,000 seeds
    report = summarise_exchange(state.exchange)
    assert report.acceptance.mean() > 0.3 and report.round_trips.min() > 5


@pytest.mark.slow
def test_moments_with_swaps_of_the_wrong_sign_are_wrong(monkeypatch):
    right = exchange.swap
    monkeypatch.setattr(exchange, "swap", lambda key, state, record, *, betas: right(key, state, record, betas=-betas))
    _, (draws, _) = sampled.__wrapped__()
    assert scores(draws).max() > 10


@pytest.mark.slow
def test_a_replica_carries_its_own_energy_and_gradient():
    state, _ = sampled()
    value, gradient = jax.vmap(jax.value_and_grad(regression))(state.kernel.position)
    np.testing.assert_allclose(state.kernel.energy, value, rtol=1e-12)
    np.testing.assert_allclose(state.kernel.energy_grad, gradient, rtol=1e-4, atol=1e-6)
    assert state.kernel.position.dtype == jnp.float32 and state.kernel.energy.dtype == jnp.float64


@pytest.mark.slow
def test_swaps_cost_no_gradient():
    tally = Tally()
    energy = counted_energy(regression, tally)
    z = jnp.zeros((3, 2, D), jnp.float32)
    betas = jnp.asarray([1.0, 2.0, 3.0])
    state = init_ladder(
        jax.random.key(0), z, betas=betas, energy=energy, step_sizes=jnp.full(3, 0.1), num_functionals=1, exchange=True
    )
    state, _ = sample_chunk(
        state, betas, energy=energy, observe=lambda z: energy(z)[None], settings=HMCSettings(4), draws=5
    )
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert tally.gradients == 6 * (1 + 5 * 4)


# --- a second mode ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_plain_ladder_misses_a_mode_and_exchange_finds_it():
    draws, _ = run(exchange=False)
    energy, diagnosis = summarise(draws.functionals[0])
    assert (draws.functionals[1, -4:] == 0).all() and MASS_LEFT[-4] > 0.8  # not one draw in the deeper well
    assert (diagnosis.r_hat[-4:] < 1.05).all()  # and R-hat of these rungs does not object
    assert (np.abs(energy.mean - MEAN_ENERGY)[-4:] > 20 * energy.standard_error[-4:]).all()

    draws, state = run(exchange=True)
    for f, truth in ((0, MEAN_ENERGY), (1, MASS_LEFT)):
        found, diagnosis = summarise(draws.functionals[f], dependent_rungs=True)
        # Two times eight comparisons at five standard errors: a false alarm once in 109,000 seeds. Above them all but a
        # few draws are on the left.
        assert np.max(np.abs(found.mean - truth)[:8] / found.standard_error[:8]) < 5
        assert diagnosis.r_hat.max() < 1.05
    report = summarise_exchange(state.exchange)
    assert report.round_trips.min() > 20 and report.acceptance.mean(1).min() > 0.2
