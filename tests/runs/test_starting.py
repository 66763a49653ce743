"""`--verify RUN`: a stored config once more, and what is refused."""

import dataclasses
import json
import time
from pathlib import Path

import pytest

from pbjax.runs import Field, RunDirectory, RunError, RunOptions, command_line_errors, config_hash, load_configs, start
from pbjax.runs.config import hashed_fields, restore_config

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {"value": Field("number"), "seconds": Field("number")}


@dataclasses.dataclass(frozen=True)
class Part:
    width: int = 2
    shares: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(RunOptions):
    delta: float = 0.05
    seeds: tuple[int, ...] = (0,)
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    part: Part = Part()
    scale: tuple[float, ...] | None = None


CONFIGS = {"small": Example(), "large": Example(seeds=(0, 1, 2), part=Part(3, (0.5, 0.5)), rates={"sam": 0.1})}
FLAW = {"value": 0.0}  # what the experiment adds to its numbers


def run(config, out):
    with RunDirectory(out, experiment="demo", config=config) as directory:
        rows = [
            {
                "value": seed + config.part.width * sum(config.part.shares) + FLAW["value"],
                "seconds": time.perf_counter(),
            }
            for seed in config.seeds
        ]
        directory.write_results(rows, fields=FIELDS)


@command_line_errors()
def main(*argv):
    start("demo", CONFIGS, run, [str(word) for word in argv], default="small")


def said(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(*argv)
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.fixture
def stored(tmp_path):
    main("--config", "large", "--delta", "0.1", "--out", tmp_path / "run")
    return tmp_path / "run"


def test_equal_rows_are_status_0_and_the_run_is_only_read(stored, capsys):
    before = {path: path.stat().st_mtime_ns for path in stored.rglob("*") if path.name != ".lock"}
    status, out, _ = said(capsys, "--verify", stored, "--log-level", "quiet")
    assert status == 0 and "config: the same" in out
    assert "rows: 3, equal bit for bit in all columns but timings" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_differs_is_printed_with_status_1(stored, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(FLAW, "value", 1e-15)
    status, out, _ = said(capsys, f"--verify={stored}", "--out", tmp_path / "again")
    assert status == 1 and "rows: 3 values differ" in out and "1.value" in out
    assert (tmp_path / "again" / "results.json").exists()


def test_bad_calls_are_one_line_and_status_2(stored, capsys, tmp_path):
    unfinished = tmp_path / "unfinished"
    RunDirectory(unfinished, experiment="demo", config=Example()).close()
    for argv, word in (
        (("--verify",), "--verify needs the directory of a finished run"),
        (("--verify", tmp_path / "none"), "holds no run"),
        (("--verify", unfinished), "not finished"),
        (("--verify", stored, "--config", "small"), "leave out --config"),
        (("--verify", stored, "--seeds", "4"), "leave out the flags of seeds"),
        (("--verify", stored, "--out", stored), "is the run that is verified"),
        (("--verify", stored, "--detla", "4"), "--delta"),
    ):
        status, _, error = said(capsys, *argv)
        assert status == 2 and error.count("\n") == 1 and word in error, error
    config = json.loads((stored / "config.json").read_text())
    for changed, word in (
        ({"config": {**config["config"], "delta": "x"}}, "'x' is not of type float"),
        ({"config": {**config["config"], "gone": 1}}, "the run has gone, which no config has any more"),
    ):
        (stored / "config.json").write_text(json.dumps({**config, **changed}))
        status, _, error = said(capsys, "--verify", stored)
        assert status == 2 and error.count("\n") == 1 and word in error, error
    results = json.loads((stored / "results.json").read_text())
    (stored / "results.json").write_text(json.dumps({**results, "experiment": "other"}))
    assert "is a run of other, not of demo" in said(capsys, "--verify", stored)[2]


def test_the_flag_is_in_the_help(capsys):
    status, out, _ = said(capsys, "--help")
    assert status == 0 and "--verify RUN" in out


def test_every_config_of_every_experiment_is_restored_from_its_plain_fields():
    count = 0
    for folder in sorted((ROOT / "configs").iterdir()):
        if not folder.is_dir() or folder.name.startswith("_"):
            continue
        configs = load_configs(folder)
        for name, config in configs.items():
            fields = json.loads(json.dumps(hashed_fields(config)))
            found = restore_config(configs.values(), fields)
            assert type(found) is type(config) and config_hash(found) == config_hash(config), (folder.name, name)
            assert found == config, (folder.name, name)
            count += 1
    assert count > 30
    for name, config in CONFIGS.items():
        assert restore_config(CONFIGS.values(), hashed_fields(config)) == config, name


def test_fields_that_are_newer_than_a_run_have_their_defaults():
    fields = hashed_fields(CONFIGS["large"])
    del fields["scale"]
    assert restore_config(CONFIGS.values(), fields) == CONFIGS["large"]
    with pytest.raises(RunError, match=r"check out the run's commit"):
        restore_config(CONFIGS.values(), {**fields, "part": 3})
