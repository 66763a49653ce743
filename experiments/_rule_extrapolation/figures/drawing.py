"""What the study's figures share: one colour, marker and line a regime, panels by setting, text above a panel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._rule_extrapolation.groups import Arm
from experiments._rule_extrapolation.rows import Row, Setting, mean_and_deviation, names, regime_name
from pbjax import runs
from pbjax.runs.figures import GREY, blank_figure, tidy_axes

CONDITIONS = {"ood_r1": "of completions that end", "ood_r1_unconditional": "of all prompts"}
"""The two accuracies of rule 1: conditional on ending, and with a completion that never ends as a failure."""


class Style(NamedTuple):
    """How a regime is drawn.

    Attributes:
      name: for legends.
      colour: likewise on every figure.
      marker: beside the colour.
      line: beside the colour.
    """

    name: str
    colour: str
    marker: str
    line: Any


_STYLES = {
    "maximum_likelihood": ("#0072B2", "o", "-"),
    "adversarial": ("#CC3311", "s", (0, (5, 1.5))),
    "oracle": ("#009E73", "^", (0, (6, 1.5, 1.5, 1.5))),
}


def style(regime: str) -> Style:
    """Blue, red and green for the three regimes; another is grey.

    Args:
      regime: as in the rows.

    Returns:
      Name, colour, marker and line.

    Example:
      >>> style("oracle")[:3], style("something_new").colour
      (('oracle', '#009E73', '^'), '#555555')
    """
    return Style(regime_name(regime), *_STYLES.get(regime, (GREY, "D", ":")))


def panels(
    settings: Iterable[Setting], columns: int, *, width: float, height: float, sharey: Any = "row"
) -> tuple[Figure, dict[Setting, list[Axes]]]:
    """A line of `columns` panels a setting; where there are more than six settings, two of them side by side."""
    listed = list(settings)
    blocks = 1 if len(listed) <= 6 else 2
    down = -(-len(listed) // blocks)
    figure = blank_figure(max(7.4, 0.6 + width * columns * blocks), 1.0 + height * down)
    grid = figure.subplots(down, columns * blocks, squeeze=False, sharey=sharey).reshape(-1, columns)
    for line in grid[len(listed) :]:
        for axes in line:
            axes.set_visible(False)
    return figure, {setting: list(line) for setting, line in zip(listed, grid, strict=False)}


def titles_and_note(settings: Iterable[Setting], note: str) -> tuple[dict[Setting, str], str]:
    """Names for the titles of panels and the line above them, which takes the name of a single setting."""
    listed = list(settings)
    found = names(listed)
    return (found, note) if len(listed) > 1 else (dict.fromkeys(listed, ""), f"{found[listed[0]]}; {note}")


def percent_axis(axes: Axes, *, across: bool) -> None:
    """0 to 100 with some room, so that no mark is cut; label apart."""
    (axes.set_xlim if across else axes.set_ylim)(-4, 104)
    (axes.set_xticks if across else axes.set_yticks)(range(0, 101, 20))


def header(axes: Axes, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """A title, and under it lines of text in colours of their own; all above the panel, where no data are."""
    axes.set_title(title, fontsize=9.5, pad=5 + 11 * len(lines))
    for position, (text, colour) in enumerate(reversed(lines)):
        axes.annotate(
            text, (0.5, 1.0), xycoords="axes fraction", xytext=(0, 3 + 11 * position), textcoords="offset points",
            ha="center", va="bottom", fontsize=7.5, color=colour, annotation_clip=False,
        )  # fmt: skip


def percent(mean: float, deviation: float, digits: int = 1) -> str:
    """'46.2 ± 7.6 %' of shares, without the deviation of a single seed."""
    text = f"{100 * mean:.{digits}f}"
    return f"{text} ± {100 * deviation:.{digits}f} %" if math.isfinite(deviation) else f"{text} %"


def dots(
    axes: Axes, rows: Sequence[Row], heights: Iterable[float], *, place: float, how: Style, width: float, empty: str
) -> None:
    """Every seed a dot around `place`, the mean a bar; hollow where flagged; `empty` where no seed has a value."""
    values = np.array(list(heights), float)
    mean, _, count = mean_and_deviation(values.tolist())
    if not count:
        axes.annotate(
            empty if len(values) else "none so near", (place, 0), xytext=(0, 3), textcoords="offset points",
            rotation=90, ha="center", va="bottom", fontsize=7, color=how.colour,
        )  # fmt: skip
        return
    axes.bar(place, mean, width, color=how.colour, alpha=0.3, linewidth=0, label=how.name, zorder=1)
    axes.hlines(mean, place - width / 2, place + width / 2, color=how.colour, linewidth=1.6, zorder=2)
    spread = 0.7 * width * ((np.arange(len(values)) * 0.618034) % 1 - 0.5) if len(values) > 1 else np.zeros(1)
    size = 14 if len(values) <= 32 else 6
    for flagged in (False, True):
        own = np.isfinite(values) & (np.array([runs.is_flagged(row) for row in rows]) == flagged)
        axes.scatter(
            place + spread[own], values[own], s=size, marker=how.marker, linewidths=0.8, zorder=3,
            facecolors="white" if flagged else how.colour, edgecolors=how.colour, alpha=0.85,
        )  # fmt: skip


def seeds_note(rows: Iterable[Row], first: str) -> str:
    """The line above the panels."""
    return f"{first}; hollow: flagged" if any(map(runs.is_flagged, rows)) else first


def arrays(trajectories: Mapping[str, Any], arm: Arm, *columns: str) -> list[np.ndarray]:
    """Trajectories [S, C] by name, in one shape."""
    missing = [name for name in ("step", *columns) if name not in trajectories]
    if missing:
        raise ValueError(f"history of {', '.join(arm)} lacks {', '.join(missing)}")
    found = [np.asarray(trajectories[name], float) for name in columns]
    shapes = [array.shape for array in found]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][1:] != np.shape(trajectories["step"]):
        raise ValueError(f"history of {', '.join(arm)}: {', '.join(columns)} [S, C] and step [C] needed, got {shapes}")
    return found


def finish(axes: Axes, label_across: str, label_up: str) -> None:
    """Labels, spines and a grid."""
    axes.set_xlabel(label_across, fontsize=8.5)
    axes.set_ylabel(label_up, fontsize=8.5)
    axes.tick_params(labelsize=8)
    tidy_axes(axes)


def check_any(given: Any, what: str) -> None:
    """Refuses to draw nothing."""
    if not given:
        raise ValueError(f"no {what}: train some networks first, or leave this figure out")
