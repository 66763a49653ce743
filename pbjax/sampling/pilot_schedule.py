"""From the trace of a pilot to a frozen schedule: rungs, step sizes and trajectories, on the host.

G moves of the pilot, M chains, K moves of the schedule, B windows of successive pilot moves.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import jax
import numpy as np

from pbjax import _checks
from pbjax.evidence.ladder import isotonic_decreasing
from pbjax.sampling.schedule import AnnealingSchedule, make_schedule

QUARTER_PERIOD = math.pi / 2  # of a standard normal prior: one trajectory of this length forgets its start
LARGEST_STEP = 1.0  # of the prior's standard deviation; the leapfrog of a standard normal is unstable from 2 on
_WINDOW = 8  # fewest moves a window, if the pilot has that many for two of them
_MOST_WINDOWS = 24
_PASS_MOVES = 80  # step sizes follow the rungs in some eighty moves


class PilotTrace(NamedTuple):
    """What a chunk of the pilot reports of its G moves; NaN in moves beyond the end of its ladder.

    Attributes:
        beta: [G].
        energy: L after the move, [G, M].
        acceptance: Metropolis acceptance probability, [G, M].
        step_size: the step size of the move, [G].
        num_integration_steps: its leapfrog steps, int32 [G], 0 beyond the end.
        heat: beta times the drop of L in this move, [G, M].
        observed: functionals after the move, [G, M, F], or None.
    """

    beta: jax.Array
    energy: jax.Array
    acceptance: jax.Array
    step_size: jax.Array
    num_integration_steps: jax.Array
    heat: jax.Array
    observed: jax.Array | None


class PilotReport(NamedTuple):
    """What a schedule was chosen from, in B windows of the pilot; host numbers for a log or a figure.

    Attributes:
        betas: mean inverse temperature of each window, [B].
        last_betas: inverse temperature at the end of each window, [B].
        energy: mean L over moves and chains, made decreasing, [B].
        acceptance: mean acceptance of the pilot, [B].
        pilot_step_sizes: geometric mean of the pilot's step sizes, [B].
        step_sizes: what the schedule interpolates, [B].
        rung_share: share of the schedule's moves up to each window's beta, [B];
            above 1 where it stops before.
        heat: mean W of the pilot's chains up to the end of each window, nats, [B].
        last_energy: mean L at the end of each window, [B]. With `heat` it foretells the certificate of a chain that
            stops there, as far as the pilot was as slow as that chain will be.
        observed: mean functionals at the end of each window, [B, F], or None.
        gradients: what a chain of this trace cost, the start included; `pilot` reports the sum of its passes.
    """

    betas: np.ndarray
    last_betas: np.ndarray
    energy: np.ndarray
    acceptance: np.ndarray
    pilot_step_sizes: np.ndarray
    step_sizes: np.ndarray
    rung_share: np.ndarray
    heat: np.ndarray
    last_energy: np.ndarray
    observed: np.ndarray | None
    gradients: int


def usual_integration_steps(gradients: int) -> int:
    """Leapfrog steps a move for a budget: few long trajectories, thirty moves at least, 4 to 96 steps.

    Args:
        gradients: what one chain may cost.

    Returns:
        gradients // 30 within [4, 96].

    Example:
        >>> [usual_integration_steps(budget) for budget in (60, 1000, 20_000)]
        [4, 33, 96]
    """
    return min(max(gradients // 30, 4), 96)


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
        pilot_gradients: what a pilot chain may cost; as much, at least 200, if left out: it walks at the speed of
            the chain that it is to foresee, and is made cheaper by an energy of fewer rows.
        num_integration_steps: most leapfrog steps a move of the schedule, >= 1; `usual_integration_steps`.

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
    leapfrogs = int(np.clip(each // _PASS_MOVES, 1, num_integration_steps))
    return PilotPlan(each // leapfrogs, leapfrogs)


def _to_target(step: np.ndarray, acceptance: np.ndarray, target: float) -> np.ndarray:
    """Step sizes at which the acceptance would be the target, from 2 Phi(-c step^2) = acceptance."""
    inverse = NormalDist().inv_cdf
    wanted = inverse(target / 2)
    # A window's acceptance is itself uncertain; a factor of 1.5 is as far as one may go on its word.
    factors = [math.sqrt(wanted / inverse(float(a) / 2)) for a in np.clip(acceptance, 0.02, 0.98)]
    return step * np.clip(factors, 1 / 1.5, 1.5)


def _spend(share: np.ndarray, corners: np.ndarray, starts: np.ndarray, log_steps: np.ndarray, budget: int, most: int):
    """The largest K whose moves fit into the budget, with what is left given to the last moves."""

    def moves(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        betas = np.interp(np.arange(1, count + 1) / count, share, corners)
        steps = np.exp(np.interp(np.log(betas), np.log(starts), log_steps))
        lengths = np.clip(np.ceil(QUARTER_PERIOD / steps), 1, most).astype(int)
        return betas, steps, lengths

    low, high = 1, budget  # every move costs at least one gradient
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if moves(middle)[2].sum() <= budget else (low, middle - 1)
    betas, steps, lengths = moves(low)
    lengths = np.minimum(lengths, budget)
    left = budget - int(lengths.sum())
    lengths += left // low
    if left % low:
        lengths[-(left % low) :] += 1
    return betas, steps, lengths


def choose_schedule(
    trace: PilotTrace,
    *,
    gradients: int,
    beta: float | None = None,
    num_integration_steps: int | None = None,
    target_acceptance: float = 0.8,
    step_exponent: float = 0.5,
    floor: float = 0.1,
) -> tuple[AnnealingSchedule, PilotReport]:
    r"""The schedule that a pilot's trace suggests, up to its last rung, for a given number of gradients.

    Moves are spread with density $\sqrt{-m'(b)}\,/\,\varepsilon(b)^{\gamma}$ over b, of which a share `floor` is spread
    evenly over log b; m is the mean of L in windows of moves, made decreasing. Step sizes are moved from the acceptance
    a that the pilot had to the target by $a = 2\Phi(-c\,\varepsilon^2)$, made decreasing, and interpolated in log b.

    Args:
        trace: `PilotTrace` of the whole pilot (chunks joined along the first axis); NaN moves are left out.
        gradients: what one chain may cost, its start included; at least 2, spent exactly.
        beta: last rung, > 0 and no higher than the pilot's; the pilot's by default.
        num_integration_steps: most leapfrog steps a move, but for the few that use up the budget; >= 1; by default
            `usual_integration_steps(gradients)`.
        target_acceptance: in (0, 1).
        step_exponent: gamma, >= 0.
        floor: share in [0, 1] of moves placed evenly in log b, so that noise in m leaves no hole.

    Returns:
        The `AnnealingSchedule` and a `PilotReport`.

    Raises:
        ValueError: for fewer than four moves, a last rung that the pilot did not reach, an energy that is not finite,
            or a value out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from pbjax.sampling import init_pilot, pilot_chunk
        >>> energy = lambda z: jnp.mean(jnp.tanh(z - 1.0) ** 2)
        >>> state = init_pilot(jax.random.key(0), energy=energy, dimension=5)
        >>> _, trace = pilot_chunk(state, jnp.geomspace(1.0, 50.0, 40), energy=energy, moves=40)
        >>> schedule, report = choose_schedule(trace, gradients=301)
        >>> schedule.num_gradients, float(schedule.betas[-1]), report.betas.shape
        (301, 50.0, (5,))
    """
    _checks.check_range("gradients", gradients, low=2.0, open_high=True, whole=True)
    if num_integration_steps is None:
        num_integration_steps = usual_integration_steps(gradients)
    _checks.check_range("num_integration_steps", num_integration_steps, low=1.0, open_high=True, whole=True)
    _checks.check_range("target_acceptance", target_acceptance, low=0.0, high=1.0, open_low=True, open_high=True)
    _checks.check_range("step_exponent", step_exponent, low=0.0, open_high=True)
    _checks.check_range("floor", floor, low=0.0, high=1.0)
    made = np.flatnonzero(np.isfinite(np.asarray(trace.beta)))
    if made.size < 4:
        raise ValueError(f"the pilot made {made.size} moves; give it at least 4")
    betas, sizes = np.asarray(trace.beta, np.float64)[made], np.asarray(trace.step_size, np.float64)[made]
    energies, heats = np.asarray(trace.energy, np.float64)[made], np.asarray(trace.heat, np.float64)[made]
    accepted = np.nan_to_num(np.asarray(trace.acceptance, np.float64)[made])
    if not np.all(np.isfinite(energies)):
        raise ValueError("the pilot met an energy that is not finite; L must be finite wherever the prior reaches")

    last = betas[-1] if beta is None else float(beta)
    _checks.check_range(
        "beta", last, low=0.0, open_low=True, high=betas[-1], remedy=f"the pilot reached ({0:g}, {betas[-1]:g}]"
    )

    windows = np.array_split(np.arange(made.size), int(np.clip(made.size // _WINDOW, 2, _MOST_WINDOWS)))

    def means(values: np.ndarray) -> np.ndarray:
        return np.array([values[window].mean() for window in windows])

    points, acceptance, pilot_steps = means(betas), means(accepted), np.exp(means(np.log(sizes)))
    # A window's step size holds from where it begins: the slower chain may meet the fall of L earlier than the pilot.
    starts = np.array([betas[window[0]] for window in windows])
    weights = np.array([float(window.size) for window in windows])
    start = float((energies[0] + heats[0] / betas[0]).mean())  # L before the first move, at beta = 0
    m = isotonic_decreasing(np.append(start, means(energies)), np.append(1.0, weights))
    log_steps = np.log(np.minimum(_to_target(pilot_steps, acceptance, target_acceptance), LARGEST_STEP))
    log_steps = isotonic_decreasing(log_steps, weights)

    corners = np.concatenate([[0.0], points, betas[-1:]])
    lengths = np.sqrt(np.diff(corners) * -np.diff(np.append(m, m[-1])))
    # Beyond the last window's mean the density in log b goes on as it was.
    decades = np.log(corners[2:] / corners[1:-1])
    lengths[-1] = lengths[-2] * decades[-1] / decades[-2]
    lengths = lengths * np.exp(-step_exponent * np.append(log_steps, log_steps[-1]))
    even = np.append(1.0, decades)
    even = even / even.sum()
    density = even if lengths.sum() == 0 else (1 - floor) * lengths / lengths.sum() + floor * even
    share = np.append(0.0, np.cumsum(density))
    share /= np.interp(last, corners, share)  # beyond `last` above 1: never reached

    rungs, steps, counts = _spend(share, corners, starts, log_steps, gradients - 1, num_integration_steps)
    rungs[-1] = last
    schedule = make_schedule(rungs, step_sizes=steps, num_integration_steps=counts)
    spent = 1 + int(np.asarray(trace.num_integration_steps)[made].sum())
    ends = np.array([window[-1] for window in windows])
    seen = None if trace.observed is None else np.asarray(trace.observed, np.float64)[made][ends].mean(1)
    report = PilotReport(
        points, betas[ends], m[1:], acceptance, pilot_steps, np.exp(log_steps), share[1:-1],
        heats.mean(1).cumsum()[ends], energies[ends].mean(1), seen, spent,
    )  # fmt: skip
    return schedule, report


def second_pass(
    trace: PilotTrace, plan: PilotPlan, *, target_acceptance: float = 0.8, step_exponent: float = 0.5
) -> tuple[np.ndarray, float]:
    """Ladder and first step size of the second pass, from the trace of the first.

    Args:
        trace: of the whole first pass, on the cubic ladder.
        plan: the plan.
        target_acceptance: as in `choose_schedule`.
        step_exponent: as in `choose_schedule`.

    Returns:
        (rungs float64 [plan.moves], step size).
    """
    rough, _ = choose_schedule(
        trace, gradients=1 + plan.moves * plan.num_integration_steps,
        num_integration_steps=plan.num_integration_steps, target_acceptance=target_acceptance,
        step_exponent=step_exponent,
    )  # fmt: skip
    # Short trajectories where steps are long leave gradients for more rungs than the pass has moves.
    kept = np.round(np.linspace(0, rough.num_moves - 1, plan.moves)).astype(int)
    return np.asarray(rough.betas)[kept], float(rough.step_sizes[0])
