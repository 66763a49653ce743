"""Sweeps: the grid, runs that are skipped, resumed or retried, the one table, Slurm, and the command `pbjax`."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from pbjax.runs import Configs, commands, sweep
from pbjax.runs.launching import RunCommand, experiment_command, run_local, submit

ROOT = Path(__file__).parents[2]
SCRIPT = """import sys
sys.path[:0] = [{root!r}, {tests!r}]
from toy_experiment import main
main()
"""
CONFIG = '''"""A short walk."""
import sys
sys.path.insert(0, {tests!r})
from toy_experiment import ToyConfig
config = ToyConfig()
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with the launcher and the toy experiment, as in a checkout."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "experiments").mkdir()
    (root / "configs" / "toy").mkdir(parents=True)
    for package in ("configs", "configs/toy"):
        (root / package / "__init__.py").touch()
    places = {"root": str(ROOT), "tests": str(Path(__file__).parent)}
    (root / "experiments" / "toy.py").write_text(SCRIPT.format(**places))
    (root / "configs" / "toy" / "toy.py").write_text(CONFIG.format(**places))
    launcher = (ROOT / "experiments" / "launch.py").read_text()
    (root / "experiments" / "launch.py").write_text(launcher)
    (root / "pbjax").symlink_to(ROOT / "pbjax")
    return root


def launch(checkout, *words, background=False):
    command = [sys.executable, str(checkout / "experiments" / "launch.py"), *words]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if background:
        return process
    said, errors = process.communicate(timeout=240)
    return process.returncode, said, errors


def test_a_sweep_of_four_with_one_killed_is_complete_after_one_more_call(checkout, tmp_path):
    runs_dir = tmp_path / "runs"
    grid = ["toy", "--config", "toy", "--grid", "seeds", "0", "1", "--grid", "delta", "0.05", "0.1"]
    words = [*grid, "--processes", "2", "--runs-dir", str(runs_dir)]
    slow = launch(
        checkout, *words, "--grid", "chunk-seconds", "0.3", "--grid", "checkpoint-seconds", "0", background=True
    )
    deadline = time.monotonic() + 200
    while not (logs := [log for log in runs_dir.rglob("metrics.jsonl") if log.read_bytes().count(b"\n") >= 2]):
        assert slow.poll() is None, slow.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    subprocess.run(["pkill", "-KILL", "-f", f"toy.py .*{logs[0].parent.name}"], check=True)
    time.sleep(0.5)
    slow.terminate()
    said, errors = slow.communicate(timeout=120)
    assert slow.returncode == 143, (said, errors)
    assert "stopped by SIGTERM" in errors
    assert sweep.run_state(logs[0].parent) == "unfinished"
    before = {path: path.read_bytes() for path in runs_dir.rglob("results.json")}

    status, said, errors = launch(checkout, *words)
    assert (status, errors) == (0, ""), said
    assert "unfinished" in said.splitlines()[0]
    assert all(path.read_bytes() == data for path, data in before.items())  # finished runs are not touched
    assert len(list(runs_dir.rglob("results.json"))) == 4

    status, said, _ = launch(checkout, *words)
    assert status == 0
    assert said.splitlines()[0] == "toy: 4 runs, 4 finished"
    [file] = (runs_dir / "toy").glob("sweep-*.parquet")
    table = parquet.read_table(file).to_pylist()
    assert [(row["grid.seeds"], row["grid.delta"]) for row in table] == [
        ("0", "0.05"), ("0", "0.1"), ("1", "0.05"), ("1", "0.1"),
    ]  # fmt: skip
    assert [(row["seed"], row["delta"]) for row in table] == [(0, 0.05), (0, 0.1), (1, 0.05), (1, 0.1)]

    # What was killed and resumed is what an undisturbed run computes, bit for bit.
    again = [*grid, "--processes", "4", "--runs-dir", str(tmp_path / "undisturbed")]
    assert launch(checkout, *again)[0] == 0
    for path in sorted((runs_dir / "toy").glob("*/results.json")):
        other = tmp_path / "undisturbed" / "toy" / path.parent.name
        assert (path.parent / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        with pytest.raises(SystemExit) as stop:
            commands.main(["runs", "compare", str(path.parent), str(other)])
        assert stop.value.code == 0


def points(tmp_path, *grid):
    place = importlib.util.spec_from_file_location("toy_experiment", Path(__file__).with_name("toy_experiment.py"))
    assert place is not None and place.loader is not None
    toy = sys.modules.setdefault("toy_experiment", importlib.util.module_from_spec(place))
    if not hasattr(toy, "ToyConfig"):
        place.loader.exec_module(toy)
    configs = Configs({"toy": toy.ToyConfig()})
    return sweep.expand_grid("toy", configs, config="toy", grid=grid, runs_dir=tmp_path / "runs")


@pytest.mark.slow
def test_failed_runs_are_reported_and_retried_on_request(checkout, tmp_path):
    [point] = points(tmp_path, ("seeds", "3"))
    point.path.parent.mkdir(parents=True)
    point.path.write_text("in the way")
    words = ["toy", "--config", "toy", "--grid", "seeds", "3", "--runs-dir", str(tmp_path / "runs")]
    status, said, _ = launch(checkout, *words)
    assert status == 1
    assert f"failed: {point.label}" in said
    assert json.loads(point.failure.read_text())["last_line"].startswith("error: --out")
    point.path.unlink()
    status, said, _ = launch(checkout, *words)
    assert (status, point.state) == (1, "failed")  # reported, not tried
    status, said, _ = launch(checkout, *words, "--retry")
    assert (status, point.state) == (0, "finished"), said
    point.failure.write_text("{}")  # of an attempt before a run by hand
    assert point.state == "finished"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["toi", "--config", "toy"], "toi: unknown experiment; choose one of toy"),
        (["toy", "--config", "large"], "--config large: unknown config; choose one of toy"),
        (["toy", "--config", "toy", "--grid", "delta", "0.05", "7"], "delta = 7.0: must lie in (0, 1)"),
        (["toy", "--config", "toy", "--grid", "delta"], "--grid delta: give the field and then its values"),
        (["toy", "--config", "toy", "--grid", "seeds", "0", "--slurm", "gpu"], "--slurm gpu: give parameters as"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(checkout, tmp_path, words, named):
    status, _, errors = launch(checkout, *words, "--runs-dir", str(tmp_path / "runs"))
    assert status == 2
    assert errors.startswith("error: ")
    assert named in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_grid_is_every_combination_and_equal_configs_are_one_run(tmp_path):
    found = points(tmp_path, ("seeds", "0", "0 1"), ("delta", "0.05", "0.050"))
    assert [point.arguments for point in found] == [
        ("--config", "toy", "--seeds", "0", "--delta", "0.05"),
        ("--config", "toy", "--seeds", "0", "1", "--delta", "0.05"),
    ]
    with pytest.raises(ValueError, match="give each field once"):
        points(tmp_path, ("seeds", "0"), ("--seeds", "1"))


def test_a_slurm_array_is_one_script_that_runs_every_point(checkout, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    binaries, taken = tmp_path / "bin", tmp_path / "taken"
    binaries.mkdir()
    taken.mkdir()
    for name in ("srun", "sbatch", "sacct", "scancel"):
        (binaries / name).write_text(f'#!/bin/sh\ncp "$1" {taken}/{name}\necho Submitted batch job 417\n')
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    words = ["toy", "--config", "toy", "--grid", "seeds", "0", "1", "2", "--processes", "2"]
    options = ["--slurm", "timeout_min=7", "slurm_partition=short"]
    status, said, errors = launch(checkout, *words, *options, "--runs-dir", str(tmp_path / "runs"))
    assert (status, errors) == (0, ""), said
    assert "submitted 3 runs as array 417" in said
    script = (taken / "sbatch").read_text()
    for line in ("--array=0-2%2", "--time=7", "--partition=short", "--signal=USR2@"):
        assert f"#SBATCH {line}" in script
    assert "submitit.core._submit" in script


@pytest.mark.slow
def test_submitit_runs_the_points_as_processes_of_their_own(checkout, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the job has to find the package, installed or not
    found = points(tmp_path, ("seeds", "5"))
    script = checkout / "experiments" / "toy.py"
    jobs = submit(
        [RunCommand(experiment_command(script, point), point) for point in found],
        folder=tmp_path / "slurm", cluster="local",
    )  # fmt: skip
    assert [job.result() for job in jobs] == [0]
    assert sweep.run_state(found[0].path) == "finished"
    with pytest.raises(ValueError, match="submitit refuses"):
        submit([], folder=tmp_path / "slurm", cluster="local", options={"walltime": "3"})


@pytest.mark.slow
def test_a_stop_reaches_the_processes_and_they_save(checkout, tmp_path):
    [point] = points(tmp_path, ("seeds", "0"))
    script = checkout / "experiments" / "toy.py"
    command = RunCommand([*experiment_command(script, point), "--chunk-seconds", "0.3"], point)
    command.start()
    while not (point.path / "metrics.jsonl").exists() or not (point.path / "metrics.jsonl").read_bytes():
        time.sleep(0.05)
    command.stop()
    assert command.poll() == 128 + signal.SIGTERM
    assert point.state == "unfinished"  # and not failed
    ended = []
    run_local(
        [RunCommand(experiment_command(script, point), point)], processes=1, on_end=lambda *end: ended.append(end)
    )
    assert [(end[0], end[1]) for end in ended] == [(point, 0)]
    assert sweep.num_flagged(point.path) == 0
    with pytest.raises(ValueError, match="processes = 0"):
        run_local([], processes=0)


def test_the_command_lists_shows_and_compares(checkout, tmp_path, capsys):
    first, second = points(tmp_path, ("delta", "0.05", "0.1"))
    script = checkout / "experiments" / "toy.py"
    run_local([RunCommand(experiment_command(script, point), point) for point in (first, second)], processes=2)

    def said(*words):
        with pytest.raises(SystemExit) as stop:
            commands.main(["runs", *map(str, words)])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    status, out, _ = said("list", tmp_path / "runs")
    assert status == 0
    assert out.startswith("2 runs")
    assert first.hash in out and second.hash in out
    status, out, _ = said("show", first.path)
    assert status == 0 and "num_chunks" in out and "test_set" in out
    status, out, _ = said("compare", first.path, second.path)
    assert status == 1 and "config: 1 differ" in out and "0.delta" in out
    for words in (("show", tmp_path), ("list", tmp_path / "none"), ("remove", first.path)):
        status, _, error = said(*words)
        assert status == 2
        assert error.count("\n") == 1
