"""A density over two parameters with the draws of a sampler and a factorised Gaussian."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike

from pbjax.runs.figures._marks import STYLES
from pbjax.runs.figures.canvas import GREY, Values, blank_figure, save_png, tidy_axes


def rosenbrock(
    log_density: Callable[[np.ndarray, np.ndarray], ArrayLike],
    samples: Values,
    *,
    mean: Values,
    scale: Values,
    path: str | Path,
    limits: tuple[float | int, float | int, float | int, float | int] = (-2.0, 2.0, -1.0, 3.0),
) -> None:
    """A curved density in two dimensions: its contours, HMC's draws, and the best factorised Gaussian.

    Args:
      log_density: unnormalised, of grids x and y [G, G] -> [G, G].
      samples: draws [N, 2]; at most 2,000 are shown.
      mean: centre of the factorised Gaussian [2].
      scale: its standard deviations [2] · > 0.
      path: the PNG file.
      limits: x from, x to, y from, y to.

    Raises:
      ValueError: samples, mean or scale have another shape.
      OSError: the file cannot be written.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse

    points, centre, deviation = np.asarray(samples, float), np.asarray(mean, float), np.asarray(scale, float)
    if points.ndim != 2 or points.shape[1] != 2 or centre.shape != (2,) or deviation.shape != (2,):
        raise ValueError(
            f"samples [N, 2], mean [2] and scale [2] are needed, got {points.shape, centre.shape, deviation.shape}"
        )
    figure = blank_figure(6.2, 5.2)
    axes = figure.subplots()
    grid_x, grid_y = np.meshgrid(np.linspace(*limits[:2], 201), np.linspace(*limits[2:], 201))
    log_values = np.asarray(log_density(grid_x, grid_y), float)
    depth = np.sqrt(2 * np.maximum(0.0, np.nanmax(log_values) - log_values))  # as standard deviations of a Gaussian
    axes.contour(grid_x, grid_y, depth, levels=[0.5, 1, 1.5, 2, 2.5, 3], colors=GREY, linewidths=0.8, alpha=0.8)
    kept = points[:: max(1, len(points) // 2000)]
    axes.scatter(kept[:, 0], kept[:, 1], s=4, color=STYLES["gibbs_asymptotic"][0], alpha=0.35, linewidths=0)
    colour = STYLES["mean_field"][0]
    for deviations, width in ((1, 2.0), (2, 1.2)):
        shape = Ellipse(
            (float(centre[0]), float(centre[1])),
            2 * deviations * float(deviation[0]),
            2 * deviations * float(deviation[1]),
            fill=False,
            edgecolor=colour,
            linewidth=width,
            linestyle="-" if deviations == 1 else "--",
        )
        axes.add_patch(shape)
    axes.plot(*centre, marker="s", color=colour, markersize=5)
    axes.set_xlim(*limits[:2])
    axes.set_ylim(*limits[2:])
    axes.set_xlabel("first parameter")
    axes.set_ylabel("second parameter")
    keys = [
        Line2D([], [], color=GREY, linewidth=0.8, label="density"),
        Line2D([], [], color=STYLES["gibbs_asymptotic"][0], marker="o", linestyle="", markersize=4, label="HMC"),
        Line2D([], [], color=colour, marker="s", markersize=5, label="mean field, 1 and 2 deviations"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    tidy_axes(axes)
    save_png(figure, path)
