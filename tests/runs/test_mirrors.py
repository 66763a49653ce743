"""TensorBoard and Weights & Biases show what metrics.jsonl says, also after a rewind, and never more."""

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from pbjax.runs import RunDirectory, RunError, RunOptions, config_hash
from pbjax.runs.mirrors import check_mirrors, open_mirror, scalars

LINES = [{"phase": "sample", "chunk": i, "loss": 1.0 / (1 + i), "rates": [0.5, 0.25 * i]} for i in range(4)]
ABOUT = {"experiment": "toy", "name": "0123456789ab", "fields": {"delta": 0.05}}


def events(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard would read: checksummed records of `Event` messages."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            event = proto.Event.FromString(data[position + 12 : position + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            position += 16 + length
    return found


def expected(lines):
    return [(name, line["chunk"], pytest.approx(value)) for line in lines for name, value in scalars(line).items()]


def test_tensorboard_holds_the_log_and_is_made_anew_when_it_is_rewound(tmp_path):
    pytest.importorskip("tensorboardX")
    mirror = open_mirror("tensorboard", tmp_path, **ABOUT)
    mirror.begin(LINES[:1])
    for line in LINES[1:]:
        mirror.append(line)
    mirror.close()
    assert events(tmp_path / "tensorboard") == expected(LINES)
    mirror.begin(LINES[:2])  # what a resumed run does
    mirror.close()
    assert events(tmp_path / "tensorboard") == expected(LINES[:2])


def test_wandb_goes_on_under_one_name_with_lines_as_steps(tmp_path, monkeypatch):
    # Its client wants an account; here a stand-in records the calls of its documented interface.
    calls = []

    class Run:
        def log(self, values, *, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    def init(**about):
        calls.append(about)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    mirror = open_mirror("wandb", tmp_path, **ABOUT)
    mirror.begin(LINES[:1])
    mirror.append(LINES[1])
    mirror.close()
    assert calls[0]["id"] == "toy-0123456789ab" and calls[0]["resume"] == "allow"
    assert calls[0]["config"] == {"delta": 0.05}
    assert calls[1:] == [(1, scalars(LINES[0])), (2, scalars(LINES[1])), "finish"]


@pytest.mark.parametrize("kind", ["tensorboard"])
def test_a_run_directory_mirrors_its_log_through_a_resume(tmp_path, kind):
    pytest.importorskip("tensorboardX")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(RunOptions):
        delta: float = 0.05

    config = Config(mirror=(kind,))
    with RunDirectory(tmp_path / "run", experiment="toy", config=config) as run:
        for line in LINES[:2]:
            run.metrics.append(line)
        kept = run.metrics.position
        run.metrics.append({**LINES[2], "loss": 9.0})
    with RunDirectory(tmp_path / "run", experiment="toy", config=config) as run:
        run.metrics.rewind(kept)
        for line in LINES[2:]:
            run.metrics.append(line)
    assert events(tmp_path / "run" / kind) == expected(LINES)
    assert config_hash(config) == config_hash(Config())


def test_long_lists_are_their_mean_and_text_is_no_curve():
    assert scalars({"loss": list(range(100)), "flag": "bad", "ok": True, "none": None}) == {"loss": 49.5}


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match=r"^--mirror wandb needs the package wandb: pip install 'pbjax\[wandb\]'"):
        check_mirrors(["wandb"])
