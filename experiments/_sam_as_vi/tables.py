"""The tables of summary.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

from experiments._sam_as_vi.comparisons import compare, paired, replaces
from experiments._sam_as_vi.correlations import rank_correlations
from experiments._sam_as_vi.rows import (
    AVERAGED,
    MEASURES,
    ORDER,
    OUTCOMES,
    Arms,
    Key,
    Row,
    arms,
    method_of,
    summarise,
)
from pbjax import runs
from pbjax.runs.statistics import MOST_SIGNS

_GIVEN = ("learning_rate", "radius", "epochs", "gradients", "seconds")  # not measured on a network: no error is shown


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
    p_value = compare(group[first], group[second], name)["p_value"]
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
    table.sort(key=lambda cells: ORDER.index(method_of(cells["method"])))
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
        if 0 < count <= MOST_SIGNS
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
