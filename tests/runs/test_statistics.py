"""Means, permutation tests and Holm's correction: by hand, by enumeration, and against scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pbjax.runs import difference_of_means, holm, mean_and_error, rank_correlation, sign_flip

SMALL = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=4)


def test_mean_and_error_by_hand():
    mean, error, count = mean_and_error([1.0, math.nan, 2.0, 3.0, 4.0])
    assert (mean, count) == (2.5, 4) and error == pytest.approx(math.sqrt(5 / 12), rel=1e-12)
    assert mean_and_error([5.0])[0] == 5.0 and math.isnan(mean_and_error([5.0])[1])
    assert math.isnan(mean_and_error([])[0]) and mean_and_error([math.inf])[2] == 0


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 and max with what went before, 0.9 * 1.
    assert holm([0.9, 0.01, 0.03, 0.02]) == pytest.approx([0.9, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([None, 0.2]) == [None, 0.2]
    assert holm([]) == []


@given(SMALL, SMALL)
def test_difference_of_means_by_enumeration(first, second):
    pooled, observed = [*first, *second], np.mean(first) - np.mean(second)
    splits = list(itertools.combinations(range(len(pooled)), len(first)))
    hits = 0
    for own in splits:
        others = [pooled[i] for i in range(len(pooled)) if i not in own]
        hits += abs(np.mean([pooled[i] for i in own]) - np.mean(others)) >= abs(observed) - 1e-9
    found = difference_of_means(first, second)
    assert found.exact and found.difference == pytest.approx(observed, abs=1e-12)
    assert found.p_value == hits / len(splits)


def test_difference_of_means_drawn_agrees_with_all():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.6, 1, size=7), rng.normal(size=6)
    exact, drawn = difference_of_means(first, second), difference_of_means(first, second, draws=1000)
    assert exact.exact and not drawn.exact
    # 1000 draws: five standard errors of a share, a false alarm in less than one of a million.
    assert abs(exact.p_value - drawn.p_value) < 5 * math.sqrt(exact.p_value * (1 - exact.p_value) / 1000)
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert exact.difference / exact.standard_error == pytest.approx(float(np.asarray(welch)[0]), rel=1e-9)


def test_a_drawn_p_value_is_never_zero():
    far = difference_of_means(np.arange(20.0), np.arange(20.0) + 100, draws=99)
    assert not far.exact and far.p_value == 1 / 100
    same = np.arange(30.0)
    assert rank_correlation(same, same, draws=99).p_value == 1 / 100


@given(SMALL.filter(lambda values: len(values) > 2), st.randoms(use_true_random=False))
def test_rank_correlation_by_enumeration(x, random):
    y = [float(random.randint(-2, 2)) for _ in x]
    found = rank_correlation(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found[:2] == (None, None)
        return
    ranks = stats.rankdata(x), stats.rankdata(y)
    observed = np.corrcoef(*ranks)[0, 1]
    every = [abs(np.corrcoef(ranks[0], order)[0, 1]) for order in itertools.permutations(ranks[1])]
    assert found.exact and found.rho == pytest.approx(observed, abs=1e-9)
    assert found.p_value == np.mean(np.array(every) >= abs(observed) - 1e-9)


def test_rank_correlation_drawn_is_near_the_t_law():
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    y = 0.25 * x + rng.normal(size=40)
    reference = np.asarray(stats.spearmanr(x, y))
    found = rank_correlation(np.append(x, np.nan), np.append(y, 1.0))
    assert found.count == 40 and not found.exact
    assert found.rho == pytest.approx(float(reference[0]), rel=1e-12)
    assert found.p_value == pytest.approx(float(reference[1]), abs=0.02)


def test_too_little_says_none_and_bad_input_is_refused():
    assert difference_of_means([1.0], [3.0])[:3] == (-2.0, None, 1.0)
    assert difference_of_means([], [3.0]) == (None, None, None, True, (0, 1))
    assert difference_of_means([None, 1.0], [math.nan]).counts == (1, 0)
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) == (None, None, True, 2)
    with pytest.raises(ValueError, match="x has 2 values and y 3"):
        rank_correlation([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="draws = 0"):
        difference_of_means([1.0], [2.0], draws=0)
    with pytest.raises(ValueError, match="draws = 0"):
        rank_correlation([1.0, 2.0, 3.0], [2.0, 1.0, 3.0], draws=0)


def test_sign_flip_by_enumeration():
    # 3, 1, -1: sums over signs are +-5, +-3, +-3, +-1 (each sign pattern); |observed| = 3 -> 6 of 8.
    assert sign_flip([3.0, 1.0, -1.0]) == 6 / 8
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5]) == 1 / 16
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([2.0]) == 1.0
    assert sign_flip(np.ones(20)) < 1e-3
