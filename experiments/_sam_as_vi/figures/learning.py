"""Learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments._sam_as_vi.figures.drawing import check_any, style
from pbjax.runs.figures import GREY, blank_figure, legend_below, save_png, tidy_axes
from pbjax.runs.statistics import mean_and_error


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
    check_any(list(history), "a history")
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
            points = [mean_and_error(column) for column in values.T.tolist()]
            mean, error = (np.array([point[part] for point in points]) for part in (0, 1))
            across = np.array([mean_and_error(column)[0] for column in epoch.T.tolist()])
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
        accuracy_axes.set_title(f"cut below {bottom:.1f} %", fontsize=9, color=GREY)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        tidy_axes(axes)
    accuracy_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    legend_below(figure, (loss_axes, accuracy_axes))
    save_png(figure, path, keep_colours=True)
