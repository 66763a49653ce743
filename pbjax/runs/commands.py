"""The command `pbjax`: what stands in run directories, what differs between them, and whether certificates hold up.

pbjax verify runs/certify/0123456789ab
pbjax runs list runs
pbjax runs show runs/gibbs_gap/0123456789ab
pbjax runs compare runs/gibbs_gap/0123456789ab runs/gibbs_gap/ba9876543210
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from pbjax import runs
from pbjax.runs import comparing, sweep, verifying
from pbjax.runs.errors import fail

_SHOWN = 40  # differing values of rows that `compare` lists


@dataclasses.dataclass(frozen=True)
class ListRuns:
    """Every run below a folder: its experiment, state, number of rows and flags, best certificate, commit and time."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder that is searched."""


@dataclasses.dataclass(frozen=True)
class ShowRun:
    """One run: its config, where it comes from, and its rows."""

    run: tyro.conf.Positional[Path]
    """Run directory."""
    columns: tuple[str, ...] | None = None
    """Columns of its rows; by default the usual ones of a certificate, or the first twelve."""


@dataclasses.dataclass(frozen=True)
class CompareRuns:
    """What differs between two runs; exit status 0 when their rows are equal in all columns but timings, else 1."""

    first: tyro.conf.Positional[Path]
    """Run directory."""
    second: tyro.conf.Positional[Path]
    """Run directory."""
    timings: bool = False
    """Compare timings, too."""


@dataclasses.dataclass(frozen=True)
class VerifyRun:
    """Recomputes every certificate of a run from its stored inputs: status 0 when none comes out higher, else 1."""

    file: tyro.conf.Positional[Path]
    """results.json, or the run directory."""


def _console() -> Console:
    # Without a terminal a table is not squeezed into eighty columns.
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _plain_table(title: str, names: Sequence[str], lines: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*("–" if value is None else str(value) for value in line))
    return table


def list_runs(asked: ListRuns) -> int:
    """Prints the runs below a folder.

    Args:
        asked: what the command line says.

    Returns:
        Exit status 0.

    Raises:
        RunError: there is no such folder.
    """
    if not asked.folder.is_dir():
        raise runs.RunError(f"{asked.folder} is not a folder; give the one that holds run directories")
    lines = []
    for config in sorted(asked.folder.rglob("config.json")):
        path = config.parent
        try:
            experiment = json.loads(config.read_bytes())["experiment"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another program's config.json
        point = sweep.Point({}, (), path)
        if point.state != "finished":
            lines.append((path, experiment, point.state, None, None, None, None, None))
            continue
        record = sweep.read_results(path)
        certificates = [row["certificate"] for row in record["rows"] if row.get("certificate") is not None]
        best = runs.format_value("certificate", min(certificates)) if certificates else None
        git = record["provenance"].get("git") or {}
        commit = (git.get("commit") or "")[:9] + ("+" if git.get("dirty") else "")
        lines.append((
            path, experiment, "finished", len(record["rows"]), sweep.num_flagged(path), best, commit or None,
            record["provenance"].get("time"),
        ))  # fmt: skip
    names = ("run", "experiment", "state", "rows", "flagged", "best certificate", "commit", "time")
    _console().print(_plain_table(f"{len(lines)} runs", names, lines))
    return 0


def show_run(asked: ShowRun) -> int:
    """Prints one run.

    Args:
        asked: what the command line says.

    Returns:
        Exit status 0.

    Raises:
        RunError: it is no finished run.
    """
    record, console = sweep.read_results(asked.run), _console()
    fields = [*record["config"].items()]
    console.print(_plain_table(f"{record['experiment']} {record['config_hash']}", ("field", "value"), fields))
    console.print(_plain_table("provenance", ("", ""), [*record["provenance"].items()]))
    columns = asked.columns
    if columns is None and "certificate" not in (record["rows"] or [{}])[0]:
        columns = tuple(record["rows"][0])[:12] if record["rows"] else ()
    runs.print_results(record["rows"], columns=columns, title="rows", console=console)
    return 0


def compare_runs(asked: CompareRuns) -> int:
    """Prints what differs between two runs.

    Args:
        asked: what the command line says.

    Returns:
        Exit status 0 when their rows are equal in all columns but timings, else 1.

    Raises:
        RunError: one of them is no finished run.
    """
    first, second = sweep.read_results(asked.first), sweep.read_results(asked.second)
    console, names = _console(), ("", str(asked.first), str(asked.second))
    for part in ("config", "provenance"):
        found = comparing.differences(first[part], second[part])
        if found:
            console.print(_plain_table(f"{part}: {len(found)} differ", names, found))
        else:
            console.print(f"{part}: the same")
    found = comparing.row_differences(first["rows"], second["rows"], timings=asked.timings)
    if not found:
        kept = "all columns" if asked.timings else "all columns but timings"
        console.print(f"rows: {len(first['rows'])}, equal bit for bit in {kept}")
        return 0
    console.print(_plain_table(f"rows: {len(found)} values differ", names, found[:_SHOWN]))
    if len(found) > _SHOWN:
        console.print(f"... and {len(found) - _SHOWN} more")
    return 1


def verify_run(asked: VerifyRun) -> int:
    """Prints the certificates of a run, stored and recomputed.

    Args:
        asked: what the command line says.

    Returns:
        Exit status 0 when every recomputed value equals the stored one or lies below it, and all else agrees; else 1.

    Raises:
        RunError: it is no file of results, or its certificates came without their inputs.
    """
    found, console = verifying.verify(asked.file), _console()
    lines = [(v.row, v.route, v.loss, v.seed, v.stored, v.recomputed, v.verdict) for v in found]
    names = ("row", "route", "loss", "seed", "stored", "recomputed", "recomputed is")
    console.print(_plain_table(str(asked.file), names, lines))
    wrong = [v for v in found if v.objection]
    lower = sum(v.verdict == "lower" for v in found)
    console.print(
        f"{len(found)} certificates: {len(found) - lower - len(wrong)} equal bit for bit, {lower} lower, "
        f"{len(wrong)} wrong"
    )
    return 1 if wrong else 0


COMMANDS: dict[tuple[str, ...], tuple[type[Any], Callable[[Any], int]]] = {
    ("verify",): (VerifyRun, verify_run),
    ("runs", "list"): (ListRuns, list_runs),
    ("runs", "show"): (ShowRun, show_run),
    ("runs", "compare"): (CompareRuns, compare_runs),
}


@runs.command_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """The command line.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Raises:
        SystemExit: status 0, 1 where a comparison finds differences, 2 after one line that names what is wrong.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    known = [" ".join(name) for name in COMMANDS]
    if not words or words[0] in ("-h", "--help"):
        print("pbjax: looks into run directories\n")
        width = max(map(len, known))
        for name, (kind, _) in zip(known, COMMANDS.values(), strict=True):
            print(f"  pbjax {name:<{width}}  {(kind.__doc__ or '').partition(':')[0]}")
        print("\n`pbjax COMMAND --help` lists the options of a command; experiments/launch.py starts many runs.")
        raise SystemExit(0 if words else 2)
    name = next((name for name in COMMANDS if tuple(words[: len(name)]) == name), None)
    if name is None:
        fail(f"pbjax {' '.join(words[:2])}: unknown command; choose one of {', '.join(known)}")
    kind, function = COMMANDS[name]
    raise SystemExit(function(runs.parse_options(kind, words[len(name) :], prog=f"pbjax {' '.join(name)}")))


if __name__ == "__main__":
    main()
