"""What a run shows while it works: bars and a table of rungs on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pbjax.runs.tables import format_value


def format_seconds(seconds: float | int | None) -> str:
    """A duration for a human.

    Args:
      seconds: its length, or None when nothing is known.

    Returns:
      s below two minutes, then m:ss, then h:mm:ss.

    Example:
      >>> format_seconds(75), format_seconds(125), format_seconds(7265), format_seconds(None)
      ('75 s', '2:05', '2:01:05', '?')
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """A live display on a terminal; plain lines at most every few seconds elsewhere; silence when quiet.

    Use it as a context manager. It writes to standard error, so results can be piped.

    Args:
      title: shown above.
      work: phase -> its share of the whole run in any unit (seconds, gradients): gives the overall bar and the time
        left. Phases that are not named count for nothing.
      log_level: "quiet" shows nothing.
      every_seconds: shortest time between two plain lines · seconds.
      stream: text file to write to; standard error by default.

    Example:
      >>> import io
      >>> log = io.StringIO()
      >>> with Progress("demo", work={"pilot": 1.0}, every_seconds=0.0, stream=log) as progress:
      ...     progress.phase("pilot", 2)
      ...     progress.advance()
      >>> print(log.getvalue().splitlines()[-1].split(",")[0])
      demo: pilot 1/2
    """

    def __init__(
        self,
        title: str,
        *,
        work: Mapping[str, float | int] | None = None,
        log_level: str = "info",
        every_seconds: float | int = 10.0,
        stream: Any = None,
    ) -> None:
        self.title = title
        self._work = dict(work or {})
        self._finished_work = 0.0
        self._quiet = log_level == "quiet"
        self._every_seconds = every_seconds
        self._console = Console(file=stream if stream is not None else sys.stderr)
        self._live: Live | None = None
        self._name, self._total, self._done = "", 0, 0
        self._begin = self._phase_begin = time.monotonic()
        self._begin_fraction: float | None = None
        self._phase_restored = 0
        self._last_line = float("-inf")
        self._rows: list[dict[str, Any]] = []
        self._table_title = ""

    def __enter__(self) -> "Progress":
        self._begin = time.monotonic()
        if not self._quiet and self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                vertical_overflow="crop",
                redirect_stdout=sys.stdout.isatty(),  # what is piped elsewhere must arrive there
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif kind is None:
            self._plain_table()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """A phase begins.

        Args:
          name: its name, as in `work`.
          total: its number of chunks.
          done: how many of them were restored from a checkpoint.
        """
        self._close_phase()
        self._name, self._total, self._done = name, total, done
        self._phase_begin, self._phase_restored = time.monotonic(), done
        if self._begin_fraction is None:
            self._begin_fraction = self._fraction()
        if done:
            self.note(f"{name}: resumed at chunk {done} of {total}")
        self._plain_line(force=True)

    def skip(self, name: str) -> None:
        """An earlier process finished this phase.

        Args:
          name: its name, as in `work`.
        """
        self._close_phase()
        self._finished_work += self._work.get(name, 0.0)
        self.note(f"{name}: done before")

    def advance(self, count: int = 1) -> None:
        """More chunks of the phase are done.

        Args:
          count: how many.
        """
        self._done += count
        self._plain_line(force=self._done >= self._total)

    def table(self, rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
        """Replaces the table below the bars.

        Args:
          rows: mappings from column to value, say one a rung; all with the keys of the first.
          title: shown above it.
        """
        self._rows = [dict(row) for row in rows]
        self._table_title = title

    def note(self, text: str) -> None:
        """Prints a line that stays.

        Args:
          text: the line.
        """
        if not self._quiet:
            self._console.print(f"{self.title}: {text}", highlight=False, markup=False, soft_wrap=True)

    def _close_phase(self) -> None:
        if self._name:
            self._finished_work += self._work.get(self._name, 0.0)
            if self._live is None:
                self._plain_table()
        self._name, self._total, self._done = "", 0, 0
        self._rows = []

    def _fraction(self) -> float | None:
        whole = sum(self._work.values())
        if not whole:
            return None
        here = self._work.get(self._name, 0.0) * (self._done / self._total if self._total else 0.0)
        return min(1.0, (self._finished_work + here) / whole)

    def seconds_left(self) -> float | None:
        """Estimate of the time that the rest of the run takes, None while nothing is known."""
        fraction = self._fraction()
        if fraction is not None:
            gained = fraction - (self._begin_fraction or 0.0)
            return (time.monotonic() - self._begin) * (1 - fraction) / gained if gained > 0 else None
        gained = self._done - self._phase_restored
        return (time.monotonic() - self._phase_begin) * (self._total - self._done) / gained if gained else None

    def _line(self) -> str:
        fraction = self._fraction()
        overall = "" if fraction is None else f", {fraction:.0%} of the run"
        elapsed = format_seconds(time.monotonic() - self._begin)
        left = format_seconds(self.seconds_left())
        return f"{self._name} {self._done}/{self._total}{overall}, elapsed {elapsed}, left {left}"

    def _plain_line(self, *, force: bool) -> None:
        if self._live is not None or self._quiet:
            return
        now = time.monotonic()
        if now - self._last_line >= self._every_seconds or (force and self._every_seconds == 0):
            self._last_line = now
            self.note(self._line())

    def _plain_table(self) -> None:
        if self._rows and not self._quiet:
            Console(file=self._console.file, width=max(140, self._console.width)).print(self._rows_table())

    def _rows_table(self) -> Table:
        columns = list(self._rows[0])
        table = Table(title=self._table_title or None, title_justify="left", box=None, pad_edge=False)
        for name in columns:
            is_text = any(isinstance(row.get(name), str) for row in self._rows)
            table.add_column(name.replace("_", " "), justify="left" if is_text else "right")
        for row in self._rows:
            style = "yellow" if row.get("flag") else ""
            table.add_row(*(Text(format_value(name, row.get(name)), style=style) for name in columns))
        return table

    def _render(self) -> RenderableType:
        bars = Table.grid(padding=(0, 2))
        fraction = self._fraction()
        if fraction is not None:
            left = (
                f"elapsed {format_seconds(time.monotonic() - self._begin)}, left {format_seconds(self.seconds_left())}"
            )
            bars.add_row(
                Text(self.title, style="bold"),
                ProgressBar(total=1.0, completed=fraction, width=40),
                f"{fraction:.0%}",
                left,
            )
        if self._name:
            share = self._done / self._total if self._total else 0.0
            bars.add_row(
                self._name,
                ProgressBar(total=1.0, completed=share, width=40),
                f"{self._done}/{self._total}",
                "" if fraction is not None else self._line().partition(", ")[2],
            )
        return Group(bars, Text(""), self._rows_table()) if self._rows else bars
