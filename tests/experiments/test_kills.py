"""Every experiment killed at random moments: started again it ends with the rows of an undisturbed run.

One kill of each experiment is in the test of its smoke config; `test_a_sweep_of_24_runs_with_three_killed` is the grid.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from pbjax.runs import sweep
from tests.experiments.processes import command, finish, same_rows, start

EXPERIMENTS = ("certify", "fine_tuning", "flatness", "gibbs_gap", "in_context", "rule_extrapolation", "sam_as_vi")


def kill_at(fraction, number, experiment, out, *arguments, seconds):
    """Sends a signal after a part of an undisturbed run's time; whether it met the process alive."""
    process = start(experiment, "--out", str(out), *arguments)
    try:
        process.communicate(timeout=fraction * seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    if process.returncode == 0:  # the last file was written before the signal was looked at
        return False
    # Before Python has set up its handlers a SIGTERM ends the process like any other.
    allowed = {-number} if number == signal.SIGKILL else {143, -number}
    assert process.returncode in allowed, said
    return True


@pytest.mark.slow
def test_kills_of_all_experiments_at_random_moments(tmp_path, record_property):
    """Three kills of every experiment's smoke config: 21 of 21 runs that were killed have the rows of a whole one."""
    dice, tried, equal = random.Random(0), 0, 0
    smoke = ("--config", "smoke", "--log-level", "quiet", "--checkpoint-seconds", "0")
    smoke = (*smoke, "--compilation-cache", str(tmp_path / "cache"))
    for experiment in EXPERIMENTS:
        whole = tmp_path / experiment
        finish(experiment, whole, *smoke)
        begun = time.monotonic()
        finish(experiment, tmp_path / f"{experiment}-again", *smoke)  # nothing to compile: the time that counts
        seconds = time.monotonic() - begun
        assert same_rows(whole, tmp_path / f"{experiment}-again")
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            out = tmp_path / f"{experiment}-killed-{tried}"
            for _ in range(20):  # a signal that comes too late is sent again, earlier, to another run
                fraction = dice.uniform(0.3, 1.0)
                met = kill_at(fraction, number, experiment, out, *smoke, seconds=seconds)
                if met:
                    break
                seconds *= fraction
                out = out.with_name(out.name + "x")
            assert met, f"{experiment} was faster than twenty signals"
            finish(experiment, out, *smoke)
            tried, equal = tried + 1, equal + same_rows(whole, out)
    record_property("measured", f"{tried} kills tried, {equal} with the rows of an undisturbed run")
    assert tried == equal == 21


def children_of(process, folder):
    """Runs that a launcher has started and that are not finished: run directory -> process id."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    found = {}
    for line in listed.stdout.splitlines():
        pid, _, arguments = line.strip().partition(" ")
        for out in (Path(word) for word in arguments.split() if word.startswith(str(folder))):
            if any((out / "checkpoints").glob("*/*")) and not (out / "results.json").exists():
                found[out] = int(pid)
    return found


@pytest.mark.slow
def test_a_sweep_of_24_runs_with_three_killed_at_random_is_complete_after_one_more_call(tmp_path):
    dice, killed = random.Random(1), []
    fixed = {"compilation-cache": str(tmp_path / "cache"), "log-level": "quiet", "checkpoint-seconds": "0"}
    words = ["certify", "--config", "smoke", "--processes", "2", "--runs-dir", str(tmp_path / "runs")]
    words += ["--grid", "seeds", *map(str, range(12)), "--grid", "delta", "0.05", "0.1"]
    words += [word for name, value in fixed.items() for word in ("--grid", name, value)]
    launcher = start("launch", *words)
    while launcher.poll() is None and len(killed) < 3:
        time.sleep(dice.uniform(2, 20))
        if found := children_of(launcher, tmp_path / "runs"):
            out = dice.choice(sorted(found))
            os.kill(found[out], signal.SIGKILL)
            killed.append(out)
    said, errors = launcher.communicate(timeout=1800)
    assert len(killed) == 3 and launcher.returncode == 1, (said, errors)
    assert {sweep.run_state(out) for out in killed} == {"unfinished"}
    finished = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("results.json")}
    assert len(finished) == 21

    again = command("launch", *words)
    assert again.returncode == 0, again.stderr
    assert all(path.read_bytes() == data for path, data in finished.items())
    [file] = (tmp_path / "runs" / "certify").glob("sweep-*.parquet")
    table = parquet.read_table(file).to_pylist()
    assert len({row["run"] for row in table}) == 24
    for out in killed:
        point = sweep.read_results(out)["config"]
        arguments = ("--seeds", str(point["seeds"][0]), "--delta", str(point["delta"]), "--log-level", "quiet")
        whole = tmp_path / "whole" / out.name
        finish("certify", whole, "--config", "smoke", *arguments, "--compilation-cache", fixed["compilation-cache"])
        assert same_rows(whole, out)
