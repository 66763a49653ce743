"""Experiments as real processes: run, killed, started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pbjax.runs.comparing import row_differences
from pbjax.runs.sweep import read_results

ROOT = Path(__file__).resolve().parents[2]


def start(experiment, *arguments, devices=1):
    """The process of an experiment, on so many fake devices."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / f"{experiment}.py"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


def command(experiment, *arguments, devices=1, timeout=900):
    """The same, waited for: its status and what it said."""
    process = start(experiment, *arguments, devices=devices)
    said, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, said, errors)


def finish(experiment, out, *arguments, devices=1):
    """Runs it to its end, in or from the directory `out`."""
    done = command(experiment, "--out", str(out), *arguments, devices=devices)
    assert done.returncode == 0, done.stderr
    return done


def kill_once(experiment, out, *arguments, sign="checkpoints/*/*"):
    """Starts it and kills it with SIGKILL as soon as its directory holds `sign`: it has no results then."""
    process = start(experiment, "--out", str(out), "--checkpoint-seconds", "0", *arguments)
    while process.poll() is None and not any(out.glob(sign)):
        time.sleep(0.01)
    process.kill()
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
    assert not (out / "results.json").exists()


class Runs(NamedTuple):
    """A run that nothing disturbed, and one that was killed and started again; `done` is what the latter said last."""

    whole: Path
    resumed: Path
    done: subprocess.CompletedProcess


def whole_and_killed(experiment, folder, *arguments, sign="checkpoints/*/*"):
    """Runs an experiment twice, once killed after its first checkpoint; programs are compiled once."""
    arguments = (*arguments, "--log-level", "quiet", "--compilation-cache", str(folder / "cache"))
    finish(experiment, folder / "whole", *arguments)
    kill_once(experiment, folder / "killed", *arguments, sign=sign)
    return Runs(folder / "whole", folder / "killed", finish(experiment, folder / "killed", *arguments))


def same_rows(first, second):
    """Whether two finished runs have equal rows, timings left out."""
    return row_differences(read_results(first)["rows"], read_results(second)["rows"]) == []
