"""What a network thinks of all short strings, by the rules that they keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from experiments._rule_extrapolation.figures.drawing import (
    arrays,
    check_any,
    finish,
    panels,
    style,
    titles_and_note,
)
from experiments._rule_extrapolation.rows import History, by_setting
from pbjax.runs.figures import GREY, legend_below, log_axis, save_png

_CLASSES = {
    "mass_both": ("rules 1 and 2", "#000000", "-"),
    "mass_r1_only": ("rule 1 only", "#AA4499", (0, (5, 1.5))),
    "mass_r2_only": ("rule 2 only", "#E69F00", (0, (6, 1.5, 1.5, 1.5))),
    "mass_neither": ("neither", "#999999", (0, (1.5, 1.5))),
}
_DEPTH = 1e-6  # of the axis below its top: what is less is nothing


def class_mass(history: History, path: str | Path, *, exact: float | Mapping[str, float] | None = None) -> None:
    """Probability of all short strings that keep both rules, one of them or none, over training.

    The mean over seeds, and the range from the 10 % to the 90 % quantile over seeds; one panel a regime, one line of
    panels a setting.

    Args:
      history: arm -> `step` [C] and `mass_both`, `mass_r1_only`, `mass_r2_only`, `mass_neither` in [0, 1],
        [S seeds, C evaluations]. Arms that have no number there are left out.
      path: the PNG file.
      exact: the probability of both under the law of the data, one number or one a language; dotted.

    Raises:
      ValueError: no arm has a probability, or an array is missing or of another shape.
      OSError: the file cannot be written.
    """
    masses = {arm: arrays(own, arm, *_CLASSES) for arm, own in history.items()}
    masses = {arm: own for arm, own in masses.items() if any(np.isfinite(values).any() for values in own)}
    check_any(masses, "probability of rule classes in the history")
    settings = by_setting(masses)
    titles, note = titles_and_note(settings, "mean over seeds; shaded: 10 % to 90 % of them")
    figure, grid = panels(settings, max(map(len, settings.values())), width=3.2, height=2.9, sharey=True)
    highest = lowest = 1.0
    for setting, arms in settings.items():
        line = grid[setting]
        for axes in line[len(arms) :]:
            axes.set_visible(False)
        for axes, arm in zip(line, arms, strict=False):
            step = np.asarray(history[arm]["step"], float)
            for (label, colour, dashes), values in zip(_CLASSES.values(), masses[arm], strict=True):
                seen = np.isfinite(values).any(axis=0)
                own = 100 * values[:, seen]
                mean = np.nanmean(own, axis=0)
                low, high = np.nanquantile(own, (0.1, 0.9), axis=0)
                axes.fill_between(step[seen], low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(step[seen], mean, color=colour, linewidth=1.6, linestyle=dashes, label=label)
                positive = [*mean[mean > 0].tolist(), 1.0]
                highest, lowest = max(highest, *positive, *high.tolist()), min(lowest, *positive)
            truth = exact.get(setting[0]) if isinstance(exact, Mapping) else exact
            if truth is not None:
                axes.axhline(
                    100 * truth, color=GREY, linewidth=1.1, linestyle=":", zorder=4, label="rules 1 and 2, exact"
                )  # fmt: skip
                lowest = min(lowest, 100 * truth) if truth > 0 else lowest
            axes.set_title(": ".join(filter(None, (titles[setting], style(arm.regime).name))), fontsize=9.5)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
            finish(axes, "step", "probability in %" if axes is line[0] else "")
    lowest = max(lowest, _DEPTH * highest)
    for axes in figure.axes:
        log_axis(axes, (lowest, highest), across=False, unit=" %")
        axes.set_ylim(0.6 * lowest, 1.6 * highest)
    legend_below(figure, figure.axes, note=note)
    save_png(figure, path)
