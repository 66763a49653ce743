"""Where a result comes from: versions, device, precision, command and git state. Never a path of the machine."""

import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

import pbjax
from pbjax.runs.memory import device_peak_bytes, host_peak_bytes

_PACKAGES = ("jax", "jaxlib", "numpy", "blackjax", "optax", "flax", "orbax-checkpoint")
_ABSOLUTE = re.compile(r"(?<![\w.~])~?/[^\s=,:;'\"]+")


def without_paths(text: str) -> str:
    """Cuts absolute paths down to their last part, so that a record says nothing about the machine's folders.

    Args:
      text: a command line or a list of flags.

    Returns:
      The text with `…/name` in place of each absolute path.

    Example:
      >>> without_paths("--data-dir /home/someone/tfds --beta 1/2")
      '--data-dir …/tfds --beta 1/2'
    """
    return _ABSOLUTE.sub(lambda found: "…/" + found[0].rstrip("/").rpartition("/")[2], text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_state(directories: Sequence[Path] | None = None) -> dict[str, Any] | None:
    """Commit of the pbjax checkout that is running, and whether its tracked files differ from that commit.

    Args:
      directories: where to look; None for the package's folder and the running script's.

    Returns:
      {"commit": 40 hexadecimal digits, "dirty": bool}, or None outside a checkout of pbjax or without git.
    """
    if directories is None:
        directories = [Path(__file__).resolve().parent, Path(sys.argv[0] or ".").resolve().parent]
    for directory in directories:
        top = _git(directory, "rev-parse", "--show-toplevel")
        # A virtual environment inside somebody else's repository must not lend us that repository's commit.
        if not top or not (Path(top) / "pbjax" / "runs").is_dir():
            continue
        commit = _git(directory, "rev-parse", "HEAD")
        status = _git(directory, "status", "--porcelain", "--untracked-files=no")
        if commit is not None:
            return {"commit": commit, "dirty": None if status is None else status != ""}
    return None


def _without_hosts(words: Sequence[str]) -> list[str]:
    """A command line without what says where the processes of a run were and which of them this is."""
    kept, skip = [], False
    for word in words:
        name = word.partition("=")[0]
        if skip or name in ("--coordinator", "--process-id", "--process_id"):
            skip = not skip and "=" not in word
            continue
        kept.append(word)
    return kept


def provenance() -> dict[str, Any]:
    """What has to be known to judge or repeat a result.

    Returns:
      versions, device (kind, platform, count, processes), precision (x64, matmul_precision), xla_flags, git, command,
      host, memory (peaks of the process and of its fullest device), time.

    Example:
      >>> record = provenance()
      >>> record["versions"]["jax"] == jax.__version__
      True
    """
    devices = jax.devices()
    return {
        "versions": {
            "python": platform.python_version(),
            "pbjax": pbjax.__version__,
            **{package: _version(package) for package in _PACKAGES},
        },
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "precision": {
            "x64": bool(jax.config.read("jax_enable_x64")),
            "matmul_precision": getattr(jax.config, "jax_default_matmul_precision", None) or "default",
        },
        "xla_flags": without_paths(os.environ.get("XLA_FLAGS", "")),
        "git": git_state(),
        "command": [Path(sys.argv[0]).name, *(without_paths(argument) for argument in _without_hosts(sys.argv[1:]))],
        "host": {"cpu_count": os.cpu_count(), "system": platform.system(), "machine": platform.machine()},
        "memory": {"host_peak_bytes": host_peak_bytes(), "device_peak_bytes": device_peak_bytes()},
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def shown_command(words: Sequence[str]) -> str:
    """A command line as a summary shows it: without the folder that the run was put into, which is of one machine.

    Args:
      words: the `command` of `provenance()`.

    Returns:
      One line.

    Example:
      >>> shown_command(["sam_as_vi.py", "--config", "smoke", "--out", "runs/try"])
      'sam_as_vi.py --config smoke'
    """
    kept = list(words)
    if "--out" in kept:
        place = kept.index("--out")
        del kept[place : place + 2]
    return " ".join(kept)
