"""Many runs of an experiment: a grid over fields of its config, on this machine or as a Slurm array, and one table.

Every combination of the grid is a run in its usual place, <runs>/<experiment>/<hash of its config>. The same call may
be made again at any time: finished runs are skipped, half-finished ones go on where they were saved, failed ones are
reported, and tried once more with --retry.

    python experiments/launch.py gibbs_gap --config smoke --grid seeds 0 1 2 --grid mean-field true false --processes 2
    python experiments/launch.py gibbs_gap --config mnist14 --grid seeds 0 1 2 --slurm timeout_min=120

A value is what the flag would get, so that "0 1" in quotes is two seeds in one run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from pbjax import runs
from pbjax.runs import launching, sweep

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Launch:
    """Runs every combination of a grid over the fields of a config; call it again to go on."""

    experiment: tyro.conf.Positional[str]
    """Name of an experiment: a file of this folder."""
    config: str
    """Its config that the grid starts from."""
    grid: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """A field and its values, say --grid seeds 0 1 2; give it once a field."""
    processes: int = 1
    """Runs at a time."""
    retry: bool = False
    """Try failed runs once more."""
    slurm: tuple[str, ...] | None = None
    """Submit one Slurm array instead; parameters of submitit, say timeout_min=60 slurm_partition=gpu."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    dry_run: bool = False
    """Only say what would be done."""


def _experiments() -> dict[str, Path]:
    own = (path for path in sorted((ROOT / "experiments").glob("[a-z]*.py")) if path != Path(__file__).resolve())
    return {path.stem: path for path in own if (ROOT / "configs" / path.stem).is_dir()}


def _options(words: tuple[str, ...]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise ValueError(f"--slurm {word}: give parameters as name=value, say timeout_min=60")
    return dict((word.split("=", 1)[0], word.split("=", 1)[1]) for word in words)


def table_path(asked: Launch, points: list[sweep.Point]) -> Path:
    """Where the table of a sweep stands; named after its runs, so the same sweep writes the same file."""
    name = hashlib.sha256(" ".join(sorted(point.hash for point in points)).encode()).hexdigest()[:12]
    return asked.runs_dir / asked.experiment / f"sweep-{name}.parquet"


def launch(asked: Launch) -> int:
    """Runs or submits what is left of a sweep, and writes the table of what is finished.

    Returns:
        0 when every run is finished (flagged or not) or submitted, 1 when one is not.
    """
    known = _experiments()
    if asked.experiment not in known:
        raise ValueError(f"{asked.experiment}: unknown experiment; choose one of {', '.join(known)}")
    script = known[asked.experiment]
    configs = runs.load_configs(ROOT / "configs" / asked.experiment)
    points = sweep.expand_grid(
        asked.experiment, configs, config=asked.config, grid=asked.grid, runs_dir=asked.runs_dir
    )  # fmt: skip
    before = {point.hash: point.state for point in points}
    wanted = {"new", "unfinished"} | ({"failed"} if asked.retry else set())
    left = [point for point in points if before[point.hash] in wanted]
    counts = Counter(before.values())
    print(
        f"{asked.experiment}: {len(points)} runs, " + ", ".join(f"{counts[s]} {s}" for s in sweep.STATES if counts[s])
    )
    if asked.dry_run:
        for point in points:
            print(f"{before[point.hash]:>10}  {point.label}")
        return 0
    commands = [launching.RunCommand(launching.experiment_command(script, point), point) for point in left]
    if asked.slurm is not None:
        if commands:
            folder = asked.runs_dir / asked.experiment / "slurm"
            jobs = launching.submit(
                commands, folder=folder, processes=asked.processes, options=_options(asked.slurm)
            )  # fmt: skip
            array = str(jobs[0].job_id).partition("_")[0]
            print(f"submitted {len(jobs)} runs as array {array}; the same call later writes the table of finished ones")
    else:
        done = 0

        def tell(point: sweep.Point, status: int, seconds: float) -> None:
            nonlocal done
            done += 1
            said = "finished" if status == 0 else f"ended with status {status}, see {point.log}"
            print(f"{done}/{len(commands)}  {point.label}  {said} ({seconds:.0f} s)", flush=True)

        launching.run_local(commands, processes=asked.processes, on_end=tell)
    return report(asked, points)


def report(asked: Launch, points: list[sweep.Point]) -> int:
    """Writes the table of the finished runs and names the others."""
    finished = [point for point in points if point.state == "finished"]
    if finished:
        table = sweep.gather([point.path for point in finished], values=[point.values for point in finished])
        path = table_path(asked, points)
        sweep.write_table(table, path)
        print(f"{table.num_rows} rows of {len(finished)} runs in {path}")
    for point in finished:
        if flagged := sweep.num_flagged(point.path):
            print(f"flagged: {point.label}, {flagged} rows")
    for point in points:
        if point.state == "failed":
            print(f"failed: {point.label}; see {point.log}, and give --retry to try again")
        elif point.state != "finished" and asked.slurm is None:
            print(f"unfinished: {point.label}; the same call goes on with it")
    return 0 if len(finished) == len(points) or asked.slurm is not None else 1


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    asked = runs.parse_options(Launch, argv, prog="launch.py")
    raise SystemExit(launch(asked))


if __name__ == "__main__":
    main()
