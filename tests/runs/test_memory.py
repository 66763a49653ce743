"""A run says beforehand how much memory it will need, and keeps to it."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.runs.memory import expected_memory


def test_the_parts_add_up_and_the_chunk_is_compiled_once():
    traced = []

    @jax.jit
    def chunk(x, a):
        traced.append(None)
        return x, jnp.sin(x) @ a

    x, a = jnp.zeros((300, 400), jnp.float32), jnp.zeros((400, 50), jnp.float32)
    buffers = np.zeros((7, 300, 50), np.float32)
    need = expected_memory(chunk, x, (a,), buffers)
    assert need.device >= x.nbytes + a.nbytes + x.nbytes + 300 * 50 * 4  # no donation: x is there twice
    assert need.host > need.chunk + 2 * buffers.nbytes + x.nbytes
    chunk(x, a)
    assert len(traced) == 1


def test_a_run_stays_within_its_expected_peak(tmp_path):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("big_run.py")), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected, peak = json.loads(done.stdout)
    assert peak > 700e6  # the arrays are what counts here
    assert peak <= 1.3 * expected, (expected, peak)
    assert expected <= 1.3 * peak, (expected, peak)  # and it is no idle promise
