"""Counts that must not get worse, what a step of every optimiser may cost, and that the benchmarks run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import counts
from pbjax import optim

STORED = json.loads(counts.FILE.read_text())["counts"]
# Where the incoming gradient is not needed it is not computed under jit; m_sam's are those of half a batch.
GRADIENTS = {
    "sam": 2, "asam": 2, "fisher_sam": 2, "friendly_sam": 2, "gsam": 2, "look_sam, every 3": 4 / 3, "m_sam, 2 parts": 4,
    "mix_sam": 2, "momentum_sam": 1, "sparse_sam": 2, "random_sam": 1, "random_sam, 3 draws": 3,
    "weight_perturbation": 2, "mean_field": 1, "mean_field, natural gradient": 1, "mean_field_then_sam": 2,
    "variational_sam": 2, "ivon": 1, "bsam": 2, "vogn, 2 parts": 2,
}  # fmt: skip


def test_no_count_is_worse_than_stored():
    assert counts.complaints(STORED, counts.count_all()) == []


def test_stored_counts_are_what_the_algorithms_ask_for():
    """So that --update cannot quietly store a defect."""
    assert STORED["gradients a step"] == pytest.approx(GRADIENTS)
    assert set(STORED["gradients of a sampler"].values()) == {1.0}
    draws = STORED["bytes that a draw adds"]
    assert draws["ladder, a replica and weight"] == draws["annealed chain, a move and weight"] == 0


def test_every_optimiser_is_counted():
    whole = {"mean_field", "weight_perturbation", "ivon", "vogn"}
    constructors = {name for name in optim.__all__ if name.endswith("sam")} | whole
    assert constructors == {name.split(",")[0] for name in GRADIENTS}


def test_a_gradient_more_is_told():
    worse = {group: dict(found) for group, found in STORED.items()}
    worse["gradients a step"]["sam"] += 1
    worse[counts.PEAK] = {name: 1.05 * peak for name, peak in STORED[counts.PEAK].items()}
    assert counts.complaints(STORED, worse) == ["gradients a step: sam: 3, worse than the stored 2"]
    worse[counts.PEAK] = {name: 1.2 * peak for name, peak in STORED[counts.PEAK].items()}
    assert len(counts.complaints(STORED, worse)) == 3
    assert "not counted any more" in counts.complaints(STORED, {**STORED, "bytes kept": {}})[0]
    assert "nothing stored" in counts.complaints({}, {"bytes kept": {"x": 1}})[0]
    better = {**STORED, "gradients a step": dict.fromkeys(GRADIENTS, 1)}
    assert counts.complaints(STORED, better) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["bounds", "checkpointing", "convolution", "growth", "leapfrog", "mean_field", "optim_step", "rule_extrapolation",
     "seeds"],
)  # fmt: skip
def test_benchmarks_run(name):
    """Each compares its results with those of its peers and ends with an error if they differ; no time is looked at."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"], cwd=Path(__file__).parents[2], capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any("pbjax" in figure["who"] for figure in figures)
    assert all(figure["low"] <= figure["median"] <= figure["high"] for figure in figures)
