"""The whole experiment from the command line, at the size of `smoke`."""

import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import pbjax
from configs.certify.smoke import config as smoke
from experiments import certify
from experiments._certify.problem import make_problem
from pbjax.data import load as data_load
from pbjax.runs import ROW_FIELDS
from pbjax.runs.verifying import verify
from tests.experiments import processes

TINY = ("--config", "smoke", "--log-level", "quiet")
command = partial(processes.command, "certify")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return processes.whole_and_killed("certify", tmp_path_factory.mktemp("certify"), *TINY, sign="checkpoints/chains/*")


@pytest.fixture(scope="module")
def finished(runs):
    """The run that was killed and resumed: whatever is said of a run holds for it."""
    return runs.resumed, runs.done


def record_of(out):
    return json.loads((out / "results.json").read_text())


def singles(out, stop="end"):
    """Rows of single networks, 0-1 error, in the order of the seeds."""
    wanted = ("heat_single", "zero_one", stop)
    return [row for row in record_of(out)["rows"] if (row["method"], row["loss"], row["stop"]) == wanted]


def test_rows_hold_every_route_with_heat_ledger_and_assumption(finished):
    out, done = finished
    record = record_of(out)
    rows = record["rows"]
    found = {(row["method"], row["loss"], row["seed"]) for row in rows}
    for loss in ("zero_one", "smooth_bounded_cross_entropy"):
        assert {("heat_single", loss, 0), ("heat_single", loss, 1), ("heat_mean", loss, None)} <= found
        assert {("heat_law_rigorous", loss, None), ("heat_law_asymptotic", loss, None)} <= found
    assert {("ais_free_energy", "smooth_bounded_cross_entropy", None), ("test_set", "zero_one", 1)} <= found
    for row in rows:
        assert set(ROW_FIELDS) <= set(row)
        assert 0 <= row["certificate"] <= 1
        assert row["delta"] == 0.025 and np.isclose(sum(row["delta_ledger"].values()), 0.025)
        assert row["delta_ledger"]["union"] >= 0.025 * 0.999  # a thousand tries
        assert row["assumption"] in done.stdout.replace("\n", " ")
        assert row["n"] == (360 if row["method"] == "test_set" else 300)
        assert (row["heat"] is None) == (row["method"] in ("ais_free_energy", "test_set"))
        assert 0 < row["acceptance"] <= 1 and row["gradients"] <= smoke.gradients
    assert {path.name for path in (out / "figures").iterdir()} == {"run.png", "certificate.png"}


def test_rows_are_points_of_the_curve(finished):
    curve = record_of(finished[0])["curve"]
    for index in (0, 1):
        points = [point for point in curve if point["seed"] == index]
        gradients = [point["gradients"] for point in points]
        assert gradients == sorted(set(gradients)) and gradients[-1] == smoke.gradients
        best = min(points, key=lambda point: point["certificate_if_stopped_here"])
        for stop, point in (("end", points[-1]), ("best", best)):
            row = singles(finished[0], stop)[index]
            assert [row[name] for name in ("gradients", "beta", "heat")] == [
                point[name] for name in ("gradients", "beta", "heat")
            ]
            assert point["zero_one"] == row["empirical_risk"] and point["test_zero_one"] == row["test_risk"]
            assert point["certificate_if_stopped_here"] == pytest.approx(row["certificate"], rel=1e-12)
            # Two chains at every stop of each, and a thousand tries, share half of delta.
            assert row["delta_ledger"]["heat"] == pytest.approx(0.025 / (1000 * 2 * len(points)))


def test_every_certificate_is_had_again_from_its_inputs(finished):
    found = verify(finished[0])
    assert len(found) == len(record_of(finished[0])["rows"])
    assert {verdict.verdict for verdict in found} == {"equal"}


def test_loaded_networks_are_the_certified_ones(finished):
    data = make_problem(smoke).dataset
    for stop in ("end", "best"):
        for row in singles(finished[0], stop):
            found = pbjax.load(finished[0], name=stop, seed=row["seed"])
            predicted = np.asarray(found.apply(found.params, jnp.asarray(data.train_inputs))).argmax(-1)
            assert np.mean(predicted != data.train_labels) == pytest.approx(row["empirical_risk"], abs=1e-12)
            assert found.certificate is not None and found.certificate.value == row["certificate"]
            assert row in found.rows and {c.loss for c in found.certificates} == {"zero_one", smoke.surrogate}
    best = pbjax.load(finished[0])
    assert best.certificate.value == min(row["certificate"] for row in singles(finished[0], "best"))
    assert best.certificate.route == "heat_single"
    again = data_load(**best.inputs["data"])
    assert again.checksum == data.checksum and list(again.train_inputs.shape[1:]) == best.inputs["shape"]
    with pytest.raises(ValueError, match="keeps no network name = middle, seed = None; it has best 0, best 1, end 0"):
        pbjax.load(finished[0], name="middle")


@pytest.mark.slow
def test_a_seed_is_the_same_alone(finished, tmp_path):
    done = command(*TINY, "--seeds", "1", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    (alone,), (_, among) = singles(tmp_path / "run"), singles(finished[0])
    assert alone["seed"] == among["seed"] == 1
    # Batched products round otherwise, and the moves carry that on: near, not equal.
    assert alone["heat"] == pytest.approx(among["heat"], rel=0.05)
    assert alone["certificate"] <= among["certificate"] + 0.02


def test_a_killed_run_goes_on_to_the_same_bits(runs):
    assert processes.same_rows(runs.whole, runs.resumed)
    assert record_of(runs.resumed)["curve"] == record_of(runs.whole)["curve"]


@pytest.mark.slow
def test_a_trained_prior_names_its_rows(tmp_path):
    out = tmp_path / "run"
    done = command(
        *TINY, "--prior-fraction", "0.5", "--prior-scale", "0.1", "--prior-steps", "300", "--seeds", "0", "--out",
        str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = record_of(out)["rows"]
    assert {(row["n"], row["prior_rows"]) for row in rows if row["method"] != "test_set"} == {(150, 150)}
    (single,) = singles(out)
    assert single["certificate"] < 0.5  # data-free it is 0.66 on twice the rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config", "nonsense"), "unknown config"),
        (("--config", "smoke", "--delta", "1.5"), "delta = 1.5"),
        (("--config", "smoke", "--gradients", "4"), "gradients = 4"),
        (("--config", "smoke", "--prior-fraction", "1"), "prior_fraction"),
        (("--config", "smoke", "--prior-fraction", "0.0001"), "prior_fraction"),
        (("--config", "smoke", "--seeds"), "seeds"),
        (("--config", "smoke", "--tries", "0"), "tries"),
        (("--config", "smoke", "--replicas-at-once", "3"), "replicas at once = 3: must divide"),
        (("--config", "smoke", "--pilot-gradients", "9"), "pilot_gradients = 9"),
        (("--config", "mnist_cnn", "--data-dir", "nowhere"), "mnist"),
    ],
)
def test_bad_input_is_one_line_and_status_two(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        certify.main([*arguments, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    lines = error.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], error
    assert not (tmp_path / "run" / "results.json").exists()
