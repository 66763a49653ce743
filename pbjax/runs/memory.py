"""How much memory a loop over a compiled chunk will need, said before it runs, and how much a process has needed."""

import os
import resource
import sys
from typing import Any, NamedTuple

import jax


class ExpectedMemory(NamedTuple):
    """Peaks that a loop is expected to reach, bytes, and on how many devices.

    Attributes:
        host: of the whole process: what it holds when the loop begins, and on a CPU what a chunk needs beside it, the
            outputs of all chunks, and one copy of everything that a checkpoint saves.
        device: of every device: arguments, outputs and temporaries of a chunk, donated buffers counted once.
        chunk: temporaries of a chunk on a device, within both.
        devices: how many the chunk runs on, those of all processes.
    """

    host: int
    device: int
    chunk: int
    devices: int


def host_bytes_in_use() -> int:
    """Resident memory of this process, bytes (its peak so far where the system does not say).

    Example:
        >>> host_bytes_in_use() > 10_000_000
        True
    """
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return host_peak_bytes()


def host_peak_bytes() -> int:
    """Largest resident memory that this process has had, bytes.

    Example:
        >>> host_peak_bytes() >= 0.9 * host_bytes_in_use()
        True
    """
    try:  # getrusage also knows the peak of the parent that this process was forked from
        with open("/proc/self/status") as file:
            return 1024 * int(next(line for line in file if line.startswith("VmHWM:")).split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def device_peak_bytes() -> int | None:
    """Largest memory that arrays have taken on any device of this process, bytes; None where devices do not say (CPUs).

    Example:
        >>> device_peak_bytes() is None or device_peak_bytes() >= 0
        True
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [int(s["peak_bytes_in_use"]) for s in stats if "peak_bytes_in_use" in s]
    return max(peaks, default=None)


def expected_memory(jitted: Any, state: Any, arguments: tuple[Any, ...], outputs: Any) -> ExpectedMemory | None:
    """What a loop over a jitted chunk will need.

    Compiles the chunk for these arguments; the first call then finds it compiled.

    Args:
        jitted: the chunk, `jitted(state, *arguments) -> state, outputs`.
        state: first state.
        arguments: further arguments.
        outputs: the buffers on the host that take the outputs of all chunks.

    Returns:
        `ExpectedMemory`, or None where the compiler does not say.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> chunk = jax.jit(lambda x: (x + 1.0, x.sum()), donate_argnums=0)
        >>> need = expected_memory(chunk, jnp.zeros(1000), (), np.zeros(3))
        >>> need.host > need.device > 4000
        True
    """
    analysis = jitted.lower(state, *arguments).compile().memory_analysis()
    if analysis is None:
        return None
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    chunk = analysis.temp_size_in_bytes
    device = analysis.argument_size_in_bytes + new + chunk + analysis.generated_code_size_in_bytes
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(outputs))
    saved = kept + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    # On a CPU the devices are one memory, and the analysis speaks of one of those that the program runs on.
    local = set(jax.local_devices())
    used = [leaf.sharding.device_set for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    here = max((len(devices & local) for devices in used), default=1)
    on_host = (new + chunk) * here if jax.default_backend() == "cpu" else 0
    host = host_bytes_in_use() + on_host + kept + saved
    return ExpectedMemory(host, int(device), int(chunk), max(map(len, used), default=1))


def shown_bytes(count: int) -> str:
    """A number of bytes for a human.

    Args:
        count: bytes.

    Returns:
        MB below a GB, then GB, powers of ten.

    Example:
        >>> shown_bytes(123_456_789), shown_bytes(4_560_000_000)
        ('123 MB', '4.6 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
