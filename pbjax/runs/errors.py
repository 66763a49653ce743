"""What a command says when it cannot go on: one line that names the value and the remedy, and an exit status."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from pbjax.runs.peers import ends_together, is_loss

BAD_INPUT = 2  # the exit status of anything the user can put right


class RunError(ValueError):
    """A run that cannot start or go on as asked; its text is one line that ends with the remedy."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; what was computed is in its last checkpoint.

    Attributes:
      signum: the signal that asked, 2 (SIGINT) or 15 (SIGTERM).
    """

    def __init__(self, signum: int, where: str = "") -> None:
        super().__init__(where)
        self.signum = signum
        self.where = where


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, says that a disk or quota is full.

    Storage libraries wrap the system's error in types of their own, so their text is looked at, too.

    Args:
      error: the exception.

    Returns:
      True for ENOSPC and EDQUOT under any wrapping.

    Example:
      >>> is_full_disk(OSError(errno.ENOSPC, "No space left on device"))
      True
      >>> is_full_disk(ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']"))
      True
      >>> is_full_disk(ValueError("delta = 2.0: must lie in (0, 1)"))
      False
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(seen) or os.strerror(errno.EDQUOT) in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def one_line(error: BaseException) -> str:
    """The text of an exception on one line, with the remedy for the errors of the operating system.

    Args:
      error: the exception.

    Returns:
      A line without a final newline.

    Example:
      >>> one_line(ValueError("delta = 2.0:\\n  must lie in (0, 1)"))
      'delta = 2.0: must lie in (0, 1)'
    """
    if is_full_disk(error):
        place = getattr(error, "filename", None)
        where = f" while writing {place}" if place else ""
        return (
            f"the disk is full{where}: free some space, or give another --out, and run the same command again; "
            "earlier results and checkpoints are untouched"
        )
    if isinstance(error, OSError) and error.strerror:
        place = f" {error.filename}:" if error.filename is not None else ""
        return f"cannot use{place} {error.strerror.lower()}; check the path and its permissions"
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str) -> NoReturn:
    """Ends the command with exit status 2 and one line on standard error.

    Args:
      message: names the offending value and the remedy.

    Raises:
      SystemExit: always, with status 2.
    """
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(BAD_INPUT)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


@contextlib.contextmanager
def command_line_errors() -> Iterator[None]:
    """Turns what goes wrong inside into one line on standard error and an exit status; also works as a decorator.

    Bad values, unusable data, paths and disks: `error: ...` and status 2. Ctrl-C: status 130. SIGTERM: status 143; it
    is caught here for the whole command, so that files and the terminal are left in order. Set PBJAX_TRACEBACK=1 to
    see the traceback instead of the one line. Of a run's several processes, each ends when another one does.

    Raises:
      SystemExit: with status 2, 130 or 143.

    Example:
      >>> import contextlib, io
      >>> @command_line_errors()
      ... def main():
      ...     raise ValueError("n = 0: the bound needs at least one example")
      >>> with contextlib.redirect_stderr(io.StringIO()) as said:
      ...     try:
      ...         main()
      ...     except SystemExit as stop:
      ...         print(stop.code, said.getvalue().strip())
      2 error: n = 0: the bound needs at least one example
    """
    with ends_together(lambda error: _reason(error)), _one_line_and_status():
        yield


def _reason(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        return f"stopped by {signal.Signals(error.signum).name}"
    return one_line(error)


@contextlib.contextmanager
def _one_line_and_status() -> Iterator[None]:
    on_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _stop) if on_main_thread else None
    try:
        yield
    except KeyboardInterrupt as error:
        signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        where = f" in {error.where}" if isinstance(error, Interrupted) and error.where else ""
        print(
            f"stopped by {signal.Signals(signum).name}{where}; run the same command again to go on from there",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(128 + signum) from None
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `... | head`: nobody is left to read a message
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (flushed at exit, when the pipe is already gone)
            raise SystemExit(128 + signal.SIGPIPE) from None
        lost = is_loss(error)
        if os.environ.get("PBJAX_TRACEBACK"):
            raise
        fail("another process of this run cannot be reached; start all again" if lost else one_line(error))
    finally:
        if on_main_thread:
            signal.signal(signal.SIGTERM, previous)
