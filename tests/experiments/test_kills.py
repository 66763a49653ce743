"""Every experiment as a real process that is killed: started again it ends with the rows of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbjax.runs.comparing import row_differences
from pbjax.runs.sweep import read_results

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ("--config", "smoke", "--log-level", "quiet", "--checkpoint-seconds", "0")
# As small as each still has all of its phases.
TINY = {
    "certify": ("--gradients", "100", "--chunks", "4"),
    "fine_tuning": ("--pretrain-steps", "40", "--max-steps", "40", "--rates", "1"),
    "flatness": ("--grid", "20", "20"),
    "gibbs_gap": ("--draws", "20", "--mean-field-steps", "20", "--rungs", "3", "--pilot-rungs", "4"),
    "in_context": ("--draws", "50", "--steps", "20"),
    "rule_extrapolation": ("--steps", "40", "--evaluate-every", "20", "--match", "50", "--regimes", "oracle"),
    "sam_as_vi": ("--epochs", "2", "--methods", "sam", "--curve-radii", "0.05", "--certificate-steps", "10"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, shared by the processes of this file."""
    return tmp_path_factory.mktemp("cache")


def start(experiment, out, cache, flags):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / f"{experiment}.py"), *SMOKE, *flags, "--out", str(out),
         "--compilation-cache", str(cache)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


def finish(experiment, out, cache, flags):
    process = start(experiment, out, cache, flags)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said


def kill_at(fraction, number, experiment, out, cache, flags, *, seconds):
    """Sends a signal after a part of an undisturbed run's time; whether it met the process alive."""
    process = start(experiment, out, cache, flags)
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


def same_rows(first, second):
    return row_differences(read_results(first)["rows"], read_results(second)["rows"]) == []


QUICK = ("flatness",)  # the others are as strict, and run with make test-full


@pytest.mark.parametrize("experiment", [e if e in QUICK else pytest.param(e, marks=pytest.mark.slow) for e in TINY])
def test_one_kill(experiment, tmp_path, cache):
    flags = TINY[experiment]
    finish(experiment, tmp_path / "whole", cache, flags)
    out, killed = tmp_path / "killed", start(experiment, tmp_path / "killed", cache, flags)
    # Once its first phase has left something, while it computes the others; flatness is too quick for that.
    sign = "config.json" if experiment == "flatness" else "checkpoints/*/*"
    while killed.poll() is None and not any(out.glob(sign)):
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (out / "results.json").exists()
    finish(experiment, out, cache, flags)
    assert same_rows(tmp_path / "whole", out)


@pytest.mark.slow
def test_kills_of_all_experiments_at_random_moments(tmp_path, cache):
    """Three kills of every experiment's smoke config: 21 of 21 runs that were killed have the rows of a whole one."""
    dice, tried, equal = random.Random(0), 0, 0
    for experiment in TINY:
        whole = tmp_path / experiment
        finish(experiment, whole, cache, ())
        begun = time.monotonic()
        finish(experiment, tmp_path / f"{experiment}-again", cache, ())  # nothing to compile: the time that counts
        seconds = time.monotonic() - begun
        assert same_rows(whole, tmp_path / f"{experiment}-again")
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            out = tmp_path / f"{experiment}-killed-{tried}"
            for _ in range(5):  # a signal that comes too late is sent again, to another run
                met = kill_at(dice.uniform(0.3, 1.0), number, experiment, out, cache, (), seconds=seconds)
                if met:
                    break
                out = out.with_name(out.name + "x")
            assert met, f"{experiment} was faster than five signals"
            finish(experiment, out, cache, ())
            tried, equal = tried + 1, equal + same_rows(whole, out)
        print(f"{experiment}: {tried} kills so far, {equal} with the rows of an undisturbed run")
    assert tried == equal == 21
