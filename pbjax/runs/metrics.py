"""metrics.jsonl: what a run says while it works, rewound with its checkpoints and shown by mirrors."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pbjax.runs.atomic import json_bytes
from pbjax.runs.mirrors import Mirror


class MetricsLog:
    """metrics.jsonl: one JSON object a line, appended; rewound to a checkpoint's position when a run resumes.

    Args:
      path: the file; made when the first line comes. A torn last line, left by a kill, is cut off.
      mirrors: what shows its lines elsewhere.
    """

    def __init__(self, path: Path, *, mirrors: Sequence[Mirror] = ()) -> None:
        self.path = path
        self._mirrors = mirrors
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                os.truncate(path, whole)
        self._show()

    def _show(self) -> None:
        for mirror in self._mirrors:
            mirror.begin(self)

    def close(self) -> None:
        """Ends the mirrors."""
        for mirror in self._mirrors:
            mirror.close()

    @property
    def position(self) -> int:
        """Length of the file in bytes, flushed to the disk: what a checkpoint remembers."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Adds one line.

        Args:
          metrics: names -> numbers, strings, arrays or lists; NaN and infinities become null.

        Raises:
          OSError: the line cannot be written; what stood there before stays readable.
        """
        line = json_bytes(dict(metrics), indent=None)
        with open(self.path, "ab") as file:
            file.write(line)
        for mirror in self._mirrors:
            mirror.append(json.loads(line))

    def rewind(self, position: int) -> None:
        """Drops every line after a position, which will be computed again.

        Args:
          position: bytes, from `position`.
        """
        if self.path.exists() and self.path.stat().st_size > position:
            os.truncate(self.path, position)
            self._show()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The lines as dictionaries; a torn last line is left out."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)
