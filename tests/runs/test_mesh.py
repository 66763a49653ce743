"""Many devices, on eight fake ones in a process of its own: the results are those of one device."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.replicas import Replicas
from pbjax.runs import lay_out_replicas, replica_mesh, replicate, shard_data, shard_replicas
from pbjax.runs.sweep import read_results
from tests.experiments import processes
from tests.runs.sharded_programs import CEILING, REPLICAS, ROWS, WIDTHS

ROOT = Path(__file__).parents[2]
COUNTS = (2, 4, 8)


def run_programs(folder, *same_bits):
    """Everything that `sharded_programs.py` saves."""
    path = folder / "results.npz"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    program = str(Path(__file__).with_name("sharded_programs.py"))
    command = [sys.executable, "-W", "error", program, str(path), *same_bits]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_programs(tmp_path_factory.mktemp("sharded"))


def of(results, name):
    return [results[key] for key in sorted((k for k in results if k.startswith(f"{name}_")), key=_number)]


def _number(key):
    return int(key.rpartition("_")[2])


@pytest.mark.parametrize("count", COUNTS)
def test_chains_on_many_devices_make_the_moves_of_those_on_one(results, count):
    # A device holds fewer replicas, so the compiler may contract a product and a sum where it did not: each of 20 moves
    # of 4 leapfrogs of two coordinates then differs by a few roundings of 2^-24, and these chains are stable.
    one, many = of(results, "draws_1"), of(results, f"draws_{count}")
    assert len(one) == len(many) > 10
    for expected, found in zip(one, many, strict=True):
        if np.issubdtype(expected.dtype, np.floating):
            np.testing.assert_allclose(found, expected, rtol=0, atol=20 * 4 * 2 * 4 * 2.0**-24 * np.abs(expected).max())
        else:  # keys, counts, acceptances and divergences
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("plain", (8,)),
        ("seeds", (8,)),
        pytest.param("plain", (2, 4), marks=pytest.mark.slow),
        pytest.param("seeds", (2, 4), marks=pytest.mark.slow),
        pytest.param("exchange", COUNTS, marks=pytest.mark.slow),
        pytest.param("chains", COUNTS, marks=pytest.mark.slow),
    ],
)
def test_networks_in_groups_have_the_same_bits_on_any_number_of_devices(tmp_path, name, counts):
    found = run_programs(tmp_path, name, "1", *map(str, counts))
    one = of(found, f"{name}_1")
    assert len(one) > 15
    for count in counts:
        many = of(found, f"{name}_{count}")
        assert [leaf.tobytes() for leaf in many] == [leaf.tobytes() for leaf in one]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "working"),  # devices -> how many of them its replicas are on
    [
        ("gibbs_gap", (), {4: 4}),
        ("certify", ("--seeds", "0", "1", "2", "3", "4"), {2: 2, 4: 3, 8: 5}),  # on four as many turns as on three
        ("sam_as_vi", ("--seeds", "0", "1", "2", "3", "4"), {4: 3}),
        ("rule_extrapolation", (), {4: 4}),
        ("in_context", ("--seeds", "0", "1", "2", "3"), {4: 4}),
        ("fine_tuning", (), {4: 3}),
    ],
)
def test_an_experiment_has_the_same_rows_on_any_number_of_devices(monkeypatch, tmp_path, name, arguments, working):
    monkeypatch.setenv("NPROC", str(max(working)))  # sums are shared out over threads, of which there is one a device
    used = {}
    for count in (1, *working):
        out = tmp_path / str(count)
        processes.finish(name, out, "--config", "smoke", *arguments, "--log-level", "quiet", devices=count)
        used[count] = max(read_results(out)["provenance"]["device"]["phases"].values())
    assert used == {1: 1, **working}
    assert all(processes.same_rows(tmp_path / "1", tmp_path / str(count)) for count in working)


@pytest.mark.parametrize(
    ("variables", "count"),
    [({}, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))]
    + [({"JAX_NUM_CPU_DEVICES": "3"}, 3), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5)],
)
def test_a_run_makes_devices_of_its_cores_unless_told_how_many(variables, count):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | variables
    program = "from pbjax import runs; runs.use_cores(); import jax; print(jax.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.stderr) == (f"{count}\n", "")


def test_layouts_on_cpus_do_not_depend_on_the_number_of_devices():
    for count, at_most, at_once in [(44, None, 11), (44, 5, 4), (24, 10, 3), (7, 3, 1), (5, None, 1), (256, 8, 8)]:
        found = [lay_out_replicas(count, at_most=at_most, devices=jax.devices()[:n]).at_once for n in (1, 2, 3, 4)]
        assert found == [at_once] * 4
    assert lay_out_replicas(12, at_once=3).mesh.shape["replica"] == 4
    assert lay_out_replicas(12, at_once=6).mesh.shape["replica"] == 2
    assert lay_out_replicas(8, data_shards=2).at_once is None


def test_layouts_take_no_more_devices_than_make_them_faster():
    # Groups and devices at hand -> devices that work: 5 groups on 4 take two turns, as on 3.
    for groups, devices, working in [(5, 4, 3), (5, 2, 2), (6, 4, 3), (7, 4, 4), (3, 4, 3), (9, 4, 3), (4, 3, 2)]:
        layout = lay_out_replicas(groups, at_once=1, devices=jax.devices()[:devices])
        assert dict(layout.mesh.shape) == {"replica": working, "data": 1}


def test_layouts_that_cannot_be():
    with pytest.raises(ValueError, match=r"replicas at once = 5: must divide the number of replicas, 12: 1, 2, 3, 4,"):
        lay_out_replicas(12, at_once=5)
    with pytest.raises(ValueError, match=r"at_most = 0: must be at least 1"):
        lay_out_replicas(6, at_most=0)
    with pytest.raises(ValueError, match=r"count = 0: must be at least 1"):
        lay_out_replicas(0)
    with pytest.raises(ValueError, match=r"devices is empty"):
        lay_out_replicas(6, devices=[])
    with pytest.raises(ValueError, match=r"at_once = 0: must be at least 1"):
        Replicas(at_once=0).map(lambda x: x, (jnp.arange(6),))


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
@pytest.mark.parametrize("at_once", [None, 1, 2, 4])
def test_groups_that_are_not_full_and_devices_without_one_change_nothing(devices, at_once):
    layout = Replicas(replica_mesh(jax.devices()[:devices]), at_once)
    key, x = shard_replicas(layout.mesh, (jax.random.split(jax.random.key(0), 6), jnp.arange(6.0)))

    @jax.jit
    def program(key, x):
        return layout.map(lambda key, x: (key, jnp.stack([x, x + 1])), (key, x))

    found_key, found = program(key, x)
    assert found.tolist() == [[x, x + 1] for x in range(6)]
    assert jax.random.key_data(found_key).tolist() == jax.random.key_data(key).tolist()
    # A carry comes back as it went in, so that the next call is not compiled again.
    assert found_key.sharding.is_equivalent_to(key.sharding, 1)
    assert found.sharding.is_fully_replicated == (devices in (1, 4))
    assert len(found.sharding.device_set) == devices


def test_groups_give_back_what_vmap_gives_and_typed_keys_too():
    keys = jax.random.split(jax.random.key(0), 6)

    def one(key, x):
        return jax.random.fold_in(key, 1), {"y": jax.random.normal(key, (3,)) * x}

    expected = jax.vmap(one)(keys, jnp.arange(6.0))
    found = Replicas(at_once=2).map(one, (keys, jnp.arange(6.0)))
    assert jax.random.key_data(found[0]).tolist() == jax.random.key_data(expected[0]).tolist()
    np.testing.assert_allclose(found[1]["y"], expected[1]["y"], rtol=1e-6)


def test_replicas_share_what_the_same_program_made():
    def program(x, scale):
        replicas = lay_out_replicas(8, at_once=2)
        table = jnp.sin(scale * jnp.arange(3.0))  # read in straight-line code, by a branch and by a loop

        def one(x):
            start = x * table + jnp.zeros_like(table)
            start = jax.lax.cond(scale > 0, lambda y: y + table, lambda y: jnp.ones_like(y), start)
            return jax.lax.scan(lambda y, _: (y + table * jnp.ones_like(y), None), start, None, length=2)[0]

        return replicas.map(one, (x,))

    mesh = lay_out_replicas(8, at_once=2).mesh
    assert mesh.size == 4
    found = jax.jit(program)(shard_replicas(mesh, jnp.arange(8.0)), replicate(mesh, jnp.asarray(0.5)))
    np.testing.assert_allclose(found, (np.arange(8.0)[:, None] + 3) * np.sin(0.5 * np.arange(3.0)), rtol=1e-12)


def absolute_network(results):
    """Per replica and row: what bounds the logits of the network with every sign made positive, [R, n]."""
    hidden_bias, hidden, bias, readout = (np.abs(leaf).astype(float) for leaf in of(results, "params"))
    inside = np.abs(results["inputs"]).astype(float) @ hidden + hidden_bias[:, None]  # [R, n, h]
    return np.max(inside @ readout + bias[:, None], axis=-1), readout


@pytest.mark.parametrize("count", COUNTS)
def test_sharded_rows_give_the_energy_and_gradient_of_one_device_within_rounding(results, count):
    # Wilkinson: a float32 sum of m terms, in any order, is within m u / (1 - m u) of the exact one relative to the sum
    # of absolute values, u = 2^-24. A logit is two nested sums (20 and 12 terms, two biases, a tanh of slope <= 1 that
    # is good to a few u), the loss has slope 2 / ceiling in the largest logit error, and the means over rows of the
    # energy are float64. Both evaluations may be off by this much, hence the factor 2.
    one, many = of(results, "network_1")[: 1 + 4], of(results, f"network_{count}")[: 1 + 4]
    logits, readout = absolute_network(results)
    unit = 2.0**-24
    nested = (WIDTHS[0] + WIDTHS[1] + 10) * unit
    tolerance = 2 * (nested * np.mean(logits, axis=1) * 2 / CEILING + 4 * unit)
    assert np.all(np.abs(many[0] - one[0]) <= tolerance)
    assert np.all(tolerance < 1e-4)
    # A gradient is a mean over rows, ROWS terms in float32, of products of at most: an error of a logit (2 / ceiling
    # in all), a weight of the readout, an activation (at most 1) or an input.
    largest = np.maximum(1.0, np.abs(results["inputs"]).max()) * np.maximum(1.0, np.abs(readout).sum(-1).max(1))
    tolerance = 2 * (ROWS + 2 * sum(WIDTHS) + 20) * unit * largest * 2 / CEILING * (1 + np.mean(logits, axis=1))
    assert np.all(tolerance < 1e-3)
    for expected, found in zip(one[1:], many[1:], strict=True):
        difference = np.abs(found - expected).reshape(REPLICAS, -1).max(1)
        assert np.all(difference <= tolerance)
        assert np.abs(expected).max() > 10 * tolerance.max()  # so that a lost shard, 1/8 of a sum, would be seen


def test_row_major_data_are_spread_like_feature_major(results):
    many = of(results, "network_8")
    assert len(many) == 10
    for feature_major, row_major in zip(many[:5], many[5:], strict=True):
        np.testing.assert_allclose(row_major, feature_major, atol=1e-6)


def test_data_meshes_and_what_does_not_fit():
    assert dict(replica_mesh(data_shards=2).shape) == {"replica": 2, "data": 2}
    assert dict(replica_mesh(num_replicas=3, data_shards=2).shape) == {"replica": 1, "data": 2}
    with pytest.raises(ValueError, match=r"data_shards = 5: must lie between 1 and the number of devices, which is 4"):
        replica_mesh(data_shards=5)
    mesh = replica_mesh(data_shards=4)
    rows = shard_data(mesh, {"labels": np.ones((1, 6), np.int32), "count": np.array(6.0)}, axis=-1)
    assert rows["labels"].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert float(rows["count"]) == 6.0
    assert rows["labels"].addressable_shards[0].data.shape == (1, 2)
    with pytest.raises(ValueError, match=r"\['x'\] of shape \(3,\) has no axis 1"):
        shard_data(mesh, {"x": jnp.zeros(3)}, axis=1)
    assert shard_data(replica_mesh(jax.devices()[:2]), jnp.arange(3.0), axis=0).sharding.is_fully_replicated
