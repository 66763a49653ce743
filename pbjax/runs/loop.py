"""The host loop over jitted chunks: checkpoints between them, signals, and where the time goes."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.runs import hosts
from pbjax.runs.checkpoint import CheckpointStore
from pbjax.runs.errors import Interrupted
from pbjax.runs.memory import ExpectedMemory, expected_memory
from pbjax.runs.metrics import MetricsLog


@runtime_checkable
class Reporter(Protocol):
    """What the loop tells while it runs; `pbjax.runs.progress.Progress` is one."""

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """A phase of `total` chunks begins, `done` of which are restored."""

    def advance(self, count: int = 1) -> None:
        """`count` more chunks are done."""

    def skip(self, name: str) -> None:
        """A phase was finished by an earlier process."""

    def note(self, text: str) -> None:
        """A line that stays."""


class LoopTiming(NamedTuple):
    """Where the time of a loop went; restored chunks are not in it.

    Attributes:
      chunks: chunks computed here.
      first: seconds of the first of them, compilation included.
      inside: seconds of all the others from the call of the compiled chunk until its outputs were on the host.
      total: seconds of all the others with what the host did between them: callbacks, checkpoints, progress.
    """

    chunks: int
    first: float
    inside: float
    total: float


def inside_share(timings: Iterable[Any]) -> tuple[float, float]:
    """Which part of the loops' wall time was spent inside compiled code.

    share = sum of `inside` / sum of `total`, over loops of two chunks or more

    Args:
      timings: a `LoopTiming` a loop, or its fields as a mapping; None where nothing was timed.

    Returns:
      (share, NaN without a loop of two chunks; seconds of all first chunks, which compile and are not in the share).

    Example:
      >>> inside_share([LoopTiming(3, 5.0, 1.5, 2.0), None])
      (0.75, 5.0)
    """
    given = [dict(t) if isinstance(t, Mapping) else t._asdict() for t in timings if t is not None]
    total = sum(float(t["total"]) for t in given if t["chunks"] > 1)
    inside = sum(float(t["inside"]) for t in given if t["chunks"] > 1)
    return (inside / total if total else float("nan")), sum(float(t["first"]) for t in given)


class StopRequest:
    """Whether a signal asked to stop.

    Attributes:
      signum: the signal, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Notes SIGINT and SIGTERM instead of acting on them, so that a loop can end at a checkpoint.

    A second signal acts at once. Outside the main thread, where Python delivers no signals, nothing is noted.

    Yields:
      The `StopRequest` to look at between chunks.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum is not None:
            raise Interrupted(signum)
        request.signum = signum

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, jax.device_get(hosts.gather(tree)))


def run_chunks(
    step_chunk: Callable[..., tuple[Any, Any]],
    state: Any,
    *,
    num_chunks: int,
    arguments: tuple[Any, ...] = (),
    store: CheckpointStore | None = None,
    every_seconds: float | int = 30.0,
    on_chunk: Callable[[int, Any], None] | None = None,
    metrics: MetricsLog | None = None,
    progress: Reporter | None = None,
    name: str = "run",
    profile: Path | None = None,
    on_timing: Callable[[LoopTiming], None] | None = None,
    on_memory: Callable[[ExpectedMemory], None] | None = None,
) -> tuple[Any, Any]:
    """Runs a jitted chunk again and again, saving what it needs to go on after a kill.

    state, outputs[i] = step_chunk(state, *arguments)    for i = 0, ..., num_chunks - 1

    With a store, the loop first restores the newest checkpoint and goes on from there; results are the same bits as
    those of an undisturbed run. It saves every `every_seconds`, at the end, and when SIGINT or SIGTERM came.

    Args:
      step_chunk: pure function of the state (and of arguments that stay the same, such as data) to the next state, of
        the same structure, and a tree of outputs of fixed shapes. It is jitted here with the state donated, unless it
        is a jitted function already.
      state: tree of arrays and typed keys. It is copied, so the caller's arrays survive the donation.
      num_chunks: number of chunks · >= 0.
      arguments: further arguments of `step_chunk`, not donated and not saved.
      store: where to save; None runs without checkpoints.
      every_seconds: shortest time between two checkpoints · seconds · 0 saves after each chunk.
      on_chunk: called as on_chunk(i, outputs[i]) with host arrays after each chunk that is computed, not for those
        that are restored.
      metrics: the log that `on_chunk` writes; rewound to the checkpoint on resuming, so no line stands there twice.
      progress: told about each chunk.
      name: what messages call the loop.
      profile: folder for a JAX trace of one chunk, the second that is computed here (the first compiles), for
        TensorBoard's or Perfetto's viewer.
      on_timing: called once at the end with a `LoopTiming`.
      on_memory: called once before the first chunk with an `ExpectedMemory`, where the compiler says.

    Returns:
      The last state (on the device; whole on every process, if several share it) and the outputs stacked on a new
      leading axis [num_chunks, ...] (numpy). Each chunk's outputs cross to the host in one transfer.

    Raises:
      Interrupted: a signal asked to stop; the state is saved.
      RunError: the checkpoint found is not of this config or program.

    Example:
      >>> def step_chunk(total):
      ...     return total + 1.0, {"total": total}
      >>> last, outputs = run_chunks(step_chunk, jnp.zeros(()), num_chunks=3)
      >>> float(last), outputs["total"].tolist()
      (3.0, [0.0, 1.0, 2.0])
    """
    if num_chunks < 0:
        raise ValueError(f"num_chunks = {num_chunks}: must be at least 0")
    # Copied onto fresh buffers: the first chunk donates them.
    state, arguments = hosts.on_one_mesh(state, arguments)
    jitted = step_chunk if hasattr(step_chunk, "lower") else jax.jit(step_chunk, donate_argnums=0)
    shapes = jax.eval_shape(jitted, state, *arguments)[1]
    outputs = jax.tree.map(lambda leaf: np.zeros((num_chunks, *leaf.shape), leaf.dtype), shapes)
    done = 0
    if store is not None:
        restored = store.latest({"state": state, "outputs": outputs})
        if restored is not None:
            done, state, outputs = restored.step, restored.tree["state"], restored.tree["outputs"]
            if metrics is not None:
                metrics.rewind(restored.extra["metrics_position"])
    if progress is not None:
        progress.phase(name, num_chunks, done)
    need = expected_memory(jitted, state, arguments, outputs) if done < num_chunks and on_memory is not None else None
    if need is not None and on_memory is not None:
        on_memory(need)

    def save() -> None:
        if store is not None:
            position = metrics.position if metrics is not None else 0
            store.save(done, {"state": state, "outputs": outputs}, extra={"metrics_position": position})

    with stop_requests() as request:
        saved, last_save = done, time.monotonic()
        first, inside, begin, restored_chunks = 0.0, 0.0, time.perf_counter(), done
        while done < num_chunks:
            called = time.perf_counter()
            traced = profile is not None and done == min(restored_chunks + 1, num_chunks - 1)
            with jax.profiler.trace(str(profile)) if traced else contextlib.nullcontext():
                state, device_outputs = jitted(state, *arguments)
                host_outputs = _host(device_outputs)
            if done == restored_chunks:
                first, begin = time.perf_counter() - called, time.perf_counter()
            else:
                inside += time.perf_counter() - called
            for buffer, output in zip(jax.tree.leaves(outputs), jax.tree.leaves(host_outputs), strict=True):
                buffer[done] = output
            if on_chunk is not None:
                on_chunk(done, host_outputs)
            done += 1
            if progress is not None:
                progress.advance()
            # Of several processes all save, and all stop, when one has to.
            due, signum = hosts.largest(time.monotonic() - last_save >= every_seconds, request.signum or 0)
            if due or done == num_chunks or signum:
                save()
                saved, last_save = done, time.monotonic()
            if signum:
                where = f"{name}, chunk {saved} of {num_chunks}"
                raise Interrupted(signum, f"{where} (saved)" if store is not None else where)
    if on_timing is not None:
        on_timing(LoopTiming(done - restored_chunks, first, inside, time.perf_counter() - begin))
    if any(hosts.is_global(leaf) for leaf in jax.tree.leaves(state)):
        state = jax.tree.map(jnp.asarray, hosts.gather(state))
    return state, outputs
