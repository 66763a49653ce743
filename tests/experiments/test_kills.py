"""Every experiment killed at random moments: started again it ends with the rows of an undisturbed run.

One kill of each experiment is in the test of its smoke config; `test_a_sweep_of_24_runs_with_three_killed` is the grid.
"""

import random
import signal
import subprocess
import time

import pytest

from tests.experiments.processes import finish, same_rows, start

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
def test_kills_of_all_experiments_at_random_moments(tmp_path):
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
            for _ in range(5):  # a signal that comes too late is sent again, to another run
                met = kill_at(dice.uniform(0.3, 1.0), number, experiment, out, *smoke, seconds=seconds)
                if met:
                    break
                out = out.with_name(out.name + "x")
            assert met, f"{experiment} was faster than five signals"
            finish(experiment, out, *smoke)
            tried, equal = tried + 1, equal + same_rows(whole, out)
        print(f"{experiment}: {tried} kills so far, {equal} with the rows of an undisturbed run")
    assert tried == equal == 21
