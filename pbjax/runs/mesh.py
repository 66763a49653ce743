"""Devices as a mesh with axes ("replica", "data"): replicas are spread, data is copied to all or spread by rows."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pbjax.replicas import Replicas
from pbjax.runs.hosts import put

AXES = ("replica", "data")
GROUPS = 8
"""Number of groups up to which `lay_out_replicas` splits replicas on CPUs: of devices that all have work by default."""


def use_cores() -> None:
    """Makes a CPU device of each core that this process may use, `GROUPS` at most; before JAX is used for anything.

    Replicas then go to the cores whole, which is faster than sharing out each of their operations over all cores. They
    have the same bits either way (`lay_out_replicas`). Nothing changes where XLA_FLAGS or JAX_NUM_CPU_DEVICES already
    says how many devices there are, where JAX has been used, or for accelerators.

    Example:
      >>> use_cores()
    """
    told = getattr(jax.config, "jax_num_cpu_devices", -1) > 0
    if told or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has been used
        jax.config.update("jax_num_cpu_devices", min(cores, GROUPS))


def replica_mesh(
    devices: Sequence[Any] | None = None, *, num_replicas: int | None = None, data_shards: int = 1
) -> Mesh:
    """A mesh of all devices, in groups of `data_shards` that share the rows of data; replicas are spread over groups.

    Args:
      devices: the devices to use; None for all of jax's.
      num_replicas: length of the replica axis of the arrays to come · >= 1. When the number of groups of devices does
        not divide it, the largest number of groups that does is used and the others stay idle. Of a run's several
        processes each takes an equal part, or, where that cannot be, each computes everything on devices of its own.
      data_shards: devices among which the rows of data are split · >= 1. With 1 each device holds all of them.

    Returns:
      The mesh, of shape (number of groups used, data_shards).

    Raises:
      ValueError: no device, fewer devices than data_shards, or num_replicas or data_shards below 1.

    Example:
      >>> dict(replica_mesh(jax.devices()[:1], num_replicas=5).shape)
      {'replica': 1, 'data': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    if not devices:
        raise ValueError("devices is empty; give at least one device")
    if not 1 <= data_shards <= len(devices):
        raise ValueError(
            f"data_shards = {data_shards}: must lie between 1 and the number of devices, which is {len(devices)}"
        )
    groups = len(devices) // data_shards
    if num_replicas is not None:
        if num_replicas < 1:
            raise ValueError(f"num_replicas = {num_replicas}: must be at least 1")
        groups = max(count for count in range(1, groups + 1) if num_replicas % count == 0)
        processes = len({device.process_index for device in devices})
        if processes > 1 and groups * data_shards < len(devices):
            own = [d for d in devices if d.process_index == jax.process_index()]
            share = [
                count for count in range(1, len(own) + 1)
                if count * processes % data_shards == 0 and num_replicas % (count * processes // data_shards) == 0
            ]  # fmt: skip
            if not share:
                return replica_mesh(own, num_replicas=num_replicas, data_shards=data_shards)
            by_process: dict[int, list[Any]] = {}
            for device in devices:
                by_process.setdefault(device.process_index, []).append(device)
            devices = [device for some in by_process.values() for device in some[: max(share)]]
            groups = len(devices) // data_shards
    return Mesh(np.array(devices[: groups * data_shards], dtype=object).reshape(groups, data_shards), AXES)


def lay_out_replicas(
    count: int,
    *,
    at_once: int | None = None,
    at_most: int | None = None,
    data_shards: int = 1,
    devices: Sequence[Any] | None = None,
) -> Replicas:
    """Spreads replicas over all devices in groups that go side by side, the same groups on any number of devices.

    Args:
      count: number of replicas, R · >= 1.
      at_once: G, replicas in a group · a divisor of R. Results have the same bits on any number of devices, of which at
        most R / G work. None chooses: on CPUs R over its largest divisor up to `GROUPS`, on accelerators all that a
        device holds, with results that depend on the number of devices by rounding.
      at_most: what None may choose at most · >= 1. Then it takes the largest divisor of R up to this and the above on
        CPUs, and equal parts of what a device holds on accelerators.
      data_shards: as in `replica_mesh`; above 1 there are no groups, and sums over rows round anyway.
      devices: the devices to use; None for all of jax's.

    Returns:
      The layout; its `mesh` is what `shard_replicas` and `replicate` take.

    Raises:
      ValueError: at_once is no divisor of count, count or at_most below 1, or as in `replica_mesh`.

    Example:
      >>> lay_out_replicas(44, devices=jax.devices("cpu")[:1]).at_once
      11
      >>> lay_out_replicas(44, at_most=5, devices=jax.devices("cpu")[:1]).at_once
      4
    """
    devices = list(jax.devices() if devices is None else devices)
    if count < 1:
        raise ValueError(f"count = {count}: must be at least 1")
    sizes = [size for size in range(1, count + 1) if count % size == 0]
    if at_once is not None and at_once not in sizes:
        divisors = ", ".join(map(str, sizes))
        raise ValueError(f"replicas at once = {at_once}: must divide the number of replicas, {count}: {divisors}")
    if at_most is not None and at_most < 1:
        raise ValueError(f"at_most = {at_most}: must be at least 1")
    if at_once is None and data_shards == 1 and all(device.platform == "cpu" for device in devices):
        largest = count // max(size for size in sizes if size <= GROUPS)
        at_once = max(size for size in sizes if size <= min(largest, at_most or largest))
    if data_shards > 1:
        return Replicas(replica_mesh(devices, num_replicas=count, data_shards=data_shards))
    mesh = replica_mesh(_with_turns(devices, count // (at_once or 1)))
    held = -(-count // mesh.shape["replica"])
    if at_once is None and at_most is not None and held > at_most:
        at_once = -(-held // -(-held // at_most))
    return Replicas(mesh, at_once)


def _with_turns(devices: Sequence[Any], groups: int) -> list[Any]:
    """The fewest devices that are through with the groups as soon as all would be, as many of each process."""
    own: dict[int, list[Any]] = {}
    for device in devices:
        own.setdefault(device.process_index, []).append(device)
    each = min(map(len, own.values()), default=0)
    turns = -(-groups // max(1, each * len(own)))
    return [device for some in own.values() for device in some[: -(-groups // (turns * len(own)))]]


def shard_replicas(mesh: Mesh | None, tree: Any) -> Any:
    """Spreads the leading axis of every array over the mesh's replica axis.

    Args:
      mesh: from `replica_mesh`; None leaves the tree as it is.
      tree: arrays and typed keys of shape [R, ...]. Where the number of devices does not divide R, each gets a copy.

    Returns:
      The same tree on the devices of the mesh.

    Raises:
      ValueError: an array has no leading axis.

    Example:
      >>> mesh = replica_mesh(jax.devices()[:1])
      >>> shard_replicas(mesh, {"chain": jnp.zeros((4, 3))})["chain"].sharding.mesh.axis_names
      ('replica', 'data')
    """
    if mesh is None:
        return tree
    count = mesh.shape["replica"]

    def place(path: Any, leaf: Any) -> jax.Array:
        shape = jnp.shape(leaf)
        if not shape:
            raise ValueError(f"{jax.tree_util.keystr(path) or 'the array'} has no axis of replicas to be spread")
        # On one device programs forget what is spread, and a carry that comes back otherwise would be compiled again.
        spread = mesh.size > 1 and shape[0] % count == 0
        return put(leaf, NamedSharding(mesh, PartitionSpec("replica") if spread else PartitionSpec()))

    return jax.tree_util.tree_map_with_path(place, tree)


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Copies every array to all devices of the mesh.

    Args:
      mesh: from `replica_mesh`; None leaves the tree as it is.
      tree: arrays and typed keys of any shape.

    Returns:
      The same tree on the devices of the mesh.

    Example:
      >>> replicate(replica_mesh(jax.devices()[:1]), jnp.zeros(3)).sharding.is_fully_replicated
      True
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: put(leaf, sharding), tree)


def shard_data(mesh: Mesh, tree: Any, *, axis: int) -> Any:
    """Spreads one axis of every array over the mesh's data axis; copies them to all devices where that has length 1.

    A sum over the rows then becomes a sum on each device and one over the devices, which `jit` puts in. Its result is
    that of one device within rounding: the terms are the same and their order is not.

    Args:
      mesh: from `replica_mesh`.
      tree: arrays; scalars are copied. For `posteriors.energy.Rows`, axis -1 if they are feature-major and 1 if not.
      axis: the axis of the rows in every array. Where the number of devices does not divide it, it is filled up with
        zeros, which in `Rows` are rows of weight zero.

    Returns:
      The same tree on the devices of the mesh.

    Raises:
      ValueError: an array that is no scalar has no such axis.

    Example:
      >>> mesh = replica_mesh(jax.devices()[:1])
      >>> shard_data(mesh, {"inputs": np.ones((1, 5, 8)), "count": np.ones(())}, axis=1)["inputs"].shape
      (1, 5, 8)
    """
    count = mesh.shape["data"]
    if count == 1:
        return replicate(mesh, tree)

    def place(path: Any, leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        if not array.ndim:
            return put(array, NamedSharding(mesh, PartitionSpec()))
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(
                f"{jax.tree_util.keystr(path) or 'the array'} of shape {array.shape} has no axis {axis}; give the axis "
                "of its rows"
            )
        where = axis % array.ndim
        filler = [(0, -array.shape[where] % count if dimension == where else 0) for dimension in range(array.ndim)]
        spec = PartitionSpec(*(None,) * where, "data")
        return put(np.pad(array, filler), NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, tree)
