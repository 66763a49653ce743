"""Steps against strength, curves of the loss, and sharpness against strength."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._fine_tuning.problem import CONTROL, NONE, arms
from experiments._fine_tuning.rows import POLICIES
from experiments._fine_tuning.tuning import Outcome
from pbjax.runs.figures import GREY, blank_figure, legend_below, log_axis, save_png, tidy_axes

COLOURS = {"tuned": "#1f77b4", "fixed": "#d62728"}
STRENGTHS = ("#333333", "#1f77b4", "#2ca02c", "#ff7f0e", "#d62728", "#9467bd")
SHARPNESS = {
    "sharpness_trace": "Hessian trace",
    "sharpness_sam": "SAM: Euclidean ball",
    "sharpness_adaptive": "adaptive: ball in |w|",
    "curvature_top": "curvature of the new task",
}


def _powers_of_two(axes: Any, strengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(strengths)
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")


def _geometric(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(values, 1)))))


def steps_against_strength(table: Sequence[Mapping[str, Any]], path: Path, *, symmetry: str, target: float) -> None:
    """A panel a method: steps of every seed, their geometric mean, and what the linearised network needs."""
    methods = list(dict.fromkeys(row["method"] for row in table))
    columns = min(len(methods), 5)
    lines = -(-len(methods) // columns)
    figure = blank_figure(2.6 * columns + 0.6, 2.6 * lines + 1.0)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, method in zip(panels.flat, methods, strict=False):
        for policy, colour in COLOURS.items():
            own = [
                row for row in table
                if row["method"] == method and row["policy"] == policy and row["symmetry"] in (NONE, symmetry)
            ]  # fmt: skip
            strengths = sorted({row["strength"] for row in own})
            shift = 1.05 if policy == "fixed" else 1 / 1.05
            for row in own:
                reached = row["steps"] is not None
                axes.plot(
                    row["strength"] * shift, row["steps"] if reached else row["steps_taken"], color=colour, alpha=0.6,
                    marker="o" if reached else "^", markersize=4, linestyle="none",
                    markerfacecolor=colour if reached else "none",
                )  # fmt: skip
            of = lambda c, own=own: [row for row in own if row["strength"] == c]  # noqa: E731
            # A line through means as far as all seeds came to the target.
            full = [c for c in strengths if all(row["steps"] is not None for row in of(c))]
            axes.plot(
                full, [_geometric([row["steps"] for row in of(c)]) for c in full], color=colour, label=POLICIES[policy]
            )
            known = [c for c in strengths if all(row["linearised_steps"] is not None for row in of(c))]
            if known:
                axes.plot(
                    known, [_geometric([row["linearised_steps"] for row in of(c)]) for c in known], color=colour,
                    linestyle=":", label="network made linear, " + ("tuned" if policy == "tuned" else "rate of c = 1"),
                )  # fmt: skip
        axes.set_title(method.replace("_", " "), fontsize=10)
        _powers_of_two(axes, sorted({row["strength"] for row in table}))
        log_axis(axes, [float(max(row["steps_taken"], 1)) for row in table], across=False)
        tidy_axes(axes)
    for axes in panels.flat[len(methods) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"steps to {target:g} nats")
    for axes in panels[-1]:
        axes.set_xlabel(f"c of {symmetry}")
    note = "open triangles: runs that never came to the target, at the steps that they took"
    legend_below(figure, panels.flat, columns=2, note=note)
    save_png(figure, path)


def curves(config: Any, found: Mapping[str, Outcome], path: Path, *, symmetry: str) -> None:
    """A panel a method and choice of the learning rate: KL to the new language of the first seed, a colour each c."""
    names, methods = arms(config), list(found)
    chosen = [a for a, arm in enumerate(names) if arm.symmetry in (NONE, CONTROL, symmetry)]
    columns = min(len(methods), 5)
    blocks = -(-len(methods) // columns)
    figure = blank_figure(2.4 * columns + 0.8, 4.4 * blocks + 0.8)
    panels = figure.subplots(2 * blocks, columns, squeeze=False, sharey=True)
    starts = np.concatenate([own.curve[chosen, :, 0, 0].ravel() for own in found.values()])
    # What shoots far above the start leaves the picture.
    top = 3 * np.nanmax(starts)
    for axes in panels.flat:
        axes.set_visible(False)
    for number, method in enumerate(methods):
        for line, policy in enumerate(POLICIES):
            axes, own = panels[2 * (number // columns) + line, number % columns], found[method]
            axes.set_visible(True)
            colours = iter(STRENGTHS)
            for a in chosen:
                q = int(own.tuned[a]) if policy == "tuned" else own.fixed
                curve = own.curve[a, q, 0]
                steps = 1 + config.evaluate_every * np.arange(len(curve))
                control = names[a].symmetry == CONTROL
                label = "permuted" if control else f"c = {names[a].strength}"
                colour = "#bbbbbb" if control else next(colours)
                seen = np.isfinite(curve)
                style = {"linestyle": "--", "linewidth": 2.5, "zorder": 3} if control else {"linewidth": 1.4}
                axes.plot(steps[seen], curve[seen], color=colour, label=label, **style)
            axes.axhline(config.target, color=GREY, linewidth=0.8)
            log_axis(axes, steps.astype(float), across=True)
            log_axis(axes, [config.target, top], across=False)
            axes.set_ylim(0.8 * config.target, top)
            tidy_axes(axes)
            if line == 0:
                axes.set_title(method.replace("_", " "), fontsize=10)
            else:
                axes.set_xlabel("steps")
    for line in range(2 * blocks):
        panels[line, 0].set_ylabel(f"KL, nats\n({'rate of c = 1' if line % 2 else 'tuned'})")
    legend_below(figure, panels.flat, columns=6, note=f"{symmetry}, seed {config.seeds[0]}")
    save_png(figure, path)


def sharpness(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel a symmetry: measures of the transformed networks, in those of the same seed without a map."""
    symmetries = [name for name in dict.fromkeys(row["symmetry"] for row in table) if name not in (NONE, CONTROL)]
    method, seeds = table[0]["method"], sorted({row["seed"] for row in table})
    figure = blank_figure(3.6 * len(symmetries) + 0.8, 3.6)
    panels = figure.subplots(1, len(symmetries), squeeze=False, sharey=True)[0]
    drawn: list[float] = []
    for axes, symmetry in zip(panels, symmetries, strict=True):
        for (column, label), colour in zip(SHARPNESS.items(), STRENGTHS[1:], strict=False):
            own = {
                (row["strength"], row["seed"]): row[column] for row in table
                if row["method"] == method and row["policy"] == "tuned" and row["symmetry"] in (NONE, symmetry)
            }  # fmt: skip
            strengths = sorted({strength for strength, _ in own})
            ratios = [[(own[c, s] or math.nan) / (own[1, s] or math.nan) for s in seeds] for c in strengths]
            axes.plot(strengths, [_ratio(values) for values in ratios], color=colour, marker="o", label=label)
            for c, values in zip(strengths, ratios, strict=True):
                axes.plot([c] * len(values), values, color=colour, marker="o", markersize=2.5, alpha=0.5, linestyle="")
        _powers_of_two(axes, strengths)
        axes.set_xlabel(f"c of {symmetry}")
        tidy_axes(axes)
        drawn.extend(value for values in ratios for value in values)
    for axes in panels:
        log_axis(axes, [value for value in drawn if value > 0], across=False)
    panels[0].set_ylabel("of the network without a map")
    legend_below(figure, panels, columns=2)
    save_png(figure, path)


def _ratio(values: Sequence[float]) -> float:
    """Geometric mean of those that are positive."""
    kept = [value for value in values if value > 0]
    return float(np.exp(np.mean(np.log(kept)))) if kept else math.nan
