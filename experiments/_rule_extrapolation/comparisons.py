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


def differences(history: History, bands: Sequence[float | None]) -> list[dict[str, Any]]:
    """Oracle minus maximum likelihood and maximum likelihood minus adversarial, at matched loss.

    Each seed counts at its first evaluation within a band. Holm's correction runs over all lines of one accuracy.

    Args:
      history: arm -> `step` [C] and [S seeds, C evaluations]: `kl_per_sequence`, `ood_r1`, `ood_r1_unconditional`.
      bands: nats a sequence; None for the end of training.

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
    pairs = [
        ({"setting": setting, "greater": greater, "lesser": lesser}, own[greater], own[lesser])
        for setting, arms in by_setting(history).items()
        for own in [{arm.regime: arm for arm in arms}]
        for greater, lesser in ORDER
        if greater in own and lesser in own
    ]
    return _tests(history, bands, pairs)


def against_first(history: History, bands: Sequence[float]) -> list[dict[str, Any]]:
    """Each setting minus the first that differs from it in one thing only, regime by regime, at matched loss.

    So position encodings are compared with the first of them, optimisers with the first optimiser, and networks with
    the first network, all else equal. Seeds and Holm's correction are as in `differences`.

    Args:
      history: arm -> trajectories, see `differences`.
      bands: nats a sequence.

    Returns:
      Rows with band, arm, first (arms), varied (what differs), column, test and p_holm.

    Example:
      >>> from experiments._rule_extrapolation.groups import Arm
      >>> near = {"step": [100], "kl_per_sequence": [[0.2]] * 3}
      >>> accuracies = {"adamw": [[0.4], [0.5], [0.6]], "sam": [[0.9], [0.8], [0.7]]}
      >>> history = {Arm("anbn", "lstm", "none", optimiser, "oracle"): {**near, "ood_r1": r1,
      ...            "ood_r1_unconditional": r1} for optimiser, r1 in accuracies.items()}
      >>> row = against_first(history, [0.3])[0]
      >>> row["varied"], row["arm"].optimiser, round(row["test"].difference, 3), row["p_holm"]
      ('optimiser', 'sam', 0.3, 0.1)
    """
    pairs = []
    for arm in history:
        for varied in ("model", "position", "optimiser"):
            alike = [other for other in history if other._replace(**{varied: ""}) == arm._replace(**{varied: ""})]
            if alike[0] != arm:
                pairs.append(({"arm": arm, "first": alike[0], "varied": varied}, arm, alike[0]))
    return _tests(history, bands, pairs)


def _tests(
    history: History, bands: Sequence[float | None], pairs: Sequence[tuple[dict[str, Any], Any, Any]]
) -> list[dict[str, Any]]:
    """A row for each accuracy, band and pair (what it is called, an arm, and the arm that is taken from it)."""
    found = []
    for column in ("ood_r1", "ood_r1_unconditional"):
        family = []
        for band in bands:
            for named, more, less in pairs:
                test = difference_of_means(*(values_within(history[arm], column, band) for arm in (more, less)))
                if test.difference is not None:
                    family.append({"band": band, **named, "column": column, "test": test})
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
