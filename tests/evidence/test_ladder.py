"""Rung placement against brute force, and the refinement loop."""

import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from pbjax.evidence import (
    SampleStatistics,
    isotonic_decreasing,
    next_rung,
    place_rungs,
    refine,
    thermodynamic_integration,
)
from tests.evidence.quadrature import Quadrature, geometric_ladder, well

TOY = Quadrature(well, points=4001)


def exact_statistics(betas):
    exact = TOY.exact(np.asarray(betas))
    return SampleStatistics(exact.mean, exact.variance, np.zeros_like(exact.mean), exact.mean[:, None], 1)


def excess(betas):
    exact = TOY.exact(betas)
    return float(thermodynamic_integration(betas, exact.mean).left[-1] - exact.neg_log_z[-1])


@hypothesis.given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1)).flatmap(
        lambda x: st.tuples(st.just(x), hnp.arrays(np.float64, x.size, elements=st.floats(0.1, 5)))
    )
)
def test_isotonic_regression_is_the_nearest_decreasing_sequence(case):
    values, weights = case
    expected = IsotonicRegression(increasing=False).fit_transform(np.arange(values.size), values, sample_weight=weights)
    np.testing.assert_allclose(isotonic_decreasing(values, weights), expected, atol=1e-12)


def test_isotonic_regression_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="finite"):
        isotonic_decreasing(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="positive"):
        isotonic_decreasing(np.array([0.5, 0.4]), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="alike"):
        isotonic_decreasing(np.array([0.5, 0.4]), np.array([1.0]))


def test_placed_rungs_are_the_best_of_all_ladders_on_a_small_grid():
    # Straight pieces between few pilot rungs; brute force over the same kind of grid, 0.25 apart.
    pilot, m = np.array([0.0, 1.0, 3.0, 10.0]), np.array([0.9, 0.4, 0.3, 0.1])
    found = place_rungs(pilot, m, num_rungs=4, beta_max=10.0)

    def left(ladder):
        return np.sum(np.diff(ladder) * np.interp(ladder[:-1], pilot, m))

    candidates = np.arange(0.25, 10.0, 0.25)
    brute = min(left(np.array([0.0, a, b, 10.0])) for a, b in itertools.combinations(candidates, 2))
    assert left(found) <= brute * 1.001  # its own grid is finer, but does not contain all of these points
    assert (found[0], found[-1], found.size) == (0.0, 10.0, 4)
    assert np.all(np.diff(found) > 0)


@pytest.mark.parametrize("with_variances", [False, True])
def test_placed_rungs_beat_a_geometric_ladder_even_from_a_noisy_pilot(with_variances):
    rng = np.random.default_rng(0)
    pilot = geometric_ladder(2000.0, 40)
    exact = TOY.exact(pilot)
    noisy = exact.mean + rng.normal(size=40) * np.sqrt(exact.variance / 100)
    placed = place_rungs(pilot, noisy, exact.variance if with_variances else None, num_rungs=12, beta_max=2000.0)
    assert excess(placed) < 0.75 * excess(geometric_ladder(2000.0, 12))
    assert excess(place_rungs(pilot, noisy, num_rungs=24, beta_max=2000.0)) < excess(placed)


def test_place_rungs_refuses_what_the_pilot_cannot_answer():
    pilot, m = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.4, 0.3])
    with pytest.raises(ValueError, match="range of the pilot"):
        place_rungs(pilot, m, num_rungs=3, beta_max=3.0)
    with pytest.raises(ValueError, match="at least 2"):
        place_rungs(pilot, m, num_rungs=1, beta_max=2.0)
    with pytest.raises(ValueError, match="finite"):
        place_rungs(pilot, np.array([0.5, np.nan, 0.3]), num_rungs=3, beta_max=2.0)
    with pytest.raises(ValueError, match="variances"):
        place_rungs(pilot, m, np.array([0.1, 0.1]), num_rungs=3, beta_max=2.0)


def test_next_rung_halves_the_widest_bracket():
    betas = np.array([0.0, 1.0, 4.0, 6.0])
    means = np.array([0.9, 0.8, 0.2, 0.1])
    proposal = next_rung(betas, means)
    assert int(proposal.interval) == 1
    before = thermodynamic_integration(betas, means)
    after = thermodynamic_integration(np.insert(betas, 2, float(proposal.beta)), np.insert(means, 2, 0.5))  # straight
    shrunk = (before.left - before.right)[-1] - (after.left - after.right)[-1]
    np.testing.assert_allclose(shrunk, proposal.gain)
    assert float(jax.jit(next_rung)(betas, means).beta) == 2.5
    assert int(next_rung(betas, np.array([0.9, 0.8, np.nan, 0.1])).interval) == 0
    with pytest.raises(ValueError, match="one rung"):
        next_rung(np.array([0.0]), np.array([0.5]))


def test_refinement_closes_the_bracket_where_it_is_widest():
    asked = []

    def run(new_betas):
        asked.append(new_betas)
        return exact_statistics(new_betas)

    start = np.array([0.0, 20.0, 2000.0])
    found = refine(start, exact_statistics(start), run_rungs=run, tolerance=1.0, max_rungs=200, rungs_per_round=4)
    assert found.converged
    assert found.bracket_width <= 1.0
    assert found.rounds == len(asked)
    assert all(1 <= len(new) <= 4 and np.all(np.diff(new) > 0) for new in asked)
    betas = np.asarray(found.betas)
    np.testing.assert_allclose(found.statistics.mean, TOY.exact(betas).mean)
    sums = thermodynamic_integration(betas, found.statistics.mean)
    np.testing.assert_allclose(sums.left[-1] - sums.right[-1], found.bracket_width, rtol=1e-9)
    assert sums.right[-1] <= TOY.exact(betas).neg_log_z[-1] <= sums.left[-1]
    # An even ladder of the same size is several times worse.
    even = np.linspace(0.0, 2000.0, betas.size)
    wide = thermodynamic_integration(even, TOY.exact(even).mean)
    assert wide.left[-1] - wide.right[-1] > 3 * found.bracket_width


def test_refinement_stops_at_its_limit_and_at_nothing_to_split():
    start = np.array([0.0, 2000.0])
    found = refine(start, exact_statistics(start), run_rungs=exact_statistics, tolerance=1e-6, max_rungs=7)
    assert (found.converged, found.betas.size) == (False, 7)
    done = refine(start, exact_statistics(start), run_rungs=exact_statistics, tolerance=1e9, max_rungs=7)
    assert (done.converged, done.rounds) == (True, 0)


def test_refinement_refuses_bad_settings_and_broken_means():
    start, good = np.array([0.0, 2000.0]), exact_statistics(np.array([0.0, 2000.0]))
    for settings, words in [
        ({"tolerance": 0.0, "max_rungs": 5}, "tolerance"),
        ({"tolerance": 1.0, "max_rungs": 1}, "max_rungs"),
        ({"tolerance": 1.0, "max_rungs": 5, "rungs_per_round": 0}, "rungs_per_round"),
    ]:
        with pytest.raises(ValueError, match=words):
            refine(start, good, run_rungs=exact_statistics, **settings)
    broken = good._replace(mean=np.array([0.9, np.nan]))
    with pytest.raises(ValueError, match="finite"):
        refine(start, broken, run_rungs=exact_statistics, tolerance=1.0, max_rungs=5)
