"""Flatness against accuracy, a mark a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from experiments._rule_extrapolation.comparisons import correlations
from experiments._rule_extrapolation.figures.drawing import (
    check_any,
    finish,
    header,
    panels,
    percent_axis,
    seeds_note,
    style,
    titles_and_note,
)
from experiments._rule_extrapolation.rows import Row, by_setting, rows_by_arm, value
from pbjax import runs
from pbjax.runs import RankCorrelation
from pbjax.runs.figures import legend_below, log_axis, save_png

_UNITS = {
    "sharpness_trace": "Hessian trace in nats / weight²",
    "sharpness_adaptive": "adaptive sharpness in nats",
    "gaussian_scale": "Gaussian scale σ of the weights",
}


def _text(test: RankCorrelation) -> str:
    if test.rho is None or test.p_value is None:
        return f"ρ –, n = {test.count}"
    p = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.2g}"
    return f"ρ = {test.rho:+.2f}, {p}, n = {test.count}"


def sharpness_against_accuracy(rows: Sequence[Row], path: str | Path) -> None:
    """Hessian trace, adaptive sharpness and Gaussian scale against rule 1 on impossible prompts, at matched loss.

    A mark is a network; above each panel Spearman's rho over the seeds of a regime with the p-value of a permutation
    test, not corrected for the number of tests, over seeds that are not flagged. Accuracy is of completions that end.
    One line of panels a setting.

    Args:
      rows: rows of results, of which those at selection "matched" are drawn.
      path: the PNG file.

    Raises:
      ValueError: no row of that selection has a measure of flatness.
      OSError: the file cannot be written.
    """
    found = rows_by_arm(rows, "matched")
    measured = {
        name: {
            arm: [row for row in own if math.isfinite(value(row, name)) and math.isfinite(value(row, "ood_r1"))]
            for arm, own in found.items()
        }
        for name in _UNITS
    }
    measured = {name: own for name, own in measured.items() if any(own.values())}
    check_any(measured, "rows at selection 'matched' with a sharpness and an accuracy")
    settings = by_setting(arm for arm in found if any(own[arm] for own in measured.values()))
    drawn = [row for own in measured.values() for kept in own.values() for row in kept]
    note = seeds_note(drawn, "matched loss; completions that end; Spearman's ρ over seeds, p by permutation")
    titles, note = titles_and_note(settings, note)
    tests = {(row["arm"], row["measure"]): _text(row["test"]) for row in correlations(rows)}
    figure, grid = panels(settings, len(measured), width=3.2, height=3.3, sharey=True)
    for setting, arms in settings.items():
        line = grid[setting]
        for axes, (name, own) in zip(line, measured.items(), strict=True):
            lines, every = [], []
            for arm in arms:
                x, y = ([factor * value(row, column) for row in own[arm]]
                        for column, factor in ((name, 1), ("ood_r1", 100)))  # fmt: skip
                every += x
                how = style(arm.regime)
                colours = ["white" if runs.is_flagged(row) else how.colour for row in own[arm]]
                axes.scatter(
                    x, y, s=22 if len(x) <= 64 else 9, marker=how.marker, c=colours, edgecolors=how.colour, alpha=0.8,
                    linewidths=0.8, label=how.name, zorder=3,
                )  # fmt: skip
                lines.append((f"{how.name}: {tests.get((arm, name), 'ρ –')}", how.colour))
            log_axis(axes, every, across=True)
            percent_axis(axes, across=False)
            header(axes, titles[setting], lines)
            finish(axes, _UNITS[name], "OOD prompts: rule 1 kept, in %" if axes is line[0] else "")
    legend_below(figure, figure.axes, note=note)
    save_png(figure, path)
