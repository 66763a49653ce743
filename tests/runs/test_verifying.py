"""`pbjax verify`: certificates again from what stands beside the rows."""

import dataclasses
import json
import math

import pytest

from pbjax import certificates
from pbjax.runs import Field, RunDirectory, commands
from pbjax.runs.verifying import verify

FIELDS = {"certificate": Field("number", nullable=True), "seed": Field("integer")}
SETTINGS = {"n": 3000, "delta": 0.05, "loss": "zero_one"}


@dataclasses.dataclass(frozen=True)
class Example:
    delta: float = 0.05


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """results.json of certificates of three routes, one of them vacuous, and of a row without one."""
    made = [
        *certificates.heat_single([90.0, 110.0, math.nan, 100.0, 95.0], [0.08, 0.1, 0.1, 0.1, 0.1], **SETTINGS),
        certificates.mean_field(0.08, 10_000, 100.0, prior_data="the other rows of the training set", **SETTINGS),
        certificates.test_set(12, **SETTINGS),
    ]
    rows = [{**certificate.row(record=True), "seed": seed} for seed, certificate in enumerate(made)]
    out = tmp_path_factory.mktemp("verify") / "run"
    with RunDirectory(out, experiment="demo", config=Example()) as run:
        run.write_results([*rows, {"certificate": None, "seed": 9}], fields=FIELDS)
    assert {verdict.verdict for verdict in verify(out)} == {"equal"}
    return json.loads((out / "results.json").read_text())


def said(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        commands.main(["verify", *map(str, words)])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def change(record, place, value, *names):
    """The record with another value in the record of one row's certificate, or in the row itself."""
    copied = json.loads(json.dumps(record))
    target = copied
    for name in (*place, *names[:-1]):
        target = target[name]
    target[names[-1]] = value
    return copied


def test_rows_have_no_further_column_and_long_lists_stand_there_once(record):
    assert "record" not in record["rows"][0] and "inputs" not in record["rows"][0]
    kept = record["records"]["rows"]
    assert kept[-1] is None
    assert kept[0]["inputs"]["heats"] == kept[4]["inputs"]["heats"] == {"shared": kept[0]["inputs"]["heats"]["shared"]}
    assert record["records"]["shared"][kept[0]["inputs"]["heats"]["shared"]] == [90.0, 110.0, "NaN", 100.0, 95.0]


def test_the_command_prints_every_certificate(record, tmp_path, capsys):
    file = tmp_path / "renamed.json"
    file.write_text(json.dumps(record))
    status, out, _ = said(capsys, file)
    assert status == 0
    assert out.count("heat_single") == 5 and out.count("equal") == 8
    assert "7 certificates: 7 equal bit for bit, 0 lower, 0 wrong" in out


RECORD = ("records", "rows")


@pytest.mark.parametrize(
    ("place", "value", "status", "word"),
    [
        ((*RECORD, 6, "inputs", "errors"), 13.0, 1, "HIGHER"),
        ((*RECORD, 6, "inputs", "errors"), -1.0, 1, "cannot be recomputed: errors"),
        ((*RECORD, 6, "route"), "oracle", 1, "cannot be recomputed: route"),
        ((*RECORD, 5, "kl"), 99.0, 1, "another kl"),
        ((*RECORD, 5, "inputs", "monte_carlo_share"), 0.4, 1, "HIGHER"),
        ((*RECORD, 6, "flag"), "x", 0, "equal"),  # a remark, which the recomputed one bears, too
        (("rows", 6, "certificate"), 0.001, 1, "the inputs are of another certificate"),
        (("rows", 6, "delta"), 0.01, 1, "the row states another delta"),
        (("rows", 6, "assumption"), "none", 1, "the row states another assumption"),
    ],
)
def test_what_was_changed_shows(record, tmp_path, capsys, place, value, status, word):
    (tmp_path / "results.json").write_text(json.dumps(change(record, (), value, *place)))
    found, out, _ = said(capsys, tmp_path)
    assert (found, word in out) == (status, True), out


def test_a_value_that_comes_out_lower_is_said_and_fine(record, tmp_path, capsys):
    kept = record["records"]["rows"][6]
    higher = math.nextafter(kept["value"], 1)
    changed = change(change(record, (), higher, *RECORD, 6, "value"), (), higher, "rows", 6, "certificate")
    (tmp_path / "results.json").write_text(json.dumps(changed))
    status, out, _ = said(capsys, tmp_path)
    assert status == 0 and "6 equal bit for bit, 1 lower, 0 wrong" in out


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "holds no results.json"),
        ("{", "is not the results.json of a run"),
        ("[]", "is not the results.json of a run"),
        ({"rows": [{"certificate": 0.5}]}, "was written before the inputs of certificates were kept"),
        ({"rows": [{"risk": 0.5}]}, "holds no certificates"),
        ({"rows": [{"certificate": 0.5}], "records": {"shared": [], "rows": []}}, "was changed by hand"),
        ({"rows": [], "records": {"rows": [{"shared": 3}]}}, "cannot be read as records"),
    ],
)
def test_a_bad_file_is_one_line_and_status_two(tmp_path, capsys, content, word):
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "results.json").write_text(text)
    status, _, error = said(capsys, tmp_path)
    assert status == 2 and error.count("\n") == 1 and word in error, error
