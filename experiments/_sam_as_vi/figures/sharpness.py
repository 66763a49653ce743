"""Sharpness against test error and certificate, a mark a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from experiments._sam_as_vi.correlations import rank_correlations
from experiments._sam_as_vi.figures.drawing import check_any, groups_of, note_on, rows_of, style, title_of
from experiments._sam_as_vi.rows import MEASURES, OUTCOMES, Row, value
from pbjax import runs
from pbjax.runs.figures import blank_figure, legend_below, log_axis, save_png, tidy_axes

_UNITS = {
    "sharpness_worst": "worst-case sharpness (nats)",
    "sharpness_adaptive": "adaptive sharpness (nats)",
    "sharpness_average": "average-case sharpness (nats)",
    "sharpness_trace": "Hessian trace (nats / weight²)",
    "sharpness_top_eigenvalue": "top eigenvalue (nats / weight²)",
    "certificate": "certificate (0-1 risk)",
    "test_error": "test error in %",
}


def _inside(number: float, limits: tuple[float, float]) -> float:
    return min(max(number, limits[0]), limits[1])


def _cloud(axes: Axes, methods: Mapping[str, list[Row]], measure: str, target: str) -> None:
    """One mark a network; the axes are those of the networks without flag, flagged ones beyond sit on the edge."""
    points: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for method, own in methods.items():
        for row in own:
            place = value(row, measure), OUTCOMES[target].factor * value(row, target)
            if all(map(math.isfinite, place)):
                points.setdefault((method, runs.is_flagged(row)), []).append(place)
    fine = [place for (_, flagged), own in points.items() for place in own if not flagged]
    log_axis(axes, [x for x, _ in fine], across=True, decades=1.7)
    log_axis(axes, [y for _, y in fine], across=False, wide=20.0, decades=1.7)
    for (method, flagged), own in sorted(points.items(), key=lambda item: item[0][1]):
        name, colour, marker = style(method)
        x, y = zip(*own, strict=True)
        if not flagged or not fine:
            axes.plot(
                x, y, marker=marker, markersize=4.5, markeredgecolor=colour, markeredgewidth=0.8, linestyle="",
                markerfacecolor="white" if flagged else colour, label=None if flagged else name, alpha=0.85, zorder=3,
            )  # fmt: skip
            continue
        limits = axes.get_xlim(), axes.get_ylim()
        for place in own:
            shown = _inside(place[0], limits[0]), _inside(place[1], limits[1])
            axes.plot(
                *shown, marker=marker if shown == place else "^", markersize=6, markerfacecolor="white",
                markeredgecolor=colour, markeredgewidth=0.9, linestyle="", zorder=4, clip_on=shown == place,
            )  # fmt: skip
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])


def sharpness_scatter(rows: Sequence[Row], path: str | Path) -> None:
    """Every sharpness measure against test error and against the certificate, and these two against each other.

    A mark is a network; Spearman's rho in the title of a panel is that of `rank_correlations` over networks, so
    hollow marks (flagged) take no part. Two lines of panels a (dataset, model, budget): pass the rows of one of them
    for a small file.

    Args:
      rows: rows of results, of which the stage final is drawn.
      path: the PNG file.

    Raises:
      ValueError: no row is of that stage.
      OSError: the file cannot be written.
    """
    groups = groups_of(rows, ["final"])
    check_any(groups, "stage final")
    found = {
        (line["dataset"], line["model"], line["budget"], line["measure"], line["target"]): line["rho"]
        for line in rank_correlations(rows, resamples=0)
        if line["over"] == "networks"
    }
    measures = (*MEASURES, "certificate")
    figure = blank_figure(13.6, 0.9 + 4.6 * len(groups))
    grid = figure.subplots(2 * len(groups), len(measures), squeeze=False)
    for index, key in enumerate(groups):
        final = rows_of(rows, key, "final")
        for axes_line, target in zip(grid[2 * index : 2 * index + 2], ("test_error", "certificate"), strict=True):
            for axes, measure in zip(axes_line, measures, strict=True):
                if measure == target:
                    axes.set_visible(False)
                    continue
                _cloud(axes, final, measure, target)
                rho = found.get((*key, measure, target))
                axes.set_title("ρ –" if rho is None else f"Spearman ρ = {rho:+.2f}", fontsize=9)
                axes.set_xlabel(_UNITS[measure], fontsize=8.5)
                if measure == measures[0]:
                    axes.set_ylabel(f"{key[0]}, {key[1]}\n{_UNITS[target]}", fontsize=8.5)
                axes.tick_params(labelsize=7.5)
                tidy_axes(axes)
    final_rows = [row for row in rows if row.get("stage") == "final"]
    note = "; ".join(filter(None, [", ".join(map(title_of, groups)), note_on(final_rows, grid.flat)]))
    legend_below(figure, grid.flat, columns=7, note=note)
    save_png(figure, path, keep_colours=True)
