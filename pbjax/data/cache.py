"""Decoded images on disk, so that sixty thousand PNGs are decoded once and not at every start."""

import hashlib
import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pbjax.data.images import Images, images_checksum

_logger = logging.getLogger("pbjax.data")

_FORMAT = 1  # raise it when the content of a cache file changes its meaning


def default_cache_dir() -> Path:
    """`PBJAX_CACHE`, else `pbjax` under `XDG_CACHE_HOME`, else `~/.cache/pbjax`."""
    if named := os.environ.get("PBJAX_CACHE"):
        return Path(named).expanduser()
    # The XDG specification tells readers to ignore a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "pbjax"


def folder_digest(folder: Path) -> str:
    """SHA-256 (hex) over the names and contents of a folder's files.

    Contents and not times of change: a copied folder finds the same cache file, an edited one never does.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as stream:
            digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()};".encode())
    return digest.hexdigest()


def cached(name: str, source: str, read: Callable[[], Images], *, cache_dir: Path | None = None) -> Images:
    """`read()`, through a checksummed file.

    A damaged file is rebuilt, a folder that cannot be written is done without; both leave a warning in the log.

    Args:
        name: data set, first part of the file name.
        source: digest of what `read` reads; another source gets another file.
        read: decodes the images.
        cache_dir: folder of the files; `default_cache_dir()` if left out.

    Returns:
        The images, equal to what `read()` returns.
    """
    try:
        folder = default_cache_dir() if cache_dir is None else cache_dir
    except RuntimeError as error:  # no home folder
        _logger.warning("no cache for %s (%s): set PBJAX_CACHE to a folder", name, error)
        return read()
    path = folder / f"{name}-{hashlib.sha256(f'{_FORMAT} {source}'.encode()).hexdigest()[:16]}.npz"
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        _logger.warning("the cache file %s is damaged or unreadable and is built again (%s)", path, error)
    images = read()
    try:
        _write(path, images)
    except OSError as error:
        _logger.warning("cannot write the cache file %s (%s): set PBJAX_CACHE to a writable folder", path, error)
    return images


def _read(path: Path) -> Images:
    # Opened here: given a path, numpy leaves the file open when the archive is damaged.
    with path.open("rb") as stream, zipfile.ZipFile(stream):
        stream.seek(0)
        archive = np.load(stream, allow_pickle=False)
        images = Images(*(archive[field] for field in Images._fields))
        expected = str(archive["checksum"])
    if (found := images_checksum(images)) != expected:
        raise ValueError(f"checksum {found[:12]} instead of {expected[:12]}")
    return images


def _write(path: Path, images: Images) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a reader sees the whole file or none, and of two writers the last one wins.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with scratch.open("xb") as stream:
            np.savez(stream, **images._asdict(), checksum=np.array(images_checksum(images)))
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
