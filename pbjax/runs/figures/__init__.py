"""The figures of a run: small PNG files that stay readable in grey and for colour-blind eyes; flagged points hollow."""

from pbjax.runs.figures.canvas import GREY, blank_figure, legend_below, log_axis, save_png, tidy_axes
from pbjax.runs.figures.certificates import certificates_by_temperature
from pbjax.runs.figures.ladder import energy_ladder, trace_and_r_hat
from pbjax.runs.figures.plane import rosenbrock

__all__ = [
    "GREY",
    "blank_figure",
    "certificates_by_temperature",
    "energy_ladder",
    "legend_below",
    "log_axis",
    "rosenbrock",
    "save_png",
    "tidy_axes",
    "trace_and_r_hat",
]
