"""What the study's figures share: one colour and one marker a method, means with errors, panels by group.

Points that a flagged network takes part in are hollow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments._sam_as_vi.rows import OUTCOMES, Row, method_of, value
from pbjax import runs
from pbjax.runs.statistics import mean_and_error

# Okabe and Ito's colours first, then Tol's; no two methods share a marker and a hue.
STYLES: dict[str, tuple[str, str, str]] = {
    "sgd": ("SGD", "#000000", "o"),
    "adamw": ("AdamW", "#888888", "s"),
    "sam": ("SAM", "#0072B2", "o"),
    "asam": ("ASAM", "#56B4E9", "^"),
    "gsam": ("GSAM", "#332288", "v"),
    "friendly_sam": ("friendly SAM", "#44AA99", "P"),
    "random_sam": ("RandomSAM", "#E69F00", "D"),
    "mix_sam": ("MixSAM", "#CC79A7", "X"),
    "mean_field": ("mean-field VI", "#D55E00", "s"),
    "variational_sam_a": ("Variational SAM A", "#009E73", "^"),
    "variational_sam_b": ("Variational SAM B", "#117733", "v"),
    "mean_field_then_sam": ("mean field, then SAM", "#882255", "D"),
    "bsam": ("bSAM", "#999933", "p"),
    "ivon": ("IVON", "#AA4499", "h"),
}


def style(arm: str) -> tuple[str, str, str]:
    """Name, colour and marker of a method; another method is grey.

    Args:
      arm: its name in the rows, with or without settings in brackets.

    Returns:
      (name for a legend, colour, marker).

    Example:
      >>> style("sam")[0], style("mix_sam (kappa 0.5)")[0]
      ('SAM', 'MixSAM (kappa 0.5)')
    """
    method = method_of(arm)
    name, colour, marker = STYLES.get(method, (method.replace("_", " "), "#666666", "*"))
    return name + arm.removeprefix(method), colour, marker


def means(rows: Iterable[Row], across: Callable[[Row], float], up: str) -> list[tuple[float, float, float, bool]]:
    """(x, mean, standard error or 0, any flagged) over seeds, one a setting of x, by x.

    Seeds belong together by their setting; x may vary between them (an effective radius) and is averaged.
    """
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(name) for name in ("radius", "kappa", "samples")), []).append(row)
    points = []
    for own in settings.values():
        x, _, _ = mean_and_error(across(row) for row in own)
        y, error, count = mean_and_error(OUTCOMES[up].factor * value(row, up) for row in own)
        if count and math.isfinite(x):
            points.append((x, y, 0.0 if math.isnan(error) else error, any(map(runs.is_flagged, own))))
    return sorted(points)


def draw(axes: Axes, points: Sequence[tuple[float, float, float, bool]], arm: str, *, dashed: bool = False) -> None:
    if not points:
        return
    name, colour, marker = style(arm)
    x, y, error, flagged = (np.array(column) for column in zip(*points, strict=True))
    axes.errorbar(
        x, y, yerr=error, color=colour, linewidth=1.2, elinewidth=1.0, capsize=2, linestyle="--" if dashed else "-",
        marker=marker, markersize=5, label=name, zorder=3,
    )  # fmt: skip
    axes.plot(
        x[flagged.astype(bool)], y[flagged.astype(bool)], linestyle="", marker=marker, markersize=5,
        markerfacecolor="white", markeredgecolor=colour, zorder=4,
    )  # fmt: skip


def focus(axes: Axes, heights: Sequence[float], *, good_is_high: bool = True) -> None:
    """Cuts the axis where a few collapsed points would flatten all others, and shows these as triangles on its edge."""
    values = np.array([height for height in heights if math.isfinite(height)])
    if len(values) < 4:
        return
    up = values if good_is_high else -values
    best, middle, least = up.max(), np.median(up), up.min()
    edge = best - 6 * max(best - middle, 1e-9)
    kept = up[up >= edge]
    if least >= edge or best == kept.min():
        return
    span = best - kept.min()
    low, high = kept.min() - 0.25 * span, best + 0.12 * span
    limits = (low, high) if good_is_high else (-high, -low)
    axes.set_ylim(*limits)
    outside = [(line, line.get_xydata()) for line in axes.lines if line.get_marker() not in ("None", "", "_", "|")]
    drawn = set()
    for line, points in outside:
        for x, y in np.asarray(points, float).reshape(-1, 2):
            if not limits[0] <= y <= limits[1] and (x, line.get_color()) not in drawn:
                drawn.add((x, line.get_color()))
                axes.plot(
                    x, limits[0] if good_is_high else limits[1], marker="v" if good_is_high else "^",
                    color=line.get_color(), markerfacecolor="white", markersize=6, clip_on=False, zorder=5,
                )  # fmt: skip


def note_on(rows: Iterable[Row], panels: Iterable[Axes] = ()) -> str:
    cut = any(line.get_clip_on() is False for axes in panels for line in axes.lines)
    notes = ["hollow: a flagged network takes part"] if any(map(runs.is_flagged, rows)) else []
    return "; ".join([*notes, *(["triangle on the edge: beyond the axis"] if cut else [])])


def groups_of(rows: Sequence[Row], stages: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(
        dict.fromkeys(
            (row.get("dataset") or "", row.get("model") or "", row.get("budget") or "")
            for row in rows
            if row.get("stage") in stages
        )
    )


def rows_of(rows: Sequence[Row], key: tuple[str, str, str], stage: str) -> dict[str, list[Row]]:
    """Rows of one stage and group by method, in the order of the tables."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("stage") == stage and tuple(row.get(name) or "" for name in ("dataset", "model", "budget")) == key:
            found.setdefault(row["method"], []).append(row)
    return {name: found[name] for name in sorted(found, key=lambda m: (m not in STYLES, [*STYLES, m].index(m)))}


def title_of(key: tuple[str, str, str]) -> str:
    return f"{key[0]}, {key[1]}, equal {key[2]}"


def check_any(groups: Sequence[Any], what: str) -> None:
    if not groups:
        raise ValueError(f"no rows of {what}; run that stage first, or leave this figure out")
