"""The phases of a run: each is computed once, and read by the processes that resume it."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pbjax.runs import archive, hosts
from pbjax.runs.checkpoint import CheckpointStore
from pbjax.runs.directory import RunDirectory
from pbjax.runs.loop import LoopTiming, Reporter, run_chunks
from pbjax.runs.memory import ExpectedMemory, shown_bytes
from pbjax.runs.metrics import MetricsLog


class Phase:
    """One named part of a run, as the function that computes it sees it.

    Attributes:
      name: its name.
      store: its checkpoints.
      metrics: the run's metrics log.
      timing: `LoopTiming` of its loop, None before it has run.
      memory: `ExpectedMemory` of its loop, None before it begins.
    """

    def __init__(
        self,
        name: str,
        store: CheckpointStore,
        metrics: MetricsLog,
        *,
        every_seconds: float | int,
        progress: Reporter | None,
        profile: Path | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self.metrics = metrics
        self._every_seconds = every_seconds
        self._progress = progress
        self._profile = profile
        self._looped = False
        self.timing: LoopTiming | None = None
        self.memory: ExpectedMemory | None = None

    def log(self, **values: Any) -> None:
        """Adds a line to metrics.jsonl, with the phase's name.

        Args:
          **values: names -> numbers, text, arrays or lists.
        """
        self.metrics.append({"phase": self.name, **values})

    def run_chunks(
        self,
        step_chunk: Callable[..., tuple[Any, Any]],
        state: Any,
        *,
        num_chunks: int,
        arguments: tuple[Any, ...] = (),
        on_chunk: Callable[[int, Any], None] | None = None,
    ) -> tuple[Any, Any]:
        """`run_chunks` with this phase's checkpoints, log and progress; at most once a phase.

        Args:
          step_chunk: see `run_chunks`.
          state: see `run_chunks`.
          num_chunks: see `run_chunks`.
          arguments: see `run_chunks`.
          on_chunk: see `run_chunks`.

        Returns:
          The last state and the stacked outputs.
        """
        if self._looped:
            raise ValueError(f"phase {self.name!r} runs a second loop; its checkpoints hold one, so make it two phases")
        self._looped = True
        return run_chunks(
            step_chunk,
            state,
            num_chunks=num_chunks,
            arguments=arguments,
            store=self.store,
            every_seconds=self._every_seconds,
            on_chunk=on_chunk,
            metrics=self.metrics,
            progress=self._progress,
            name=self.name,
            profile=self._profile,
            on_timing=self._note,
            on_memory=self._expect,
        )

    def _note(self, timing: LoopTiming) -> None:
        self.timing = timing

    def _expect(self, need: ExpectedMemory) -> None:
        self.memory = need
        if self._progress is not None:
            where = "" if jax.default_backend() == "cpu" else f", {shown_bytes(need.device)} on every device"
            devices = "" if jax.device_count() == 1 else f"runs on {need.devices} of {jax.device_count()} devices, "
            self._progress.note(f"{self.name}: {devices}expects at most {shown_bytes(need.host)} of memory{where}")


class Phases:
    """The phases of a run in their fixed order; those that an earlier process finished are read, not computed.

    Args:
      run: the run directory. Checkpoints stand in checkpoints/<phase>/, results in checkpoints/<phase>/result.npz.
      every_seconds: shortest time between two checkpoints · seconds.
      progress: told about phases and chunks.

    Example:
      >>> import dataclasses, tempfile
      >>> import numpy as np
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     delta: float = 0.05
      >>> with RunDirectory(tempfile.mkdtemp() + "/run", experiment="demo", config=Example()) as run:
      ...     for attempt in range(2):
      ...         phases = Phases(run)
      ...         result = phases.run("pilot", lambda phase: {"step_size": np.float64(0.1)})
      ...         print(attempt, phases.computed, result["step_size"])
      0 ['pilot'] 0.1
      1 [] 0.1
    """

    def __init__(
        self, run: RunDirectory, *, every_seconds: float | int = 30.0, progress: Reporter | None = None
    ) -> None:
        self._run = run
        self._every_seconds = every_seconds
        self._progress = progress
        self._position = 0
        self._names: list[str] = []
        self.computed: list[str] = []

    def _stored(self, name: str) -> Any:
        # Process 0 looks, and what it finds is what all have: a phase is read by all processes or computed by all.
        if hosts.process_count() == 1:
            return self._found(name)
        found = self._found(name) if hosts.is_leader() else None
        data = hosts.from_leader(None if found is None else archive.to_bytes(found))
        return None if data is None else archive.from_bytes(data)

    def _found(self, name: str) -> Any:
        path = self._run.checkpoints / name / "result.npz"
        if not path.exists():
            return None
        try:
            stored = archive.load(path)
        except ValueError as error:
            print(f"warning: {path}: {error}; the phase is computed again", file=sys.stderr)
            return None
        if stored["config_hash"] != self._run.config_hash:
            return None
        # Its lines in the log must be where they were left; otherwise an earlier phase was computed anew, and this
        # one follows it.
        begin, end = stored["metrics"]
        if begin != self._position or end > self._run.metrics.position:
            return None
        return stored

    def run(self, name: str, function: Callable[[Phase], Any]) -> Any:
        """The result of a phase.

        Args:
          name: letters, digits, dots, dashes and underscores; each name once a run.
          function: computes the result, given the `Phase`: nested dict, list, tuple and NamedTuple of arrays, numbers
            and text. It depends on nothing but the config and results of earlier phases.

        Returns:
          The result, its arrays as numpy arrays (typed keys as keys), whether computed now or before.

        Raises:
          Interrupted: a signal asked to stop.
          ValueError: the name or the result is not usable.
        """
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name in self._names:
            raise ValueError(f"phase {name!r}: names are letters, digits, '.', '-', '_', and each is used once a run")
        self._names.append(name)
        stored = self._stored(name)
        folder = self._run.checkpoints / name
        store = CheckpointStore(folder, self._run.config_hash)
        metrics = self._run.metrics
        if stored is None:
            if hosts.is_leader():
                folder.mkdir(exist_ok=True)
            if not store.steps():  # with checkpoints, the loop rewinds to the one that it restores
                metrics.rewind(self._position)
            phase = Phase(
                name, store, metrics, every_seconds=self._every_seconds, progress=self._progress,
                profile=self._run.path / "profile" / name if self._run.profile else None,
            )  # fmt: skip
            begin = time.perf_counter()
            result = function(phase)
            self.computed.append(name)
            if phase.memory is not None:
                self._run.expected_memory[name] = phase.memory.host
                self._run.devices[name] = phase.memory.devices
            device = 0.0 if phase.timing is None else phase.timing.first + phase.timing.inside
            self._run.note_seconds(device=device)
            record = {
                "config_hash": self._run.config_hash,
                "metrics": [self._position, metrics.position],
                "seconds": {"wall": time.perf_counter() - begin, "device": device},
                "result": result,
            }
            # Process 0's numbers are everybody's: timings differ, and machines may.
            data = hosts.from_leader(archive.to_bytes(record)) or b""
            if hosts.is_leader():
                archive.write_file(folder / "result.npz", data)
            # Read back, so that the caller gets the same types now as after a restart.
            stored = archive.from_bytes(data)
        else:
            spent = stored.get("seconds", {"wall": 0.0, "device": 0.0})  # older runs did not keep it
            self._run.note_seconds(earlier=spent["wall"], device=spent["device"])
            if self._progress is not None:
                self._progress.skip(name)
        store.clear()
        self._position = stored["metrics"][1]
        return stored["result"]
