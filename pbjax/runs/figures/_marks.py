"""Marks along a ladder of temperatures: colours and markers of methods, an axis with room for beta = 0."""

from typing import TYPE_CHECKING

import numpy as np

from pbjax.runs.figures.canvas import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, and a marker of its own for each, so that colour is never the only sign.
STYLES = {
    "mean_field": ("#D55E00", "s"),
    "gibbs_plugin": ("#009E73", "v"),
    "gibbs_iid": ("#56B4E9", "^"),
    "gibbs_asymptotic": ("#0072B2", "o"),
    "gibbs_chains": ("#CC79A7", "D"),
    "test_set": ("#000000", "x"),
}
_OTHER_STYLES = (("#E69F00", "P"), ("#999933", "X"), ("#882255", "*"), ("#332288", "h"))


def beta_axis(axes: "Axes", betas: Values) -> None:
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


def draw_points(
    axes: "Axes",
    x: Values,
    y: Values,
    hollow: Values,
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


def style_of(method: str, others: list[str]) -> tuple[str, str]:
    if method in STYLES:
        return STYLES[method]
    return _OTHER_STYLES[others.index(method) % len(_OTHER_STYLES)]
