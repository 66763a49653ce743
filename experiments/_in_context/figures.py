"""The figures of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pbjax.runs.figures import GREY, blank_figure, legend_below, save_png, tidy_axes

LAWS = {"prior": ("#CC3311", "s"), "uniform": ("#E69F00", "^"), "wrong": ("#AA4499", "D")}
PLAIN, PENALISED, BAYES = "#0072B2", "#CC3311", "#000000"
SHADES = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC3311")


def _finish(axes: Axes, across: str, up: str) -> None:
    tidy_axes(axes)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def chosen_starts(starts: Sequence[int], count: int = 4) -> list[int]:
    """Some of the N, spread evenly, the least and the largest among them.

    Args:
        starts: all N.
        count: how many at most, at least 2.

    Returns:
        Indices into `starts`.

    Example:
        >>> chosen_starts([1, 2, 3, 4, 5, 6, 7]), chosen_starts([3])
        ([0, 2, 4, 6], [0])
    """
    return sorted({round(i) for i in np.linspace(0, len(starts) - 1, min(count, len(starts)))})


def neighbours(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Accuracy of p and of some q_N against n, which part at N; beside it the KL with its bounds against N.

    Args:
        found: from `exact.measure`.
        rows: from `exact.rows`.
        path: the PNG file.
    """
    laws = list(found["neighbours"])
    first = [row for row in rows if row["law"] == laws[0]]
    p = found["p"]
    n = np.arange(len(p["value"]))
    figure = blank_figure(10.4, 4.4)
    left, right = figure.subplots(1, 2)
    left.plot(n, 100 * np.asarray(p["oracle"]), color=GREY, linewidth=1.1, linestyle=":", label="told the concept")
    left.plot(n, 100 * np.asarray(p["value"]), color=BAYES, linewidth=2.2, label="p", zorder=4)
    own = found["neighbours"][laws[0]]
    starts = [row["start"] for row in first]
    for shade, index in zip(SHADES, chosen_starts(starts), strict=False):
        left.plot(
            n, 100 * np.asarray(own["accuracy"][index]), color=shade, linewidth=1.4, marker="o", markersize=3.5,
            label=f"q, N = {starts[index]}", zorder=3,
        )  # fmt: skip
    _finish(left, "examples n in the prompt", "label predicted, in %")
    left.set_title(f"in-context accuracy, r = {laws[0]}", fontsize=9.5)
    for law in laws:
        of_law = [row for row in rows if row["law"] == law]
        colour, marker = LAWS[law]
        across = [row["start"] for row in of_law]
        kl = np.array([row["kl"] for row in of_law])
        right.errorbar(
            across, kl, yerr=[2 * row["standard_error"] for row in of_law], color=colour, marker=marker, markersize=4.5,
            linewidth=1.2, label=f"KL(p‖q), r = {law}", zorder=3,
        )  # fmt: skip
    right.plot(
        starts, [row["format_bound"] for row in first], color=BAYES, linewidth=1.2, linestyle="--",
        label="Σ P(format) log 1/η", zorder=4,
    )  # fmt: skip
    right.plot(starts, [row["bound"] for row in first], color=BAYES, linewidth=1.6, label="ρ^N log(1/η)/(1 − ρ)")
    right.set_yscale("log")
    _finish(right, "N, the number of examples from which on q does not learn", "nats a sequence")
    right.set_title(f"divergence, ρ = {found['rho']:.4f}", fontsize=9.5)
    legend_below(figure, figure.axes, columns=6, note="bars: two standard errors of Monte Carlo")
    save_png(figure, path, keep_colours=True)


def sequences(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """How many test sequences it takes to tell p from q_N, against N, one panel a law.

    Args:
        rows: from `exact.rows`.
        path: the PNG file.
    """
    laws = list(dict.fromkeys(row["law"] for row in rows))
    lines = (
        ("sequences_any_test", "no test does with fewer", "-", BAYES),
        ("sequences_paired", "paired losses", "--", PLAIN),
        ("sequences_mean_losses", "mean losses on two test sets", ":", PENALISED),
    )
    figure = blank_figure(1.2 + 3.3 * len(laws), 3.9)
    panels = figure.subplots(1, len(laws), squeeze=False, sharey=True)[0]
    for axes, law in zip(panels, laws, strict=True):
        own = [row for row in rows if row["law"] == law]
        for column, label, style, colour in lines:
            up = np.array([row[column] for row in own], float)
            kept = np.isfinite(up)
            axes.plot(
                np.array([row["start"] for row in own])[kept], up[kept], color=colour, linestyle=style, marker="o",
                markersize=3.5, linewidth=1.6, label=label,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(f"r = {law}", fontsize=9.5)
        _finish(axes, "N", "test sequences" if axes is panels[0] else "")
    legend_below(figure, figure.axes, note="sum of the two errors 0.1")
    save_png(figure, path)


def pair(reference: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Accuracy of both branches against n beside the exact predictors, and the test loss of every seed.

    Args:
        reference: from `pair.reference`.
        rows: of part "network".
        path: the PNG file.
    """
    n = np.arange(len(reference["bayes"]))
    figure = blank_figure(10.4, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    left.plot(n, 100 * reference["oracle"], color=GREY, linestyle=":", linewidth=1.2, label="told the concept")
    left.plot(n, 100 * reference["bayes"], color=BAYES, linewidth=1.6, label="Bayes")
    left.plot(n, 100 * reference["known"], color=GREY, linestyle="--", linewidth=1.2, label="test example alone")
    values: dict[str, np.ndarray] = {}
    for branch, colour, marker in (("plain", PLAIN, "o"), ("penalised", PENALISED, "s")):
        own = sorted((row for row in rows if row["branch"] == branch), key=lambda row: row["seed"])
        curves = 100 * np.array([[row[f"accuracy_{i}"] for i in n] for row in own])
        left.fill_between(n, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
        left.plot(n, curves.mean(0), color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=branch, zorder=4)
        values[branch] = np.array([row["kl"] for row in own])
    _finish(left, "examples n in the prompt", "label predicted, in %")
    left.set_title("in-context accuracy", fontsize=9.5)
    for before, after in zip(values["plain"], values["penalised"], strict=True):
        right.plot([0, 1], [before, after], color=GREY, linewidth=0.8, zorder=2)
    for place, (colour, marker, kl) in enumerate(
        ((PLAIN, "o", values["plain"]), (PENALISED, "s", values["penalised"]))
    ):
        right.scatter(np.full(len(kl), place), kl, color=colour, marker=marker, s=22, zorder=3)
    _finish(right, "", "test loss above the entropy, nats a sequence")
    right.set_xticks([0, 1], ["plain", "penalised"])
    right.set_xlim(-0.4, 1.4)
    right.set_title("KL to p, a line a seed", fontsize=9.5)
    legend_below(figure, figure.axes, note="mean over seeds; shaded: from the least to the largest")
    save_png(figure, path, keep_colours=True)


def training(history: Mapping[str, Any], reference: Mapping[str, Any], path: str | Path) -> None:
    """KL and in-context accuracy over the steps, before and after the branches part.

    Args:
        history: `step` [C] and `kl`, `accuracy` [C, S] of maximum likelihood; `branch_step` [B], and by branch `kl` and
            `accuracy` [B, S]. Accuracy is after the most examples.
        reference: from `pair.reference`.
        path: the PNG file.
    """
    figure = blank_figure(10.4, 4.0)
    left, right = figure.subplots(1, 2)
    for axes, name, factor in ((left, "kl", 1), (right, "accuracy", 100)):
        before = factor * np.asarray(history[name], float)
        parts = [("both", history["step"], before, GREY)]
        for branch, colour in (("plain", PLAIN), ("penalised", PENALISED)):
            step = np.append(history["step"][-1], history["branch_step"])
            values = np.concatenate([before[-1:], factor * np.asarray(history[branch][name], float)])
            parts.append((branch, step, values, colour))
        for label, step, values, colour in parts:
            axes.plot(step, values, color=colour, linewidth=0.6, alpha=0.35)
            axes.plot(step, values.mean(axis=1), color=colour, linewidth=2.0, label=label)
        axes.axvline(history["step"][-1], color=GREY, linewidth=0.8, linestyle=":")
    last = {name: 100 * float(reference[name][-1]) for name in ("bayes", "known")}
    right.axhline(last["bayes"], color=BAYES, linewidth=1.2, label="Bayes")
    right.axhline(last["known"], color=BAYES, linewidth=1.2, linestyle="--", label="test example alone")
    left.set_yscale("log")
    _finish(left, "step", "KL to p, nats a sequence")
    _finish(right, "step", "label predicted after all examples, in %")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend_below(figure, figure.axes, note="thin: a seed, on its own fresh batches (left); thick: their mean")
    save_png(figure, path, keep_colours=True)
