"""From one row a trained network to means over seeds, paired tests, rank correlations and the tables of summary.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from pbjax import runs

Row = Mapping[str, Any]
Key = tuple[str, str, str]
Arms = dict[str, dict[int, Row]]

METHODS = (
    "sgd", "adamw", "sam", "asam", "gsam", "friendly_sam", "random_sam", "mix_sam", "mean_field", "variational_sam_a",
    "variational_sam_b", "mean_field_then_sam", "bsam", "ivon",
)  # fmt: skip
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

MARGINS = {"test_accuracy": 0.002, "test_nll": 0.01, "averaged_nll": 0.01, "ece": 0.005, "certificate": 0.01}
"""For `replaces`: the loss that would be put up with, in the outcome's own unit, fixed before any result was seen."""

_GIVEN = ("learning_rate", "radius", "epochs", "gradients", "seconds")  # not measured on a network: no error is shown
_SETTINGS = ("kappa", "samples", "radius", "learning_rate")
_MOST_EXACT = 16  # pairs up to which all sign patterns are gone through


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
      Groups in the order met, arms in the order of `METHODS`, seeds ascending.

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
        for method in sorted(methods, key=lambda name: METHODS.index(name) if name in METHODS else len(METHODS)):
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


def mean_and_error(values: Iterable[float]) -> tuple[float, float, int]:
    """Mean, its standard error over seeds, and how many of the values are finite.

    Args:
      values: one a seed; NaN is left out.

    Returns:
      (mean, standard error, count); NaN where the count is too small (0 and 1).

    Example:
      >>> mean_and_error([1.0, 3.0, float("nan")])
      (2.0, 1.0, 2)
    """
    kept = [number for number in values if math.isfinite(number)]
    count = len(kept)
    mean = math.fsum(kept) / count if count else math.nan
    spread = math.fsum((number - mean) ** 2 for number in kept)
    return mean, math.sqrt(spread / (count - 1) / count) if count > 1 else math.nan, count


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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the k-th least of m becomes max over j <= k of min(1, (m - j + 1) p_(j)).

    Args:
      p_values: in [0, 1]; None (no test) takes no part.

    Returns:
      Corrected values in the same order.

    Example:
      >>> holm([0.04, 0.01, None, 0.03])
      [0.06, 0.03, None, 0.06]

    References:
      Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[index] = largest
    return corrected


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided sign-flip test that paired differences are symmetric about 0: all 2^n patterns, none assumed.

    Args:
      differences: one a pair [n]. Beyond n = 16, 65,536 patterns are drawn with a fixed seed.

    Returns:
      The share of patterns whose sum is at least as far from 0; never below 2/2^n, and 1 without pairs.

    Example:
      >>> sign_flip([1.0, 2.0, 3.0, 4.0, 5.0])  # only + + + + + and its mirror: 2 of 32
      0.0625
    """
    given = np.asarray(differences, float)
    if given.size > _MOST_EXACT:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(2**_MOST_EXACT, given.size))
        signs[0] = 1.0
    else:
        signs = 1.0 - 2.0 * ((np.arange(2**given.size)[:, None] >> np.arange(given.size)) & 1)
    sums = np.abs(signs @ given)
    # Rounding must not tell a pattern from its mirror.
    return float(np.mean(sums >= np.abs(given.sum()) - 1e-12 * np.abs(given).sum()))


def _compare(own: Mapping[int, Row], reference: Mapping[int, Row], outcome: str) -> dict[str, Any]:
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
                "method": arm, **_compare(seeds, group[reference], outcome),
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


def _rank_statistics(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's rho and Kendall's tau-b when point i counts weights[b, i] times: [B] each, NaN without variation.

    Signs of all differences give both: twice the centred rank of i is the weighted sum of sign(x_i - x_j) over j.
    """
    a, b = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    rank_a, rank_b = weights @ a.T, weights @ b.T

    def pairs(signs: np.ndarray) -> np.ndarray:
        return np.sum((weights @ signs) * weights, axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.sum(weights * rank_a * rank_b, axis=1) / np.sqrt(
            np.sum(weights * rank_a**2, axis=1) * np.sum(weights * rank_b**2, axis=1)
        )
        tau = pairs(a * b) / np.sqrt(pairs(a * a) * pairs(b * b))
    return rho, tau


def rank_correlations(
    rows: Iterable[Row], *, resamples: int = 2000, seed: int = 0, stage: str = "final"
) -> list[dict[str, Any]]:
    """Spearman's rho and Kendall's tau-b between each sharpness, or the certificate, and error, gap and certificate.

    Networks of one method are not independent, so the 95 % percentile intervals come from drawing *methods* with
    replacement, each with all its seeds. Flagged networks are left out and counted: sharpness says nothing about a
    network that is at no minimum.

    Args:
      rows: rows of results.
      resamples: of the bootstrap; 0 for none.
      seed: of the bootstrap.
      stage: which rows.

    Returns:
      Rows with dataset, model, budget, measure, target, over ("networks" or "methods", the latter between means over
      seeds), count, methods, left_out, rho, rho_low, rho_high, tau, tau_low, tau_high. None where fewer than two
      points, or constant ones, leave no correlation, and no interval below four methods.

    Example:
      >>> rows = [{"stage": "final", "method": m, "seed": 0, "sharpness_trace": t, "test_accuracy": 1 - t / 100}
      ...         for m, t in zip(("sgd", "sam", "asam", "ivon"), (4.0, 3.0, 2.0, 1.0))]
      >>> [round(row["rho"], 6) for row in rank_correlations(rows) if row["target"] == "test_error" and row["count"]]
      [1.0, 1.0]
    """
    table = []
    for (dataset, model, budget), group in arms(rows, stage=stage).items():
        for measure in (*MEASURES, "certificate"):
            for target in ("test_error", "gap", "certificate"):
                if measure == target:
                    continue
                points, left_out = {}, 0
                for arm, seeds in group.items():
                    kept = [row for row in seeds.values() if not runs.is_flagged(row)]
                    pairs = np.array([(value(row, measure), value(row, target)) for row in kept]).reshape(-1, 2)
                    pairs = pairs[np.all(np.isfinite(pairs), axis=1)]
                    left_out += len(seeds) - len(pairs)
                    if len(pairs):
                        points[arm] = pairs
                drawn = np.ones((1, len(points)))
                if resamples and len(points) >= 4:
                    even = np.full(len(points), 1 / len(points))
                    draws = np.random.default_rng(seed).multinomial(len(points), even, size=resamples)
                    drawn = np.concatenate([drawn, draws])
                for over in ("networks", "methods"):
                    parts = [p if over == "networks" else p.mean(axis=0, keepdims=True) for p in points.values()]
                    stacked = np.concatenate([np.empty((0, 2)), *parts])
                    weights = np.repeat(drawn, [len(part) for part in parts], axis=1)
                    line: dict[str, Any] = {
                        "dataset": dataset, "model": model, "budget": budget, "measure": measure, "target": target,
                        "over": over, "count": len(stacked), "methods": len(points), "left_out": left_out,
                    }  # fmt: skip
                    for name, found in zip(
                        ("rho", "tau"), _rank_statistics(stacked[:, 0], stacked[:, 1], weights), strict=True
                    ):
                        bootstrap = found[1:][np.isfinite(found[1:])]
                        low, high = np.quantile(bootstrap, (0.025, 0.975)) if len(bootstrap) else (None, None)
                        line[name] = float(found[0]) if np.isfinite(found[0]) else None
                        line[f"{name}_low"] = None if low is None else float(low)
                        line[f"{name}_high"] = None if high is None else float(high)
                    table.append(line)
    return table


def _round(number: float | None, digits: int | None, *, up: bool = False, sign: bool = False) -> str:
    """Fixed decimals, or three significant digits; an en dash for none; an upper bound is rounded up."""
    if number is None or not math.isfinite(number):
        return "–"
    if digits is None:
        return f"{number:{'+' if sign else ''}.3g}"
    step = Decimal(1).scaleb(-digits)
    rounded = Decimal(number).quantize(step, rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)
    return f"{rounded:{'+' if sign else ''}f}"


def _p(number: float | None) -> str:
    return "–" if number is None else "<0.001" if number < 0.001 else f"{number:.3g}"


def _cell(line: Mapping[str, Any], name: str, *, sign: bool = False, key: str | None = None) -> str:
    """'98.12 ± 0.05', and how many seeds it is over where that is not all of them."""
    key, how = key or name, OUTCOMES[name]
    mean, error = line[key], line[f"{key}_standard_error"]
    if mean is None:
        return "–"
    digits = how.digits
    if digits is None and name not in _GIVEN:  # as many decimals for the error as three digits of the mean have
        size = math.floor(math.log10(abs(mean))) if mean else 0
        digits = max(0, 2 - size) if -6 < size < 6 else None
    text = _round(how.factor * mean, digits, up=name == "certificate" and not sign, sign=sign)
    if error is not None and name not in _GIVEN:
        text += f" ± {_round(how.factor * error, digits)}"
    count = line.get(f"{key}_seeds", line["seeds"])
    return text if count == line["seeds"] else f"{text} ({count} of {line['seeds']})"


def _best(group: Arms, lines: Sequence[Mapping[str, Any]], name: str, level: float) -> str | None:
    """The method of best mean, if the paired t-test tells it from the second best."""
    ranked = sorted(
        (line for line in lines if line[name] is not None), key=lambda line: -OUTCOMES[name].better * line[name]
    )
    if len(ranked) < 2:
        return None
    first, second = ranked[0]["method"], ranked[1]["method"]
    p_value = _compare(group[first], group[second], name)["p_value"]
    return first if p_value is not None and p_value < level else None


def _outcome_table(group: Arms, lines: Sequence[Mapping[str, Any]], names: Sequence[str], level: float) -> str:
    """One line a method that has at least one of the outcomes; columns without any value are left out."""
    shown = [name for name in names if any(line[name] is not None for line in lines)]
    best = {name: _best(group, lines, name, level) for name in shown if OUTCOMES[name].better}
    table = []
    for line in lines:
        if all(line[name] is None for name in names):
            continue
        cells = {"method": line["method"], "seeds": str(line["seeds"])}
        for name in shown:
            text = _cell(line, name)
            cells[OUTCOMES[name].title] = f"**{text}**" if best.get(name) == line["method"] else text
        table.append({**cells, "flag": line["flag"]})
    columns = ("method", "seeds", *(OUTCOMES[name].title for name in shown))
    return runs.markdown_table(table, columns=columns) if table else ""


def _paired_table(rows: Sequence[Row], outcomes: Sequence[str], reference: str, key: Key) -> tuple[str, set[int]]:
    """Differences from one reference, outcomes side by side; and the numbers of pairs met."""
    table: dict[str, dict[str, Any]] = {}
    counts: set[int] = set()
    for outcome in outcomes:
        for line in paired(rows, outcome=outcome, reference=reference, budget=key[2]):
            if (line["dataset"], line["model"]) != key[:2]:
                continue
            cells = table.setdefault(line["method"], {"method": line["method"], "flag": None})
            title = OUTCOMES[outcome].title
            own = {**line, "difference_standard_error": line["standard_error"]}
            cells[f"Δ {title}"] = _cell(own, outcome, sign=True, key="difference")
            tests = (_p(line[name]) for name in ("p_value", "p_holm", "p_sign_flip"))
            cells[f"p / Holm / sign flip, {title.removesuffix(' %')}"] = " / ".join(tests)
            if line["seeds"]:
                counts.add(line["seeds"])
            notes = [f"{line['missing']} without a pair" * bool(line["missing"]),
                     f"{line['flagged']} flagged" * bool(line["flagged"])]  # fmt: skip
            cells["flag"] = cells["flag"] or ", ".join(filter(None, notes)) or None
    columns = [name for name in next(iter(table.values()), {}) if name != "flag"]
    return runs.markdown_table(list(table.values()), columns=columns) if table else "", counts


def _replaces_table(lines: Sequence[Mapping[str, Any]]) -> str:
    table = []
    for line in lines:
        if line["difference"] is None:
            continue
        how = OUTCOMES[line["outcome"]]
        title = f"averaged {how.title}" if line["outcome"] in AVERAGED else how.title
        own = {**line, "gain_standard_error": line["standard_error"]}
        low = None if line["gain_low"] is None else how.factor * line["gain_low"]
        table.append(
            {
                "method": line["method"], "outcome": title, "budget": line["budget"], "seeds": str(line["seeds"]),
                "gain": _cell(own, line["outcome"], sign=True, key="gain"),
                "at least": _round(low, how.digits, sign=True),
                "margin": f"{how.factor * line['margin']:g}", "p": _p(line["p_value"]), "Holm": _p(line["p_holm"]),
                "sign flip": _p(line["p_sign_flip"]), "verdict": line["verdict"],
            }
        )  # fmt: skip
    table.sort(key=lambda cells: METHODS.index(method_of(cells["method"])))
    return runs.markdown_table(table, columns=list(table[0])) if table else ""


def _rank_table(lines: Sequence[Mapping[str, Any]]) -> str:
    table: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in lines:
        if line["rho"] is None:
            continue
        key = (line["budget"], line["measure"], line["over"])
        cells = table.setdefault(
            key, {"budget": key[0], "measure": OUTCOMES[key[1]].title, "over": f"{line['count']} {key[2]}"}
        )
        interval = "" if line["rho_low"] is None else f" [{line['rho_low']:+.2f}, {line['rho_high']:+.2f}]"
        cells[OUTCOMES[line["target"]].title.removesuffix(" %")] = f"{line['rho']:+.2f}{interval}, τ {line['tau']:+.2f}"
    columns = dict.fromkeys(name for cells in table.values() for name in cells)
    return runs.markdown_table(list(table.values()), columns=list(columns)) if table else ""


def _flip_note(counts: Iterable[int]) -> str:
    texts = [
        f"1/{2 ** (count - 1)} = {2 / 2**count:.4g} with {count} pairs (2^{count} = {2**count} patterns)"
        for count in sorted(set(counts))
        if 0 < count <= _MOST_EXACT
    ]
    if not texts:
        return ""
    return f" The least two-sided p-value that the sign-flip test can give is {', '.join(texts)}."


def markdown(
    rows: Sequence[Row],
    *,
    references: Sequence[str] = ("sgd", "mean_field"),
    compared: Sequence[str] = ("test_accuracy", "test_nll"),
    level: float = 0.05,
    resamples: int = 2000,
) -> str:
    """The tables of summary.md, for every data set and network, at both budgets.

    Args:
      rows: rows of results; those of stage "final" are used.
      references: the methods that others are compared with.
      compared: the outcomes that are compared.
      level: below which a p-value counts as resolved.
      resamples: of the bootstrap.

    Returns:
      Markdown with a heading of level 2 a (dataset, model). Numbers are mean ± standard error over seeds.

    Example:
      >>> rows = [{"stage": "final", "method": "sgd", "dataset": "mnist", "model": "mlp", "budget": "epochs", "seed": s,
      ...          "test_accuracy": a} for s, a in enumerate((0.98, 0.99))]
      >>> print(markdown(rows).splitlines()[-1])
      | sgd | 2 | 98.50 ± 0.50 |
    """
    rows = list(rows)
    groups, lines = arms(rows), summarise(rows)
    correlations, replaced = rank_correlations(rows, resamples=resamples), replaces(rows, level=level)
    sections = (
        ("At the mean", ("test_accuracy", "test_nll", "ece", "brier", "ood_auroc", "epochs", "gradients", "seconds")),
        ("Averaged over posterior samples", AVERAGED),
        ("Certificate", ("certificate", "certificate_risk", "certificate_kl", "train_loss", "gap", "learning_rate",
                         "radius", "effective_radius", "mean_scale")),
        ("Sharpness", MEASURES),
    )  # fmt: skip
    parts = [
        "Numbers are mean ± standard error over seeds. Bold: the best mean, where a two-sided paired t-test against "
        f"the second best gives p < {level:g}. † marks flagged seeds, which count where their numbers are finite.\n"
    ]
    for dataset, model in dict.fromkeys(key[:2] for key in groups):
        parts.append(f"## {dataset}, {model}\n")
        budgets = [key for key in groups if key[:2] == (dataset, model)]
        here = [[line for line in lines if (line["dataset"], line["model"], line["budget"]) == key] for key in budgets]
        for title, names in sections:
            for key, own in zip(budgets, here, strict=True):
                table = _outcome_table(groups[key], own, names, level)
                parts += [f"### {title}, equal {key[2]}\n", table] if table else []
        for reference in references:
            for key in budgets:
                table, counts = _paired_table(rows, compared, reference, key)
                note = (
                    f"Method minus {reference} over equal seeds: mean ± standard error, two-sided paired t-test, "
                    f"Holm's correction over the methods of this table and one outcome, sign-flip test."
                    f"{_flip_note(counts)}\n"
                )
                parts += [f"### Against {reference}, equal {key[2]}\n", note, table] if table else []
        own = [line for line in replaced if (line["dataset"], line["model"]) == (dataset, model)]
        if table := _replaces_table(own):
            note = (
                "Gain over mean_field, positive = better. At least: one-sided lower confidence bound at "
                f"{100 * (1 - level):g} %, shared by the methods of one outcome and budget; no loss beyond margin: it "
                f"lies above −margin.{_flip_note(line['seeds'] for line in own)}\n"
            )
            parts += ["### SAM-like updates in place of the reparametrisation trick\n", note, table]
        own = [line for line in correlations if (line["dataset"], line["model"]) == (dataset, model)]
        if table := _rank_table(own):
            left_out = max(line["left_out"] for line in own)
            note = (
                "Spearman's rho with a 95 % interval (bootstrap over methods, each with all its seeds), and Kendall's "
                f"tau-b. Flagged networks and those without a value, at most {left_out}, are left out.\n"
            )
            parts += ["### Rank correlations\n", note, table]
    return "\n".join(parts)
