"""What every figure shares: an empty one, its axes, a legend below the panels, points, and a small PNG file."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax.typing import ArrayLike

from pbjax.runs.atomic import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = ArrayLike | Sequence[Any]

GREY = "#555555"
"""Of what is beside the data."""
_DPI = 110


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


def log_axis(
    axes: "Axes", values: Iterable[float], *, across: bool, wide: float = 5.0, unit: str = "", decades: float = 3.0
) -> None:
    """Makes an axis logarithmic where positive values span much, with few plain labels; else linear with few ticks.

    Args:
      axes: changed in place.
      values: what is drawn along the axis; those that are not finite do not count.
      across: the horizontal axis, or the vertical one.
      wide: factor between greatest and least value from which on the axis is logarithmic · > 1.
      unit: written behind each label.
      decades: powers of ten spanned beyond which only these are labelled · > 1.

    Example:
      >>> axes = blank_figure(2, 2).subplots()
      >>> log_axis(axes, [0.1, 50.0, float("nan")], across=True)
      >>> log_axis(axes, [1.0, 2.0], across=False)
      >>> axes.get_xscale(), axes.get_yscale()
      ('log', 'linear')
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis = axes.xaxis if across else axes.yaxis
    kept = [number for number in values if math.isfinite(number)]
    if not kept or min(kept) <= 0 or max(kept) <= wide * min(kept):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        return
    (axes.set_xscale if across else axes.set_yscale)("log")
    span = math.log10(max(kept) / min(kept))
    labelled = (1.0,) if span > decades else (1.0, 3.0) if span > 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, labelled))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}{unit}"))
    axis.set_minor_formatter(NullFormatter())
    if span > decades:
        axis.set_minor_locator(NullLocator())


def legend_below(figure: "Figure", panels: "Iterable[Axes]", *, columns: int = 5, note: str = "") -> None:
    """One legend for all panels, below them so that it covers no data, and a line above them.

    Args:
      figure: changed in place.
      panels: whose labels are shown, each label once.
      columns: of the legend · >= 1.
      note: the line, such as what hollow marks mean.

    Example:
      >>> figure = blank_figure(3, 3)
      >>> axes = figure.subplots()
      >>> _ = axes.plot([0, 1], [0, 1], label="line")
      >>> legend_below(figure, [axes])
      >>> [text.get_text() for text in figure.legends[0].get_texts()]
      ['line']
    """
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
        figure.suptitle(note, fontsize=9, color=GREY)
