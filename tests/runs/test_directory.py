"""Run directories: what is refused, what survives a failed write, and what the files hold."""

import dataclasses
import errno
import json
import os
import time

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as parquet
import pytest

from pbjax.runs import ROW_FIELDS, Phases, RunDirectory, RunError, check_rows, config_hash
from pbjax.runs.provenance import provenance, without_paths


@dataclasses.dataclass(frozen=True)
class Example:
    delta: float = 0.05


def open_run(path, config=None):
    return RunDirectory(path, experiment="demo", config=config or Example())


ROW = {
    "method": "gibbs_asymptotic",
    "loss": "zero_one",
    "beta": 10.0,
    "empirical_risk": np.float64(0.1),
    "test_risk": jnp.float32(0.25),
    "kl": 3.0,
    "kl_low": 2.0,
    "kl_high": 4.0,
    "n": np.int64(100),
    "delta": 0.05,
    "certificate": 0.3,
    "assumption": "central limit theorem",
    "delta_ledger": {"bound": 0.03, "risk": 0.02},
    "standard_error": float("nan"),
    "r_hat": float("inf"),
    "ess": 60,
    "flag": "",
    "seed": 0,
    "seconds": 1.5,
}


def test_results_are_written_as_json_and_parquet(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.write_results([ROW, {**ROW, "flag": "r_hat", "beta": None, "rung": 3}], sections={"ladder": [1, 2]})
        assert run.finished
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(record) == {"experiment", "config_hash", "provenance", "rows", "ladder"}
    assert record["config_hash"] == config_hash(Example())
    first, second = record["rows"]
    assert list(first) == list(ROW_FIELDS)
    assert first["standard_error"] is None
    assert first["r_hat"] is None
    assert first["flag"] is None
    assert first["test_risk"] == 0.25
    assert second["rung"] == 3
    table = parquet.read_table(tmp_path / "run" / "results.parquet").to_pylist()
    assert json.loads(table[0]["delta_ledger"]) == ROW["delta_ledger"]
    assert table[0]["r_hat"] is None
    assert table[1]["flag"] == "r_hat"
    assert table[1]["rung"] == 3
    assert isinstance(table[0]["ess"], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certificate": float("nan")}, "certificate = nan"),
        ({"certificate": None}, "certificate = None"),
        ({"n": 1.5}, "n = 1.5"),
        ({"seed": True}, "seed = True"),
        ({"method": 3}, "method = 3"),
        ({"delta_ledger": {"bound": "much"}}, "delta_ledger"),
    ],
)
def test_rows_of_a_wrong_type_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_rows([ROW, {**ROW, **change}])


def test_rows_without_a_column_are_refused():
    with pytest.raises(ValueError, match="row 0 lacks r_hat"):
        check_rows([{name: value for name, value in ROW.items() if name != "r_hat"}])


def test_another_config_is_refused_and_nothing_changes(tmp_path):
    out = tmp_path / "run"
    with open_run(out) as run:
        run.write_results([ROW])
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=r"differ in delta") as refusal:
        open_run(out, Example(0.1))
    assert config_hash(Example()) in str(refusal.value)
    assert config_hash(Example(0.1)) in str(refusal.value)
    with pytest.raises(RunError, match="holds a run of demo, not of other"):
        RunDirectory(out, experiment="other", config=Example())
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(RunError, match=r"other files \(chapter.tex"):
        open_run(tmp_path / "thesis")
    with pytest.raises(RunError, match="is a file"):
        open_run(tmp_path / "thesis" / "chapter.tex")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        open_run(tmp_path / "broken")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_second_process_is_refused_until_the_first_closes(tmp_path):
    with open_run(tmp_path / "run"), pytest.raises(RunError, match="in use by another process"):
        open_run(tmp_path / "run")
    open_run(tmp_path / "run").close()


def test_full_disk_leaves_earlier_results(tmp_path, monkeypatch):
    with open_run(tmp_path / "run") as run:
        run.write_results([ROW])
        before = {path.name: path.read_bytes() for path in run.path.iterdir()}
        calls = []

        def full(descriptor):  # the first of the two files fits, the second does not
            calls.append(descriptor)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.write_results([{**ROW, "certificate": 0.9}])
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_torn_last_line_is_dropped(tmp_path):
    with open_run(tmp_path / "run") as run:
        run.metrics.append({"chunk": 0, "loss": float("nan")})
        position = run.metrics.position
        run.metrics.append({"chunk": 1})
    log = tmp_path / "run" / "metrics.jsonl"
    with open(log, "a") as file:
        file.write('{"chunk": 2, "lo')
    with open_run(tmp_path / "run") as run:
        assert list(run.metrics) == [{"chunk": 0, "loss": None}, {"chunk": 1}]
        run.metrics.append({"chunk": 2})
        assert [line["chunk"] for line in run.metrics] == [0, 1, 2]
        run.metrics.rewind(position)
        assert [line["chunk"] for line in run.metrics] == [0]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    with open_run(tmp_path / "run"):
        pass
    (tmp_path / "run" / ".results.json.tmp-123").write_text("half")
    with open_run(tmp_path / "run") as run:
        assert not list(run.path.glob("*.tmp*"))
        assert not list(run.path.glob(".*.tmp*"))


def test_results_say_how_long_they_took_and_what_data_they_saw(tmp_path):
    def once(path):
        with RunDirectory(path, experiment="demo", config=Example(), data={"digits": "0123"}) as run:
            phases = Phases(run)
            walk = phases.run(
                "walk",
                lambda phase: phase.run_chunks(
                    lambda x: (x + 1, x), np.zeros(()), num_chunks=3, on_chunk=lambda i, out: time.sleep(0.1)
                )[1],
            )
            assert walk.tolist() == [0, 1, 2]
            run.write_results([ROW])
        return json.loads((path / "results.json").read_text())["provenance"]

    first = once(tmp_path / "run")
    assert first["data"] == {"digits": "0123"}
    assert first["seconds"]["wall"] >= 0.3 + first["seconds"]["device"]
    assert first["seconds"]["device"] > 0
    second = once(tmp_path / "run")  # the phase is read: its time counts, and none is computed again
    assert second["seconds"]["device"] == first["seconds"]["device"]
    assert second["seconds"]["wall"] >= 0.3 + second["seconds"]["device"]


def test_provenance_names_versions_and_no_folder(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/someone/dump --xla_flag=1")
    monkeypatch.setattr("sys.argv", ["/home/someone/experiments/demo.py", "--out", "/home/someone/run"])
    record = provenance()
    assert record["versions"]["jax"]
    assert record["precision"]["x64"] is True
    assert record["device"]["count"] == 4
    assert "/home" not in json.dumps(record)
    assert record["command"][0] == "demo.py"
    assert without_paths("runs/demo/abc --rate 1/2") == "runs/demo/abc --rate 1/2"
