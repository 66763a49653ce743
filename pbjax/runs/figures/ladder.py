"""A ladder of temperatures: mean energies with -log Z, and traces of the chains with R-hat."""

from pathlib import Path
from typing import Any

import numpy as np

from pbjax.runs.figures._marks import STYLES, beta_axis, draw_points
from pbjax.runs.figures.canvas import GREY, Values, blank_figure, save_png, tidy_axes

_CHAIN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def energy_ladder(
    betas: Values,
    mean: Values,
    *,
    standard_error: Values,
    left: Values,
    trapezium: Values,
    right: Values,
    path: str | Path,
    test_mean: Values | None = None,
    flagged: Values | None = None,
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
    colour = STYLES["gibbs_asymptotic"][0]
    energy.fill_between(x, y, step="post", color=colour, alpha=0.12, linewidth=0, label="left sum")
    energy.fill_between(x, y, step="pre", color=colour, alpha=0.25, linewidth=0, label="right sum")
    energy.errorbar(x, y, yerr=error, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5)
    draw_points(energy, x, y, hollow, colour=colour, marker="o", label="training, ± 2 standard errors")
    if test_mean is not None:
        energy.plot(x, np.asarray(test_mean, float), color=STYLES["mean_field"][0], linestyle="--", label="test")
    energy.set_ylim(bottom=0)
    energy.set_ylabel(f"mean {loss_name.replace('_', ' ')} at $\\beta$")
    normaliser.fill_between(
        x, arrays["right"], arrays["left"], color=colour, alpha=0.2, linewidth=0, label="between right and left sum"
    )
    draw_points(normaliser, x, arrays["trapezium"], hollow, colour=colour, marker="o", label="trapezium")
    normaliser.set_ylabel(r"$-\log Z(\beta)$ in nats")
    normaliser.set_ylim(bottom=0)
    for axes in (energy, normaliser):
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        beta_axis(axes, x)
        tidy_axes(axes)
    if hollow.any():
        figure.suptitle("hollow: flagged by diagnostics", fontsize=9, color=GREY)
    save_png(figure, path)


def trace_and_r_hat(
    draws: Values,
    r_hat: Values,
    *,
    betas: Values,
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
        threshold, color=STYLES["mean_field"][0], linestyle="--", linewidth=1, label=f"threshold {threshold:g}"
    )
    shown = np.where(np.isfinite(ratio), ratio, np.nan)
    colour = STYLES["gibbs_asymptotic"][0]
    axes.vlines(x, 1.0, shown, color=colour, linewidth=1, alpha=0.5)
    draw_points(axes, x, shown, bad, colour=colour, marker="o", label="R-hat", joined=False)
    beta_axis(axes, x)
    axes.set_ylabel(f"R-hat of {name}")
    tidy_axes(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.set_ylim(top=max(threshold, float(np.nanmax(shown, initial=1.0))) + 0.3 * (threshold - 1))
    if bad.any():
        axes.set_title("hollow: flagged", fontsize=8, color=GREY)
    save_png(figure, path)
