"""Schedules for the chains of a target: from a pilot with a key of its own, or written down by hand."""

from __future__ import annotations

import jax
import numpy as np

from pbjax import _checks
from pbjax.certify.target import Target
from pbjax.sampling import AnnealingSchedule, PilotReport, make_schedule, pilot


def pilot_rows(n: int, count: int | None = None) -> np.ndarray:
    """Rows for a pilot, evenly spaced: step sizes and rungs can be had from fewer rows at the same inverse temperature.

    Args:
        n: number of rows.
        count: how many to keep, in 1..n; a tenth, but 2,000 if there are as many, if left out.

    Returns:
        Indices, increasing, [count].

    Raises:
        ValueError: for a count outside 1..n.

    Example:
        >>> pilot_rows(60_000).size, pilot_rows(1437).size, pilot_rows(9, 3).tolist()
        (6000, 1437, [0, 4, 8])
    """
    count = min(n, max(2000, n // 10)) if count is None else count
    _checks.check_range("pilot_rows", count, low=1.0, high=float(n), whole=True)
    return np.round(np.linspace(0, n - 1, count)).astype(int)


def pilot_schedule(
    key: jax.Array,
    target: Target,
    *,
    beta: float | int,
    gradients: int,
    pilot_gradients: int | None = None,
    num_integration_steps: int | None = None,
    target_acceptance: float = 0.8,
) -> tuple[AnnealingSchedule, PilotReport]:
    """`sampling.pilot` of a target.

    Args:
        key: typed PRNG key that no reported chain uses.
        target: network, prior and rows, fewer of them than the chains' (`pilot_rows`) for speed.
        beta: last total inverse temperature, > 0; the chains' n is usual.
        gradients: budget a chain of the schedule, >= 2; spent exactly.
        pilot_gradients: budget of the pilot, as in `sampling.plan_pilot`.
        num_integration_steps: most leapfrog steps a move, as in `sampling.plan_pilot`.
        target_acceptance: of the moves, in (0, 1).

    Returns:
        The frozen schedule, and a report of what it was chosen from.

    Raises:
        ValueError: for a budget that is too small or a number out of range.
    """
    return pilot(
        key, energy=target.energy, arguments=(target.rows,), dimension=target.dimension, beta=beta, gradients=gradients,
        pilot_gradients=pilot_gradients, num_integration_steps=num_integration_steps,
        target_acceptance=target_acceptance,
    )  # fmt: skip


def cubic_schedule(
    *, beta: float | int, gradients: int, dimension: int, num_integration_steps: int = 8, step_size: float | int = 1.0,
    stiffness: float | int = 200.0,
) -> AnnealingSchedule:  # fmt: skip
    """b_k = beta (k/K)³ with steps that shrink as the rungs grow steep, spending a budget of gradients.

    step_k = step_size d^(-1/4) / sqrt(1 + b_k / stiffness)

    Whatever its numbers, a certificate holds; good ones make it tight.

    Args:
        beta: last total inverse temperature, > 0; n is usual.
        gradients: budget a chain, at least `num_integration_steps` + 1.
        dimension: number of parameters d.
        num_integration_steps: leapfrog steps a move, >= 1.
        step_size: of the prior's rung, times d^(1/4), > 0.
        stiffness: the inverse temperature at which the energy bends the density as much as the prior does, > 0.

    Returns:
        An `AnnealingSchedule` of K = (gradients - 1) // num_integration_steps moves.

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> schedule = cubic_schedule(beta=1000.0, gradients=81, dimension=16)
        >>> schedule.num_moves, schedule.num_gradients, schedule.betas.tolist()[-1]
        (10, 81, 1000.0)
    """
    for name, value in (("beta", beta), ("step_size", step_size), ("stiffness", stiffness)):
        _checks.check_range(name, value, low=0.0, open_low=True, open_high=True)
    for name, value, least in (
        ("dimension", dimension, 1), ("num_integration_steps", num_integration_steps, 1),
        ("gradients", gradients, num_integration_steps + 1),
    ):  # fmt: skip
        _checks.check_range(name, value, low=least, open_high=True, whole=True)
    moves = (gradients - 1) // num_integration_steps
    betas = beta * (np.arange(1, moves + 1) / moves) ** 3
    return make_schedule(
        betas, step_sizes=step_size * dimension**-0.25 / np.sqrt(1 + betas / stiffness),
        num_integration_steps=num_integration_steps,
    )  # fmt: skip
