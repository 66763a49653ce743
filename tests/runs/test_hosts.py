"""Two real processes on the loopback address: the rows of one process, and neither outlives the other."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbjax.runs import RunError, RunOptions, hosts
from tests.runs.processes import outcome, wait_for_chunks

ROOT = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name("toy_experiment.py"))
LIMIT = 60  # seconds in which a process must end when another one has


def environment(devices):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def single(script, out, *argv, devices=4):
    command = [sys.executable, "-W", "error", script, "--out", str(out), *argv]
    done = subprocess.run(
        command, env=environment(devices), capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip
    return done.returncode, done.stderr


def free_port():
    """A port that is free with the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            try:
                second.bind(("127.0.0.1", first.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return first.getsockname()[1]


def pair(script, out, *argv, devices=2, other=()):
    """Two processes of one run; `other` is added to the command of the second."""
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--checkpoint-seconds", "0"]
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", script, "--out", str(out), *where, "--process-id", str(index), *argv]
            + list(other if index else ()),
            env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip


def finish(processes, limit=600):
    said = [process.communicate(timeout=limit)[1] for process in processes]
    return [process.returncode for process in processes], said


def kill_and_see(processes, out, victim, *, chunks):
    """Kills one of two; the other one ends in time, with one line."""
    wait_for_chunks(processes, out, chunks)
    processes[victim].kill()
    killed = time.monotonic()
    (status,), (said,) = finish([processes[1 - victim]], limit=LIMIT)
    assert time.monotonic() - killed < LIMIT
    assert status == 1 or (victim == 0 and status == -signal.SIGABRT), said  # JAX aborts when process 0 is gone
    assert said.startswith(f"error: process {victim} of 2: ended without a word; "), said
    assert said.count("\n") == 1, said
    processes[victim].communicate()
    assert not (out / "results.json").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "run"
    assert single(TOY, out) == (0, "")
    return out


def test_one_of_two_processes_is_killed_and_both_resume_to_the_rows_of_one(tmp_path, undisturbed):
    out = tmp_path / "run"
    kill_and_see(pair(TOY, out, "--chunk-seconds", "0.2"), out, 1, chunks=3)
    newest = max(path for path in (out / "checkpoints" / "sample").iterdir() if path.name.isdigit())
    assert int(newest.name) >= 2
    # Bytes that are not those that were saved, in an array that both processes hold a part of.
    [description] = (
        path for path in newest.rglob("*") if path.is_file() and b"checksum_of_pieces" in path.read_bytes()
    )
    found = json.loads(re.sub(r'("checksum_of_pieces": )', r"\g<1>1", description.read_text(), count=1))
    description.write_text(json.dumps(found))
    statuses, said = finish(pair(TOY, out))
    assert statuses == [0, 0]
    assert all(f"{newest.name} is damaged (wrong checksum of" in text and text.count("\n") == 1 for text in said), said
    assert outcome(out) == outcome(undisturbed)
    record = json.loads((out / "results.json").read_text())["provenance"]
    assert (record["device"]["processes"], record["device"]["count"]) == (2, 4)
    assert "127.0.0.1" not in json.dumps(record)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in undisturbed.iterdir())


@pytest.mark.slow
def test_process_0_is_killed_and_one_process_goes_on_alone(tmp_path, undisturbed):
    out = tmp_path / "run"
    kill_and_see(pair(TOY, out, "--chunk-seconds", "0.2"), out, 0, chunks=3)
    assert single(TOY, out) == (0, "")
    assert outcome(out) == outcome(undisturbed)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_at_a_checkpoint(tmp_path, undisturbed):
    out = tmp_path / "run"
    processes = pair(TOY, out, "--chunk-seconds", "0.2")
    wait_for_chunks(processes, out, 3)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = finish(processes, limit=LIMIT)
    assert statuses == [143, 143], said
    assert all("stopped by SIGTERM in sample, chunk " in text and text.count("\n") == 1 for text in said), said
    assert finish(pair(TOY, out)) == ([0, 0], ["", ""])
    assert outcome(out) == outcome(undisturbed)


@pytest.mark.slow
def test_refusals_reach_both_processes(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("")
    statuses, (first, second) = finish(pair(TOY, out), limit=LIMIT)
    assert statuses == [2, 2]
    assert first.startswith(f"error: --out {out} holds other files")
    assert second.startswith(f"error: process 0 of 2: --out {out} holds other files")
    statuses, said = finish(pair(TOY, tmp_path / "other", other=["--delta", "0.2"]), limit=LIMIT)
    assert statuses == [2, 2], said
    assert all("process 0" in text and "toy " in text and text.count("\n") == 1 for text in said), said
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_processes": 2, "process_id": 0}, "--coordinator not given: several processes need --coordinator HOST"),
        ({"coordinator": "here:70", "process_id": 0}, "--num-processes not given"),
        ({"coordinator": "here:70", "num_processes": 2, "process_id": 2}, "--process-id 2: must be one of 0 to 1"),
        ({"coordinator": "here", "num_processes": 2, "process_id": 0}, "--coordinator here: give HOST:PORT"),
    ],
)
def test_options_that_do_not_make_a_run_of_several_processes(options, said):
    with pytest.raises(RunError, match=said):
        hosts.start(RunOptions(**options), identity="demo")


def test_what_srun_says(monkeypatch):
    for name, value in {"JOB_ID": 12, "PROCID": 3, "STEP_NUM_TASKS": 8, "STEP_NODELIST": "n[003-010]"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("PATH", "")  # no scontrol
    assert hosts._place(RunOptions()) == ("n003:55024", 8, 3)
    assert hosts._place(RunOptions(coordinator="n004:7000")) == ("n004:7000", 8, 3)
    assert hosts._place(RunOptions(num_processes=1)) is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert hosts._place(RunOptions()) is None


def test_no_experiment_uses_devices_before_the_processes_have_met():
    names = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem not in ("__init__", "launch"))
    code = f"""
import importlib
from jax._src import xla_bridge
from pbjax import runs
for name in {names}:
    module = importlib.import_module("experiments." + name)
    runs.load_configs(module.CONFIGS)
    assert not xla_bridge.backends_are_initialized(), name
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "seeds"),
    [("gibbs_gap", ()), ("certify", ("--seeds", "0", "1", "2"))],  # three chains: a process computes a copy of one
)
def test_replicas_over_two_processes_give_the_rows_of_one(tmp_path, experiment, seeds):
    script = str(ROOT / "experiments" / f"{experiment}.py")
    alone, together = tmp_path / "alone", tmp_path / "together"
    arguments = ("--config", "smoke", *seeds, "--log-level", "quiet")
    assert single(script, alone, *arguments, devices=2)[0] == 0
    statuses, said = finish(pair(script, together, *arguments, devices=1))
    assert statuses == [0, 0], said
    rows = [json.loads((out / "results.json").read_text())["rows"] for out in (alone, together)]
    for expected, found in zip(*rows, strict=True):
        assert {**found, "seconds": None} == {**expected, "seconds": None}
