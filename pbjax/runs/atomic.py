"""Files that are either whole or absent: written beside their place, flushed to the disk, then renamed."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

_TEMPORARY = ".tmp-"


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}{_TEMPORARY}{os.getpid()}")


def _flush_directory(path: Path) -> None:
    # The rename is only durable once the directory entry is. Some file systems cannot open directories: then it is
    # as durable as they make it.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes several files so that a full disk or a kill leaves every old one as it was.

    All of them are written and flushed under temporary names before the first is renamed into place.

    Args:
      contents: path -> bytes. The directories exist.

    Raises:
      OSError: a file cannot be written; nothing was replaced and the temporary files are gone.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> write_files({folder / "a.txt": b"whole"})
      >>> sorted(p.name for p in folder.iterdir())
      ['a.txt']
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            temporary[path] = _temporary_name(path)
            with open(temporary[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, written in temporary.items():
            os.replace(written, path)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)
    for directory in {path.parent for path in contents}:
        _flush_directory(directory)


def write_file(path: Path, data: bytes) -> None:
    """Writes one file so that it is whole or as before; see `write_files`.

    Args:
      path: where it goes.
      data: its bytes.

    Raises:
      OSError: it cannot be written; an earlier file of that name is untouched.
    """
    write_files({path: data})


def remove_temporary_files(directory: Path) -> None:
    """Removes what killed writers left behind; call it only while holding the directory's lock.

    Args:
      directory: looked through without its subdirectories.
    """
    for path in directory.glob(f".*{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def to_plain(value: Any) -> Any:
    """A value as JSON holds it: arrays become lists, NaN and infinities become None, enums their value.

    Args:
      value: numbers, strings, arrays, mappings, sequences and dataclasses of those.

    Returns:
      The same out of dict, list, str, int, float, bool and None.

    Raises:
      ValueError: something that has no plain form.

    Example:
      >>> to_plain({"risk": float("nan"), "beta": np.float64(2.0), "seeds": (0, 1)})
      {'risk': None, 'beta': 2.0, 'seeds': [0, 1]}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(to_plain(item) for item in value)
    if hasattr(value, "__array__"):
        return to_plain(np.asarray(value).tolist())
    raise ValueError(
        f"{value!r} of type {type(value).__name__} has no JSON form; convert it to numbers or strings first"
    )


def json_bytes(value: Any, *, indent: int | None = 2) -> bytes:
    """UTF-8 JSON of `to_plain(value)` with a final newline; floats keep every bit.

    Args:
      value: what `to_plain` takes.
      indent: spaces a level, None for one line.

    Returns:
      The bytes of the file.
    """
    return (json.dumps(to_plain(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()
