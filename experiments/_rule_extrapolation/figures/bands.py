"""Seeds at equal loss: the spread of their accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments._rule_extrapolation.figures.drawing import (
    arrays,
    check_any,
    finish,
    header,
    panels,
    percent,
    style,
    titles_and_note,
)
from experiments._rule_extrapolation.rows import (
    History,
    by_setting,
    first_within,
    mean_and_deviation,
    values_within,
)
from pbjax.runs.figures import legend_below, save_png

_EDGES = np.linspace(0, 100, 11)


def accuracy_within_bands(history: History, path: str | Path, *, bands: Sequence[float] = (0.7, 0.3, 0.1)) -> None:
    """Histogram over seeds of rule 1 on impossible prompts, each seed at its first evaluation within a loss band.

    One panel a band, regimes side by side; above it how many seeds come so near, and the mean and standard deviation
    of the accuracy, which is of completions that end.

    Args:
      history: arm -> `step` [C], `kl_per_sequence` in nats and `ood_r1` in [0, 1], [S seeds, C evaluations].
      path: the PNG file.
      bands: nats a sequence from the law of the data, one panel each.

    Raises:
      ValueError: history or bands are empty, or an array is missing or of another shape.
      OSError: the file cannot be written.
    """
    check_any(history, "history")
    check_any(bands, "loss bands")
    settings = by_setting(history)
    note = "first evaluation within the band; accuracy of completions that end, mean ± standard deviation"
    titles, note = titles_and_note(settings, note)
    figure, grid = panels(settings, len(bands), width=3.4, height=3.1)
    for setting, arms in settings.items():
        line = grid[setting]
        for axes, band in zip(line, bands, strict=True):
            found, lines = [], []
            for arm in arms:
                kl, _ = arrays(history[arm], arm, "kl_per_sequence", "ood_r1")
                accuracy = values_within(history[arm], "ood_r1", band)
                reached, seeds = int(np.sum(first_within(kl, band) >= 0)), len(kl)
                mean, deviation, count = mean_and_deviation(accuracy.tolist())
                text = f"{style(arm.regime).name}: n = {reached} of {seeds}"
                text += f", {percent(mean, deviation)}" if count else ""
                text += f" ({reached - count} never end)" if count < reached else ""
                lines.append((text, style(arm.regime).colour))
                found.append(100 * accuracy[np.isfinite(accuracy)])
            width = 10 / (len(arms) + 0.4)
            for position, (arm, own) in enumerate(zip(arms, found, strict=True)):
                heights, _ = np.histogram(own, _EDGES)
                how = style(arm.regime)
                axes.bar(
                    _EDGES[:-1] + (position + 0.7) * width, heights, 0.9 * width, color=how.colour, label=how.name,
                    linewidth=0, zorder=2,
                )  # fmt: skip
            if not any(map(len, found)):
                axes.text(0.5, 0.5, "no seed comes so near", transform=axes.transAxes, ha="center", fontsize=8.5)
            axes.set_xlim(-2, 102)
            axes.set_xticks(range(0, 101, 20))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            header(axes, ": ".join(filter(None, (titles[setting], f"KL ≤ {band:g} nats"))), lines)
            finish(axes, "OOD prompts: rule 1 kept, in %", "seeds" if axes is line[0] else "")
    for axes in figure.axes:  # shared along a line, so only now is its top known
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    legend_below(figure, figure.axes, note=note)
    save_png(figure, path)
