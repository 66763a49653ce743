"""Loss against accuracy on impossible prompts, over training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments._rule_extrapolation.figures.drawing import (
    CONDITIONS,
    arrays,
    check_any,
    finish,
    panels,
    percent_axis,
    style,
    titles_and_note,
)
from experiments._rule_extrapolation.groups import Arm
from experiments._rule_extrapolation.rows import History, by_setting
from pbjax.runs.figures import GREY, legend_below, log_axis, save_png


def _mean_path(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean over seeds at each evaluation [points, 2], where at least half of them have a value; geometric in y."""
    both = np.isfinite(x) & np.isfinite(y)
    count = both.sum(axis=0)
    kept = count >= max(1, (len(x) + 1) // 2)
    across = np.sum(np.where(both, x, 0), axis=0)[kept] / count[kept]
    up = np.exp(np.sum(np.log(np.where(both, y, 1)), axis=0)[kept] / count[kept])
    return np.stack([across, up], axis=1)


def _draw(axes: Axes, arm: Arm, x: np.ndarray, y: np.ndarray) -> None:
    how = style(arm.regime)
    faint = max(0.06, min(0.4, 4 / len(x)))
    for seed_x, seed_y in zip(x, y, strict=True):
        kept = np.isfinite(seed_x) & np.isfinite(seed_y)
        axes.plot(seed_x[kept], seed_y[kept], color=how.colour, linewidth=0.7, alpha=faint, zorder=2)
    path = _mean_path(x, y)
    if not len(path):
        return
    axes.plot(*path.T, color=how.colour, linewidth=2.2, linestyle=how.line, label=how.name, zorder=4)
    for point, marker, size in ((path[0], "o", 7), (path[-1], "*", 15)):
        axes.plot(
            *point, marker=marker, markersize=size, color=how.colour, markeredgecolor="white", markeredgewidth=0.8,
            linestyle="", zorder=5, clip_on=False,
        )  # fmt: skip


def loss_against_accuracy(
    history: History, path: str | Path, *, floor: float | Mapping[str, float] | None = None
) -> None:
    """Where training leads: divergence from the law of the data against rule 1 on impossible prompts.

    A thin line is a seed, a thick one the mean over seeds (geometric for the divergence) where at least half of them
    have a value, from the circle to the star. Left: of completions that end; right: of all prompts. One line of panels
    a setting, one colour a regime.

    Args:
      history: arm -> `step` [C] and [S seeds, C evaluations]: `loss` in nats a position, `kl_per_sequence` in nats,
        `ood_r1` and `ood_r1_unconditional` in [0, 1], NaN allowed.
      path: the PNG file.
      floor: the least loss in nats a position, one number or one a language. With it the loss is drawn and the floor
        dotted; without, the divergence a sequence.

    Raises:
      ValueError: history is empty, or an array is missing or of another shape.
      OSError: the file cannot be written.
    """
    check_any(history, "history")
    settings = by_setting(history)
    note = "circle: first evaluation, star: last one; thin: a seed, thick: their mean"
    titles, note = titles_and_note(settings, note)
    figure, lines = panels(settings, 2, width=4.3, height=3.7)
    for setting, arms in settings.items():
        line = lines[setting]
        lowest = floor.get(setting[0]) if isinstance(floor, Mapping) else floor
        column = "kl_per_sequence" if lowest is None else "loss"
        for axes, (condition, words) in zip(line, CONDITIONS.items(), strict=True):
            heights: list[float] = []
            for arm in arms:
                x, y = arrays(history[arm], arm, condition, column)
                y = np.where(y > 0, y, np.nan)  # a divergence of zero has no place on a logarithmic axis
                heights += y[np.isfinite(y)].tolist()
                _draw(axes, arm, 100 * x, y)
            if lowest is not None:
                axes.axhline(lowest, color=GREY, linewidth=1, linestyle=":", label="least loss", zorder=1)
            log_axis(axes, heights, across=False, wide=2.0)
            percent_axis(axes, across=True)
            axes.set_title(titles[setting], fontsize=9.5)
            up = "KL from the data in nats a sequence" if lowest is None else "loss in nats a position"
            finish(axes, f"OOD prompts: rule 1 kept, in % {words}", up if axes is line[0] else "")
    legend_below(figure, figure.axes, note=note)
    save_png(figure, path, keep_colours=True)
