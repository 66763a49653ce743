"""The four panels with their minima, as one PNG of a hundred kilobytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from experiments._flatness.minima import Point
from pbjax.runs.atomic import write_file

# One scale for all panels, fine near the minima where the order of the two is decided.
LEVELS = np.concatenate([np.linspace(0.49, 0.60, 12), np.linspace(0.62, 0.80, 10), np.linspace(0.9, 1.2, 4)])
DPI = 110


def four_panels(
    x: np.ndarray,
    y: np.ndarray,
    panels: Mapping[str, tuple[np.ndarray, Sequence[Point]]],
    path: Path,
) -> None:
    """Draw the surfaces; the global minimum is a star, the others are circles.

    Args:
        x, y: axes of the grid, [G] and [H].
        panels: title -> (values [G, H], minima with the least first).
        path: the PNG file.
    """
    figure = Figure(figsize=(9.2, 6.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    filled = None
    for panel, (title, (values, points)) in zip(grid.flat, panels.items(), strict=True):
        shown = np.clip(np.where(np.isfinite(values), values, LEVELS[-1] + 1), None, LEVELS[-1] + 1).T
        filled = panel.contourf(x, y, shown, levels=LEVELS, cmap="viridis_r", extend="max", antialiased=False)
        panel.contour(x, y, shown, levels=LEVELS[::2], colors="black", linewidths=0.3, alpha=0.5)
        for rank, point in enumerate(points):
            marker, size = ("*", 15) if rank == 0 else ("o", 7)
            panel.plot(
                *point.place, marker=marker, markersize=size, markerfacecolor="#D55E00" if rank == 0 else "white",
                markeredgecolor="black", markeredgewidth=0.9, clip_on=False,
            )  # fmt: skip
            below = point.place[1] < 25
            panel.annotate(
                f"{point.value:.4f}", tuple(point.place), (0, -15 if below else 14), textcoords="offset points",
                ha="center", va="center", fontsize=9,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            )  # fmt: skip
        panel.set_title(title, fontsize=11)
        panel.set_xlim(x[0], x[-1])
        panel.set_ylim(y[0], y[-1])
    for panel in grid[:, 0]:
        panel.set_ylabel(r"$\theta_1$")
    for panel in grid[-1]:
        panel.set_xlabel(r"$\theta_0$")
    if filled is not None:
        figure.colorbar(filled, ax=grid, label="value", shrink=0.9, ticks=[0.5, 0.55, 0.6, 0.7, 0.8, 1.0, 1.2])
    keys = [
        Line2D([], [], linestyle="", marker="*", markersize=13, markerfacecolor="#D55E00", markeredgecolor="black",
               label="global minimum"),
        Line2D([], [], linestyle="", marker="o", markersize=7, markerfacecolor="white", markeredgecolor="black",
               label="other minimum"),
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI, facecolor="white")
    # A third of the size. An octree keeps rare colours, such as the star's, which a median cut gives away.
    image = Image.open(raw).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    write_file(path, small.getvalue())
