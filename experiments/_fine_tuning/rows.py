"""Rows of results.json, slopes of the steps against the strength, and the control."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._fine_tuning.measuring import MEASURES
from experiments._fine_tuning.methods import learning_rates
from experiments._fine_tuning.problem import CONTROL, NONE, arms
from experiments._fine_tuning.tuning import Outcome
from pbjax import runs

POLICIES = {"tuned": "learning rate tuned for every c", "fixed": "learning rate of c = 1"}
"""How the learning rate of a transformed network is chosen."""
WORST_CASE = {"sgd": 2.0, "momentum": 2.0, "adamw": 1.0, "squared_weights": 0.0}
"""Exponents of c that rescaling can cost at worst, where they are known."""

_TEXT, _INTEGER, _NUMBER = runs.Field("text"), runs.Field("integer"), runs.Field("number")
FIELDS: dict[str, runs.Field] = {
    "method": _TEXT,
    "symmetry": _TEXT,
    "strength": _INTEGER,
    "policy": _TEXT,
    "learning_rate": _NUMBER,
    "at_edge": _INTEGER,
    "seed": _INTEGER,
    "steps": runs.Field("integer", nullable=True),
    "steps_taken": _INTEGER,
    "linearised_steps": runs.Field("integer", nullable=True),
    "linearised_learning_rate": runs.Field("number", nullable=True),
    **dict.fromkeys(MEASURES, runs.Field("number", nullable=True)),
    "logit_gap": _NUMBER,
    "logit_allowed": _NUMBER,
    "seconds": _NUMBER,
    "flag": runs.Field("text", nullable=True),
}
"""Columns of results.json. `steps` is null for runs that never came to the target; at_edge is 1 where the rate is the
greatest or least that was tried."""


def _censored(found: Outcome, a: int, q: int, s: int) -> str | None:
    if found.reached[a, q, s] >= 0:
        return None
    return "diverged" if found.failed[a, q, s] else "censored"


def rows(
    config: Any, method: str, found: Outcome, linearised: Outcome | None, measured: Mapping[str, Any], seconds: float
) -> Iterator[dict[str, Any]]:
    """One row a map, choice of the learning rate and seed."""
    rates = learning_rates(config, method)
    for a, arm in enumerate(arms(config)):
        for policy in POLICIES:
            q = int(found.tuned[a]) if policy == "tuned" else found.fixed
            for s, seed in enumerate(config.seeds):
                predicted = rate = None
                if linearised is not None:
                    p = int(linearised.tuned[a]) if policy == "tuned" else linearised.fixed
                    predicted = int(linearised.reached[a, p, s])
                    predicted, rate = (predicted if predicted >= 0 else None), rates[p]
                reached = int(found.reached[a, q, s])
                yield {
                    "method": method, **arm._asdict(), "policy": policy, "learning_rate": rates[q],
                    "at_edge": int(q in (0, len(rates) - 1)), "seed": int(seed),
                    "steps": reached if reached >= 0 else None, "steps_taken": int(found.steps[a, q, s]),
                    "linearised_steps": predicted, "linearised_learning_rate": rate,
                    **{name: float(measured[name][a, s]) for name in (*MEASURES, "logit_gap", "logit_allowed")},
                    "seconds": seconds / found.reached.size, "flag": _censored(found, a, q, s),
                }  # fmt: skip


class Slope(NamedTuple):
    """d log(steps) / d log(c), by least squares for each seed.

    Attributes:
        mean: over seeds.
        low: lower end of its 95 % interval (Student's), -inf for fewer than two seeds.
        high: upper end.
        censored: runs of those behind it that never came to the target; they count with the steps that they took, so
            the slope is then a lower bound, mostly.
    """

    mean: float
    low: float
    high: float
    censored: int


def slope(
    table: Sequence[Mapping[str, Any]], *, method: str, symmetry: str, policy: str, column: str = "steps"
) -> Slope | None:
    """The slope of a method under a map; None where a diverged or unpredicted run leaves nothing to fit."""
    from scipy.stats import t

    own = [
        row for row in table
        if row["method"] == method and row["policy"] == policy and row["symmetry"] in (NONE, symmetry)
    ]  # fmt: skip
    seeds = sorted({row["seed"] for row in own})
    slopes, censored = [], 0
    for seed in seeds:
        points = [row for row in own if row["seed"] == seed]
        if column == "steps":
            if any(row["flag"] == "diverged" for row in points):
                return None
            values = [row["steps_taken"] if row["steps"] is None else row["steps"] for row in points]
            censored += sum(row["steps"] is None for row in points)
        else:
            values = [row[column] for row in points]
            if any(number is None for number in values):
                return None
        x, y = np.log([row["strength"] for row in points]), np.log(np.maximum(values, 1))
        if len(set(x.tolist())) < 2:
            return None
        slopes.append(float(np.polyfit(x, y, 1)[0]))
    mean, error, count = runs.mean_and_error(slopes)
    half = float(t.ppf(0.975, count - 1)) * error if count > 1 else math.inf
    return Slope(mean, mean - half, mean + half, censored)


def control(found: Outcome, config: Any, *, first: int = 50) -> tuple[float, float, int]:
    """How far permuted networks are from the original ones at the learning rate that is held fixed.

    Returns:
        Greatest relative difference of the curves within the first steps, and over all of them; greatest difference of
        the numbers of steps to the target.
    """
    names = [arm.symmetry for arm in arms(config)]
    i, j, q = names.index(NONE), names.index(CONTROL), found.fixed
    both = np.isfinite(found.curve[i, q]) & np.isfinite(found.curve[j, q])
    one, other = (np.where(both, found.curve[a, q], 1.0) for a in (i, j))
    apart = np.abs(one - other) / np.maximum(np.abs(one), 1e-9)
    early = apart[:, : 1 + first // config.evaluate_every]
    steps = np.abs(found.reached[i, q] - found.reached[j, q])
    return float(early.max(initial=0)), float(apart.max(initial=0)), int(steps.max(initial=0))
