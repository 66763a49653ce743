"""Where the rungs go: a ladder from a pilot's curve, the next rung, and the loop that closes the bracket."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax.evidence.integration import check_ladder
from pbjax.evidence.statistics import SampleStatistics, merge_rungs

_CANDIDATES = 400  # points the exact ladder search may choose from; its cost is num_rungs · _CANDIDATES²


class NextRung(NamedTuple):
    """Where one more rung would close the bracket most.

    Attributes:
      beta: scalar · the middle of the interval with the widest bracket.
      interval: scalar integer k · the interval is (betas[k], betas[k+1]).
      bracket_width: scalar · d (m_k − m_{k+1}) of that interval, in nats.
      gain: scalar · by how much the whole bracket would shrink if m were straight there: half its width.
    """

    beta: jax.Array
    interval: jax.Array
    bracket_width: jax.Array
    gain: jax.Array


class Refinement(NamedTuple):
    """What ``refine`` ends with.

    Attributes:
      betas: [K'] · the refined ladder.
      statistics: SampleStatistics at its rungs.
      bracket_width: left − right at the last rung, in nats.
      rounds: how often new rungs were run.
      converged: whether the bracket is within the tolerance.
    """

    betas: np.ndarray
    statistics: SampleStatistics
    bracket_width: float
    rounds: int
    converged: bool


def isotonic_decreasing(values: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """The decreasing sequence nearest to noisy values in weighted squares (pool adjacent violators), on the host.

    argmin_{x_1 ≥ x_2 ≥ ...} Σ w_k (x_k − values_k)².

    Args:
      values: [K] · noisy values of a decreasing curve.
      weights: [K] · positive; None for equal ones.

    Returns:
      float64 [K].

    Raises:
      ValueError: if a value is not finite, a weight is not positive, or the shapes differ.

    Example:
      >>> print(isotonic_decreasing(np.array([3.0, 1.0, 2.0, 0.0])))
      [3. 1.5 1.5 0. ]

    References:
      Ayer, Brunk, Ewing, Reid, Silverman 1955, An empirical distribution function for sampling with incomplete
      information.
    """
    noisy = np.asarray(values, dtype=np.float64)
    mass_of = np.ones_like(noisy) if weights is None else np.asarray(weights, dtype=np.float64)
    if noisy.ndim != 1 or mass_of.shape != noisy.shape:
        raise ValueError(f"values and weights must be [K] alike, got shapes {noisy.shape} and {mass_of.shape}")
    if not np.all(np.isfinite(noisy)):
        raise ValueError(f"values must be finite, got {noisy}; leave out the rungs that failed")
    if not np.all(mass_of > 0):
        raise ValueError(f"weights must be positive, got {mass_of}")
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(noisy.tolist(), mass_of.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] < block[0]:
            mean, mass, length = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, length + block[2])
        blocks.append(block)
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def _interpolate(betas: np.ndarray, means: np.ndarray, slopes: np.ndarray | None, grid: np.ndarray) -> np.ndarray:
    if slopes is None:
        return np.interp(grid, betas, means)
    interval = np.clip(np.searchsorted(betas, grid, side="right") - 1, 0, betas.size - 2)
    width = np.diff(betas)[interval]
    secant = (np.diff(means) / np.diff(betas))[interval]
    # Slopes of at most three times the secant keep the cubic monotone (Fritsch and Carlson 1980).
    before = np.clip(slopes[interval], 3 * secant, 0)
    after = np.clip(slopes[interval + 1], 3 * secant, 0)
    x = (grid - betas[interval]) / width
    return (
        means[interval]
        + secant * width * x * x * (3 - 2 * x)
        + width * (before * x * (1 - x) ** 2 - after * x * x * (1 - x))
    )


def place_rungs(
    betas: ArrayLike, means: ArrayLike, variances: ArrayLike | None = None, *, num_rungs: int, beta_max: ArrayLike
) -> np.ndarray:
    """The ladder of given size with the least left sum at beta_max, from a pilot's curve m(b). On the host.

    argmin Σ_k (b_k − b_{k-1}) m(b_{k-1}) over 0 = b_0 < ... < b_{num_rungs−1} = beta_max: as Λ is the same for all
    ladders, this minimises what the left sum adds to Λ, by exact dynamic programming over a fine grid. The pilot's
    means are made decreasing first (isotonic regression).

    Args:
      betas: [G] · total inverse temperatures of the pilot · increasing from 0, best dense.
      means: [G] · the pilot's E[L], noisy.
      variances: [G] · variances of L, which are minus the slopes of m: with them m is interpolated by a monotone
        cubic, without them by straight lines.
      num_rungs: rungs wanted, both ends included · at least 2.
      beta_max: last rung · in (0, betas[-1]].

    Returns:
      float64 [num_rungs], increasing from 0 to beta_max.

    Raises:
      ValueError: for a ladder that does not start at 0 or does not increase, means that are not finite, fewer than two
        rungs, or a ``beta_max`` that the pilot did not reach.

    Example:
      >>> pilot, means = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.8, 0.2, 0.1, 0.1])
      >>> print(place_rungs(pilot, means, num_rungs=3, beta_max=4.0))
      [0. 1. 4.]

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.2.
    """
    check_ladder(betas, means=means)
    pilot = np.asarray(betas, dtype=np.float64)
    curve = isotonic_decreasing(means)
    slopes = None if variances is None else -np.asarray(variances, dtype=np.float64)
    last = float(np.asarray(beta_max))
    if slopes is not None and (slopes.shape != pilot.shape or not np.all(slopes <= 0)):
        raise ValueError(f"variances must be [{pilot.size}] and at least 0, got {variances}; or leave them out")
    if num_rungs < 2:
        raise ValueError(f"num_rungs must be at least 2 (the prior and beta_max), got {num_rungs}")
    if not 0 < last <= pilot[-1]:
        raise ValueError(f"beta_max must be in (0, {pilot[-1]}], the range of the pilot, got {last}; extend the pilot")

    inside = pilot[pilot < last]
    corners = np.concatenate([inside, [last]])
    parts = max(1, math.ceil(max(_CANDIDATES, 4 * num_rungs) / (corners.size - 1)))
    fractions = np.arange(parts) / parts
    grid = (corners[:-1, None] + np.diff(corners)[:, None] * fractions).ravel()
    grid = np.concatenate([grid, [last]])
    m = _interpolate(pilot, curve, slopes, grid)

    # cost[i, j]: left sum of one step from grid[i] to grid[j].
    cost = np.where(grid[None, :] > grid[:, None], (grid[None, :] - grid[:, None]) * m[:, None], np.inf)
    best = cost[0]  # least left sum at grid[j] with one step
    choices = []
    for _ in range(num_rungs - 2):
        through = best[:, None] + cost
        choices.append(np.argmin(through, axis=0))
        best = np.min(through, axis=0)
    path = [grid.size - 1]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return grid[[0, *reversed(path)]]


def next_rung(betas: ArrayLike, mean_losses: ArrayLike) -> NextRung:
    """Where another rung would help most: the middle of the interval with the widest bracket.

    argmax_k (b_{k+1} − b_k)(m_k − m_{k+1}).

    Args:
      betas: [K] · total inverse temperature · increasing from 0, K ≥ 2.
      mean_losses: [K] · E[L] under Q_b.

    Returns:
      NextRung of scalars.

    Raises:
      ValueError: as ``thermodynamic_integration``, and for a ladder of one rung.

    Example:
      >>> proposal = next_rung(jnp.array([0.0, 1.0, 3.0]), jnp.array([1.0, 0.5, 0.25]))
      >>> print(proposal.beta, proposal.bracket_width, proposal.gain)
      0.5 0.5 0.25
    """
    betas, means = check_ladder(betas, mean_losses=mean_losses)
    if betas.size < 2:
        raise ValueError("a ladder of one rung has no interval; add the largest beta of interest")
    widths = jnp.diff(betas) * (means[:-1] - means[1:])
    k = jnp.argmax(jnp.where(jnp.isnan(widths), -jnp.inf, widths))
    return NextRung(beta=(betas[k] + betas[k + 1]) / 2, interval=k, bracket_width=widths[k], gain=widths[k] / 2)


def _proposals(betas: np.ndarray, means: np.ndarray, count: int) -> np.ndarray:
    """The next ``count`` rungs if m were straight between its rungs: each half has a quarter of the bracket."""
    pieces = [
        (max((high - low) * drop, 0.0), low, high)
        for low, high, drop in zip(betas[:-1], betas[1:], means[:-1] - means[1:], strict=True)
    ]
    chosen = []
    for _ in range(count):
        widest = max(pieces)
        pieces.remove(widest)
        width, low, high = widest
        middle = (low + high) / 2
        if not low < middle < high or width == 0:
            break
        chosen.append(middle)
        pieces += [(width / 4, low, middle), (width / 4, middle, high)]
    return np.sort(np.array(chosen))


def refine(
    betas: ArrayLike,
    statistics: SampleStatistics,
    *,
    run_rungs: Callable[[np.ndarray], SampleStatistics],
    tolerance: float,
    max_rungs: int,
    rungs_per_round: int = 1,
) -> Refinement:
    """Add rungs where the bracket is widest until left − right at the last rung is within a tolerance. On the host.

    The ladder then depends on the draws. Each rung's own limits stay valid, but their number is no longer fixed in
    advance: refine a pilot and certify with fresh draws on the ladder found.

    Args:
      betas: [K] · total inverse temperature · increasing from 0.
      statistics: SampleStatistics of L at the rungs.
      run_rungs: given new betas [r], increasing, returns their SampleStatistics.
      tolerance: target of left − right in nats · positive.
      max_rungs: largest size of the ladder.
      rungs_per_round: how many rungs are asked of ``run_rungs`` at once.

    Returns:
      Refinement, with ``converged`` False when ``max_rungs`` came first (or no interval could be split).

    Raises:
      ValueError: as ``next_rung``, for means that are not finite, and for a tolerance, ``max_rungs`` or
        ``rungs_per_round`` out of range.

    Example:
      >>> def exact(betas):  # m(b) = 1/(1 + b), as if sampled without error
      ...     m = 1 / (1 + np.asarray(betas))
      ...     return SampleStatistics(m, m**2, np.zeros_like(m), m[:, None], 1)
      >>> start = np.array([0.0, 8.0])
      >>> found = refine(start, exact(start), run_rungs=exact, tolerance=0.5, max_rungs=50)
      >>> print(found.converged, found.bracket_width < 0.5)
      True True

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.2.
    """
    next_rung(betas, statistics.mean)  # the checks at the door
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive nats, got {tolerance}")
    if rungs_per_round < 1 or max_rungs < np.size(betas):
        raise ValueError(
            f"need rungs_per_round >= 1 and max_rungs >= {np.size(betas)}, got {rungs_per_round} and {max_rungs}"
        )
    ladder, rounds = np.asarray(betas), 0
    while True:
        known, means = np.asarray(ladder, dtype=np.float64), np.asarray(statistics.mean, dtype=np.float64)
        if not np.all(np.isfinite(means)):
            raise ValueError(f"mean energies must be finite, got {means}; look at the sampler of that rung")
        width = float(np.sum(np.diff(known) * (means[:-1] - means[1:])))
        room = max_rungs - known.size
        if width <= tolerance or room <= 0:
            break
        new_betas = _proposals(known, means, min(rungs_per_round, room))
        if new_betas.size == 0:
            break
        ladder, statistics = merge_rungs(ladder, statistics, new_betas=new_betas, new_statistics=run_rungs(new_betas))
        rounds += 1
    return Refinement(ladder, statistics, bracket_width=width, rounds=rounds, converged=width <= tolerance)
