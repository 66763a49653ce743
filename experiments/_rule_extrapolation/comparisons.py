"""Regimes against each other at matched loss, and what goes with the accuracy of a seed: permutation tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from experiments._rule_extrapolation.rows import MEASURES, History, Row, by_setting, rows_by_arm, value, values_within
from pbjax import runs
from pbjax.runs.statistics import difference_of_means, holm, rank_correlation

ORDER = (("oracle", "maximum_likelihood"), ("maximum_likelihood", "adversarial"))
"""What is claimed of accuracies at matched loss: the first of a pair is greater."""


def differences(history: History, bands: Sequence[float]) -> list[dict[str, Any]]:
    """Oracle minus maximum likelihood and maximum likelihood minus adversarial, at matched loss.

    Each seed counts at its first evaluation within a band. Holm's correction runs over all lines of one accuracy.

    Args:
      history: arm -> `step` [C] and [S seeds, C evaluations]: `kl_per_sequence`, `ood_r1`, `ood_r1_unconditional`.
      bands: nats a sequence.

    Returns:
      Rows with band, setting, greater, lesser (regimes), column, test (of `runs.difference_of_means`) and p_holm; only
      where some seed of both regimes comes so near and has a value.

    Example:
      >>> from experiments._rule_extrapolation.groups import Arm
      >>> accuracies = {"oracle": [[0.9], [0.8], [0.7]], "maximum_likelihood": [[0.4], [0.5], [0.6]]}
      >>> near = {"step": [100], "kl_per_sequence": [[0.2]] * 3}
      >>> history = {Arm("anbn", "lstm", "none", "adamw", regime): {**near, "ood_r1": r1, "ood_r1_unconditional": r1}
      ...            for regime, r1 in accuracies.items()}
      >>> row = differences(history, [0.3])[0]
      >>> row["greater"], round(row["test"].difference, 3), row["test"].p_value, row["p_holm"]
      ('oracle', 0.3, 0.1, 0.1)
    """
    found = []
    for column in ("ood_r1", "ood_r1_unconditional"):
        family = []
        for band in bands:
            for setting, arms in by_setting(history).items():
                own = {arm.regime: values_within(history[arm], column, band) for arm in arms}
                for greater, lesser in ORDER:
                    if greater in own and lesser in own:
                        test = difference_of_means(own[greater], own[lesser])
                        family.append({"band": band, "setting": setting, "greater": greater, "lesser": lesser,
                                       "column": column, "test": test})  # fmt: skip
        family = [row for row in family if row["test"].difference is not None]
        for row, corrected in zip(family, holm([row["test"].p_value for row in family]), strict=True):
            found.append({**row, "p_holm": corrected})
    return found


def correlations(rows: Iterable[Row], *, selection: str = "matched") -> list[dict[str, Any]]:
    """Spearman's rho over the seeds of an arm between loss or flatness and rule 1 on impossible prompts.

    Accuracy is of completions that end; flagged networks are left out. Holm's correction runs over all arms and
    measures of the selection.

    Args:
      rows: rows of results.
      selection: which of them.

    Returns:
      Rows with arm, measure, left_out (flagged seeds), test (of `runs.rank_correlation`) and p_holm; measures that no
      seed has are left out.

    Example:
      >>> from experiments._rule_extrapolation.groups import Arm
      >>> arm = Arm("anbn", "lstm", "none", "adamw", "oracle")
      >>> rows = [{**arm._asdict(), "seed": s, "selection": "matched", "loss": 0.1 * s, "ood_r1": 1 - 0.1 * s,
      ...          "flag": None} for s in range(4)]
      >>> [(row["measure"], row["test"].rho, round(row["p_holm"], 4)) for row in correlations(rows)]
      [('loss', -1.0, 0.0833)]
    """
    found = []
    for arm, own in rows_by_arm(rows, selection).items():
        kept = [row for row in own if not runs.is_flagged(row)]
        for measure in MEASURES:
            if any(math.isfinite(value(row, measure)) for row in kept):
                x, y = ([value(row, name) for row in kept] for name in (measure, "ood_r1"))
                found.append({"arm": arm, "measure": measure, "left_out": len(own) - len(kept),
                              "test": rank_correlation(x, y)})  # fmt: skip
    for row, corrected in zip(found, holm([row["test"].p_value for row in found]), strict=True):
        row["p_holm"] = corrected
    return found
