"""Accuracy by prompt class, and by arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from experiments._rule_extrapolation.figures.drawing import (
    CONDITIONS,
    check_any,
    dots,
    finish,
    panels,
    percent_axis,
    seeds_note,
    style,
    titles_and_note,
)
from experiments._rule_extrapolation.rows import (
    SELECTIONS,
    Row,
    arm_of,
    by_setting,
    kinds_of,
    names,
    rows_by_arm,
    value,
)
from pbjax.runs.figures import blank_figure, legend_below, save_png

_PANELS = {**{name: f"rule 1 kept, in %\n{words}" for name, words in CONDITIONS.items()}, "finished": "ended, in %"}
_EMPTY = {"ood_r1": "none ends"}
_WHERE = {
    name: f"at {words.lower()}" if name != "last" else "at the end of training" for name, words in SELECTIONS.items()
}


def _slots(count: int) -> tuple[list[float], float]:
    """Places around 0 for the regimes of a group, and their width."""
    width = 0.8 / count
    return [width * (position - (count - 1) / 2) for position in range(count)], 0.9 * width


def _label(axes: Axes, texts: Sequence[str], *, slanted: bool) -> None:
    axes.set_xticks(range(len(texts)), texts)
    axes.set_xlim(-0.55, len(texts) - 0.45)
    if slanted:
        for text in axes.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")


def accuracy_by_kind(rows: Sequence[Row], path: str | Path, *, selection: str = "matched") -> None:
    """Rule 1 by class of the prompt: of completions that end, of all prompts, and the share that ends.

    A dot is a seed, a bar their mean; one line of panels a setting.

    Args:
      rows: rows of results.
      path: the PNG file.
      selection: which of them: "best", "last" or "matched".

    Raises:
      ValueError: no row is of that selection, or none has a prompt class.
      OSError: the file cannot be written.
    """
    found = rows_by_arm(rows, selection)
    check_any(found, f"rows at selection {selection!r}")
    settings = by_setting(map(arm_of, rows))
    kinds = {setting: kinds_of(row for arm in arms for row in found.get(arm, ())) for setting, arms in settings.items()}
    settings = {setting: arms for setting, arms in settings.items() if kinds[setting]}
    check_any(settings, f"prompt classes in the rows at selection {selection!r}")
    every = [row for own in found.values() for row in own]
    note = seeds_note(every, f"{_WHERE[selection]}; a dot is a seed, a bar the mean")
    titles, note = titles_and_note(settings, note)
    figure, grid = panels(settings, len(_PANELS), width=1.4 + 0.6 * max(map(len, kinds.values())), height=3.0)
    for setting, arms in settings.items():
        line = grid[setting]
        places, width = _slots(len(arms))
        for axes, (column, label) in zip(line, _PANELS.items(), strict=True):
            for index, kind in enumerate(kinds[setting]):
                for arm, place in zip(arms, places, strict=True):
                    own = found.get(arm, [])
                    heights = [100 * value(row, f"{column}_{kind}") for row in own]
                    dots(
                        axes, own, heights, place=index + place, how=style(arm.regime), width=width,
                        empty=_EMPTY.get(column, "no prompts"),
                    )  # fmt: skip
            texts = [kind.replace("_", " ") for kind in kinds[setting]]
            _label(axes, texts, slanted=sum(map(len, texts)) > 32)
            percent_axis(axes, across=False)
            axes.set_title(titles[setting], fontsize=9.5)
            finish(axes, "OOD prompts by class", label)
    legend_below(figure, figure.axes, note=note)
    save_png(figure, path)


def accuracy_by_arm(rows: Sequence[Row], path: str | Path, *, selection: str = "matched") -> None:
    """Rule 1 on impossible prompts by language, model, position encoding and optimiser, whatever of them varies.

    A dot is a seed, a bar their mean; of completions that end, of all prompts, and the share that ends.

    Args:
      rows: rows of results.
      path: the PNG file.
      selection: which of them: "best", "last" or "matched".

    Raises:
      ValueError: no row is of that selection.
      OSError: the file cannot be written.
    """
    found = rows_by_arm(rows, selection)
    check_any(found, f"rows at selection {selection!r}")
    settings = by_setting(map(arm_of, rows))
    regimes = list(dict.fromkeys(arm.regime for arms in settings.values() for arm in arms))
    places, width = _slots(len(regimes))
    figure = blank_figure(max(6.4, 2.2 + 0.28 * len(regimes) * len(settings)), 1.4 + 2.3 * len(_PANELS))
    grid = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (column, label) in zip(grid, _PANELS.items(), strict=True):
        for index, arms in enumerate(settings.values()):
            for arm in arms:
                place = index + places[regimes.index(arm.regime)]
                own = found.get(arm, [])
                heights = [100 * value(row, column) for row in own]
                dots(
                    axes, own, heights, place=place, how=style(arm.regime), width=width,
                    empty=_EMPTY.get(column, "no prompts"),
                )  # fmt: skip
        percent_axis(axes, across=False)
        finish(axes, "", label)
    texts = list(names(settings).values())
    _label(grid[-1], texts, slanted=len(texts) > 3)
    every = [row for own in found.values() for row in own]
    note = f"OOD prompts, {_WHERE[selection]}; a dot is a seed, a bar the mean"
    legend_below(figure, grid, note=seeds_note(every, note))
    save_png(figure, path)
