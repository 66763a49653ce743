"""Image data sets prepared by tensorflow-datasets, read without TensorFlow and without its network code."""

import io
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pbjax.data.dataset import DataError
from pbjax.data.images import PUBLISHED, Images

_logger = logging.getLogger("pbjax.data")

_CHUNK = 2048  # records a read: one call costs as much as many records, and a chunk bounds the memory


def check_tfds_folder(folder: Path, name: str) -> str:
    """The version of the prepared data set in `folder`, after a look at its `dataset_info.json`.

    Args:
        folder: a version folder such as `mnist/3.0.1`.
        name: the data set it must hold.

    Returns:
        Version, such as `"3.0.1"`.

    Raises:
        DataError: the description is unreadable, of another data set, or of another file format.
    """
    path = folder / "dataset_info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        found, version, file_format = str(info["name"]), str(info["version"]), str(info.get("fileFormat", "tfrecord"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read {path} ({_one_line(error)}): prepare the folder again") from error
    if found != name:
        raise DataError(f"{folder} holds {found}, not {name}: load {found!r} or point the data folder elsewhere")
    if file_format != "array_record":
        raise DataError(
            f"{folder} is in the {file_format} format, which only TensorFlow reads: prepare it again with "
            f"'tfds build {name} --file_format=array_record'"
        )
    return version


def read_tfds_folder(folder: Path, name: str) -> Images:
    """Every image of the splits `train` and `test`, in the folder's order.

    The builder comes from the folder's own description, not from the registry of data sets: that one may download.

    Args:
        folder: a version folder such as `mnist/3.0.1`.
        name: the data set it holds; fixes the image shape.

    Returns:
        Images `[n, height, width, channels]` uint8 and labels `[n]` int64.

    Raises:
        DataError: a package is missing, or the folder is incomplete or corrupt.
    """
    try:
        with warnings.catch_warnings():
            # Importing it must not turn its own dependencies' deprecations into our caller's errors.
            warnings.simplefilter("ignore", category=DeprecationWarning)
            warnings.simplefilter("ignore", category=FutureWarning)
            import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"reading {folder} needs a package that is not installed ({_one_line(error)}): "
            "pip install tensorflow-datasets pillow"
        ) from error
    _logger.info("decoding %s from %s", name, folder)
    try:
        builder: Any = tfds.builder_from_directory(folder)
        # Decoding here instead of in tensorflow-datasets takes half the time.
        skip = {"image": tfds.decode.SkipDecoding()}
        parts = [_read_split(builder.as_data_source(split=split, decoders=skip), name) for split in ("train", "test")]
    except Exception as error:  # the readers below raise RuntimeError, KeyError, protobuf's and pillow's own, ...
        raise DataError(
            f"cannot read {folder} ({_one_line(error)}): the folder is incomplete or corrupt, prepare or copy it again"
        ) from error
    return Images(*parts[0], *parts[1])


def _read_split(source: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    count, shape = len(source), PUBLISHED[name].image_shape
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        rows: Sequence[dict[str, Any]] = source.__getitems__(range(start, min(count, start + _CHUNK)))
        for row, record in enumerate(rows, start):
            images[row], labels[row] = _decode(record["image"], shape), record["label"]
    return images, labels


def _decode(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(encoded))
    mode = {1: "L", 3: "RGB"}[shape[2]]
    if image.mode != mode or image.size != (shape[1], shape[0]):
        raise ValueError(f"an image of mode {image.mode} and size {image.size} instead of {mode} and {shape[:2]}")
    return np.asarray(image).reshape(shape)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
