"""One method against another over equal seeds: paired tests, and whether a method replaces another without loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from experiments._sam_as_vi.rows import KEEPS_A_SCALE, OUTCOMES, Row, arms, value
from pbjax import runs
from pbjax.runs.statistics import holm, mean_and_error, sign_flip

MARGINS = {"test_accuracy": 0.002, "test_nll": 0.01, "averaged_nll": 0.01, "ece": 0.005, "certificate": 0.01}
"""For `replaces`: the loss that would be put up with, in the outcome's own unit, fixed before any result was seen."""


def compare(own: Mapping[int, Row], reference: Mapping[int, Row], outcome: str) -> dict[str, Any]:
    """Paired comparison over the seeds for which both have a value."""
    both = {seed: (value(own[seed], outcome), value(reference[seed], outcome)) for seed in own if seed in reference}
    pairs = np.array([pair for pair in both.values() if np.all(np.isfinite(pair))]).reshape(-1, 2)
    differences = pairs[:, 0] - pairs[:, 1]
    mean, error, count = mean_and_error(differences.tolist())
    # Differences that are equal up to rounding have no t statistic; all zero is as little evidence as there can be.
    spread = error > 1e-12 * max(1.0, abs(mean)) if count > 1 else False
    p_value: float | None = None
    if spread:
        test: Any = stats.ttest_rel(pairs[:, 0], pairs[:, 1])
        p_value = float(test.pvalue)
    elif count > 1 and not np.any(differences):
        p_value = 1.0
    half = float(stats.t.ppf(0.975, count - 1)) * error if count > 1 else None
    return {
        "seeds": count, "missing": len({*own, *reference}) - count,
        "flagged": sum(runs.is_flagged(side[seed]) for seed in both for side in (own, reference)),
        "difference": mean if count else None, "standard_error": error if count > 1 else None,
        "low": None if half is None else mean - half, "high": None if half is None else mean + half,
        "p_value": p_value, "p_sign_flip": sign_flip(differences) if count else None,
    }  # fmt: skip


def paired(
    rows: Iterable[Row], *, outcome: str, reference: str = "sgd", budget: str | None = None, stage: str = "final"
) -> list[dict[str, Any]]:
    """Every method against a reference over equal seeds: mean difference, paired t-test, sign-flip test.

    Holm's correction runs over the methods of one (dataset, model, budget).

    Args:
      rows: rows of results.
      outcome: a column, or "test_error" or "gap".
      reference: the method that is subtracted.
      budget: "gradients" or "epochs"; None for both, each a family of its own.
      stage: which rows.

    Returns:
      Rows with dataset, model, budget, outcome, reference, method, seeds (pairs used), missing (seeds of either without
      a pair), flagged, difference (method - reference), standard_error, low and high (95 % t interval, not corrected),
      p_value, p_holm, p_sign_flip. None where fewer than two pairs, or equal differences, leave no test. Empty where
      the reference was not run.

    Example:
      >>> scores = {"sgd": (0.90, 0.91, 0.92), "sam": (0.92, 0.92, 0.95)}
      >>> rows = [{"stage": "final", "method": m, "seed": s, "test_accuracy": a}
      ...         for m, values in scores.items() for s, a in enumerate(values)]
      >>> (row,) = paired(rows, outcome="test_accuracy")
      >>> row["method"], round(row["difference"], 4), round(row["p_value"], 4), row["p_sign_flip"]
      ('sam', 0.02, 0.0742, 0.25)
    """
    table = []
    for (dataset, model, own_budget), group in arms(rows, stage=stage).items():
        if reference not in group or budget not in (None, own_budget):
            continue
        family = [
            {
                "dataset": dataset, "model": model, "budget": own_budget, "outcome": outcome, "reference": reference,
                "method": arm, **compare(seeds, group[reference], outcome),
            }
            for arm, seeds in group.items()
            if arm != reference
        ]  # fmt: skip
        for line, corrected in zip(family, holm([line["p_value"] for line in family]), strict=True):
            line["p_holm"] = corrected
        table += family
    return table


def replaces(
    rows: Iterable[Row], *, margins: Mapping[str, float] = MARGINS, level: float = 0.05, stage: str = "final"
) -> list[dict[str, Any]]:
    """Where a SAM-like update that keeps a scale replaces the reparametrisation trick of `mean_field` without loss.

    No difference found is not the same as none: the gain of a method is bounded from below by
    mean - t_(n-1, 1 - level/m) * standard error, m methods, and the bound is held against a margin.

    Args:
      rows: rows of results.
      margins: outcome -> the loss that would be put up with, in the outcome's unit.
      level: of the tests and of the bounds, shared by the methods in each outcome.
      stage: which rows.

    Returns:
      Rows as of `paired`, with gain (the difference, positive = better than mean_field), gain_low, margin and verdict:
      "better" or "worse" (Holm below the level over these methods), "worse, within margin", "no loss beyond margin"
      (gain_low > -margin) or "unresolved".

    Example:
      >>> nll = {"mean_field": (0.100, 0.102, 0.104), "variational_sam_a": (0.090, 0.092, 0.0941)}
      >>> rows = [{"stage": "final", "method": m, "seed": s, "test_nll": x}
      ...         for m, values in nll.items() for s, x in enumerate(values)]
      >>> [(row["outcome"], round(row["gain"], 4), row["verdict"]) for row in replaces(rows) if row["seeds"]]
      [('test_nll', 0.01, 'better')]
    """
    listed = [row for row in rows if row.get("method") in ("mean_field", *KEEPS_A_SCALE)]
    table = []
    for outcome, margin in margins.items():
        compared = paired(listed, outcome=outcome, reference="mean_field", stage=stage)
        families = Counter((line["dataset"], line["model"], line["budget"]) for line in compared if line["seeds"] > 1)
        for line in compared:
            better = OUTCOMES[outcome].better
            gain, low, verdict = None, None, "unresolved"
            if line["difference"] is not None:
                gain = better * line["difference"]
            if gain is not None and line["standard_error"] is not None:
                share = level / families[line["dataset"], line["model"], line["budget"]]
                low = gain - float(stats.t.ppf(1 - share, line["seeds"] - 1)) * line["standard_error"]
                different = line["p_holm"] is not None and line["p_holm"] < level
                if different and gain > 0:
                    verdict = "better"
                elif low > -margin:
                    verdict = "worse, within margin" if different else "no loss beyond margin"
                elif different:
                    verdict = "worse"
            table.append({**line, "gain": gain, "gain_low": low, "margin": margin, "verdict": verdict})
    return table
