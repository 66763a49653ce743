"""Accuracy along the radius, along kappa, along the number of samples and along the starting scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments._sam_as_vi.figures.drawing import (
    check_any,
    draw,
    focus,
    groups_of,
    means,
    note_on,
    rows_of,
    style,
    title_of,
)
from experiments._sam_as_vi.methods import METHODS
from experiments._sam_as_vi.rows import Row, value
from pbjax.runs.figures import blank_figure, legend_below, save_png, tidy_axes
from pbjax.runs.statistics import mean_and_error


def accuracy_against_radius(rows: Sequence[Row], path: str | Path) -> None:
    """Test accuracy against the radius asked for and against the length that the perturbation really had.

    Mean ± standard error over seeds; one line of panels a (dataset, model, budget).

    Args:
      rows: rows of results, of which the stage curve_radius is drawn.
      path: the PNG file.

    Raises:
      ValueError: no row is of that stage.
      OSError: the file cannot be written.
    """
    groups = groups_of(rows, ["curve_radius"])
    check_any(groups, "stage curve_radius")
    figure = blank_figure(9.2, 1.0 + 3.5 * len(groups))
    grid = figure.subplots(len(groups), 2, squeeze=False, sharey="row")
    for line, key in zip(grid, groups, strict=True):
        for axes, column, label in zip(
            line, ("radius", "effective_radius"), ("radius ρ asked for", "length of the perturbation at the end"),
            strict=True,
        ):  # fmt: skip
            heights = []
            for method, own in rows_of(rows, key, "curve_radius").items():
                points = means(own, lambda row, column=column: value(row, column), "test_accuracy")
                points = [point for point in points if point[0] > 0]
                heights += [point[1] for point in points]
                draw(axes, points, method)
            axes.set_xscale("log")
            axes.set_xlabel(f"{label} (norm of weights)")
            axes.set_title(title_of(key), fontsize=10)
            tidy_axes(axes)
            focus(axes, heights)
        line[0].set_ylabel("test accuracy in %")
    legend_below(figure, grid.flat, note=note_on([r for r in rows if r.get("stage") == "curve_radius"], grid.flat))
    save_png(figure, path, keep_colours=True)


def _angle(row: Row) -> float:
    """Degrees between perturbation and gradient, arctan kappa; a kappa of null is the random end."""
    kappa = row.get("kappa")
    return 90.0 if kappa is None or math.isnan(kappa) else math.degrees(math.atan(kappa))


def _kappa_panel(axes: Axes, rows: Sequence[Row], key: tuple[str, str, str]) -> list[float]:
    heights = []
    for method, own in rows_of(rows, key, "curve_kappa").items():
        points = means(own, _angle, "test_accuracy")
        heights += [point[1] for point in points]
        draw(axes, points, method)
    final = rows_of(rows, key, "final")
    for method in ("sam", "random_sam"):
        own = final.get(method, [])
        level, error, count = mean_and_error(100 * value(row, "test_accuracy") for row in own)
        if count:
            name, colour, _ = style(method)
            radii = sorted({row["radius"] for row in own if row.get("radius") is not None})
            radius = f", ρ = {', '.join(f'{radius:g}' for radius in radii)}" if radii else ""
            axes.axhline(level, color=colour, linewidth=1.2, linestyle=":", label=f"{name}{radius} (± 1 s.e.)")
            if count > 1:
                axes.axhspan(level - error, level + error, color=colour, alpha=0.15, linewidth=0)
    ticks: dict[float, str] = {}
    angles = {_angle(row): row.get("kappa") for own in rows_of(rows, key, "curve_kappa").values() for row in own}
    for angle in sorted(angles, key=lambda angle: (angle not in (0.0, 90.0), angle)):
        if all(abs(angle - other) > 9 for other in ticks):  # labels closer than this touch
            ticks[angle] = "∞" if angle == 90.0 else f"{angles[angle]:g}"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel("κ, spaced by the angle arctan κ")
    axes.set_xlim(-4, 94)
    return heights


def curves(rows: Sequence[Row], path: str | Path) -> None:
    """Interpolations: along kappa from SAM to random, along the number of samples, along the starting scale.

    The starting scale is that of the radius; learned scales are drawn solid and fixed ones dashed. Panels without rows
    are left out; one line of panels a (dataset, model, budget).

    Args:
      rows: rows of results: stages curve_kappa, curve_samples and curve_scale, and "final" for the levels of SAM and
        RandomSAM.
      path: the PNG file.

    Raises:
      ValueError: no row is of one of the three stages.
      OSError: the file cannot be written.
    """
    stages = [s for s in ("curve_kappa", "curve_samples", "curve_scale") if any(r.get("stage") == s for r in rows)]
    groups = groups_of(rows, stages)
    check_any(groups, "stages curve_kappa, curve_samples or curve_scale")
    kinds = [
        (stage, outcome)
        for stage in stages
        for outcome in (("test_accuracy", "averaged_nll") if stage == "curve_scale" else ("test_accuracy",))
    ]
    # A stage may have run at one budget only: no panel without rows.
    panels = [(key, *kind) for key in groups for kind in kinds if rows_of(rows, key, kind[0])]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = blank_figure(max(4.6, 3.6 * across), 1.2 + 3.1 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (key, stage, outcome) in zip(grid.flat, panels, strict=False):
        if stage == "curve_kappa":
            heights = _kappa_panel(axes, rows, key)
        else:
            heights, ticks = [], set()
            column = "samples" if stage == "curve_samples" else "radius"
            for method, own in rows_of(rows, key, stage).items():
                points = means(own, lambda row, column=column: value(row, column), outcome)
                points = [point for point in points if point[0] > 0]
                heights += [point[1] for point in points]
                ticks |= {point[0] for point in points}
                fixed = stage == "curve_scale" and not (method in METHODS and METHODS[method].scale == "learned")
                draw(axes, points, method, dashed=fixed)
            axes.set_xscale("log")
            if stage == "curve_samples":
                axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
                axes.set_xticks([], minor=True)
                axes.set_xlabel("samples a step")
            else:
                axes.set_xlabel("starting radius √P·σ (norm of weights)")
        axes.set_ylabel("averaged NLL in nats" if outcome == "averaged_nll" else "test accuracy in %")
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_title(title_of(key), fontsize=9)
        tidy_axes(axes)
        focus(axes, heights, good_is_high=outcome == "test_accuracy")
    note = note_on([row for row in rows if row.get("stage") in stages], grid.flat)
    if "curve_scale" in stages:
        note = "; ".join(filter(None, ["against the starting radius: solid σ learned, dashed σ fixed", note]))
    legend_below(figure, grid.flat, note=note)
    save_png(figure, path, keep_colours=True)
