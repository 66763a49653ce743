"""Checkpoints of a tree of arrays: whole or absent, the last two kept, checked when read. The one user of orbax."""

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.runs import hosts
from pbjax.runs.checksums import checksum, checksum_of_pieces
from pbjax.runs.errors import RunError, is_full_disk

_DIGITS = 8
_DELETED = ".deleted-"
_OVERHEAD = 65536  # bytes that a checkpoint's own files take, generously


class Checkpoint(NamedTuple):
    """What a store gives back.

    Attributes:
      step: the position that it was saved at.
      tree: the state, with the structure, dtypes and shardings of the template.
      extra: the plain values saved beside it.
    """

    step: int
    tree: Any
    extra: dict[str, Any]


def _orbax() -> ModuleType:
    # Imported on first use: it takes seconds. The v1 API moved out of `experimental` without other changes.
    try:
        return import_module("orbax.checkpoint.v1")
    except ModuleNotFoundError:
        return import_module("orbax.checkpoint.experimental.v1")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # orbax logs each failure with tracebacks of its threads; the exception that it raises says the same once.
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", "concurrent.futures")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain_leaf(leaf: Any) -> tuple[Any, str | None]:
    """The leaf as orbax stores it, and the name of its generator if it is a typed key."""
    if _is_key(leaf):
        return _plain_leaf(jax.random.key_data(leaf))[0], str(jax.random.key_impl(leaf))
    if hosts.is_global(leaf):
        if not leaf.is_fully_replicated:
            return leaf, None  # rows of other processes: orbax writes each process's share
        leaf = leaf.addressable_data(0)
    # On the host and at least one-dimensional: then a run may resume on another number of devices.
    return np.atleast_1d(np.asarray(leaf)), None


def _describe(path: Any, leaf: Any) -> dict[str, Any]:
    plain, generator = _plain_leaf(leaf)
    return {
        "path": jax.tree_util.keystr(path),
        "shape": list(plain.shape),
        "dtype": str(plain.dtype),
        "generator": generator,
    }


class CheckpointStore:
    """The checkpoints of one phase of a run.

    Args:
      directory: folder of this store alone; made when the first checkpoint is saved.
      config_hash: `pbjax.runs.config.config_hash` of the run; a checkpoint of another config is refused.
      keep: number of checkpoints kept · >= 1.

    Example:
      >>> import tempfile
      >>> store = CheckpointStore(Path(tempfile.mkdtemp()) / "pilot", "0123456789ab")
      >>> store.latest({"position": np.zeros(3)}) is None
      True
      >>> store.save(5, {"position": np.arange(3.0)})
      >>> step, tree, extra = store.latest({"position": np.zeros(3)})
      >>> step, tree["position"]
      (5, array([0., 1., 2.]))
    """

    def __init__(self, directory: str | Path, config_hash: str, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least one checkpoint must be kept")
        self.directory = Path(directory)
        self.config_hash = config_hash
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, increasing."""
        if not self.directory.is_dir():
            return []
        names = (entry.name for entry in self.directory.iterdir())
        return sorted(int(name) for name in names if len(name) == _DIGITS and name.isdigit())

    def _path(self, step: int) -> Path:
        return self.directory / f"{step:0{_DIGITS}d}"

    def _remove(self, step: int) -> None:
        # Renamed first: a kill in the middle of the removal must not leave half a checkpoint under its name.
        doomed = self.directory / f"{_DELETED}{step}"
        shutil.rmtree(doomed, ignore_errors=True)
        self._path(step).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for entry in self.directory.iterdir():
            if entry.is_dir() and (entry.name.startswith(_DELETED) or "orbax-checkpoint-tmp" in entry.name):
                shutil.rmtree(entry, ignore_errors=True)

    def save(self, step: int, tree: Any, *, extra: dict[str, Any] | None = None) -> None:
        """Saves a state; returns when it stands on the disk under its name, then removes the oldest ones.

        Args:
          step: position in the phase · >= 0. A checkpoint of the same step is replaced.
          tree: any pytree of arrays and typed random keys.
          extra: plain JSON values to keep beside it.

        Raises:
          OSError: it cannot be written (ENOSPC when the disk is full); earlier checkpoints are untouched.
        """
        if hosts.is_leader():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        arrays, leaves = {}, []
        for index, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(tree)[0]):
            plain, _ = _plain_leaf(leaf)
            entry = _describe(path, leaf)
            if isinstance(plain, np.ndarray):
                entry["checksum"] = checksum(plain)
            else:
                entry["checksum_of_pieces"] = checksum_of_pieces(plain)
            if plain.size:  # orbax refuses arrays without elements; their description is all there is to them
                arrays[f"leaf_{index:05d}"] = plain
            leaves.append(entry)
        metadata = {"config_hash": self.config_hash, "step": step, "leaves": leaves, "extra": extra or {}}
        if not arrays:
            arrays["empty"] = np.zeros(1)
        ocp = _orbax()
        write = getattr(ocp, "save", None) or ocp.save_pytree  # its name before the rename
        # Looked at first, because orbax's threads are slow and loud to fail.
        needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
        if hosts.is_leader():
            if shutil.disk_usage(self.directory).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))
            if step in self.steps():
                self._remove(step)
        hosts.from_leader(None)  # the others wait
        try:
            with _quiet():
                write(self._path(step).absolute(), arrays, custom_metadata=metadata)
        except Exception as error:
            with contextlib.suppress(OSError):
                if hosts.is_leader():
                    self._remove_leftovers()
            if is_full_disk(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory)) from error
            raise OSError(errno.EIO, f"checkpoint not saved ({type(error).__name__})", str(self.directory)) from error
        hosts.from_leader(None)
        if hosts.is_leader():
            for old in self.steps()[: -self.keep]:
                self._remove(old)

    def latest(self, template: Any) -> Checkpoint | None:
        """Restores the newest checkpoint that is whole; says on standard error which ones it had to skip.

        Args:
          template: a tree with the structure, shapes, dtypes and shardings of the saved one (its values are not used).

        Returns:
          The checkpoint, or None when there is none.

        Raises:
          RunError: it belongs to another config, its arrays do not fit the template, or all of them are damaged.
        """
        steps = json.loads(hosts.from_leader(json.dumps(self.steps()).encode()) or b"[]")
        for step in reversed(steps):
            try:
                return self._load(step, template)
            except RunError:
                raise
            except Exception as error:  # damage shows as whatever the storage library trips over
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                print(f"warning: checkpoint {self._path(step)} is damaged ({reason}); skipped", file=sys.stderr)
        if steps:
            raise RunError(f"no checkpoint in {self.directory} can be read; remove that folder to compute it again")
        return None

    def _load(self, step: int, template: Any) -> Checkpoint:
        ocp = _orbax()
        path = self._path(step).absolute()
        with _quiet():
            read_metadata = getattr(ocp, "metadata", None) or ocp.pytree_metadata
            metadata = read_metadata(path).custom_metadata
            if not metadata or "config_hash" not in metadata:
                raise ValueError("its description is missing")
            if metadata["config_hash"] != self.config_hash:
                raise RunError(
                    f"checkpoint {self._path(step)} belongs to config {metadata['config_hash']}, and this is config "
                    f"{self.config_hash}; give another --out or remove it"
                )
            with_paths, structure = jax.tree_util.tree_flatten_with_path(template)
            self._check_fit(step, metadata["leaves"], [_describe(path, leaf) for path, leaf in with_paths])
            abstract: dict[str, Any] = {}
            for index, (_, leaf) in enumerate(with_paths):
                plain, _ = _plain_leaf(leaf)
                if not plain.size:
                    continue
                entry = metadata["leaves"][index]
                if "checksum" in entry or not hosts.is_global(leaf):  # written by one process, or wanted whole
                    plain = np.zeros(plain.shape, plain.dtype)
                elif not isinstance(plain, np.ndarray):
                    plain = jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=plain.sharding)
                abstract[f"leaf_{index:05d}"] = plain
            read = getattr(ocp, "load", None) or ocp.load_pytree
            loaded = read(path, abstract or {"empty": np.zeros(1)})
        leaves = []
        for index, (entry, (_, leaf)) in enumerate(zip(metadata["leaves"], with_paths, strict=True)):
            stored = loaded.get(f"leaf_{index:05d}")
            if stored is None:
                stored = np.zeros(entry["shape"], np.dtype(entry["dtype"]))
            leaves.append(self._restore_leaf(stored, leaf, entry))
        return Checkpoint(int(metadata["step"]), jax.tree_util.tree_unflatten(structure, leaves), metadata["extra"])

    def _check_fit(self, step: int, stored: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
        for ours, theirs in zip(wanted, stored, strict=False):
            for name in ("path", "shape", "dtype", "generator"):
                if ours[name] != theirs[name]:
                    raise RunError(
                        f"checkpoint {self._path(step)} does not fit this program: {ours['path'] or 'the array'} has "
                        f"{name} {theirs[name]} there and {ours[name]} here; give another --out or remove it"
                    )
        if len(stored) != len(wanted):
            raise RunError(
                f"checkpoint {self._path(step)} does not fit this program: it holds {len(stored)} arrays instead of "
                f"{len(wanted)}; give another --out or remove it"
            )

    @staticmethod
    def _restore_leaf(stored: Any, leaf: Any, entry: dict[str, Any]) -> Any:
        if "checksum_of_pieces" in entry and checksum_of_pieces(stored) != entry["checksum_of_pieces"]:
            raise ValueError(f"wrong checksum of {entry['path']}")
        if not isinstance(stored, np.ndarray):
            wrap = jax.jit(lambda words: jax.random.wrap_key_data(words, impl=entry["generator"]))
            return wrap(stored) if entry["generator"] else stored
        if "checksum" in entry and checksum(stored) != entry["checksum"]:
            raise ValueError(f"wrong checksum of {entry['path']}")
        if entry["generator"]:
            data = jnp.asarray(stored).reshape(jax.eval_shape(jax.random.key_data, leaf).shape)
            stored = jax.random.wrap_key_data(data, impl=entry["generator"])
        if isinstance(leaf, jax.Array):
            stored = jnp.asarray(stored).reshape(leaf.shape)
            # An array that was not bound to a device must not become so: it could not meet sharded ones any more.
            return hosts.put(stored, leaf.sharding) if getattr(leaf, "committed", True) else stored
        return stored.reshape(np.shape(leaf))

    def clear(self) -> None:
        """Removes every checkpoint of this store."""
        for step in self.steps() if hosts.is_leader() else ():
            self._remove(step)
