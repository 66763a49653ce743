"""The figures of the study: interpolations, reliability, sharpness against error and certificate, learning curves.

A method has one colour and one marker in all of them. Points that a flagged network takes part in are hollow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments._sam_as_vi import report
from experiments._sam_as_vi.report import Row
from pbjax import runs
from pbjax.runs.figures import blank_figure, save_png, tidy_axes

_GREY = "#555555"
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
LEARNS_ITS_SCALE = ("mean_field", *report.KEEPS_A_SCALE, "bsam", "ivon")


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
    method = report.method_of(arm)
    name, colour, marker = STYLES.get(method, (method.replace("_", " "), "#666666", "*"))
    return name + arm.removeprefix(method), colour, marker


def _means(rows: Iterable[Row], across: Callable[[Row], float], up: str) -> list[tuple[float, float, float, bool]]:
    """(x, mean, standard error or 0, any flagged) over seeds, one a setting of x, by x.

    Seeds belong together by their setting; x may vary between them (an effective radius) and is averaged.
    """
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(name) for name in ("radius", "kappa", "samples")), []).append(row)
    points = []
    for own in settings.values():
        x, _, _ = report.mean_and_error(across(row) for row in own)
        y, error, count = report.mean_and_error(report.OUTCOMES[up].factor * report.value(row, up) for row in own)
        if count and math.isfinite(x):
            points.append((x, y, 0.0 if math.isnan(error) else error, any(map(runs.is_flagged, own))))
    return sorted(points)


def _draw(axes: Axes, points: Sequence[tuple[float, float, float, bool]], arm: str, *, dashed: bool = False) -> None:
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


def _focus(axes: Axes, heights: Sequence[float], *, good_is_high: bool = True) -> None:
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


def _legend(figure: Figure, panels: Iterable[Axes], *, columns: int = 5, note: str = "") -> None:
    """One legend below all panels, so that it covers no data; and a line that says what hollow marks mean."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(columns, len(handles)),
            fontsize=9, frameon=False,
        )  # fmt: skip
    if note:
        figure.suptitle(note, fontsize=9, color=_GREY)


def _note(rows: Iterable[Row], panels: Iterable[Axes] = ()) -> str:
    cut = any(line.get_clip_on() is False for axes in panels for line in axes.lines)
    notes = ["hollow: a flagged network takes part"] if any(map(runs.is_flagged, rows)) else []
    return "; ".join([*notes, *(["triangle on the edge: beyond the axis"] if cut else [])])


def _groups(rows: Sequence[Row], stages: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(
        dict.fromkeys(
            (row.get("dataset") or "", row.get("model") or "", row.get("budget") or "")
            for row in rows
            if row.get("stage") in stages
        )
    )


def _of(rows: Sequence[Row], key: tuple[str, str, str], stage: str) -> dict[str, list[Row]]:
    """Rows of one stage and group by method, in the order of the tables."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("stage") == stage and tuple(row.get(name) or "" for name in ("dataset", "model", "budget")) == key:
            found.setdefault(row["method"], []).append(row)
    return {name: found[name] for name in sorted(found, key=lambda m: (m not in STYLES, [*STYLES, m].index(m)))}


def _title(key: tuple[str, str, str]) -> str:
    return f"{key[0]}, {key[1]}, equal {key[2]}"


def _scale(axes: Axes, values: Sequence[float], *, across: bool, wide: float) -> None:
    """Logarithmic where positive values span more than a factor `wide`, with few labels; else linear."""
    axis = axes.xaxis if across else axes.yaxis
    if not values or min(values) <= 0 or max(values) <= wide * min(values):
        axis.set_major_locator(MaxNLocator(4))
        return
    (axes.set_xscale if across else axes.set_yscale)("log")
    decades = math.log10(max(values) / min(values))
    labelled = (1.0,) if decades > 1.7 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, labelled))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _inside(number: float, limits: tuple[float, float]) -> float:
    return min(max(number, limits[0]), limits[1])


def _needs(groups: Sequence[Any], what: str) -> None:
    if not groups:
        raise ValueError(f"no rows of {what}; run that stage first, or leave this figure out")


def accuracy_against_radius(rows: Sequence[Row], path: str | Path) -> None:
    """Test accuracy against the radius asked for and against the length that the perturbation really had.

    Mean ± standard error over seeds; one line of panels a (dataset, model, budget).

    Args:
      rows: rows of results, of which the stage curve_radius is drawn.
      path: the PNG file.

    Raises:
      ValueError: no row is of that stage.
      OSError: the file cannot be written.
    """
    groups = _groups(rows, ["curve_radius"])
    _needs(groups, "stage curve_radius")
    figure = blank_figure(9.2, 1.0 + 3.5 * len(groups))
    grid = figure.subplots(len(groups), 2, squeeze=False, sharey="row")
    for line, key in zip(grid, groups, strict=True):
        for axes, column, label in zip(
            line, ("radius", "effective_radius"), ("radius ρ asked for", "length of the perturbation at the end"),
            strict=True,
        ):  # fmt: skip
            heights = []
            for method, own in _of(rows, key, "curve_radius").items():
                points = _means(own, lambda row, column=column: report.value(row, column), "test_accuracy")
                points = [point for point in points if point[0] > 0]
                heights += [point[1] for point in points]
                _draw(axes, points, method)
            axes.set_xscale("log")
            axes.set_xlabel(f"{label} (norm of weights)")
            axes.set_title(_title(key), fontsize=10)
            tidy_axes(axes)
            _focus(axes, heights)
        line[0].set_ylabel("test accuracy in %")
    _legend(figure, grid.flat, note=_note([r for r in rows if r.get("stage") == "curve_radius"], grid.flat))
    save_png(figure, path, keep_colours=True)


def _angle(row: Row) -> float:
    """Degrees between perturbation and gradient, arctan kappa; a kappa of null is the random end."""
    kappa = row.get("kappa")
    return 90.0 if kappa is None or math.isnan(kappa) else math.degrees(math.atan(kappa))


def _kappa_panel(axes: Axes, rows: Sequence[Row], key: tuple[str, str, str]) -> list[float]:
    heights = []
    for method, own in _of(rows, key, "curve_kappa").items():
        points = _means(own, _angle, "test_accuracy")
        heights += [point[1] for point in points]
        _draw(axes, points, method)
    final = _of(rows, key, "final")
    for method in ("sam", "random_sam"):
        own = final.get(method, [])
        level, error, count = report.mean_and_error(100 * report.value(row, "test_accuracy") for row in own)
        if count:
            name, colour, _ = style(method)
            radii = sorted({row["radius"] for row in own if row.get("radius") is not None})
            radius = f", ρ = {', '.join(f'{radius:g}' for radius in radii)}" if radii else ""
            axes.axhline(level, color=colour, linewidth=1.2, linestyle=":", label=f"{name}{radius} (± 1 s.e.)")
            if count > 1:
                axes.axhspan(level - error, level + error, color=colour, alpha=0.15, linewidth=0)
    ticks: dict[float, str] = {}
    angles = {_angle(row): row.get("kappa") for own in _of(rows, key, "curve_kappa").values() for row in own}
    for angle in sorted(angles, key=lambda angle: (angle not in (0.0, 90.0), angle)):
        if all(abs(angle - other) > 9 for other in ticks):  # labels closer than this touch
            ticks[angle] = "∞" if angle == 90.0 else f"{angles[angle]:g}"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel("κ, spaced by the angle arctan κ")
    axes.set_xlim(-4, 94)
    return heights


def curves(rows: Sequence[Row], path: str | Path) -> None:
    """Interpolations: along kappa from SAM to random, along the number of samples, along the starting scale.

    The starting scale is that of the radius; learned scales are drawn solid and fixed ones dashed. Panels without rows
    are left out; one line of panels a (dataset, model, budget).

    Args:
      rows: rows of results: stages curve_kappa, curve_samples and curve_scale, and "final" for the levels of SAM and
        RandomSAM.
      path: the PNG file.

    Raises:
      ValueError: no row is of one of the three stages.
      OSError: the file cannot be written.
    """
    stages = [s for s in ("curve_kappa", "curve_samples", "curve_scale") if any(r.get("stage") == s for r in rows)]
    groups = _groups(rows, stages)
    _needs(groups, "stages curve_kappa, curve_samples or curve_scale")
    kinds = [
        (stage, outcome)
        for stage in stages
        for outcome in (("test_accuracy", "averaged_nll") if stage == "curve_scale" else ("test_accuracy",))
    ]
    # A stage may have run at one budget only: no panel without rows.
    panels = [(key, *kind) for key in groups for kind in kinds if _of(rows, key, kind[0])]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = blank_figure(max(4.6, 3.6 * across), 1.2 + 3.1 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (key, stage, outcome) in zip(grid.flat, panels, strict=False):
        if stage == "curve_kappa":
            heights = _kappa_panel(axes, rows, key)
        else:
            heights, ticks = [], set()
            column = "samples" if stage == "curve_samples" else "radius"
            for method, own in _of(rows, key, stage).items():
                points = _means(own, lambda row, column=column: report.value(row, column), outcome)
                points = [point for point in points if point[0] > 0]
                heights += [point[1] for point in points]
                ticks |= {point[0] for point in points}
                fixed = stage == "curve_scale" and method not in LEARNS_ITS_SCALE
                _draw(axes, points, method, dashed=fixed)
            axes.set_xscale("log")
            if stage == "curve_samples":
                axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
                axes.set_xticks([], minor=True)
                axes.set_xlabel("samples a step")
            else:
                axes.set_xlabel("starting radius √P·σ (norm of weights)")
        axes.set_ylabel("averaged NLL in nats" if outcome == "averaged_nll" else "test accuracy in %")
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_title(_title(key), fontsize=9)
        tidy_axes(axes)
        _focus(axes, heights, good_is_high=outcome == "test_accuracy")
    note = _note([row for row in rows if row.get("stage") in stages], grid.flat)
    if "curve_scale" in stages:
        note = "; ".join(filter(None, ["against the starting radius: solid σ learned, dashed σ fixed", note]))
    _legend(figure, grid.flat, note=note)
    save_png(figure, path, keep_colours=True)


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
    _needs(list(bins), "reliability bins")
    across = min(5, len(bins))
    down = -(-len(bins) // across)
    figure = blank_figure(max(4.4, 2.3 * across), 1.1 + 2.3 * down)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(bins) :]:
        axes.set_visible(False)
    kinds = {"mean": ("at the mean", "#0072B2", "o"), "averaged": ("averaged over samples", "#D55E00", "s")}
    for axes, (method, given) in zip(grid.flat, bins.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--", label="perfectly calibrated")
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
    _legend(figure, grid.flat[: len(bins)])
    save_png(figure, path)


def _cloud(axes: Axes, methods: Mapping[str, list[Row]], measure: str, target: str) -> None:
    """One mark a network; the axes are those of the networks without flag, flagged ones beyond sit on the edge."""
    points: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for method, own in methods.items():
        for row in own:
            place = report.value(row, measure), report.OUTCOMES[target].factor * report.value(row, target)
            if all(map(math.isfinite, place)):
                points.setdefault((method, runs.is_flagged(row)), []).append(place)
    fine = [place for (_, flagged), own in points.items() for place in own if not flagged]
    _scale(axes, [x for x, _ in fine], across=True, wide=5.0)
    _scale(axes, [y for _, y in fine], across=False, wide=20.0)
    for (method, flagged), own in sorted(points.items(), key=lambda item: item[0][1]):
        name, colour, marker = style(method)
        x, y = zip(*own, strict=True)
        if not flagged or not fine:
            axes.plot(
                x, y, marker=marker, markersize=4.5, markeredgecolor=colour, markeredgewidth=0.8, linestyle="",
                markerfacecolor="white" if flagged else colour, label=None if flagged else name, alpha=0.85, zorder=3,
            )  # fmt: skip
            continue
        limits = axes.get_xlim(), axes.get_ylim()
        for place in own:
            shown = _inside(place[0], limits[0]), _inside(place[1], limits[1])
            axes.plot(
                *shown, marker=marker if shown == place else "^", markersize=6, markerfacecolor="white",
                markeredgecolor=colour, markeredgewidth=0.9, linestyle="", zorder=4, clip_on=shown == place,
            )  # fmt: skip
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])


def sharpness_scatter(rows: Sequence[Row], path: str | Path) -> None:
    """Every sharpness measure against test error and against the certificate, and these two against each other.

    A mark is a network; Spearman's rho in the title of a panel is that of `report.rank_correlations` over networks, so
    hollow marks (flagged) take no part. Two lines of panels a (dataset, model, budget): pass the rows of one of them
    for a small file.

    Args:
      rows: rows of results, of which the stage final is drawn.
      path: the PNG file.

    Raises:
      ValueError: no row is of that stage.
      OSError: the file cannot be written.
    """
    groups = _groups(rows, ["final"])
    _needs(groups, "stage final")
    found = {
        (line["dataset"], line["model"], line["budget"], line["measure"], line["target"]): line["rho"]
        for line in report.rank_correlations(rows, resamples=0)
        if line["over"] == "networks"
    }
    measures = (*report.MEASURES, "certificate")
    figure = blank_figure(13.6, 0.9 + 4.6 * len(groups))
    grid = figure.subplots(2 * len(groups), len(measures), squeeze=False)
    for index, key in enumerate(groups):
        final = _of(rows, key, "final")
        for axes_line, target in zip(grid[2 * index : 2 * index + 2], ("test_error", "certificate"), strict=True):
            for axes, measure in zip(axes_line, measures, strict=True):
                if measure == target:
                    axes.set_visible(False)
                    continue
                _cloud(axes, final, measure, target)
                rho = found.get((*key, measure, target))
                axes.set_title("ρ –" if rho is None else f"Spearman ρ = {rho:+.2f}", fontsize=9)
                axes.set_xlabel(_UNITS[measure], fontsize=8.5)
                if measure == measures[0]:
                    axes.set_ylabel(f"{key[0]}, {key[1]}\n{_UNITS[target]}", fontsize=8.5)
                axes.tick_params(labelsize=7.5)
                tidy_axes(axes)
    note = "; ".join(
        filter(None, [", ".join(map(_title, groups)), _note([r for r in rows if r.get("stage") == "final"], grid.flat)])
    )
    _legend(figure, grid.flat, columns=7, note=note)
    save_png(figure, path, keep_colours=True)


_UNITS = {
    "sharpness_worst": "worst-case sharpness (nats)",
    "sharpness_adaptive": "adaptive sharpness (nats)",
    "sharpness_average": "average-case sharpness (nats)",
    "sharpness_trace": "Hessian trace (nats / weight²)",
    "sharpness_top_eigenvalue": "top eigenvalue (nats / weight²)",
    "certificate": "certificate (0-1 risk)",
    "test_error": "test error in %",
}


def learning_curves(history: Mapping[str, Any], path: str | Path) -> None:
    """Training loss and validation accuracy against epochs: mean over seeds, with ± one standard error as a band.

    Args:
      history: method -> epoch, train_loss and validation_accuracy (in [0, 1]): an array [S seeds, E evaluations, 3],
        or a mapping with these three names or a tuple in this order, each [S, E].
      path: the PNG file.

    Raises:
      ValueError: history is empty, or an array has another shape.
      OSError: the file cannot be written.
    """
    _needs(list(history), "a history")
    figure = blank_figure(9.2, 4.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    all_losses: list[float] = []
    for method, given in history.items():
        if isinstance(given, Mapping):
            given = tuple(given[name] for name in ("epoch", "train_loss", "validation_accuracy"))
        parts = given if isinstance(given, tuple) else np.moveaxis(np.atleast_3d(np.asarray(given, float)), -1, 0)
        shapes = [np.shape(part) for part in parts]
        if len(shapes) != 3 or len(set(shapes)) > 1 or len(shapes[0]) != 2:
            raise ValueError(f"history of {method}: epoch, train_loss, validation_accuracy [S, E] needed, got {shapes}")
        epoch, losses, accuracies = (np.asarray(part, float) for part in parts)
        name, colour, marker = style(method)
        for axes, values in ((loss_axes, losses), (accuracy_axes, 100 * accuracies)):
            points = [report.mean_and_error(column) for column in values.T.tolist()]
            mean, error = (np.array([point[part] for point in points]) for part in (0, 1))
            across = np.array([report.mean_and_error(column)[0] for column in epoch.T.tolist()])
            error = np.nan_to_num(error)
            axes.fill_between(across, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                across, mean, color=colour, linewidth=1.3, marker=marker, markersize=4,
                markevery=max(1, len(across) // 6), label=name,
            )  # fmt: skip
            if axes is loss_axes:
                all_losses += mean[np.isfinite(mean)].tolist()
    if all_losses and min(all_losses) > 0:
        loss_axes.set_yscale("log")
    loss_axes.set_ylabel("training loss in nats")
    accuracy_axes.set_ylabel("validation accuracy in %")
    heights = [y for line in accuracy_axes.lines for y in np.asarray(line.get_ydata(), float).ravel()[1:].tolist()]
    kept = [height for height in heights if math.isfinite(height)]
    if kept and np.median(kept) - min(kept) > 4 * (max(kept) - np.median(kept)) > 0:
        bottom = float(np.median(kept) - 4 * (max(kept) - np.median(kept)))
        accuracy_axes.set_ylim(bottom, float(max(kept) + 0.4 * (max(kept) - np.median(kept))))
        accuracy_axes.set_title(f"cut below {bottom:.1f} %", fontsize=9, color=_GREY)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        tidy_axes(axes)
    accuracy_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _legend(figure, (loss_axes, accuracy_axes))
    save_png(figure, path, keep_colours=True)
