"""Numbers over seeds: means with errors, permutation tests that assume no law, Holm's correction."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from pbjax._checks import check_range

Values = ArrayLike | Sequence[Any]

_ROUNDING = 1e-9  # relative to a statistic's size: rounding must not tell a permutation from its equals


MOST_SIGNS = 16
"""Pairs up to which `sign_flip` goes through all patterns."""


class MeanDifference(NamedTuple):
    """One group of seeds against another.

    Attributes:
      difference: mean of the first minus mean of the second; None where a group is empty.
      standard_error: of the difference, from the variance of each group; None where a group has fewer than two values.
      p_value: two-sided, of the permutation test; None where a group is empty.
      exact: whether every split was gone through.
      counts: finite values of the first and of the second.
    """

    difference: float | None
    standard_error: float | None
    p_value: float | None
    exact: bool
    counts: tuple[int, int]


class RankCorrelation(NamedTuple):
    """Spearman's rho of pairs.

    Attributes:
      rho: in [-1, 1]; None where fewer than three pairs, or constant ones, leave none.
      p_value: two-sided, of the permutation test; None like rho.
      exact: whether every order was gone through.
      count: pairs with two finite values.
    """

    rho: float | None
    p_value: float | None
    exact: bool
    count: int


def mean_and_error(values: Iterable[float]) -> tuple[float, float, int]:
    """Mean, its standard error over seeds, and how many of the values are finite.

    Args:
      values: one a seed; NaN is left out.

    Returns:
      (mean, standard error, count); NaN where the count is too small (0 and 1).

    Example:
      >>> mean_and_error([1.0, 3.0, float("nan")])
      (2.0, 1.0, 2)
    """
    kept = [number for number in values if math.isfinite(number)]
    count = len(kept)
    mean = math.fsum(kept) / count if count else math.nan
    spread = math.fsum((number - mean) ** 2 for number in kept)
    return mean, math.sqrt(spread / (count - 1) / count) if count > 1 else math.nan, count


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the k-th least of m becomes max over j <= k of min(1, (m - j + 1) p_(j)).

    Args:
      p_values: in [0, 1]; None (no test) takes no part.

    Returns:
      Corrected values in the same order.

    Example:
      >>> holm([0.04, 0.01, None, 0.03])
      [0.06, 0.03, None, 0.06]

    References:
      Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def _share(found: np.ndarray, observed: float, size: float, *, exact: bool) -> float:
    """Share of permutations at least as far from 0; drawn ones are joined by the observed one, so it is never 0."""
    hits = int(np.sum(np.abs(found) >= abs(observed) - _ROUNDING * size))
    return hits / len(found) if exact else (1 + hits) / (1 + len(found))


def difference_of_means(first: Values, second: Values, *, draws: int = 50_000) -> MeanDifference:
    """Two-sided permutation test that two groups are draws of one law: the labels are dealt out anew.

    Args:
      first: values of one group [n]; NaN and infinities are left out.
      second: values of the other [m].
      draws: splits that are drawn with a fixed seed where there are more of them than this; else all are gone
        through · >= 1.

    Returns:
      Difference, Welch's standard error, the share of splits whose difference is at least as far from 0, and counts.

    Raises:
      ValueError: draws is less than 1.

    Example:
      >>> difference_of_means([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])[:3]  # the greatest of 20 differences, and its mirror
      (3.0, 0.816496580927726, 0.1)

    References:
      Phipson and Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and
      Molecular Biology 2010.
    """
    check_range("draws", draws, low=1, whole=True)
    groups = [np.asarray(group, float).ravel() for group in (first, second)]
    a, b = (group[np.isfinite(group)] for group in groups)
    n, m = counts = (len(a), len(b))
    if not n or not m:
        return MeanDifference(None, None, None, True, counts)
    difference = float(a.mean() - b.mean())
    error = math.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / m) if min(counts) > 1 else None
    # Centred, so that the sum of a group says all: its mean minus the other's is sum (1/n + 1/m).
    pooled = np.concatenate([a, b])
    pooled = pooled - pooled.mean()
    exact = math.comb(n + m, n) <= draws
    if exact:
        members = np.array(list(itertools.combinations(range(n + m), n)))
    else:
        # The n places of least noise are a split drawn at random.
        members = np.random.default_rng(0).random((draws, n + m)).argsort(axis=1)[:, :n]
    found = pooled[members].sum(axis=1)
    p_value = _share(found, float(pooled[:n].sum()), float(np.abs(pooled).sum()), exact=exact)
    return MeanDifference(difference, error, p_value, exact, counts)


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided sign-flip test that paired differences are symmetric about 0: all 2^n patterns, none assumed.

    Args:
      differences: one a pair [n]. Beyond n = 16, 65,536 patterns are drawn with a fixed seed.

    Returns:
      The share of patterns whose sum is at least as far from 0; never below 2/2^n, and 1 without pairs.

    Example:
      >>> sign_flip([1.0, 2.0, 3.0, 4.0, 5.0])  # only + + + + + and its mirror: 2 of 32
      0.0625
    """
    given = np.asarray(differences, float)
    if given.size > MOST_SIGNS:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(2**MOST_SIGNS, given.size))
        signs[0] = 1.0
    else:
        signs = 1.0 - 2.0 * ((np.arange(2**given.size)[:, None] >> np.arange(given.size)) & 1)
    sums = np.abs(signs @ given)
    # Rounding must not tell a pattern from its mirror.
    return float(np.mean(sums >= np.abs(given.sum()) - 1e-12 * np.abs(given).sum()))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Centred ranks of length 1; equal values share the mean of theirs."""
    _, place, copies = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(copies) - (copies - 1) / 2)[place]
    return (ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean())


def rank_correlation(x: Values, y: Values, *, draws: int = 50_000) -> RankCorrelation:
    """Spearman's rho, with a two-sided permutation test that x and y are independent.

    Args:
      x: one value a seed [n]; pairs with a value that is not finite are left out.
      y: likewise [n].
      draws: orders that are drawn with a fixed seed where there are more of them than this (n > 8 by default); else
        all are gone through · >= 1.

    Returns:
      rho with mean ranks for ties, and the share of orders whose rho is at least as far from 0.

    Raises:
      ValueError: x and y have different lengths, or draws is less than 1.

    Example:
      >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 8.0, 9.0])  # two of 24 orders are as good
      RankCorrelation(rho=1.0, p_value=0.08333333333333333, exact=True, count=4)

    References:
      Phipson and Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and
      Molecular Biology 2010.
    """
    check_range("draws", draws, low=1, whole=True)
    a, b = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
    if a.size != b.size:
        raise ValueError(f"x has {a.size} values and y {b.size}; give one of each a seed")
    kept = np.isfinite(a) & np.isfinite(b)
    count = int(kept.sum())
    if count < 3 or np.ptp(a[kept]) == 0 or np.ptp(b[kept]) == 0:
        return RankCorrelation(None, None, True, count)
    a, b = _ranks(a[kept]), _ranks(b[kept])
    rho = float(np.clip(a @ b, -1.0, 1.0))
    exact = math.factorial(count) <= draws
    if exact:
        orders = b[np.array(list(itertools.permutations(range(count))))]
    else:
        orders = np.random.default_rng(0).permuted(np.tile(b, (draws, 1)), axis=1)
    return RankCorrelation(rho, _share(orders @ a, rho, 1.0, exact=exact), exact, count)
