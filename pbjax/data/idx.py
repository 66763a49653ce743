"""The original `.gz` files of MNIST and Fashion-MNIST: a magic number, big-endian sizes, then bytes."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from pbjax.data.dataset import DataError
from pbjax.data.images import Images

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def read_idx_folder(folder: Path) -> Images:
    """The four files of one folder, in their own order.

    Args:
        folder: holds the four files named in `FILES`.

    Returns:
        Images `[n, height, width, 1]` and labels `[n]`, both uint8.

    Raises:
        DataError: a file is missing, truncated or not in the idx format.
    """
    train_images, train_labels, test_images, test_labels = (
        read_idx(folder / file, dimensions=3 if "images" in file else 1) for file in FILES
    )
    return Images(train_images[..., None], train_labels, test_images[..., None], test_labels)


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """One idx file of unsigned bytes as an array.

    Args:
        path: gzip-compressed file.
        dimensions: number of axes the file must have: 3 for images, 1 for labels.

    Returns:
        uint8 array with the file's axes.

    Raises:
        DataError: the file is missing, truncated or not in the idx format.
    """
    remedy = "restore the original file"
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({' '.join(str(error).split())}): {remedy}") from error
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))  # 8 stands for unsigned bytes
    if len(content) < header or content[:4] != magic:
        raise DataError(
            f"{path} starts with {content[:4].hex()!r}, idx files of its kind with {magic.hex()!r}: {remedy}"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} holds {len(content)} bytes where its header announces {expected}: {remedy}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
