"""The tables of summary.md."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments._rule_extrapolation.comparisons import against_first, correlations, differences
from experiments._rule_extrapolation.groups import Arm
from experiments._rule_extrapolation.rows import (
    MEASURES,
    SELECTIONS,
    History,
    Row,
    arm_of,
    by_setting,
    first_within,
    kinds_of,
    mean_and_deviation,
    names,
    regime_name,
    rows_by_arm,
    value,
    values_within,
)
from pbjax import runs


def _number(number: float | None, digits: int, *, factor: float = 1.0, sign: bool = False) -> str:
    """Fixed decimals; an en dash for none."""
    if number is None or not math.isfinite(number):
        return "–"
    return f"{factor * number:{'+' if sign else ''}.{digits}f}"


def _p(number: float | None) -> str:
    return "–" if number is None else "<0.001" if number < 0.001 else f"{number:.3f}"


def _cell(values: Iterable[float], digits: int, *, factor: float = 1.0) -> str:
    """'46.2 ± 7.6', mean and standard deviation, and how many seeds it is over where that is not all of them."""
    listed = list(values)
    mean, deviation, count = mean_and_deviation(listed)
    text = _number(mean, digits, factor=factor)
    if count > 1:
        text += f" ± {_number(deviation, digits, factor=factor)}"
    return text if count in (0, len(listed)) else f"{text} ({count} of {len(listed)})"


def _range(values: np.ndarray) -> str:
    kept = 100 * values[np.isfinite(values)]
    return f"{kept.min():.1f}–{kept.max():.1f}" if kept.size else "–"


def _labels(arms: Iterable[Arm]) -> dict[Arm, dict[str, str]]:
    """The first cells of an arm's line: its setting, where there are several, and its regime."""
    settings = by_setting(arms)
    titles = names(settings)
    return {
        arm: {**({"arm": titles[setting]} if len(settings) > 1 else {}), "regime": regime_name(arm.regime)}
        for setting, own in settings.items()
        for arm in own
    }


def _table(lines: Sequence[dict[str, Any]]) -> str:
    columns = [name for name in lines[0] if name != "flag"]
    return runs.markdown_table(lines, columns=columns)


def _flags(own: Sequence[Row]) -> str | None:
    texts = [str(row["flag"]) for row in own if runs.is_flagged(row)]
    return f"{len(texts)} of {len(own)} seeds: {', '.join(dict.fromkeys(texts))}" if texts else None


def _selection_table(found: dict[Arm, list[Row]], labels: dict[Arm, dict[str, str]], seeds: Mapping[Arm, int]) -> str:
    """One line an arm, also where none of its `seeds` has a row."""
    columns = (
        ("step", "step", 0, 1), ("loss", "loss", 5, 1), ("kl_per_sequence", "KL nats", 3, 1),
        ("held_out_nats", "held out nats", 3, 1), ("id_r1", "ID R1 %", 1, 100), ("ood_r1", "OOD R1 %", 1, 100),
        ("ood_r1_unconditional", "unconditional %", 1, 100), ("ood_r2_completion", "R2 on completion %", 1, 100),
        ("finished", "finished %", 1, 100),
    )  # fmt: skip
    every = [row for own in found.values() for row in own]
    shown = [c for c in columns if c[0] != "held_out_nats" or any(math.isfinite(value(row, c[0])) for row in every)]
    lines = []
    for arm, label in labels.items():
        own = found.get(arm, [])
        cells = {title: _cell((value(row, c) for row in own), d, factor=f) for c, title, d, f in shown}
        cells["step"] = _number(mean_and_deviation(value(row, "step") for row in own)[0], 0)
        count = str(len(own)) if len(own) == seeds[arm] else f"{len(own)} of {seeds[arm]}"
        lines.append({**label, "seeds": count, **cells, "flag": _flags(own)})
    return _table(lines)


def _kind_tables(found: dict[Arm, list[Row]], labels: dict[Arm, dict[str, str]]) -> str:
    """One line an arm and prompt class: of completions that end, of all prompts, and the share that ends."""
    lines = []
    for arms in by_setting(found).values():
        for kind in kinds_of(row for arm in arms for row in found[arm]):
            for arm in arms:
                columns = (("ood_r1", "OOD R1 %"), ("ood_r1_unconditional", "unconditional %"),
                           ("finished", "finished %"))  # fmt: skip
                cells = {
                    title: _cell((value(row, f"{column}_{kind}") for row in found[arm]), 1, factor=100)
                    for column, title in columns
                }
                lines.append({**labels[arm], "prompts": kind.replace("_", " "), "seeds": str(len(found[arm])), **cells})
    return _table(lines) if lines else ""


def _behaviour_table(found: dict[Arm, list[Row]], labels: dict[Arm, dict[str, str]]) -> str:
    """One line an arm: which extension its completions are, symbol by symbol."""
    lines = [
        {**labels[arm], "seeds": str(len(own)),
         **{title: _cell((value(row, name) for row in own), 1, factor=100) for name, title in _BEHAVIOUR.items()}}
        for arm, own in found.items()
        if any(math.isfinite(value(row, "endless")) for row in own)
    ]  # fmt: skip
    return _table(lines) if lines else ""


_BEHAVIOUR = {
    "follows_oracle": "E1 balance %", "follows_stop": "E2 stop %", "follows_append_b": "E3 append b's %",
    "follows_adversarial": "E4 one too many %", "endless": "no end %", "endless_after_a": "no end, of those after a %",
    "append_b_after_b": "E3, of those after b %", "row_agreement": "same in other rows %",
}  # fmt: skip


def _band_table(history: History, bands: Sequence[float]) -> str:
    labels, lines = _labels(history), []
    for band in bands:
        for arm, label in labels.items():
            own = history[arm]
            index = first_within(own["kl_per_sequence"], band)
            reached = index >= 0
            steps = np.asarray(own["step"])[index[reached]]
            kl, r1, unconditional, ended = (
                values_within(own, name, band)[reached]
                for name in ("kl_per_sequence", "ood_r1", "ood_r1_unconditional", "finished")
            )
            lines.append(
                {
                    "KL at most": f"{band:g}", **label, "seeds": f"{reached.sum()} of {len(reached)}",
                    "step": _number(float(steps.mean()) if steps.size else None, 0), "KL nats": _cell(kl, 3),
                    "OOD R1 %": _cell(r1, 1, factor=100), "min–max": _range(r1),
                    "unconditional %": _cell(unconditional, 1, factor=100), "finished %": _cell(ended, 1, factor=100),
                }
            )  # fmt: skip
    return _table(lines)


def _difference_table(history: History, bands: Sequence[float | None]) -> str:
    titles = names(by_setting(history))
    return _pair_table([
        ({**({"arm": titles[row["setting"]]} if len(titles) > 1 else {}),
          "difference": f"{regime_name(row['greater'])} − {regime_name(row['lesser'])}"}, row)
        for row in differences(history, bands)
    ])  # fmt: skip


def _setting_table(history: History, bands: Sequence[float]) -> str:
    titles = names(by_setting(history))
    several = len({arm.regime for arm in history}) > 1
    return _pair_table([
        ({"difference": f"{titles[row['arm'][:4]]} − {titles[row['first'][:4]]}",
          **({"regime": regime_name(row["arm"].regime)} if several else {})}, row)
        for row in against_first(history, bands)
    ])  # fmt: skip


def _pair_table(rows: Sequence[tuple[dict[str, str], dict[str, Any]]]) -> str:
    """One line for the two accuracies of a band and pair, which its first cells name."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for head, row in rows:
        band = "end of training" if row["band"] is None else f"{row['band']:g}"
        cells = lines.setdefault(
            (band, *head.values()), {"KL at most": band, **head, **dict.fromkeys(_PAIR_COLUMNS, "–")}
        )
        seeds, delta, p = _PAIR_COLUMNS[:3] if row["column"] == "ood_r1" else _PAIR_COLUMNS[3:]
        counts, error = row["test"].counts, row["test"].standard_error
        cells[seeds] = f"{counts[0]}, {counts[1]}"
        cells[delta] = _number(row["test"].difference, 1, factor=100, sign=True)
        cells[delta] += "" if error is None else f" ± {_number(error, 1, factor=100)}"
        cells[p] = f"{_p(row['test'].p_value)} / {_p(row['p_holm'])}"
    return _table(list(lines.values())) if lines else ""


_PAIR_COLUMNS = ("seeds", "Δ OOD R1 %", "p / Holm", "seeds, unconditional", "Δ unconditional %", "p / Holm, uncond.")


def _correlation_table(found: Sequence[dict[str, Any]], labels: dict[Arm, dict[str, str]]) -> str:
    lines = [
        {
            **labels[row["arm"]], "measure": MEASURES[row["measure"]], "n": str(row["test"].count),
            "ρ": _number(row["test"].rho, 2, sign=True), "p": _p(row["test"].p_value), "Holm": _p(row["p_holm"]),
        }
        for row in found
        if row["test"].rho is not None
    ]  # fmt: skip
    return _table(lines) if lines else ""


def markdown(
    rows: Sequence[Row], history: History, *, bands: Sequence[float] = (0.7, 0.3, 0.1), pinned: bool = False
) -> str:
    """The tables of summary.md.

    Args:
      rows: rows of results.
      history: arm -> trajectories, for what is compared at matched loss; where empty, that is left out.
      bands: nats a sequence from the law of the data, greatest first.
      pinned: whether regimes are held at one divergence, so that they are compared at the end of training, too.

    Returns:
      Markdown with headings of level 2. Numbers are mean ± standard deviation over seeds.

    Raises:
      ValueError: rows are empty, or a seed of an arm has two of one selection.

    Example:
      >>> arm = Arm("anbn", "lstm", "none", "adamw", "oracle")
      >>> rows = [{**arm._asdict(), "seed": s, "selection": "last", "step": 900, "loss": 0.02, "kl_per_sequence": 0.1,
      ...          "id_r1": 1.0, "ood_r1": r1, "ood_r1_unconditional": r1 / 2, "ood_r2_completion": 1.0,
      ...          "finished": 0.5, "flag": None} for s, r1 in enumerate((0.8, 0.9))]
      >>> markdown(rows, {}).splitlines()[-1].split(" | ")[6:8]
      ['85.0 ± 7.1', '42.5 ± 3.5']
    """
    rows = list(rows)
    if not rows:
        raise ValueError("no rows: train some networks first, there is nothing to summarise")
    labels = _labels(map(arm_of, rows))
    settings = names(by_setting(labels))
    only = f" All networks: {next(iter(settings.values()))}." if len(settings) == 1 else ""
    parts = [
        f"Numbers are mean ± standard deviation over seeds.{only} R1 and R2 are the rules of the language on prompts "
        "that it never shows (OOD): R1 and R2 on completion of the completions that end, unconditional of all prompts, "
        "one that does not end counting as a failure. † marks flagged seeds, which count where their numbers are "
        "finite.\n"
    ]
    seeds = Counter(arm for arm, _ in {(arm_of(row), row["seed"]) for row in rows})
    chosen = {selection: rows_by_arm(rows, selection) for selection in SELECTIONS}
    for selection, found in chosen.items():
        parts += [f"## {SELECTIONS[selection]}\n", _selection_table(found, labels, seeds)] if found else []
    if history:
        parts += [
            "## Within loss bands\n",
            "Each seed at its first evaluation with a divergence (KL, nats a sequence) of at most the band; the "
            "narrower the band, the more it is a choice of the seeds that come there.\n",
            _band_table(history, bands),
        ]
        if table := _difference_table(history, [*bands, None] if pinned else bands):
            parts += [
                "## Order of the regimes at matched loss\n",
                "Difference of means over seeds ± standard error; two-sided permutation test, which deals the seeds "
                "out anew between two regimes, and Holm's correction over the lines of the table. Seeds that two "
                "regimes share start from equal weights; the test makes no use of it. Of three seeds a side the least "
                "p is 0.1.\n",
                table,
            ]  # fmt: skip
        if table := _setting_table(history, bands):
            parts += [
                "## Settings against the first at matched loss\n",
                "Each against the first that differs from it in one thing only: difference of means over seeds ± "
                "standard error, two-sided permutation test that deals the seeds out anew, Holm's correction over the "
                "lines of the table.\n",
                table,
            ]
    for selection in ("best", "matched"):
        found = correlations(rows, selection=selection)
        if table := _correlation_table(found, labels):
            parts += [
                f"## Loss and flatness against OOD R1: {SELECTIONS[selection].lower()}\n",
                f"Spearman's ρ over the seeds of an arm, two-sided permutation test, Holm's correction over the "
                f"{sum(row['test'].p_value is not None for row in found)} tests of the table. Flagged networks are "
                "left out, and measures or accuracies that do not vary.\n",
                table,
            ]  # fmt: skip
    if table := _behaviour_table(chosen["matched"], labels):
        parts += [
            "## What completions are: matched loss\n",
            "Share of the OOD prompts whose greedy completion is exactly that of an extension, EOS included: E1 makes "
            "the counts equal, E2 stops at once, E3 appends the b's that are missing and stops where none is, E4 adds "
            "one symbol too many. They agree on some prompts, so a line can exceed 100 %. After a and after b: of the "
            "prompts that end in it. Same in other rows: completions that stay when the prompts trade rows of the "
            "batch.\n",
            table,
        ]
    for selection in ("matched", "best"):
        if table := _kind_tables(chosen[selection], labels):
            parts += [f"## By class of the prompt: {SELECTIONS[selection].lower()}\n", table]
            break
    return "\n".join(parts)
