"""Runs of a sweep as processes: some at a time on this machine, or one Slurm array through submitit."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from pbjax.runs.errors import RunError
from pbjax.runs.sweep import Point, note_failure

POLL = 0.1  # seconds between two looks at the processes
PATIENCE = 60.0  # seconds that a process gets to save its state before it is killed


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


class RunCommand:
    """One run as a callable that submitit can pickle; when Slurm's time is up it saves its state and queues again.

    Args:
      command: program and arguments.
      point: the run.
    """

    def __init__(self, command: Sequence[str], point: Point) -> None:
        self.command = list(command)
        self.point = point
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_log": None}

    def start(self) -> None:
        """Starts the process; a record of an earlier failure goes."""
        self.point.path.parent.mkdir(parents=True, exist_ok=True)
        self.point.failure.unlink(missing_ok=True)
        self._log = open(self.point.log, "ab")  # noqa: SIM115  (closed in `poll`)
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )

    def poll(self) -> int | None:
        """Exit status, None while it runs; notes a failure."""
        assert self._process is not None and self._log is not None
        status = self._process.poll()
        if status is not None and not self._log.closed:
            self._log.close()
            # Killed by a signal, or ended by one in good order: not failed but unfinished; the next call resumes it.
            if status > 0 and status not in (128 + signal.SIGTERM, 128 + signal.SIGINT):
                note_failure(self.point, status=status, last_line=_last_line(self.point.log))
        return status

    def stop(self) -> None:
        """Asks the process to save its state and end, and waits for it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __call__(self) -> int:
        """Runs to the end, as a job of an array does.

        Returns:
          The exit status.
        """
        self.start()
        while (status := self.poll()) is None:
            time.sleep(POLL)
        return status

    def checkpoint(self) -> Any:
        """What submitit calls when the time of a job is nearly up: the run saves its state and is queued again."""
        self.stop()
        return _submitit().helpers.DelayedSubmission(self)


def run_local(
    commands: Sequence[RunCommand], *, processes: int, on_end: Callable[[Point, int, float], None] | None = None
) -> None:
    """Runs all commands, some of them at a time; whatever happens to one, the others go on.

    Args:
      commands: the runs.
      processes: how many at a time · >= 1.
      on_end: called as on_end(point, status, seconds) when one has ended.

    Raises:
      ValueError: fewer than one process.
      Interrupted: a signal asked to stop; the processes have saved their states and ended.
    """
    if processes < 1:
        raise ValueError(f"processes = {processes}: must be at least 1")
    waiting, running = deque(commands), dict[int, tuple[RunCommand, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                command = waiting.popleft()
                command.start()
                running[id(command)] = (command, time.monotonic())
            for name, (command, begin) in list(running.items()):
                status = command.poll()
                if status is not None:
                    del running[name]
                    if on_end is not None:
                        on_end(command.point, status, time.monotonic() - begin)
            time.sleep(POLL)
    finally:
        for command, _ in running.values():
            if command._process is not None and command._process.poll() is None:
                command._process.terminate()
        for command, _ in running.values():
            command.stop()


def _submitit() -> Any:
    try:
        return import_module("submitit")
    except ModuleNotFoundError:
        raise RunError("submitit is not installed, and Slurm needs it: pip install 'pbjax[slurm]'") from None


def submit(
    commands: Sequence[RunCommand],
    *,
    folder: str | Path,
    cluster: str = "slurm",
    processes: int = 1,
    options: Mapping[str, str] | None = None,
) -> list[Any]:
    """Submits all commands as one array.

    Args:
      commands: the runs.
      folder: where submitit keeps scripts, pickles and logs.
      cluster: "slurm", or "local" for processes of this machine.
      processes: jobs of the array that may run at the same time · >= 1.
      options: parameters of `submitit.AutoExecutor`, such as {"timeout_min": "60", "slurm_partition": "gpu"}.

    Returns:
      submitit's jobs.

    Raises:
      RunError: submitit is not installed, there is no Slurm here, or it knows no such parameter.
    """
    submitit = _submitit()
    if cluster not in ("slurm", "local"):
        raise ValueError(f"cluster = {cluster!r}: choose slurm or local")
    given = {name: int(value) if value.lstrip("-").isdigit() else value for name, value in (options or {}).items()}
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        # The local executor starts all at once; only an array can hold some back.
        limit = {"slurm_array_parallelism": processes} if cluster == "slurm" else {}
        executor.update_parameters(**limit, **given)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise RunError(f"submitit refuses ({' '.join(str(error).split())[:200]}); mend the options") from None
    if cluster == "slurm":
        return list(executor.submit_array(list(commands)))
    return [executor.submit(command) for command in commands]


def experiment_command(script: str | Path, point: Point) -> list[str]:
    """The command line of a run.

    Args:
      script: `experiments/<name>.py`.
      point: the run.

    Returns:
      This Python, the script and the flags.
    """
    return [sys.executable, os.fspath(script), *point.arguments, "--out", os.fspath(point.path)]
