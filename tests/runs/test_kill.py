"""Real processes, killed: started again they end with the bits of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs.processes import outcome, wait_for_chunks

ROOT = Path(__file__).parents[2]
TOY = [sys.executable, "-W", "error", str(Path(__file__).with_name("toy_experiment.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def start(out, *argv):
    command = [*TOY, "--out", str(out), "--checkpoint-seconds", "0", *argv]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(out, *argv):
    process = start(out, *argv)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert finish(out) == (0, "")
    rows, log, _ = outcome(out)
    assert json.loads(rows)[0]["empirical_risk"] > 0
    assert log.count(b"\n") == 9
    return out


def test_sigkill_then_sigterm_then_again_gives_the_same_bits(tmp_path, undisturbed):
    out = tmp_path / "run"
    process = start(out, "--chunk-seconds", "0.1")
    wait_for_chunks([process], out, 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start(out, "--chunk-seconds", "0.3")
    wait_for_chunks([process], out, 5)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM in sample, chunk" in said
    assert "(saved); run the same command again" in said
    assert said.count("\n") == 1
    assert not (out / "results.json").exists()
    assert finish(out) == (0, "")
    assert outcome(out) == outcome(undisturbed)


def test_bad_input_exits_2_and_leaves_results(undisturbed):
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    for argv, named in ((["--config", "other"], "differ in delta"), (["--delta", "-1"], "delta = -1.0")):
        status, said = finish(undisturbed, *argv)
        assert status == 2
        assert named in said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


def test_a_disk_that_fills_up_is_one_line_and_the_run_resumes_elsewhere(tmp_path, undisturbed):
    disk, rescued = tmp_path / "disk", tmp_path / "rescued"
    disk.mkdir()
    # A private mount: it vanishes with the process, and needs no rights where user namespaces are allowed.
    prefix = ["unshare", "-rm", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=400k tmpfs {disk}"
    if shutil.which("unshare") is None or subprocess.run([*prefix, mount], capture_output=True).returncode:
        pytest.skip("this machine does not let a process mount a small file system of its own")
    toy = " ".join([*TOY, f"--out {disk}/run --checkpoint-seconds 0 --fill-disk-at 3"])
    script = f"{mount} && {{ {toy}; status=$?; rm {disk}/run/ballast; cp -r {disk}/run {rescued}; exit $status; }}"
    run = subprocess.run([*prefix, script], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: the disk is full while writing")
    assert run.stderr.count("\n") == 1
    assert (rescued / "checkpoints" / "sample" / "00000003").is_dir()
    assert finish(rescued) == (0, "")
    assert outcome(rescued) == outcome(undisturbed)


def test_programs_from_the_compilation_cache_give_the_same_bits(tmp_path, undisturbed):
    cache = tmp_path / "cache"
    for name in ("first", "second"):
        before = set(cache.glob("*-cache"))
        assert finish(tmp_path / name, "--compilation-cache", str(cache)) == (0, "")
        assert outcome(tmp_path / name) == outcome(undisturbed)
    assert before and set(cache.glob("*-cache")) == before  # the second compiled nothing of its own


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path, undisturbed, record_property):
    rng, total, equal = random.Random(0), 0, 0
    for attempt in range(6):
        out, kills = tmp_path / str(attempt), 0
        while True:
            process = start(out, "--chunk-seconds", "0.05")
            wait_for_chunks([process], out, rng.randrange(9))
            time.sleep(rng.uniform(0.0, 0.3))
            kills += process.poll() is None
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
            process.communicate()
            if process.returncode == 0 or kills > 6:
                break
        assert finish(out) == (0, "")
        total, equal = total + kills, equal + (outcome(out) == outcome(undisturbed))
    record_property("measured", f"6 runs killed {total} times in all, {equal} equal to an undisturbed one")
    assert equal == 6
