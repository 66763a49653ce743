"""Schedules for the chains of a target: from a pilot with a key of its own, or written down by hand."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax import _checks
from pbjax.certify.target import Target
from pbjax.posteriors.energy import Rows
from pbjax.sampling import (
    AnnealingSchedule,
    PilotReport,
    PilotState,
    PilotTrace,
    choose_schedule,
    init_pilot,
    make_schedule,
    pilot_chunk,
    provisional_ladder,
    usual_integration_steps,
)

PASS_MOVES = 80


class PilotPlan(NamedTuple):
    """Two passes of a pilot, equal in shape so that one compiled program makes both.

    Attributes:
        moves: of each pass.
        num_integration_steps: most leapfrog steps a move, so few that a pass has 80 moves if it can: the acceptance
            depends on the step size, hardly on their number.
    """

    moves: int
    num_integration_steps: int


def plan_pilot(
    gradients: int, *, pilot_gradients: int | None = None, num_integration_steps: int | None = None
) -> PilotPlan:  # fmt: skip
    """Divide a pilot's budget into two passes.

    Args:
        gradients: what a chain of the schedule may cost, >= 2.
        pilot_gradients: what a pilot chain may cost; as much, at least 200, if left out: the pilot is to be given fewer
            rows instead (`pilot_rows`).
        num_integration_steps: most leapfrog steps a move of the schedule, >= 1; `sampling.usual_integration_steps`.

    Returns:
        A `PilotPlan`.

    Raises:
        ValueError: for a budget of fewer than eight moves a pass.

    Example:
        >>> plan_pilot(4000)
        PilotPlan(moves=83, num_integration_steps=24)
    """
    if num_integration_steps is None:
        num_integration_steps = usual_integration_steps(gradients)
    for name, count, least in (("num_integration_steps", num_integration_steps, 1), ("gradients", gradients, 2)):
        _checks.check_range(name, count, low=least, open_high=True, whole=True)
    if pilot_gradients is None:
        pilot_gradients = max(200, gradients)
    each = (pilot_gradients - 2) // 2
    if each < 8:
        raise ValueError(f"pilot_gradients = {pilot_gradients}: two passes of eight moves need at least 18")
    leapfrogs = int(np.clip(each // PASS_MOVES, 1, num_integration_steps))
    return PilotPlan(each // leapfrogs, leapfrogs)


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


def begin_pilot(
    key: jax.Array, step_size: jax.Array, rows: Rows, *, target: Target, chains: int = 1
) -> PilotState:  # fmt: skip
    """Start of one pass of the pilot; its key is no chain's.

    Args:
        key: typed PRNG key.
        step_size: first leapfrog step, scalar, > 0.
        rows: `target.rows`.
        target: static.
        chains: pilot chains; static.

    Returns:
        The carry of `advance_pilot`.
    """
    return init_pilot(
        key, energy=lambda z: target.energy(z, rows), dimension=target.dimension, chains=chains, step_size=step_size
    )


def advance_pilot(
    state: PilotState, betas: jax.Array, rows: Rows, *, target: Target, plan: PilotPlan, moves: int,
    target_acceptance: float = 0.8,
) -> tuple[PilotState, PilotTrace]:  # fmt: skip
    """The next `moves` moves of a pass; those beyond its end do nothing.

    Args:
        state: carry.
        betas: the pass's ladder, [plan.moves].
        rows: `target.rows`.
        target: static.
        plan: static.
        moves: static.
        target_acceptance: what the step size is steered to; static.

    Returns:
        The carry and a `PilotTrace`.
    """
    return pilot_chunk(
        state, betas, energy=lambda z: target.energy(z, rows), moves=moves,
        num_integration_steps=plan.num_integration_steps, target_acceptance=target_acceptance,
    )  # fmt: skip


def second_pass(trace: PilotTrace, plan: PilotPlan, *, target_acceptance: float = 0.8) -> tuple[np.ndarray, float]:
    """Ladder and first step size of the second pass, from the trace of the first.

    Args:
        trace: of the whole first pass, on the cubic ladder.
        plan: the plan.
        target_acceptance: as in `advance_pilot`.

    Returns:
        (rungs float64 [plan.moves], step size).
    """
    rough, _ = choose_schedule(
        trace, gradients=1 + plan.moves * plan.num_integration_steps,
        num_integration_steps=plan.num_integration_steps, target_acceptance=target_acceptance,
    )  # fmt: skip
    # Short trajectories where steps are long leave gradients for more rungs than the pass has moves.
    kept = np.round(np.linspace(0, rough.num_moves - 1, plan.moves)).astype(int)
    return np.asarray(rough.betas)[kept], float(rough.step_sizes[0])


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
    """`sampling.pilot` with the rows as an argument of the compiled program, for large data.

    Args:
        key: typed PRNG key that no reported chain uses.
        target: network, prior and rows, fewer of them than the chains' (`pilot_rows`) for speed.
        beta: last total inverse temperature, > 0; the chains' n is usual.
        gradients: budget a chain of the schedule, >= 2; spent exactly.
        pilot_gradients: budget of the pilot, as in `plan_pilot`.
        num_integration_steps: most leapfrog steps a move, as in `plan_pilot`.
        target_acceptance: of the moves, in (0, 1).

    Returns:
        The frozen schedule, and a report of what it was chosen from.

    Raises:
        ValueError: for a budget that is too small or a number out of range.
    """
    plan = plan_pilot(gradients, pilot_gradients=pilot_gradients, num_integration_steps=num_integration_steps)

    @jax.jit
    def walk(key: jax.Array, betas: jax.Array, size: jax.Array, rows: Rows) -> PilotTrace:
        return advance_pilot(
            begin_pilot(key, size, rows, target=target), betas, rows, target=target, plan=plan, moves=plan.moves,
            target_acceptance=target_acceptance,
        )[1]  # fmt: skip

    first, second = jax.random.split(key)
    betas, size = provisional_ladder(float(beta), moves=plan.moves), target.dimension**-0.25
    trace = walk(first, jnp.asarray(betas), jnp.asarray(size), target.rows)
    betas, size = second_pass(trace, plan, target_acceptance=target_acceptance)
    trace = walk(second, jnp.asarray(betas), jnp.asarray(size), target.rows)
    schedule, report = choose_schedule(
        trace, gradients=gradients, num_integration_steps=num_integration_steps, target_acceptance=target_acceptance
    )
    return schedule, report._replace(gradients=2 * report.gradients)


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
