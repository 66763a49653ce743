"""Checkpoints: every bit comes back, bad ones are told apart, and the loop goes on from them."""

import dataclasses
import shutil
import signal
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.runs import (
    CheckpointStore,
    Interrupted,
    Phases,
    RunDirectory,
    RunError,
    RunOptions,
    archive,
    checkpoint,
    config_hash,
    replica_mesh,
    run_chunks,
)
from pbjax.runs import shard_replicas as shard


class State(NamedTuple):
    position: jax.Array
    key: jax.Array
    extra: dict


def make_state(scale=1.0):
    return State(
        position=scale * jnp.linspace(0.0, 1.0, 7, dtype=jnp.float32),
        key=jax.random.split(jax.random.key(3), 2),
        extra={
            "half": jnp.ones((2, 2), jnp.bfloat16),
            "none": None,
            "empty": jnp.zeros((0, 3)),
            "count": jnp.asarray(2**40),
            "host": np.array([True, False]),
            "odd/name.with [signs]": np.float64(np.pi),
            "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
        },
    )


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def test_every_kind_of_array_comes_back(tmp_path):
    store = CheckpointStore(tmp_path / "phase", "aaaa")
    store.save(3, make_state(), extra={"metrics_position": 7})
    restored = store.latest(make_state(0.0))
    assert restored is not None
    assert restored.step == 3
    assert restored.extra == {"metrics_position": 7}
    assert_same_bits(restored.tree, make_state())


def test_the_last_two_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, "aaaa")
    for step in range(4):
        store.save(step, {"a": np.array(step)})
    assert store.steps() == [2, 3]
    store.clear()
    assert store.latest({"a": np.array(0)}) is None


def damage(folder):
    """Flips bits in the largest file of a checkpoint."""
    path = max((entry for entry in folder.rglob("*") if entry.is_file()), key=lambda entry: entry.stat().st_size)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(255 - byte for byte in data[middle : middle + 8])
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["flipped", "truncated", "description"])
def test_a_damaged_one_is_skipped_with_a_warning(tmp_path, capsys, how):
    store = CheckpointStore(tmp_path, "aaaa")
    noise = np.random.default_rng(0).normal(size=500)
    for step in (1, 2):
        store.save(step, {"a": noise * step})
    newest = tmp_path / "00000002"
    if how == "flipped":
        damage(newest)
    elif how == "truncated":
        for path in newest.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        (newest / "_CHECKPOINT_METADATA").unlink()
    restored = store.latest({"a": noise})
    assert restored is not None
    assert restored.step == 1
    assert np.array_equal(restored.tree["a"], noise)
    said = capsys.readouterr().err
    assert "00000002 is damaged" in said
    assert said.count("\n") == 1
    damage(tmp_path / "00000001")
    with pytest.raises(RunError, match=r"no checkpoint in .* can be read; remove that folder"):
        store.latest({"a": noise})


def test_another_config_or_program_is_refused(tmp_path):
    CheckpointStore(tmp_path, "aaaa").save(1, {"a": np.zeros(3)})
    with pytest.raises(RunError, match="belongs to config aaaa, and this is config bbbb"):
        CheckpointStore(tmp_path, "bbbb").latest({"a": np.zeros(3)})
    store = CheckpointStore(tmp_path, "aaaa")
    for template in (
        {"a": np.zeros(4)},
        {"b": np.zeros(3)},
        {"a": np.zeros(3, np.float32)},
        {"a": np.zeros(3), "z": 1},
    ):
        with pytest.raises(RunError, match="does not fit this program"):
            store.latest(template)


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, "aaaa")
    store.save(1, {"a": np.arange(3)})

    class Full:
        def save(self, path, *args, **kwargs):
            (path.parent / f"{path.name}.orbax-checkpoint-tmp").mkdir()
            raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_orbax", Full)
        with pytest.raises(OSError, match="No space left"):
            store.save(2, {"a": np.arange(3) + 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000001"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        with pytest.raises(OSError, match="No space left"):
            store.save(1, {"a": np.arange(3) + 1})
    restored = store.latest({"a": np.zeros(3, int)})
    assert restored is not None
    assert restored.tree["a"].tolist() == [0, 1, 2]


def test_a_sharded_state_resumes_on_another_number_of_devices(tmp_path):
    store = CheckpointStore(tmp_path, "aaaa")
    four, one = replica_mesh(), replica_mesh(jax.devices()[:1])
    store.save(1, shard(four, {"a": jnp.arange(8.0)}))
    for mesh in (four, one):
        template = shard(mesh, {"a": jnp.zeros(8)})
        restored = store.latest(template)
        assert restored is not None
        assert restored.tree["a"].sharding == template["a"].sharding
        assert restored.tree["a"].tolist() == list(range(8))


def step_chunk(state, drift):
    key, noise = jax.random.split(state["key"])
    walk = state["walk"] + drift + jax.random.normal(noise, (3,))
    return {"key": key, "walk": walk}, {"walk": walk}


def start():
    return {"key": jax.random.key(0), "walk": jnp.zeros(3)}


def test_loop_equals_the_plain_recursion_and_leaves_its_input():
    state, drift = start(), jnp.array(0.5)
    last, outputs = run_chunks(step_chunk, state, num_chunks=4, arguments=(drift,))
    plain, rows = start(), []
    for _ in range(4):
        plain, output = jax.jit(step_chunk)(plain, drift)
        rows.append(np.asarray(output["walk"]))
    assert_same_bits(last, plain)
    assert outputs["walk"].tobytes() == np.stack(rows).tobytes()
    assert state["walk"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_next_call_goes_on(tmp_path, signum):
    store, seen = CheckpointStore(tmp_path, "aaaa"), []

    def on_chunk(index, outputs):
        seen.append(index)
        if index == 1 and seen == [0, 1]:
            signal.raise_signal(signum)

    keywords = {"num_chunks": 4, "arguments": (jnp.array(0.5),), "store": store, "on_chunk": on_chunk}
    with pytest.raises(Interrupted) as stop:
        run_chunks(step_chunk, start(), **keywords)
    assert stop.value.signum == signum
    assert "chunk 2 of 4 (saved)" in stop.value.where
    last, outputs = run_chunks(step_chunk, start(), **keywords)
    assert seen == [0, 1, 2, 3]
    undisturbed, all_outputs = run_chunks(step_chunk, start(), num_chunks=4, arguments=(jnp.array(0.5),))
    assert_same_bits(last, undisturbed)
    assert_same_bits(outputs, all_outputs)


def test_the_chunk_is_traced_once(tmp_path):
    traces = []

    def counted(state):
        traces.append(1)
        return state + 1.0, state

    run_chunks(counted, jnp.zeros(3), num_chunks=5, store=CheckpointStore(tmp_path, "aaaa"), every_seconds=0.0)
    assert len(traces) == 1


def test_archive_round_trip_and_damage():
    tree = {
        "state": make_state()._replace(extra={"x": np.arange(3)}),
        "list": [1, "two", 3.5, None, (True,)],
        "nan": float("nan"),
        "deep": {"": {"a/b": np.zeros((0, 2))}},
    }
    data = archive.to_bytes(tree)
    back = archive.from_bytes(data)
    assert isinstance(back["state"], State)
    assert back["list"] == tree["list"]
    assert np.isnan(back["nan"])
    assert_same_bits(back["state"], tree["state"])
    assert back["deep"][""]["a/b"].shape == (0, 2)
    for damaged in (data[: len(data) // 2], data[:100] + b"\xff\xff\xff\xff" + data[104:], b""):
        with pytest.raises(ValueError, match="damaged archive"):
            archive.from_bytes(damaged)
    with pytest.raises(ValueError, match="may hold arrays"):
        archive.to_bytes({"function": print})


def test_the_loop_says_where_its_time_went(tmp_path):
    told = []

    def slow_host(index, outputs):
        time.sleep(0.05)

    def chunk(x):
        return x + 1, x

    run_chunks(chunk, jnp.zeros(()), num_chunks=4, on_chunk=slow_host, on_timing=told.append)
    (timing,) = told
    assert timing.chunks == 4
    # Three sleeps after later chunks, and the one after the first, lie outside the compiled code.
    assert timing.total - timing.inside >= 0.2
    assert 0 < timing.inside < timing.total
    assert timing.first > 0
    store = CheckpointStore(tmp_path, "aaaa")
    for _ in range(2):
        run_chunks(chunk, jnp.zeros(()), num_chunks=2, store=store, on_timing=told.append)
    assert [t.chunks for t in told[1:]] == [2, 0]


def test_profile_holds_a_trace_of_one_chunk_of_every_phase(tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(RunOptions):
        delta: float = 0.05

    config = Config(profile=True)
    with RunDirectory(tmp_path / "run", experiment="toy", config=config) as run:
        phases = Phases(run)
        for name, chunks in (("pilot", 1), ("sample", 3)):
            phases.run(
                name,
                lambda phase, n=chunks: phase.run_chunks(lambda x: (x @ x, x[0]), jnp.eye(3), num_chunks=n)[1],
            )
    for name in ("pilot", "sample"):
        [trace] = (tmp_path / "run" / "profile" / name).rglob("*.xplane.pb")
        assert trace.stat().st_size > 100
    assert config_hash(config) == config_hash(Config())
