"""E[exp(-W) g(w_K)] = E_P[g], exactly by matrices and by HMC, and every way to break it must break it."""

from functools import cache, partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.evidence import thermodynamic_integration
from pbjax.sampling import hmc, init_paths, make_schedule, path_chunk, path_sums
from tests.evidence.quadrature import Quadrature
from tests.evidence.quadrature import well as reference_well
from tests.sampling.path_toys import (
    GRID,
    LOSS,
    PRIOR,
    WINDOW_PROBABILITY,
    cubic,
    divergence,
    exact_draws_from,
    identity_score,
    law_and_heat,
    tilted_law,
    well,
    well_evidence,
)

# --- by matrices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rungs", [2, 20, 100])
def test_identity_by_matrices(rungs):
    np.testing.assert_allclose(tilted_law(cubic(500.0, rungs)), PRIOR, rtol=1e-9, atol=1e-15)


def test_mutated_paths_break_the_identity_by_matrices():
    betas = cubic(60.0, 12)
    np.testing.assert_allclose(tilted_law(betas), PRIOR, rtol=1e-9, atol=1e-15)
    mutants = {
        "wrong sign": {"sign": -1.0},
        "missing rung": {"skip": 8},
        "missing accept step": {"accept": False},
        "adapted step": {"width": np.where(LOSS > 0.5, 8, 2)},
    }
    for name, mutation in mutants.items():
        wrong = tilted_law(betas, **mutation)
        assert np.max(np.abs(wrong / PRIOR - 1)) > 0.1, name


@pytest.mark.parametrize(
    ("rungs", "moves", "heat", "kl"), [(20, 1, 34.387, 0.626), (100, 1, 70.105, 2.729), (400, 4, 12.862, 5.896)]
)
def test_expected_heat_bounds_the_divergence_of_the_law(rungs, moves, heat, kl):
    # Section 5.4 of the reference note; the heat equals the left sum at the chain's own means.
    law, expected_heat, left = law_and_heat(cubic(500.0, rungs), moves=moves)
    np.testing.assert_allclose(expected_heat, left, rtol=1e-10)
    np.testing.assert_allclose([expected_heat, divergence(law)], [heat, kl], atol=6e-4)
    assert expected_heat >= divergence(law)


def test_heat_of_exact_kernels_falls_to_the_divergence_as_one_over_rungs():
    quadrature = Quadrature(reference_well)
    target = quadrature.exact(np.array([500.0])).kl[0]
    excess = []
    for rungs in (400, 800, 1600, 3200):
        betas = np.concatenate([[0.0], cubic(500.0, rungs)])
        excess.append(float(thermodynamic_integration(betas, quadrature.exact(betas).mean).kl_left[-1]) - target)
    assert min(excess) > 0
    slope = np.polyfit(np.log([400, 800, 1600, 3200]), np.log(excess), 1)[0]
    assert abs(slope + 1) < 0.1


def test_heat_of_kernels_that_draw_exactly_falls_as_one_over_rungs_on_the_grid():
    rungs, excess = np.array([100, 200, 400, 800]), []
    for count in rungs:
        law, heat, _ = law_and_heat(cubic(500.0, count), make_kernel=exact_draws_from)
        excess.append(heat - divergence(law))  # the law is the Gibbs posterior's own
    assert min(excess) > 0
    slopes = np.diff(np.log(excess)) / np.diff(np.log(rungs))
    assert np.abs(slopes + 1).max() < 0.1, slopes  # every doubling by itself


# --- by HMC ----------------------------------------------------------------------------------------------------------

CHAINS = 20_000
# Two-sided at 4.5 standard errors: one false alarm in 150,000 tests. Mutants must be further away than 7.
QUIET, LOUD = 4.5, 7.0
LADDERS = {
    "slow": {"betas": 10.0 * np.arange(1, 21) / 20, "step_sizes": 0.3, "num_integration_steps": 3},
    "one leapfrog step": {"betas": 10.0 * np.arange(1, 21) / 20, "step_sizes": 0.5, "num_integration_steps": 1},
    "absurdly large steps": {"betas": 10.0 * np.arange(1, 21) / 20, "step_sizes": 3.0, "num_integration_steps": 2},
    "absurdly small steps": {"betas": 10.0 * np.arange(1, 21) / 20, "step_sizes": 0.01, "num_integration_steps": 1},
    "two rungs": {"betas": np.array([5.0, 10.0]), "step_sizes": 0.4, "num_integration_steps": 2},
    "two moves at each of three rungs": {
        "betas": np.array([1.0, 4.0, 8.0]), "step_sizes": [1.0, 0.5, 0.3], "num_integration_steps": [1, 2, 3],
        "moves_per_rung": 2,
    },
    "mass and jitter": {
        "betas": np.array([2.0, 8.0]), "step_sizes": 0.4, "num_integration_steps": 3, "inverse_mass": [[0.5], [0.2]],
        "jitter": 0.4,
    },
}  # fmt: skip


@cache
def compiled(moves, jitter):
    return jax.jit(partial(path_chunk, energy=well, moves=moves, jitter=jitter))


@cache
def compiled_start(chains):
    return jax.jit(partial(init_paths, chains=chains, dimension=1, energy=well))


def run(seed, *, jitter=0.0, chains=CHAINS, **ladder):
    schedule = make_schedule(ladder.pop("betas"), **ladder)
    state = compiled_start(chains)(jax.random.key(seed))
    state, trace = compiled(schedule.num_moves, jitter)(state, schedule)
    return state, path_sums(state), trace


@pytest.mark.parametrize("name", sorted(LADDERS))
def test_identity_by_hmc_however_badly_the_chain_mixes(name):
    state, sums, trace = run(7, **LADDERS[name])
    assert abs(identity_score(sums.heat, state.position)) < QUIET
    # The importance weights, for the same paths: E exp(-A) = Z.
    ratio = np.exp(np.asarray(sums.log_weight) + well_evidence(float(state.beta)))
    assert abs(ratio.mean() - 1) < QUIET * ratio.std() / np.sqrt(CHAINS)
    if name == "absurdly small steps":
        assert float(trace.acceptance.mean()) > 0.99
    if name == "absurdly large steps":
        assert float(trace.acceptance.mean()) < 0.05


SHORT = {"betas": np.array([1.5, 3.0, 5.0]), "step_sizes": 0.5, "num_integration_steps": 3}


@pytest.fixture(scope="module")
def short_run():
    return run(8, **SHORT)


def test_the_wrong_sign_breaks_it(short_run):
    state, sums, _ = short_run
    assert abs(identity_score(sums.heat, state.position)) < QUIET
    assert abs(identity_score(-sums.heat, state.position)) > LOUD


@pytest.mark.parametrize("rung", range(3))
def test_a_missing_rung_breaks_it(short_run, rung):
    state, sums, trace = short_run
    missing = trace.beta[rung] * (trace.energy_before[rung] - trace.energy_after[rung])
    assert abs(identity_score(sums.heat - missing, state.position)) > LOUD


def test_a_move_at_the_wrong_beta_breaks_it(short_run):
    # Each drop times the rung before the move, the natural slip: that is minus the right sum, not the heat.
    state, _, trace = short_run
    lower = jnp.concatenate([jnp.zeros(1), trace.beta[:-1]])
    wrong = jnp.sum(lower[:, None] * (trace.energy_before - trace.energy_after), axis=0)
    assert abs(identity_score(wrong, state.position)) > LOUD


def test_a_missing_accept_step_breaks_it(monkeypatch):
    kernel = blackjax.hmc.build_kernel()

    def always(*arguments):
        _, info = kernel(*arguments)
        end = info.proposal
        new = blackjax.mcmc.hmc.HMCState(end.position, end.logdensity, end.logdensity_grad)
        return new, info._replace(is_accepted=jnp.ones_like(info.is_accepted))

    monkeypatch.setattr(hmc, "_KERNEL", always)
    compiled.cache_clear()  # a cached program would still hold the accept test
    state, sums, _ = run(8, **{**SHORT, "step_sizes": 0.9})
    compiled.cache_clear()
    assert abs(identity_score(sums.heat, state.position)) > LOUD


@pytest.mark.parametrize("adapted", [False, True])
def test_a_step_adapted_on_the_chain_breaks_it(adapted):
    # Every chain by itself, so that its step size can follow its own energy: long where L is high, short where low.
    betas = jnp.full((6,), 2.0)

    def move(state, at):
        beta, key = at
        step = jnp.where(state.energy[0] > 0.5, 1.5, 0.05) if adapted else jnp.asarray(1.5)
        schedule = make_schedule([1.0], step_sizes=1.0, num_integration_steps=1)
        schedule = schedule._replace(betas=beta[None], step_sizes=step[None])
        # Each move is move 0 of a schedule of its own, with the sums carried over.
        restarted = state._replace(moves=jnp.zeros_like(state.moves), key=key)
        return path_chunk(restarted, schedule, energy=well, moves=1)[0], None

    def chain(key):
        key_start, key_moves = jax.random.split(key)
        state = init_paths(key_start, chains=1, dimension=1, energy=well)
        state, _ = jax.lax.scan(move, state, (betas, jax.random.split(key_moves, betas.size)))
        return state.position[0], state.heat.total[0] + state.heat.compensation[0]

    position, heat = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(9), CHAINS))
    score = abs(identity_score(heat, position))
    assert score > LOUD if adapted else score < QUIET


def test_the_window_is_what_the_prior_says():
    inside = (GRID > 0.3) & (GRID < 1.7)
    assert abs(PRIOR[inside].sum() - WINDOW_PROBABILITY) < 0.02
