"""What a row of results holds, and the means over seeds: the columns, how each is shown, which rows belong together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments._sam_as_vi.methods import METHODS
from pbjax import runs
from pbjax.runs.statistics import mean_and_error

Row = Mapping[str, Any]
Key = tuple[str, str, str]
Arms = dict[str, dict[int, Row]]

ORDER = tuple(METHODS)
"""Methods in the order of the tables."""
KEEPS_A_SCALE = ("variational_sam_a", "variational_sam_b", "mean_field_then_sam")
"""SAM-like updates that could stand in for the reparametrisation trick: they learn a scale as `mean_field` does."""

MEASURES = (
    "sharpness_worst", "sharpness_adaptive", "sharpness_average", "sharpness_trace", "sharpness_top_eigenvalue",
)  # fmt: skip
AVERAGED = ("averaged_accuracy", "averaged_nll", "averaged_ece", "averaged_brier", "averaged_ood_auroc")

_TEXT, _INTEGER, _NUMBER = runs.Field("text"), runs.Field("integer"), runs.Field("number")
# A diverged network has no finite loss, and a row of tuning no certificate: what is measured may be null.
_MEASURED = runs.Field("number", nullable=True)
FIELDS: dict[str, runs.Field] = {
    **dict.fromkeys(("stage", "method", "dataset", "model", "budget"), _TEXT),
    "seed": _INTEGER,
    "learning_rate": _NUMBER,
    **dict.fromkeys(("radius", "effective_radius", "kappa"), _MEASURED),
    "samples": _INTEGER,
    **dict.fromkeys(("mean_scale", "test_accuracy", "test_nll", "ece", "brier", "ood_auroc", *AVERAGED), _MEASURED),
    **dict.fromkeys(("certificate", "certificate_risk", "certificate_kl"), _MEASURED),
    "certificate_n": runs.Field("integer", nullable=True),
    "delta": _MEASURED,
    "assumption": runs.Field("text", nullable=True),
    "delta_ledger": runs.Field("ledger", nullable=True),
    **dict.fromkeys((*MEASURES, "train_loss"), _MEASURED),
    "gradients": _INTEGER,
    **dict.fromkeys(("epochs", "seconds"), _NUMBER),
    "flag": runs.Field("text", nullable=True),
}
"""Columns of results.json. JSON has no infinity: in the stage curve_kappa a null kappa is the curve's random end."""


class Outcome(NamedTuple):
    """How a number of a row is shown.

    Attributes:
      title: the head of its column.
      factor: what it is multiplied by.
      digits: decimals, or None for three significant digits.
      better: +1 where more is better, -1 where less is, 0 where neither.
    """

    title: str
    factor: float = 1.0
    digits: int | None = None
    better: int = 0


OUTCOMES: dict[str, Outcome] = {
    "test_accuracy": Outcome("accuracy %", 100, 2, 1),
    "test_nll": Outcome("NLL nats", 1, 4, -1),
    "ece": Outcome("ECE %", 100, 2, -1),
    "brier": Outcome("Brier", 1, 4, -1),
    "ood_auroc": Outcome("OOD AUROC %", 100, 2, 1),
    "averaged_accuracy": Outcome("accuracy %", 100, 2, 1),
    "averaged_nll": Outcome("NLL nats", 1, 4, -1),
    "averaged_ece": Outcome("ECE %", 100, 2, -1),
    "averaged_brier": Outcome("Brier", 1, 4, -1),
    "averaged_ood_auroc": Outcome("OOD AUROC %", 100, 2, 1),
    "certificate": Outcome("certificate", 1, 4, -1),
    "certificate_risk": Outcome("Gibbs risk", 1, 4),
    "certificate_kl": Outcome("KL nats", 1, 1),
    "sharpness_worst": Outcome("worst-case sharpness"),
    "sharpness_adaptive": Outcome("adaptive sharpness"),
    "sharpness_average": Outcome("average-case sharpness"),
    "sharpness_trace": Outcome("Hessian trace"),
    "sharpness_top_eigenvalue": Outcome("top eigenvalue"),
    "train_loss": Outcome("training loss"),
    "test_error": Outcome("test error %", 100, 2, -1),
    "gap": Outcome("test NLL − training loss", 1, 4),
    "effective_radius": Outcome("effective radius"),
    "mean_scale": Outcome("mean σ"),
    "learning_rate": Outcome("learning rate"),
    "radius": Outcome("radius"),
    "gradients": Outcome("gradients", 1, 0),
    "epochs": Outcome("epochs", 1, 1),
    "seconds": Outcome("seconds", 1, 1),
}

_SETTINGS = ("kappa", "samples", "radius", "learning_rate")


def value(row: Row, outcome: str) -> float:
    """A number of a row, NaN where it has none; `test_error` and `gap` are worked out where the row lacks them.

    Args:
      row: a row of results.
      outcome: its column, "test_error" (1 - test_accuracy) or "gap" (test_nll - train_loss).

    Returns:
      A finite number or NaN.

    Example:
      >>> value({"test_accuracy": 0.75}, "test_error"), value({"ece": None}, "ece")
      (0.25, nan)
    """
    if outcome == "test_error" and row.get(outcome) is None:
        return 1.0 - value(row, "test_accuracy")
    if outcome == "gap" and row.get(outcome) is None:
        return value(row, "test_nll") - value(row, "train_loss")
    given = row.get(outcome)
    number = math.nan if given is None else float(given)
    return number if math.isfinite(number) else math.nan


def method_of(arm: str) -> str:
    """The method of an arm's name.

    Args:
      arm: a key of what `arms` returns for one group.

    Returns:
      The name without its settings.

    Example:
      >>> method_of("mix_sam (kappa 0.5)")
      'mix_sam'
    """
    return arm.split(" (")[0]


def arms(rows: Iterable[Row], *, stage: str = "final") -> dict[Key, Arms]:
    """The rows of a stage by (dataset, model, budget), then by arm, then by seed.

    An arm is a method; a method that has several rows a seed, say a grid over kappa, is split by its settings.

    Args:
      rows: rows of results.
      stage: which of them.

    Returns:
      Groups in the order met, arms in the `ORDER` of methods, seeds ascending.

    Raises:
      ValueError: a seed has two rows that no setting tells apart.

    Example:
      >>> rows = [{"stage": "final", "method": "mix_sam", "seed": 0, "kappa": kappa} for kappa in (0.5, 2.0)]
      >>> [list(group) for group in arms(rows).values()]
      [['mix_sam (kappa 0.5)', 'mix_sam (kappa 2)']]
    """
    groups: dict[Key, dict[str, list[Row]]] = {}
    for row in rows:
        if row.get("stage") == stage:
            key = (row.get("dataset") or "", row.get("model") or "", row.get("budget") or "")
            groups.setdefault(key, {}).setdefault(row["method"], []).append(row)
    arranged: dict[Key, Arms] = {}
    for key, methods in groups.items():
        split: dict[str, list[Row]] = {}
        for method in sorted(methods, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
            own = methods[method]
            varied = [name for name in _SETTINGS if len({row.get(name) for row in own}) > 1]
            repeated = max(Counter(row["seed"] for row in own).values()) > 1
            for row in own:
                texts = [f"{name} {'none' if row.get(name) is None else format(row[name], 'g')}" for name in varied]
                split.setdefault(f"{method} ({', '.join(texts)})" if repeated and varied else method, []).append(row)
        for arm, own in split.items():
            seeds = {row["seed"]: row for row in own}
            if len(seeds) < len(own):
                raise ValueError(f"{' '.join(key)}: {arm} has two rows of one seed; keep one a seed")
            arranged.setdefault(key, {})[arm] = dict(sorted(seeds.items()))
    return arranged


def _flags(own: Iterable[Row]) -> str | None:
    """'2 of 5 seeds: diverged', or None."""
    listed = list(own)
    texts = [str(row["flag"]) for row in listed if runs.is_flagged(row)]
    return f"{len(texts)} of {len(listed)} seeds: {', '.join(dict.fromkeys(texts))}" if texts else None


def summarise(rows: Iterable[Row], *, stage: str = "final") -> list[dict[str, Any]]:
    """One row a (dataset, model, method, budget): mean and standard error over seeds of every outcome.

    A flagged seed counts as long as its numbers are finite: leaving it out would favour a method that diverges.

    Args:
      rows: rows of results.
      stage: which of them.

    Returns:
      Rows with dataset, model, method, budget, seeds, flagged, flag ("1 of 5 seeds: diverged" or None), and for every
      name of `OUTCOMES`: itself, `_standard_error` and `_seeds` (how many had a value); None where there is none.

    Example:
      >>> rows = [{"stage": "final", "method": "sgd", "seed": s, "ece": e} for s, e in enumerate((0.1, 0.3))]
      >>> (row,) = summarise(rows)
      >>> round(row["ece"], 3), round(row["ece_standard_error"], 3), row["seeds"]
      (0.2, 0.1, 2)
    """
    table = []
    for (dataset, model, budget), group in arms(rows, stage=stage).items():
        for arm, seeds in group.items():
            own = list(seeds.values())
            line: dict[str, Any] = {
                "dataset": dataset, "model": model, "method": arm, "budget": budget, "seeds": len(own),
                "flagged": sum(map(runs.is_flagged, own)), "flag": _flags(own),
            }  # fmt: skip
            for name in OUTCOMES:
                mean, error, count = mean_and_error(value(row, name) for row in own)
                line[name] = mean if count else None
                line[f"{name}_standard_error"] = error if count > 1 else None
                line[f"{name}_seeds"] = count
            table.append(line)
    return table
