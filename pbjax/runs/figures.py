"""The figures of a run: small PNG files that stay readable in grey and for colour-blind eyes; flagged points hollow."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from pbjax.runs.atomic import write_file
from pbjax.runs.results import is_flagged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Values = ArrayLike | Sequence[Any]

_DPI = 110
_GREY = "#555555"
# Okabe and Ito's palette, and a marker of its own for each, so that colour is never the only sign.
_STYLES = {
    "mean_field": ("#D55E00", "s"),
    "gibbs_plugin": ("#009E73", "v"),
    "gibbs_iid": ("#56B4E9", "^"),
    "gibbs_asymptotic": ("#0072B2", "o"),
    "gibbs_chains": ("#CC79A7", "D"),
    "test_set": ("#000000", "x"),
}
_OTHER_STYLES = (("#E69F00", "P"), ("#999933", "X"), ("#882255", "*"), ("#332288", "h"))
_CHAIN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def blank_figure(width: float | int, height: float | int) -> "Figure":
    """An empty figure, not of pyplot: no global state, no window system, nothing to close.

    Args:
      width: in inches · > 0.
      height: in inches · > 0.

    Returns:
      The figure, whose layout makes room for labels and for legends outside the panels.

    Example:
      >>> blank_figure(4, 3).get_layout_engine() is None
      False
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", path: str | Path, *, keep_colours: bool = False) -> None:
    """Writes a figure as a small PNG file, whole or not at all.

    Args:
      figure: what to write.
      path: the file.
      keep_colours: True where a colour that covers few pixels must not be merged with its neighbours: an octree
        instead of a median cut chooses the palette, and the file is somewhat larger.

    Raises:
      OSError: the file cannot be written.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "blank.png"
      >>> save_png(blank_figure(1, 1), path)
      >>> path.read_bytes()[1:4]
      b'PNG'
    """
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=_DPI, facecolor="white")
    # A palette makes line drawings several times smaller and changes nothing that can be seen.
    number, method = (256, Image.Quantize.FASTOCTREE) if keep_colours else (128, None)
    image = Image.open(raw).convert("RGB").quantize(number, method=method, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    write_file(Path(path), small.getvalue())


def tidy_axes(axes: "Axes") -> None:
    """Two spines, a light grid behind the data.

    Args:
      axes: changed in place.

    Example:
      >>> tidy_axes(blank_figure(2, 2).subplots())
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _beta_axis(axes: "Axes", betas: _Values) -> None:
    """A logarithmic axis that has room for beta = 0 at its left end."""
    positive = np.unique([beta for beta in np.asarray(betas, float).ravel() if beta > 0])
    if not positive.size:
        axes.set_xlabel(r"total inverse temperature $\beta$")
        return
    if np.any(np.asarray(betas, float) == 0):
        axes.set_xscale("symlog", linthresh=float(positive[0]), linscale=0.4)
        first = int(np.ceil(np.log10(positive[0]) - 1e-9))
        last = int(np.floor(np.log10(positive[-1]) + 1e-9))
        stride = max(1, (last - first) // 5 + 1)
        axes.set_xticks([0.0, *(10.0**power for power in range(first, last + 1, stride))])
        axes.set_xlim(-0.3 * positive[0], 1.4 * positive[-1])
    else:
        axes.set_xscale("log")
    axes.set_xlabel(r"total inverse temperature $\beta$")


def _points(
    axes: "Axes",
    x: _Values,
    y: _Values,
    hollow: _Values,
    *,
    colour: str,
    marker: str,
    label: str | None = None,
    joined: bool = True,
) -> None:
    order = np.argsort(x)
    across, up, flagged = np.asarray(x)[order], np.asarray(y)[order], np.asarray(hollow, bool)[order]
    if joined:
        axes.plot(across, up, color=colour, linewidth=1.2, alpha=0.7, zorder=2)
    faces = ["white" if flag else colour for flag in flagged]
    if marker == "x":
        axes.scatter(across, up, c=colour, marker=marker, s=28, label=label, zorder=3)
    else:
        axes.scatter(across, up, c=faces, edgecolors=colour, marker=marker, s=28, label=label, zorder=3)


def _style(method: str, others: list[str]) -> tuple[str, str]:
    if method in _STYLES:
        return _STYLES[method]
    return _OTHER_STYLES[others.index(method) % len(_OTHER_STYLES)]


def certificates_by_temperature(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Certificates against beta, one panel a loss, one colour and marker a method, one line a seed.

    Rows without a beta (a test-set bound) are horizontal lines. The test risk under the Gibbs posterior is a thin
    dotted line, so that the distance to be explained can be seen.

    Args:
      rows: rows of results, as `pbjax.runs.results.check_rows` takes them.
      path: the PNG file.

    Raises:
      ValueError: there are no rows.
      OSError: the file cannot be written.
    """
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    if not losses:
        raise ValueError("rows is empty; a figure of certificates needs at least one row")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    others = [method for method in methods if method not in _STYLES]
    figure = blank_figure(1.4 + 4.4 * len(losses), 4.4)
    panels = figure.subplots(1, len(losses), squeeze=False, sharey=False)[0]
    handles: dict[str, Any] = {}
    for axes, loss in zip(panels, losses, strict=True):
        of_loss = [row for row in rows if row["loss"] == loss]
        for method in methods:
            colour, marker = _style(method, others)
            of_method = [row for row in of_loss if row["method"] == method]
            for seed in dict.fromkeys(row.get("seed") for row in of_method):
                ladder = [row for row in of_method if row.get("seed") == seed and row.get("beta") is not None]
                if ladder:
                    _points(
                        axes,
                        [row["beta"] for row in ladder],
                        [row["certificate"] for row in ladder],
                        [is_flagged(row) for row in ladder],
                        colour=colour,
                        marker=marker,
                        label=method,
                    )
                for row in of_method:
                    if row.get("seed") == seed and row.get("beta") is None:
                        style = ":" if is_flagged(row) else "--"
                        axes.axhline(row["certificate"], color=colour, linestyle=style, linewidth=1.2, label=method)
        gibbs = [row for row in of_loss if row["method"].startswith("gibbs") and row.get("beta") is not None]
        for seed in dict.fromkeys(row.get("seed") for row in gibbs):
            risks = {
                row["beta"]: row["test_risk"]
                for row in gibbs
                if row.get("seed") == seed and row.get("test_risk") is not None
            }
            if risks:
                betas = sorted(risks)
                axes.plot(
                    betas, [risks[b] for b in betas], color=_GREY, linestyle=":", label="Gibbs test risk", zorder=1
                )
        _beta_axis(axes, np.array([row["beta"] for row in of_loss if row.get("beta") is not None], float))
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("certified upper bound on the risk")
        axes.set_title(loss.replace("_", " "), fontsize=11)
        tidy_axes(axes)
        drawn = zip(*axes.get_legend_handles_labels(), strict=True)
        handles.update({label: handle for handle, label in drawn if label not in handles})
    labels = [label.replace("_", " ") for label in handles]
    figure.legend(
        list(handles.values()), labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=9, frameon=False
    )
    if any(is_flagged(row) for row in rows):
        figure.suptitle("hollow: flagged by diagnostics, not to be relied on", fontsize=9, color=_GREY)
    save_png(figure, path)


def energy_ladder(
    betas: _Values,
    mean: _Values,
    *,
    standard_error: _Values,
    left: _Values,
    trapezium: _Values,
    right: _Values,
    path: str | Path,
    test_mean: _Values | None = None,
    flagged: _Values | None = None,
    loss_name: str = "energy",
) -> None:
    """The mean energy along the ladder with its test counterpart, and −log Z between its left and right sums.

    Args:
      betas: total inverse temperatures [K] · increasing · >= 0.
      mean: estimates of E_beta[L] [K].
      standard_error: their Monte-Carlo standard errors [K]; two of them are drawn each way.
      left: left sums of −log Z(beta) in nats [K], the upper end.
      trapezium: trapezium sums [K].
      right: right sums [K], the lower end.
      path: the PNG file.
      test_mean: mean loss on test examples [K].
      flagged: rungs that a diagnostic objects to [K] bool.
      loss_name: what the energy is called.

    Raises:
      ValueError: the arrays differ in length.
      OSError: the file cannot be written.
    """
    given = {
        "betas": betas,
        "mean": mean,
        "standard_error": standard_error,
        "left": left,
        "trapezium": trapezium,
        "right": right,
    }
    arrays = {name: np.asarray(values, float) for name, values in given.items()}
    shapes = {name: values.shape for name, values in arrays.items()}
    if len(set(shapes.values())) > 1 or arrays["betas"].ndim != 1:
        raise ValueError(f"one value a rung is needed in each of {shapes}")
    x, y, error = arrays["betas"], arrays["mean"], 2 * arrays["standard_error"]
    hollow = np.zeros(x.shape, bool) if flagged is None else np.asarray(flagged, bool)
    figure = blank_figure(9.2, 4.4)
    energy, normaliser = figure.subplots(1, 2)
    colour = _STYLES["gibbs_asymptotic"][0]
    energy.fill_between(x, y, step="post", color=colour, alpha=0.12, linewidth=0, label="left sum")
    energy.fill_between(x, y, step="pre", color=colour, alpha=0.25, linewidth=0, label="right sum")
    energy.errorbar(x, y, yerr=error, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5)
    _points(energy, x, y, hollow, colour=colour, marker="o", label="training, ± 2 standard errors")
    if test_mean is not None:
        energy.plot(x, np.asarray(test_mean, float), color=_STYLES["mean_field"][0], linestyle="--", label="test")
    energy.set_ylim(bottom=0)
    energy.set_ylabel(f"mean {loss_name.replace('_', ' ')} at $\\beta$")
    normaliser.fill_between(
        x, arrays["right"], arrays["left"], color=colour, alpha=0.2, linewidth=0, label="between right and left sum"
    )
    _points(normaliser, x, arrays["trapezium"], hollow, colour=colour, marker="o", label="trapezium")
    normaliser.set_ylabel(r"$-\log Z(\beta)$ in nats")
    normaliser.set_ylim(bottom=0)
    for axes in (energy, normaliser):
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        _beta_axis(axes, x)
        tidy_axes(axes)
    if hollow.any():
        figure.suptitle("hollow: flagged by diagnostics", fontsize=9, color=_GREY)
    save_png(figure, path)


def trace_and_r_hat(
    draws: _Values,
    r_hat: _Values,
    *,
    betas: _Values,
    path: str | Path,
    threshold: float = 1.05,
    name: str = "L",
    max_traces: int = 6,
) -> None:
    """Traces of a scalar for some rungs, one line a chain, and R-hat for all rungs.

    Args:
      draws: values after warm-up [K, C, D].
      r_hat: split R-hat of each rung [K].
      betas: total inverse temperatures [K].
      path: the PNG file.
      threshold: R-hat from which on a rung is flagged.
      name: what the scalar is called.
      max_traces: rungs whose traces are shown: evenly spaced, the one of worst R-hat among them.

    Raises:
      ValueError: the arrays do not fit together.
      OSError: the file cannot be written.
    """
    values, ratio, x = np.asarray(draws, float), np.asarray(r_hat, float), np.asarray(betas, float)
    if values.ndim != 3 or ratio.shape != x.shape or values.shape[:1] != x.shape:
        raise ValueError(
            f"draws [K, C, D], r_hat [K] and betas [K] are needed, got {values.shape, ratio.shape, x.shape}"
        )
    bad = ~(ratio < threshold)  # NaN is bad
    chosen = sorted({round(float(k)) for k in np.linspace(0, len(x) - 1, min(max_traces, len(x)))})
    worst = int(np.argmax(np.where(np.isnan(ratio), np.inf, ratio)))
    if worst not in chosen:
        nearest = min(chosen, key=lambda k: abs(k - worst))
        chosen = sorted({*chosen, worst} - {nearest})
    figure = blank_figure(9.6, 1.2 + 0.8 * max(3, len(chosen)))
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1.0))
    left, right = halves
    panels = left.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0]
    num_draws = values.shape[2]
    stride = max(1, num_draws // 600)
    for axes, rung in zip(panels, chosen, strict=True):
        for chain in range(min(values.shape[1], len(_CHAIN_COLOURS))):
            axes.plot(
                np.arange(0, num_draws, stride),
                values[rung, chain, ::stride],
                color=_CHAIN_COLOURS[chain],
                linewidth=0.6,
                alpha=0.8,
            )
        tidy_axes(axes)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="y", nbins=3)
        beta = f"{x[rung]:,.0f}" if x[rung] >= 100 else f"{x[rung]:.3g}"
        title = rf"$\beta$ = {beta},  R-hat {ratio[rung]:.3f}"
        axes.set_title(title + (" (flagged)" if bad[rung] else ""), fontsize=8, loc="left", pad=2)
    panels[-1].set_xlabel("draw", fontsize=9)
    left.supylabel(name, fontsize=9)
    axes = right.subplots()
    axes.axhline(
        threshold, color=_STYLES["mean_field"][0], linestyle="--", linewidth=1, label=f"threshold {threshold:g}"
    )
    shown = np.where(np.isfinite(ratio), ratio, np.nan)
    colour = _STYLES["gibbs_asymptotic"][0]
    axes.vlines(x, 1.0, shown, color=colour, linewidth=1, alpha=0.5)
    _points(axes, x, shown, bad, colour=colour, marker="o", label="R-hat", joined=False)
    _beta_axis(axes, x)
    axes.set_ylabel(f"R-hat of {name}")
    tidy_axes(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_ylim(top=max(threshold, float(np.nanmax(shown, initial=1.0))) + 0.3 * (threshold - 1))
    if bad.any():
        axes.set_title("hollow: flagged", fontsize=8, color=_GREY)
    save_png(figure, path)


def rosenbrock(
    log_density: Callable[[np.ndarray, np.ndarray], ArrayLike],
    samples: _Values,
    *,
    mean: _Values,
    scale: _Values,
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
    axes.contour(grid_x, grid_y, depth, levels=[0.5, 1, 1.5, 2, 2.5, 3], colors=_GREY, linewidths=0.8, alpha=0.8)
    kept = points[:: max(1, len(points) // 2000)]
    axes.scatter(kept[:, 0], kept[:, 1], s=4, color=_STYLES["gibbs_asymptotic"][0], alpha=0.35, linewidths=0)
    colour = _STYLES["mean_field"][0]
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
        Line2D([], [], color=_GREY, linewidth=0.8, label="density"),
        Line2D([], [], color=_STYLES["gibbs_asymptotic"][0], marker="o", linestyle="", markersize=4, label="HMC"),
        Line2D([], [], color=colour, marker="s", markersize=5, label="mean field, 1 and 2 deviations"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    tidy_axes(axes)
    save_png(figure, path)
