"""Results as tables for the terminal and for documentation; a number that a diagnostic objects to is always marked."""

import json
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pbjax.runs.atomic import to_plain
from pbjax.runs.results import is_flagged

COLUMNS = (
    "method",
    "loss",
    "beta",
    "certificate",
    "empirical_risk",
    "test_risk",
    "kl",
    "r_hat",
    "ess",
    "seed",
)
"""What is shown unless other columns are asked for; `flag` joins them as soon as one row has a flag."""

# Upper bounds are printed rounded up and lower ones down, so that a table never claims more than was proved.
_ROUNDING = {"certificate": ROUND_CEILING, "kl_high": ROUND_CEILING, "kl_low": ROUND_FLOOR}
_DECIMALS = {
    **dict.fromkeys(("certificate", "empirical_risk", "test_risk", "standard_error"), 4),
    **dict.fromkeys(("kl", "kl_low", "kl_high"), 1),
    **dict.fromkeys(("r_hat", "delta"), 3),
    "seconds": 1,
    "ess": 0,
}
MARK = "†"


def format_value(name: str, value: Any) -> str:
    """One cell: fixed decimals by column, upper bounds rounded up, an en dash where there is no value.

    Args:
      name: the column.
      value: what the row holds.

    Returns:
      The text.

    Example:
      >>> format_value("certificate", 0.24311), format_value("test_risk", 0.24311), format_value("kl", None)
      ('0.2432', '0.2431', '–')
    """
    value = to_plain(value)
    if value is None or value == "":
        return "" if name == "flag" else "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if name in _DECIMALS:
        step = Decimal(1).scaleb(-_DECIMALS[name])
        return str(Decimal(value).quantize(step, rounding=_ROUNDING.get(name, ROUND_HALF_EVEN)))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown_columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> list[str]:
    shown = list(COLUMNS if columns is None else columns)
    if columns is None:
        shown = [name for name in shown if any(to_plain(row.get(name)) is not None for row in rows)]
    if "flag" not in shown and any(is_flagged(row) for row in rows):
        shown.append("flag")
    return shown


def _cells(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    cells = [format_value(name, row.get(name)) for name in shown]
    if is_flagged(row):
        marked = "certificate" if "certificate" in shown else shown[0]
        cells[shown.index(marked)] += f" {MARK}"
    return cells


def _is_number(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(to_plain(row.get(name)), int | float | None) for row in rows)


def results_table(
    rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None, title: str | None = None
) -> Table:
    """A table for the terminal.

    Args:
      rows: rows of results.
      columns: names in their order; None for those of `COLUMNS` that have values. The flag is shown whenever a row
        has one, asked for or not.
      title: printed above.

    Returns:
      A rich table. Flagged rows are dimmed and carry a dagger.
    """
    shown = _shown_columns(rows, columns)
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in shown:
        table.add_column(
            name.replace("_", " "),
            justify="right" if _is_number(rows, name) else "left",
            overflow="fold",
            no_wrap=name not in ("flag", "assumption"),
        )
    for row in rows:
        style = "yellow" if is_flagged(row) else ""
        table.add_row(*(Text(cell, style=style) for cell in _cells(row, shown)))
    return table


def print_results(
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Prints the table and, below it, how many rows are flagged.

    Args:
      rows: rows of results.
      columns: see `results_table`.
      title: see `results_table`.
      console: where to; standard output by default.

    Example:
      >>> print_results([{"method": "mean_field", "certificate": 0.25}], columns=("method", "certificate"))
      method      certificate
      mean_field       0.2500
    """
    console = console or Console()
    if not console.is_terminal:  # a log has no width: wrapped cells would be torn apart
        console = Console(file=console.file, width=max(160, console.width), force_terminal=False)
    console.print(results_table(rows, columns=columns, title=title))
    flagged = sum(map(is_flagged, rows))
    if flagged:
        console.print(
            f"{MARK} {flagged} of {len(rows)} rows are flagged: do not rely on their numbers", highlight=False
        )


def markdown_table(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None) -> str:
    """A Markdown table of the same cells as in the terminal.

    Args:
      rows: rows of results.
      columns: see `results_table`.

    Returns:
      Lines with a final newline; flagged rows carry a dagger and their flag.

    Example:
      >>> rows = [{"method": "gibbs_iid", "certificate": 0.24311, "flag": "r_hat 1.2"}]
      >>> print(markdown_table(rows, columns=["method", "certificate"]), end="")
      | method | certificate | flag |
      | --- | ---: | --- |
      | gibbs_iid | 0.2432 † | r_hat 1.2 |
    """
    shown = _shown_columns(rows, columns)
    lines = [
        " | ".join(shown),
        " | ".join("---:" if _is_number(rows, name) else "---" for name in shown),
        *(" | ".join(cell.replace("|", "\\|") for cell in _cells(row, shown)) for row in rows),
    ]
    return "".join(f"| {line} |\n" for line in lines)
