"""Reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments._sam_as_vi.figures.drawing import check_any, style
from pbjax.runs.figures import GREY, blank_figure, legend_below, save_png, tidy_axes


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One standard error either way of a share, by Wilson's score: not 0 where all or none were right."""
    centre = (share + 0.5 / count) / (1 + 1 / count)
    half = np.sqrt(share * (1 - share) / count + 0.25 / count**2) / (1 + 1 / count)
    return np.clip(share - (centre - half), 0, None), np.clip(centre + half - share, 0, None)


def reliability(bins: Mapping[str, Any], path: str | Path) -> None:
    """Accuracy against confidence in bins, one small panel a method, its ECE printed.

    ECE = sum over bins of count/total * |accuracy - confidence|. The area of a mark grows with the share of the bin's
    examples, bars are one standard error (Wilson), empty bins are left out.

    Args:
      bins: method -> (count [B], confidence [B] in [0, 1], accuracy [B] in [0, 1]), or -> a mapping from "mean" and
        "averaged" to such triples, which are drawn over each other.
      path: the PNG file.

    Raises:
      ValueError: bins is empty.
      OSError: the file cannot be written.
    """
    check_any(list(bins), "reliability bins")
    across = min(5, len(bins))
    down = -(-len(bins) // across)
    figure = blank_figure(max(4.4, 2.3 * across), 1.1 + 2.3 * down)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(bins) :]:
        axes.set_visible(False)
    kinds = {"mean": ("at the mean", "#0072B2", "o"), "averaged": ("averaged over samples", "#D55E00", "s")}
    for axes, (method, given) in zip(grid.flat, bins.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="perfectly calibrated")
        errors = []
        for kind, triple in (given if isinstance(given, Mapping) else {"mean": given}).items():
            if triple is None:
                continue
            count, confidence, accuracy = (np.asarray(column, float) for column in triple)
            filled = (count > 0) & np.isfinite(confidence) & np.isfinite(accuracy)
            count, confidence, accuracy = count[filled], confidence[filled], accuracy[filled]
            if not count.size:
                continue
            share = count / count.sum()
            error = 100 * float(np.sum(share * np.abs(accuracy - confidence)))
            label, colour, marker = kinds[kind]
            axes.errorbar(
                confidence, accuracy, yerr=np.array(_wilson(accuracy, count)), color=colour, linewidth=0.9,
                elinewidth=0.7, alpha=0.85,
            )  # fmt: skip
            axes.scatter(
                confidence, accuracy, s=6 + 60 * share, color=colour, marker=marker, label=label, zorder=3, linewidths=0
            )
            errors.append((f"{kind} {error:.2f} %", colour))
        for position, (text, colour) in enumerate(reversed(errors)):
            axes.text(
                0.97, 0.05 + 0.11 * position, f"ECE {text}", transform=axes.transAxes, ha="right", fontsize=7.5,
                color=colour, bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
        axes.set_title(style(method)[0], fontsize=9)
        axes.set_xlim(-0.02, 1.03)
        axes.set_ylim(-0.02, 1.03)
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
        tidy_axes(axes)
    for axes in grid.flat[max(0, len(bins) - across) : len(bins)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    for axes in grid[-1]:
        axes.set_xlabel("confidence", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    legend_below(figure, grid.flat[: len(bins)])
    save_png(figure, path)
