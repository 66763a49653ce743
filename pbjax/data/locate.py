"""Where a data set lies: a TFDS folder or the original idx files, under the folder that the user names."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from pbjax.data.dataset import DataError, DataNotFoundError
from pbjax.data.idx import FILES

_HAS_IDX_FILES = ("mnist", "fashion_mnist")


class Location(NamedTuple):
    """A folder that holds a data set.

    Attributes:
        kind: `"tfds"` for a prepared version folder, `"idx"` for the four original files.
        folder: the folder with the files themselves.
    """

    kind: Literal["tfds", "idx"]
    folder: Path


def locate(name: str, data_dir: str | os.PathLike[str] | None = None) -> Location:
    """Find `name` under `data_dir`, or under `TFDS_DATA_DIR` where `data_dir` is left out.

    A prepared TFDS folder is preferred to idx files. `data_dir` may be the root of several data sets, the folder of
    this one, or the one with the files.

    Args:
        name: one of `"mnist"`, `"fashion_mnist"`, `"cifar10"`.
        data_dir: folder to look in.

    Returns:
        The location; that its files are intact is for the readers to say.

    Raises:
        DataNotFoundError: nothing there; lists the ways to get the data.
        DataError: some of the idx files are there and some are missing.
    """
    named = os.environ.get("TFDS_DATA_DIR") if data_dir is None else os.fspath(data_dir)
    if not named:
        raise DataNotFoundError(f"{name} is not part of pbjax and no data folder is named: {ways_to_get(name)}")
    root = Path(named).expanduser()
    if not root.is_dir():
        raise DataNotFoundError(f"the data folder {str(root)!r} does not exist: {ways_to_get(name)}")
    try:
        location = _tfds(root, name) or _idx(root, name)
    except PermissionError as error:
        raise DataError(f"cannot list the data folder {str(root)!r} ({error}): make it readable") from error
    if location is None:
        raise DataNotFoundError(f"no {name} in the data folder {str(root)!r}: {ways_to_get(name)}")
    return location


def ways_to_get(name: str) -> str:
    """The ways to get a data set, as the end of one line."""
    ways = [
        f"point TFDS_DATA_DIR or --data-dir to a folder with {name}/<version>/ in TFDS's array_record format, "
        f"prepared once by 'pip install pbjax[prepare]' and 'tfds build {name} --file_format=array_record --data_dir "
        "FOLDER'"
    ]
    if name in _HAS_IDX_FILES:
        ways.append(f"or to one with the original {', '.join(FILES)}")
    if name == "fashion_mnist":
        ways.append("which 'apt-get install dataset-fashion-mnist' puts into /usr/share/datasets/fashion-mnist")
    ways.append("or load the embedded 'digits'")
    return ", ".join(ways)


def _tfds(root: Path, name: str) -> Location | None:
    if (root / "dataset_info.json").is_file():
        return Location("tfds", root)
    base = root / name if (root / name).is_dir() else root
    if base.name != name:
        return None
    versions = [path.parent for path in base.glob("*/dataset_info.json")]
    return Location("tfds", max(versions, key=_version_key)) if versions else None


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in folder.name.split("."))


def _idx(root: Path, name: str) -> Location | None:
    if name not in _HAS_IDX_FILES:
        return None
    for folder in (root / name, root / name.replace("_", "-"), root):
        missing = [file for file in FILES if not (folder / file).is_file()]
        if not missing:
            return Location("idx", folder)
        if len(missing) < len(FILES):
            raise DataError(f"{folder} lacks {', '.join(missing)}: put the missing files beside the others")
    return None
