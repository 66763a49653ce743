"""Many hosts: the processes of one run start JAX together, process 0 leads and writes, arrays may span them all."""

import dataclasses
import os
import re
import subprocess
import sys
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pbjax.runs import peers
from pbjax.runs.errors import RunError

Config = TypeVar("Config")
_SLURM_PORTS = 55_000  # two of the ports from here on, by the number of the job
_HEARTBEAT = 50  # seconds; `peers` notices a death at once and a silent machine after half a minute


def process_count() -> int:
    """Number of processes of this run, 1 unless `start` joined several."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_leader() -> bool:
    """Whether this process writes results, metrics and figures: process 0."""
    return process_count() == 1 or jax.process_index() == 0


def _under_slurm() -> tuple[str, int, int] | None:
    """(address, count, index) of a step that srun started with several tasks."""
    variables = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")
    if any(name not in os.environ for name in variables):
        return None
    job, index, count, nodes = (os.environ[name] for name in variables)
    if int(count) == 1:
        return None
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=30, check=True
        )
        first = done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        first = re.sub(r"\[(\d+).*", r"\1", nodes.split(",")[0])  # node[003-010] -> node003
    return f"{first}:{_SLURM_PORTS + 2 * (int(job) % 2500)}", int(count), int(index)


def _place(config: Any) -> tuple[str, int, int] | None:
    address = getattr(config, "coordinator", None)
    count = getattr(config, "num_processes", None)
    index = getattr(config, "process_id", None)
    found = _under_slurm() if count != 1 else None
    if found is not None:
        address = found[0] if address is None else address
        count = found[1] if count is None else count
        index = found[2] if index is None else index
    if (address, count, index) == (None, None, None) or count == 1:
        return None
    if address is None or count is None or index is None:
        named = {"--coordinator": address, "--num-processes": count, "--process-id": index}
        missing = [name for name, value in named.items() if value is None]
        raise RunError(
            f"{' and '.join(missing)} not given: several processes need --coordinator HOST:PORT --num-processes N "
            "--process-id I, or srun"
        )
    if not 0 <= index < count:
        raise RunError(f"--process-id {index}: must be one of 0 to {count - 1} for --num-processes {count}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_535:
        raise RunError(
            f"--coordinator {address}: give HOST:PORT, a port below 65535 that is free with the one after it"
        )
    return address, count, index


def start(config: Config, *, identity: str) -> Config:
    """Joins the other processes of a run, where there are any; before JAX is used for anything else.

    Under Slurm, `srun` says how many there are. Elsewhere each process is told with the options `coordinator`,
    `num_processes` and `process_id`. From then on they end together: see `pbjax.runs.peers`. Two ports are used on the
    coordinator's host, the one given for JAX and the next one for the watch.

    Args:
      config: has those fields, or not.
      identity: what all processes must agree on: the experiment and the hash of its config.

    Returns:
      The config; "quiet" in every process but the first, which shows the progress of all.

    Raises:
      ValueError: the options do not fit together, or the processes run different things.
      OSError: the others cannot be reached.

    Example:
      >>> from pbjax.runs import RunOptions
      >>> config = RunOptions()
      >>> start(config, identity="demo") is config
      True
    """
    place = _place(config)
    if place is None or jax.distributed.is_initialized():
        return config
    address, count, index = place
    host, _, port = address.rpartition(":")
    peers.join(peers.Peers(host, int(port) + 1, count=count, index=index, identity=identity))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    local = host == "localhost" or host.startswith("127.")
    try:
        jax.distributed.initialize(
            address, count, index, heartbeat_timeout_seconds=_HEARTBEAT,
            coordinator_bind_address=address if local else None,
        )  # fmt: skip
        jax.devices()  # here the processes learn of each other's devices
    except RuntimeError as error:
        raise RunError(f"JAX cannot join the processes at {address}: {str(error).splitlines()[0]}") from error
    if index == 0:
        return config
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what is printed is the same in all processes, and process 0 shows it
    if not os.environ.get("PBJAX_TRACEBACK"):
        # When process 0 dies, JAX prints a page and aborts. The watch says the same in a line, on the real stream.
        sys.stderr = open(os.dup(2), "w", buffering=1, closefd=False)  # noqa: SIM115  (open to the end)
        os.dup2(nowhere, 2)
    os.close(nowhere)
    return dataclasses.replace(config, log_level="quiet") if hasattr(config, "log_level") else config  # type: ignore[type-var]


def is_global(leaf: Any) -> bool:
    """Whether an array has parts on other processes."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def put(leaf: Any, sharding: Any) -> jax.Array:
    """`jax.device_put`, also onto devices of several processes, each of which has the whole array.

    Args:
      leaf: array or typed keys, the same on every process.
      sharding: where it goes.

    Returns:
      The array there.

    Example:
      >>> put(np.arange(3), jax.sharding.SingleDeviceSharding(jax.devices()[0])).tolist()
      [0, 1, 2]
    """
    if sharding.is_fully_addressable or is_global(leaf):
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(leaf), sharding)
        impl = jax.random.key_impl(leaf)
        return jax.jit(lambda words: jax.random.wrap_key_data(words, impl=impl))(data)
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def on_one_mesh(tree: Any, others: Any) -> tuple[Any, Any]:
    """Fresh copies of a tree, and what goes with it; where a part spans processes, the rest is copied to all of them.

    Args:
      tree: arrays and typed keys, copied.
      others: further arrays; moved if they must be.

    Returns:
      (tree, others), ready for one compiled function.

    Example:
      >>> state, data = on_one_mesh({"x": jnp.arange(2)}, (jnp.arange(3),))
      >>> state["x"].tolist(), data[0].tolist()
      ([0, 1], [0, 1, 2])
    """
    spread = [leaf for leaf in jax.tree.leaves((tree, others)) if is_global(leaf)]
    if not spread:
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree), others
    mesh: Mesh = spread[0].sharding.mesh
    everywhere = NamedSharding(mesh, PartitionSpec())
    move = lambda leaf: leaf if is_global(leaf) else put(leaf, everywhere)  # noqa: E731
    return jax.jit(lambda x: jax.tree.map(jnp.copy, x))(jax.tree.map(move, tree)), jax.tree.map(move, others)


def gather(tree: Any) -> Any:
    """The whole of every array on this process; all processes call it together.

    Args:
      tree: arrays and typed keys.

    Returns:
      The tree with numpy arrays in place of arrays that span processes; other leaves as they are.

    Example:
      >>> gather({"x": 1.5})
      {'x': 1.5}
    """

    def whole(leaf: Any) -> Any:
        if not is_global(leaf):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = jax.jit(jax.random.key_data)(leaf)
            return jax.random.wrap_key_data(jnp.asarray(whole(words)), impl=jax.random.key_impl(leaf))
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def from_leader(data: bytes | None) -> bytes | None:
    """What process 0 gives, on every process; all processes call it together.

    Args:
      data: bytes or None; of interest on process 0 only.

    Returns:
      Those of process 0.

    Example:
      >>> from_leader(b"text")
      b'text'
    """
    if process_count() == 1:
        return data
    length = int(multihost_utils.broadcast_one_to_all(np.array(-1 if data is None else len(data), np.int32)))
    if length <= 0:
        return b"" if length == 0 else None
    # A power of two: then few programs are compiled for all lengths.
    buffer = np.zeros(1 << (length - 1).bit_length(), np.uint8)
    if is_leader() and data is not None:
        buffer[:length] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer))[:length].astype(np.uint8).tobytes()


def total(value: int) -> int:
    """The sum over all processes, modulo 2^64.

    Args:
      value: this process's · in [0, 2^64).

    Returns:
      The same on every process.

    Example:
      >>> total(3)
      3
    """
    if process_count() == 1:
        return value
    halves = np.array([value >> 32, value & 0xFFFFFFFF], np.uint32)
    every = multihost_utils.process_allgather(halves).astype(object)
    return int(sum((high << 32) + low for high, low in every)) % 2**64


def largest(*values: int) -> tuple[int, ...]:
    """The largest of each value over all processes, which call it together.

    Args:
      values: of this process.

    Returns:
      As many numbers, the same on all processes.

    Example:
      >>> largest(0, 15)
      (0, 15)
    """
    if process_count() == 1:
        return values
    return tuple(multihost_utils.process_allgather(np.array(values, np.int32)).max(axis=0).tolist())
