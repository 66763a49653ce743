"""The whole experiment from the command line, at the size of `smoke`."""

import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as parquet
import pytest

import pbjax
from pbjax import data
from pbjax.runs import ROW_FIELDS
from pbjax.runs.verifying import verify
from tests.experiments import processes

TINY = (
    "--config", "smoke", "--draws", "20", "--adapt-moves", "20", "--mean-field-steps", "40", "--log-level", "quiet",
)  # fmt: skip
command = partial(processes.command, "gibbs_gap")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return processes.whole_and_killed("gibbs_gap", tmp_path_factory.mktemp("gibbs_gap"), *TINY, "--seeds", "0", "1")


@pytest.fixture(scope="module")
def finished(runs):
    """The run that was killed and resumed: whatever is said of a run holds for it."""
    return runs.resumed, runs.done


def rows_of(out):
    return json.loads((out / "results.json").read_text())["rows"]


def test_a_killed_run_has_the_rows_of_an_undisturbed_one(runs):
    assert processes.same_rows(runs.whole, runs.resumed)


def test_results_hold_every_method_loss_and_seed(finished):
    out, _ = finished
    record = json.loads((out / "results.json").read_text())
    assert record["experiment"] == "gibbs_gap" and len(record["config_hash"]) == 12
    assert {"versions", "x64"} & set(record["provenance"]) or record["provenance"]
    rows = record["rows"]
    found = {(row["method"], row["loss"], row["seed"]) for row in rows}
    for seed in (0, 1):
        for loss in ("zero_one", "smooth_bounded_cross_entropy"):
            for method in ("mean_field", "gibbs_plugin", "gibbs_iid", "gibbs_asymptotic", "gibbs_chains"):
                assert (method, loss, seed) in found
        assert ("test_set", "zero_one", seed) in found
    for row in rows:
        assert set(ROW_FIELDS) <= set(row)
        assert 0 <= row["certificate"] <= 1
        assert np.isclose(sum(row["delta_ledger"].values()), row["delta"], rtol=1e-9)
        assert row["delta"] == 0.025  # two losses share 0.05
        assert row["assumption"]
    table = parquet.read_table(out / "results.parquet")
    assert table.num_rows == len(rows)
    assert {path.name for path in (out / "figures").iterdir()} == {
        "certificates.png", "energy_ladder.png", "trace_and_r_hat.png",
    }  # fmt: skip


def test_seeds_differ_and_routes_are_ordered(finished):
    out, _ = finished
    rows = rows_of(out)

    def values(method, seed, loss="smooth_bounded_cross_entropy"):
        return np.array(
            [row["certificate"] for row in rows if (row["method"], row["seed"], row["loss"]) == (method, seed, loss)]
        )

    for method in ("gibbs_plugin", "mean_field"):
        assert not np.array_equal(values(method, 0), values(method, 1))
    for seed in (0, 1):
        # The plug-in value spends nothing on Monte-Carlo limits and takes the trapezium: never above a route.
        for route in ("gibbs_iid", "gibbs_asymptotic", "gibbs_chains"):
            assert (values("gibbs_plugin", seed) <= values(route, seed) + 1e-12).all()


def test_every_certificate_is_had_again_from_its_inputs(finished):
    found = verify(finished[0])
    assert len(found) == len(rows_of(finished[0]))
    assert {verdict.verdict for verdict in found} == {"equal"}


def test_the_network_of_the_held_out_bound_is_kept(finished):
    for row in (row for row in rows_of(finished[0]) if row["method"] == "test_set"):
        found = pbjax.load(finished[0], seed=row["seed"])
        dataset = data.load(**found.inputs["data"])
        predicted = np.asarray(found.apply(found.params, jnp.asarray(dataset.test_inputs))).argmax(-1)
        assert np.mean(predicted != dataset.test_labels) == pytest.approx(row["test_risk"], abs=1e-12)
        assert found.certificate is not None and found.certificate.value == row["certificate"]


def test_failed_diagnostics_are_flagged_with_a_warning_and_status_zero(finished):
    out, done = finished
    # 20 draws cannot hold 50 effective ones, so every Gibbs row must bear its flag.
    assert all(row["flag"] for row in rows_of(out) if row["method"].startswith("gibbs"))
    assert "warning: seed 0, beta" in done.stderr


@pytest.mark.slow
def test_exchange_reports_swaps_and_round_trips_and_changes_no_columns(finished, tmp_path):
    done = command(*TINY, "--seeds", "0", "1", "--exchange", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    plain, record = (json.loads((out / "results.json").read_text()) for out in (finished[0], tmp_path / "run"))
    assert [set(row) for row in record["rows"]] == [set(row) for row in plain["rows"]]
    assert "exchange" not in plain and [entry["seed"] for entry in record["exchange"]] == [0, 1]
    assert all(entry["round_trips"] >= 0 for entry in record["exchange"])
    swaps = [rung["swap_acceptance"] for rung in record["ladder"] if rung["seed"] == 0]
    assert swaps[0] is None and swaps[-1] is None and all(0 <= rate <= 1 for rate in swaps[1:-1])
    asymptotic = [row for row in record["rows"] if row["method"] == "gibbs_asymptotic"]
    assert all("dependent in any way" in row["assumption"] for row in asymptotic)
    assert "round trips" in (tmp_path / "run" / "summary.md").read_text()


@pytest.mark.slow
def test_a_finished_run_is_read_and_gives_the_same_rows(finished):
    out, _ = finished
    before = rows_of(out)
    again = command(*TINY, "--seeds", "0", "1", "--out", str(out))
    assert again.returncode == 0, again.stderr
    assert rows_of(out) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config", "nonsense"), "unknown config"),
        (("--nonsense", "1"), "nonsense"),
        (("--config", "smoke", "--delta", "1.5"), "delta = 1.5"),
        (("--config", "smoke", "--prior-scale", "3"), "prior_scale_grid"),
        (("--config", "smoke", "--limit", "0"), "limit"),
        (("--config", "smoke", "--seeds"), "seeds"),
        (("--config", "mnist14", "--data-dir", "nowhere"), "mnist"),
    ],
)
def test_bad_input_is_one_line_and_status_two(tmp_path, arguments, said):
    done = command(*arguments, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_another_config_in_the_same_directory_is_refused(finished):
    out, _ = finished
    before = (out / "results.json").read_bytes()
    done = command(*TINY, "--seeds", "0", "1", "--delta", "0.1", "--out", str(out))
    assert done.returncode == 2 and "delta" in done.stderr
    assert (out / "results.json").read_bytes() == before


@pytest.mark.slow
def test_nothing_is_certified_below_chance_with_shuffled_labels(tmp_path):
    done = command(
        *TINY, "--shuffle-labels", "3", "--seeds", "0", "1", "2", "--beta-max", "2000", "--out", str(tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    rows = [row for row in rows_of(tmp_path / "run") if row["method"] != "test_set"]
    for row in rows:
        # No predictor beats the most frequent class (0.1 of 1,797 digits); a constant one cannot beat uniform
        # probabilities by more than that imbalance in the surrogate, whose value there is 0.539.
        assert row["certificate"] > (0.89 if row["loss"] == "zero_one" else 0.53), row


@pytest.mark.slow
def test_rosenbrock_gap_is_positive_and_hmc_meets_quadrature(tmp_path):
    done = command(
        "--config", "rosenbrock", "--draws", "1000", "--mean-field-steps", "1000", "--out", str(tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in rows_of(tmp_path / "run")}
    error = rows["hmc"]["empirical_risk"] - rows["quadrature"]["empirical_risk"]
    assert abs(error) < 5 * rows["hmc"]["standard_error"]  # a false alarm once in 1.7 million
    assert rows["mean_field"]["gap"] > 0.01
    assert (tmp_path / "run" / "figures" / "rosenbrock.png").exists()
