"""Sweeps: a grid over config fields as runs that are told apart by the hash of their config, and one table of them."""

import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

from pbjax.runs.atomic import json_bytes, write_file
from pbjax.runs.command_line import parse
from pbjax.runs.config import Configs, config_hash
from pbjax.runs.errors import RunError
from pbjax.runs.results import is_flagged

STATES = ("finished", "failed", "unfinished", "new")
"""What a run can be: with results; ended by an error; begun and stopped; not begun."""


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
      values: field -> its value as it was written, of the grid alone.
      arguments: flags of the experiment's command line, without `--out`.
      path: run directory, <runs>/<experiment>/<hash>.
    """

    values: dict[str, str]
    arguments: tuple[str, ...]
    path: Path

    @property
    def hash(self) -> str:
        """Of its config: the name of its directory."""
        return self.path.name

    @property
    def log(self) -> Path:
        """What its process prints."""
        return self.path.with_name(f"{self.hash}.log")

    @property
    def failure(self) -> Path:
        """Record of an error that ended it; there is none while it has not failed."""
        return self.path.with_name(f"{self.hash}.failed.json")

    @property
    def state(self) -> str:
        """One of `STATES`; a failure is forgotten once there are results, however they came about."""
        state = run_state(self.path)
        return "failed" if state != "finished" and self.failure.exists() else state

    @property
    def label(self) -> str:
        """Its hash and its place in the grid, for messages."""
        return " ".join((self.hash, *(f"{name}={value}" for name, value in self.values.items())))


def _flags(name: str, value: str) -> list[str]:
    flag = "--" + name.removeprefix("--").replace("_", "-")
    words = shlex.split(value)
    if words in (["true"], ["false"]):
        return [flag if words == ["true"] else flag.replace("--", "--no-", 1)]
    return [flag, *words]


def expand_grid(
    experiment: str, configs: Configs, *, config: str, grid: Sequence[Sequence[str]], runs_dir: str | Path
) -> list[Point]:
    """Every combination of the grid's values as a run; each is checked before any of them starts.

    Args:
      experiment: its name, as in `experiments/<name>.py`.
      configs: `load_configs` of it.
      config: name of the config whose fields the grid replaces.
      grid: for each field its name and then its values. A value is what the flag would get: "0 1" is the pair of seeds
        0 and 1, "true" and "false" switch a flag on and off.
      runs_dir: folder of all runs.

    Returns:
      One point a combination, the last field varying fastest. Combinations with the same config are one run.

    Raises:
      ValueError: a field without values or given twice.
      SystemExit: status 2 after one line, for a config, field or value that the experiment refuses.

    Example:
      >>> import dataclasses
      >>> from pbjax.runs import RunOptions
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Example(RunOptions):
      ...     delta: float = 0.05
      ...     seeds: tuple[int, ...] = (0,)
      >>> grid = [("seeds", "0", "1 2"), ("delta", "0.05", "0.1")]
      >>> points = expand_grid("demo", Configs({"small": Example()}), config="small", grid=grid, runs_dir="runs")
      >>> len(points), points[2].arguments
      (4, ('--config', 'small', '--seeds', '1', '2', '--delta', '0.05'))
    """
    names = [entry[0].removeprefix("--") if entry else "" for entry in grid]
    for entry, name in zip(grid, names, strict=True):
        if len(entry) < 2:
            raise ValueError(f"--grid {name}: give the field and then its values, say --grid seeds 0 1 2")
    if len(set(names)) < len(names):
        raise ValueError(f"--grid names {', '.join(names)}: give each field once, with all its values")
    points: dict[str, Point] = {}
    for combination in itertools.product(*(entry[1:] for entry in grid)):
        values = dict(zip(names, combination, strict=True))
        arguments = ["--config", config, *(word for name, value in values.items() for word in _flags(name, value))]
        chosen, _ = parse(experiment, configs, arguments, default=config, join=False)
        name = config_hash(chosen)
        points.setdefault(name, Point(values, tuple(arguments), Path(runs_dir) / experiment / name))
    return list(points.values())


def run_state(path: str | Path) -> str:
    """What stands in a run directory.

    Args:
      path: the directory; it need not exist.

    Returns:
      "finished" with results.json, "unfinished" with config.json alone, otherwise "new".

    Example:
      >>> run_state("no/such/run")
      'new'
    """
    path = Path(path)
    if (path / "results.json").exists():
        return "finished"
    return "unfinished" if (path / "config.json").exists() else "new"


def read_results(path: str | Path) -> dict[str, Any]:
    """The record of a finished run.

    Args:
      path: run directory.

    Returns:
      What results.json holds: experiment, config_hash, provenance, rows and the sections of the experiment; with the
      fields of the config under "config".

    Raises:
      RunError: there is no such run, it is not finished, or its files cannot be read.
    """
    path = Path(path)
    state = run_state(path)
    if state != "finished":
        what = "holds no run" if state == "new" else "holds a run that is not finished"
        raise RunError(f"{path} {what}; give the directory of a finished one (with results.json)")
    try:
        record = json.loads((path / "results.json").read_bytes())
        config = json.loads((path / "config.json").read_bytes())["config"]
        return {**record, "config": config, "rows": list(record["rows"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read as a run ({type(error).__name__}); run it again") from None


def write_summary(path: str | Path, text: Callable[[dict[str, Any]], str]) -> None:
    """Writes summary.md of a finished run from what the run left, now or years later.

    Args:
      path: run directory.
      text: makes the Markdown from the record of `read_results`.

    Raises:
      RunError: as `read_results`.
      OSError: the file cannot be written.
    """
    write_file(Path(path) / "summary.md", text(read_results(path)).encode())


def num_flagged(path: str | Path) -> int:
    """Rows of a finished run that a diagnostic objects to.

    Args:
      path: run directory.

    Returns:
      Their number.
    """
    return sum(is_flagged(row) for row in read_results(path)["rows"])


def gather(paths: Iterable[str | Path], *, values: Iterable[Mapping[str, str]] | None = None) -> pa.Table:
    """One table of the rows of many runs.

    Args:
      paths: run directories, all finished.
      values: for each of them, further columns (a sweep's place in its grid), named `grid.<field>` in the table.

    Returns:
      The rows in the order of the paths with a first column `run`. A column that some runs lack is null there.

    Raises:
      RunError: a run is not finished, or a column has types in two of them that no common one holds.

    Example:
      >>> gather([]).num_rows
      0
    """
    paths = [Path(path) for path in paths]
    tables = []
    for path, extra in zip(paths, [{} for _ in paths] if values is None else values, strict=True):
        read_results(path)
        table = parquet.read_table(path / "results.parquet").replace_schema_metadata(None)
        columns = {"run": path.name, **{f"grid.{name}": value for name, value in extra.items()}}
        for place, (name, value) in enumerate(columns.items()):
            table = table.add_column(place, name, pa.array([value] * table.num_rows, pa.string()))
        tables.append(table)
    if not tables:
        return pa.table({"run": pa.array([], pa.string())})
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowInvalid as error:
        raise RunError(f"the runs do not fit in one table ({str(error).splitlines()[0]}); gather fewer") from None


def write_table(table: pa.Table, path: str | Path) -> None:
    """Writes a table as Parquet, whole or not at all.

    Args:
      table: from `gather`.
      path: the file.

    Raises:
      OSError: it cannot be written.
    """
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    write_file(Path(path), sink.getvalue().to_pybytes())


def note_failure(point: Point, *, status: int, last_line: str) -> None:
    """Keeps that a run failed, until it is tried again.

    Args:
      point: the run.
      status: exit status of its process.
      last_line: the last thing that it said.
    """
    point.failure.parent.mkdir(parents=True, exist_ok=True)
    write_file(point.failure, json_bytes({"status": status, "last_line": last_line, "arguments": point.arguments}))
