"""What happens along the run, and what each further gradient buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pbjax.runs.figures import blank_figure, legend_below, log_axis, save_png, tidy_axes

HEAT, SURROGATE, ERROR, TEST = "#0072b2", "#e69f00", "#009e73", "#555555"
CERTIFICATE = "#d55e00"


def _by_seed(curve: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    seeds = dict.fromkeys(point["seed"] for point in curve)
    return [[point for point in curve if point["seed"] == seed] for seed in seeds]


def along_the_run(curve: Sequence[Mapping[str, Any]], path: Path, *, n: int) -> None:
    """Heat per row, surrogate and errors against gradients and against beta, one line a seed."""
    figure = blank_figure(9.5, 4.2)
    left, right = figure.subplots(1, 2)
    for index, points in enumerate(_by_seed(curve)):
        for axes, across in ((left, "gradients"), (right, "beta")):
            for name, colour, style, scale, label in (
                ("heat", HEAT, "-", 1 / n, "heat W/n"), ("surrogate", SURROGATE, "--", 1.0, "surrogate L"),
                ("zero_one", ERROR, "-.", 1.0, "0-1 error"), ("test_zero_one", TEST, ":", 1.0, "0-1 error, test set"),
            ):  # fmt: skip
                axes.plot(
                    [point[across] for point in points], [point[name] * scale for point in points], style,
                    color=colour, linewidth=1.2, alpha=0.8, label=None if index else label,
                )  # fmt: skip
    left.set_xlabel("gradients of each chain")
    right.set_xlabel("total inverse temperature β")
    positive = [point["beta"] for point in curve]
    log_axis(right, positive, across=True)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        tidy_axes(axes)
    legend_below(figure, [left])
    save_png(figure, path)


def certificate_against_gradients(
    curve: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], path: Path, *, together: bool
) -> None:
    """The 0-1 certificate of every seed stopped earlier, its errors, and the best stop (or the end) of each."""
    figure = blank_figure(6.2, 4.6)
    axes = figure.subplots()
    for index, points in enumerate(_by_seed(curve)):
        across = [point["gradients"] for point in points]
        for name, colour, line, label in (
            ("certificate_if_stopped_here", CERTIFICATE, "-", "certificate, one network, stopped there"),
            ("zero_one", ERROR, "-.", "0-1 error"),
            ("test_zero_one", TEST, ":", "0-1 error, test set"),
        ):
            axes.plot(
                across, [point[name] for point in points], line, color=colour, label=None if index else label,
                linewidth=1.2, alpha=0.8,
            )  # fmt: skip
    stop = "best" if together else "end"
    marked = [
        row for row in rows if (row["method"], row["loss"], row["stop"]) == ("heat_single", "zero_one", stop)
    ]  # fmt: skip
    axes.plot(
        [row["gradients"] for row in marked], [row["certificate"] for row in marked], "o", color=CERTIFICATE,
        markersize=5, label="best stop of each" if together else "at the end",
    )  # fmt: skip
    log_axis(axes, [point["gradients"] for point in curve], across=True)
    axes.set_ylim(0, min(1.0, 1.05 * float(np.max([point["certificate_if_stopped_here"] for point in curve]))))
    axes.set_xlabel("gradients of each chain")
    axes.set_ylabel("0-1 risk")
    tidy_axes(axes)
    note = f"the points of the curves hold {'all together' if together else 'one at a time, not together'}"
    legend_below(figure, [axes], columns=2, note=note)
    save_png(figure, path)
