"""Certificates against the inverse temperature."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pbjax.runs.figures._marks import STYLES, beta_axis, draw_points, style_of
from pbjax.runs.figures.canvas import GREY, blank_figure, legend_below, save_png, tidy_axes
from pbjax.runs.results import is_flagged


def certificates_by_temperature(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Certificates against beta, one panel a loss, one colour and marker a method, one line a seed.

    Rows without a beta (a test-set bound) are horizontal lines. The test risk under the Gibbs posterior is a thin
    dotted line, so that the distance to be explained can be seen.

    Args:
      rows: rows of results, as `pbjax.runs.results.check_rows` takes them.
      path: the PNG file.

    Raises:
      ValueError: there are no rows.
      OSError: the file cannot be written.
    """
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    if not losses:
        raise ValueError("rows is empty; a figure of certificates needs at least one row")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    others = [method for method in methods if method not in STYLES]
    figure = blank_figure(1.4 + 4.4 * len(losses), 4.4)
    panels = figure.subplots(1, len(losses), squeeze=False, sharey=False)[0]
    for axes, loss in zip(panels, losses, strict=True):
        of_loss = [row for row in rows if row["loss"] == loss]
        for method in methods:
            (colour, marker), label = style_of(method, others), method.replace("_", " ")
            of_method = [row for row in of_loss if row["method"] == method]
            for seed in dict.fromkeys(row.get("seed") for row in of_method):
                ladder = [row for row in of_method if row.get("seed") == seed and row.get("beta") is not None]
                if ladder:
                    draw_points(
                        axes,
                        [row["beta"] for row in ladder],
                        [row["certificate"] for row in ladder],
                        [is_flagged(row) for row in ladder],
                        colour=colour,
                        marker=marker,
                        label=label,
                    )
                for row in of_method:
                    if row.get("seed") == seed and row.get("beta") is None:
                        style = ":" if is_flagged(row) else "--"
                        axes.axhline(
                            row["certificate"],
                            color=colour,
                            linestyle=style,
                            linewidth=1.2,
                            label=label,
                        )
        gibbs = [row for row in of_loss if row["method"].startswith("gibbs") and row.get("beta") is not None]
        for seed in dict.fromkeys(row.get("seed") for row in gibbs):
            risks = {
                row["beta"]: row["test_risk"]
                for row in gibbs
                if row.get("seed") == seed and row.get("test_risk") is not None
            }
            if risks:
                betas = sorted(risks)
                axes.plot(
                    betas, [risks[b] for b in betas], color=GREY, linestyle=":", label="Gibbs test risk", zorder=1
                )
        beta_axis(axes, np.array([row["beta"] for row in of_loss if row.get("beta") is not None], float))
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("certified upper bound on the risk")
        axes.set_title(loss.replace("_", " "), fontsize=11)
        tidy_axes(axes)
    note = "hollow: flagged by diagnostics, not to be relied on" if any(map(is_flagged, rows)) else ""
    legend_below(figure, panels, columns=4, note=note)
    save_png(figure, path)
