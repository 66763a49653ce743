"""What a row of results holds, which rows belong together, and where a trajectory first comes within a loss band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments._rule_extrapolation.groups import Arm
from pbjax import runs
from pbjax.runs.statistics import mean_and_error

Row = Mapping[str, Any]
Setting = tuple[str, str, str, str]
History = Mapping[Arm, Mapping[str, Any]]

REGIMES = {"maximum_likelihood": "maximum likelihood", "adversarial": "adversarial", "oracle": "oracle"}
"""Regimes in the order of the tables, and how they are written."""
SELECTIONS = {"best": "Least loss", "last": "End of training", "matched": "Matched loss"}
"""Selections in the order of the tables: the evaluation with the least loss, the last one, the first within a band."""
MEASURES = {
    "loss": "loss",
    "sharpness_trace": "Hessian trace",
    "sharpness_adaptive": "adaptive sharpness",
    "gaussian_scale": "Gaussian scale",
}
"""What may go with the accuracy of a seed."""
BY_KIND = ("ood_r1", "ood_r1_unconditional", "finished")
"""Columns that a row also has by prompt class, such as `finished_balanced`."""

MATCHED_ONLY = (
    "sharpness_trace", "sharpness_adaptive", "gaussian_scale", "row_agreement", "endless", "follows_oracle",
    "follows_stop", "follows_append_b", "follows_adversarial", "endless_after_a", "append_b_after_b",
)  # fmt: skip
"""Columns of the rows at matched loss alone, see `measuring`."""

_TEXT, _INTEGER = runs.Field("text"), runs.Field("integer")
# A diverged network has no loss, a completion that never ends no rule, and only matched networks a sharpness.
_MEASURED = runs.Field("number", nullable=True)
FIELDS: dict[str, runs.Field] = {
    **dict.fromkeys(Arm._fields, _TEXT),
    "seed": _INTEGER,
    "selection": _TEXT,
    "step": _INTEGER,
    **dict.fromkeys(("loss", "kl_per_sequence", "held_out_nats", "id_r1", "id_finished"), _MEASURED),
    **dict.fromkeys(("ood_r1", "ood_r1_unconditional"), _MEASURED),
    **dict.fromkeys(("ood_r2_completion", "ood_r2_completion_unconditional", "finished"), _MEASURED),
    **dict.fromkeys(MATCHED_ONLY, _MEASURED),
    "seconds": runs.Field("number"),
    "flag": runs.Field("text", nullable=True),
}
"""Columns of results.json; those of `BY_KIND` by prompt class come after them, as classes differ by language."""


def value(row: Row, column: str) -> float:
    """A number of a row, NaN where it has none.

    Args:
      row: a row of results.
      column: which number.

    Returns:
      A finite number or NaN.

    Example:
      >>> value({"ood_r1": 0.5}, "ood_r1"), value({"ood_r1": None}, "ood_r1"), value({}, "ood_r1")
      (0.5, nan, nan)
    """
    given = row.get(column)
    number = math.nan if given is None else float(given)
    return number if math.isfinite(number) else math.nan


def arm_of(row: Row) -> Arm:
    """The arm that a row belongs to.

    Args:
      row: a row of results.

    Returns:
      Its language, model, position, optimiser and regime.

    Example:
      >>> arm_of({**Arm("anbn", "lstm", "none", "adamw", "oracle")._asdict(), "seed": 0}).regime
      'oracle'
    """
    return Arm(**{name: str(row[name]) for name in Arm._fields})


def by_setting(arms: Iterable[Sequence[str]]) -> dict[Setting, list[Arm]]:
    """Arms that differ in the regime only, together.

    Args:
      arms: each five texts.

    Returns:
      (language, model, position, optimiser) -> its arms in the order of `REGIMES`; settings in the order met.

    Example:
      >>> arms = [("anbn", "lstm", "none", "adamw", regime) for regime in ("oracle", "maximum_likelihood")]
      >>> [[arm.regime for arm in own] for own in by_setting(arms).values()]
      [['maximum_likelihood', 'oracle']]
    """
    found: dict[Setting, list[Arm]] = {}
    for given in dict.fromkeys(Arm(*arm) for arm in arms):
        found.setdefault(given[:4], []).append(given)
    order = list(REGIMES)
    for own in found.values():
        own.sort(key=lambda arm: order.index(arm.regime) if arm.regime in order else len(order))
    return found


def names(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Short names: what all settings share is left out; a single setting has all of its parts.

    Args:
      settings: one or more.

    Returns:
      Setting -> its name.

    Example:
      >>> list(names([("anbn", "transformer", p, "adamw") for p in ("none", "batch_row")]).values())
      ['none', 'batch row']
      >>> list(names([("anbn", "lstm", "none", "adamw")]).values())
      ['anbn, lstm, none, adamw']
    """
    listed = list(dict.fromkeys(settings))
    varied = [index for index in range(4) if len({setting[index] for setting in listed}) > 1] or list(range(4))
    return {setting: ", ".join(setting[index].replace("_", " ") for index in varied) for setting in listed}


def regime_name(regime: str) -> str:
    """How a regime is written.

    Args:
      regime: as in the rows.

    Returns:
      Words.

    Example:
      >>> regime_name("maximum_likelihood")
      'maximum likelihood'
    """
    return REGIMES.get(regime, regime.replace("_", " "))


def rows_by_arm(rows: Iterable[Row], selection: str) -> dict[Arm, list[Row]]:
    """Rows of one selection by arm, seeds ascending.

    Args:
      rows: rows of results.
      selection: "best", "last" or "matched".

    Returns:
      Arms by setting, then in the order of `REGIMES`.

    Raises:
      ValueError: a seed has two rows.

    Example:
      >>> arm = Arm("anbn", "lstm", "none", "adamw", "oracle")
      >>> rows = [{**arm._asdict(), "seed": seed, "selection": "best"} for seed in (1, 0)]
      >>> [row["seed"] for row in rows_by_arm(rows, "best")[arm]], rows_by_arm(rows, "last")
      ([0, 1], {})
    """
    found: dict[Arm, list[Row]] = {}
    for row in rows:
        if row["selection"] == selection:
            found.setdefault(arm_of(row), []).append(row)
    for arm, own in found.items():
        if len({row["seed"] for row in own}) < len(own):
            raise ValueError(f"{', '.join(arm)}: a seed has two rows at selection {selection!r}; keep one a seed")
    return {arm: sorted(found[arm], key=lambda row: row["seed"]) for own in by_setting(found).values() for arm in own}


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float, int]:
    """Mean, standard deviation over seeds, and how many of the values are finite.

    Args:
      values: one a seed; NaN is left out.

    Returns:
      (mean, standard deviation, count); NaN where the count is too small (0 and 1).

    Example:
      >>> mean_and_deviation([0.0, 0.0, 0.0, 4.0, float("nan")])
      (1.0, 2.0, 4)
    """
    mean, error, count = mean_and_error(values)
    return mean, error * math.sqrt(count), count


def kinds_of(rows: Iterable[Row]) -> list[str]:
    """Prompt classes that some row has a number for.

    Args:
      rows: rows of one language.

    Returns:
      Names in the order of the columns.

    Example:
      >>> kinds_of([{"finished": 1.0, "finished_excess_a": 0.5, "finished_none": None}])
      ['excess_a']
    """
    listed = list(rows)
    every = dict.fromkeys(key.removeprefix("finished_") for row in listed for key in row if key.startswith("finished_"))
    return [kind for kind in every if any(math.isfinite(value(row, f"{c}_{kind}")) for row in listed for c in BY_KIND)]


def first_within(kl_per_sequence: np.ndarray | Sequence[Sequence[float]], band: float) -> np.ndarray:
    """The first evaluation at which each seed is at most `band` nats a sequence from the law of the data.

    Args:
      kl_per_sequence: [S seeds, C evaluations], nats a sequence; NaN is never within.
      band: in the same unit.

    Returns:
      Indices [S], -1 for a seed that never reaches the band.

    Example:
      >>> first_within([[2.0, 0.2, 0.4], [2.0, 1.0, float("nan")]], 0.3)
      array([ 1, -1])
    """
    within = np.asarray(kl_per_sequence, float) <= band
    return np.where(within.any(axis=1), within.argmax(axis=1), -1)


def values_within(trajectories: Mapping[str, Any], name: str, band: float | None) -> np.ndarray:
    """A number of each seed at its first evaluation within a loss band, or at its last evaluation.

    Args:
      trajectories: of one arm: `kl_per_sequence` [S, C] and others.
      name: which of them [S, C].
      band: nats a sequence; None for the end of training.

    Returns:
      [S], NaN for a seed that never reaches the band.

    Example:
      >>> values_within({"kl_per_sequence": [[2.0, 0.2]], "ood_r1": [[0.1, 0.6]]}, "ood_r1", 0.3)
      array([0.6])
    """
    values = np.asarray(trajectories[name], float)
    if band is None:
        return values[:, -1]
    index = first_within(trajectories["kl_per_sequence"], band)
    return np.where(index < 0, np.nan, values[np.arange(len(values)), index])
