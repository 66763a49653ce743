"""The container every experiment reads from, and the checks at its door."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


class DataError(ValueError):
    """Data or a data option is unusable; the message is one line that names the value and the remedy."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The data set is not on this machine; the message lists the ways to get it."""

    def __str__(self) -> str:  # OSError would format its arguments as an errno
        return str(self.args[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A train and a test set as read-only host arrays.

    Attributes:
        train_inputs: `[n, d]` float32, or `[n, height, width, channels]` when not flattened · the certified rows.
        train_labels: `[n]` int32 · in 0..num_classes-1.
        test_inputs: `[m, d]` float32, trailing shape as `train_inputs`.
        test_labels: `[m]` int32 · in 0..num_classes-1.
        num_classes: number of classes, at least 2.
        name: what was loaded, with every option that changed the arrays, such as `"mnist-binary-pool2"`.
        checksum: SHA-256 (hex) over dtype, shape and content of the four arrays as they stand here.
        image_shape: `(height, width, channels)` of one example; the product is `d`. For inputs that are not images,
            their own trailing shape.
        source: where the arrays came from, free of machine paths, such as `"TFDS mnist/3.0.1"`.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    name: str
    checksum: str
    image_shape: tuple[int, ...]
    source: str

    @property
    def num_train(self) -> int:
        """Number n of training rows."""
        return self.train_inputs.shape[0]

    @property
    def num_test(self) -> int:
        """Number m of test rows."""
        return self.test_inputs.shape[0]

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, train {self.train_inputs.shape}, test {self.test_inputs.shape}, "
            f"{self.num_classes} classes, source {self.source!r}, checksum {self.checksum[:12]})"
        )


def from_arrays(
    train_inputs: ArrayLike,
    train_labels: ArrayLike,
    *,
    test_inputs: ArrayLike,
    test_labels: ArrayLike,
    num_classes: int,
    name: str,
    image_shape: tuple[int, ...] | None = None,
    source: str = "arrays",
) -> Dataset:
    """Check four arrays and put them into a `Dataset`.

    Args:
        train_inputs: `[n, ...]` real numbers, finite; converted to float32.
        train_labels: `[n]` integers in 0..num_classes-1.
        test_inputs: `[m, ...]` real numbers, trailing shape as `train_inputs`.
        test_labels: `[m]` integers in 0..num_classes-1.
        num_classes: number of classes, at least 2.
        name: name for tables and logs.
        image_shape: shape of one example before flattening; the trailing shape of the inputs if left out.
        source: provenance for tables and logs.

    Returns:
        The data set; its arrays are read-only.

    Raises:
        DataError: an array is empty, of the wrong shape or type, not finite, or holds a label out of range.

    Example:
        >>> import numpy as np
        >>> from pbjax.data import from_arrays
        >>> rows, labels = np.eye(4), np.array([0, 1, 0, 1])
        >>> blobs = from_arrays(rows, labels, test_inputs=rows, test_labels=labels, num_classes=2, name="blobs")
        >>> blobs.train_inputs.dtype, blobs.num_train
        (dtype('float32'), 4)
        >>> from_arrays(rows, labels + 1, test_inputs=rows, test_labels=labels, num_classes=2, name="blobs")
        Traceback (most recent call last):
        ...
        pbjax.data.dataset.DataError: train_labels[1] = 2 is outside 0..1 of the 2 classes: correct ...
    """
    if num_classes < 2:
        raise DataError(f"num_classes = {num_classes} leaves nothing to classify: give at least 2")
    parts = {}
    for part, inputs, labels in (("train", train_inputs, train_labels), ("test", test_inputs, test_labels)):
        parts[f"{part}_inputs"] = check_inputs(f"{part}_inputs", inputs)
        parts[f"{part}_labels"] = check_labels(f"{part}_labels", labels, num_classes=num_classes)
        rows, count = len(parts[f"{part}_inputs"]), len(parts[f"{part}_labels"])
        if rows != count:
            raise DataError(f"{part}_inputs has {rows} rows but {part}_labels has {count}: give one label a row")
    shapes = parts["train_inputs"].shape[1:], parts["test_inputs"].shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(f"train examples have shape {shapes[0]} but test examples {shapes[1]}: give both the same")
    checksum = content_checksum(parts)
    for array in parts.values():
        array.flags.writeable = False
    return Dataset(
        **parts,
        num_classes=num_classes,
        name=name,
        checksum=checksum,
        image_shape=shapes[0] if image_shape is None else image_shape,
        source=source,
    )


def check_inputs(name: str, inputs: ArrayLike) -> np.ndarray:
    """Inputs as a float32 array `[n, ...]` of this data set's own, or a `DataError` that names the first bad entry."""
    given = np.asarray(inputs)
    if given.ndim < 2 or 0 in given.shape:
        raise DataError(f"{name} has shape {given.shape}: give at least one row, as [rows, features]")
    if given.dtype.kind not in "fiub":
        raise DataError(f"{name} has dtype {given.dtype}: give real numbers")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is reported below with its position
        array = given.astype(np.float32, order="C")  # a copy: the caller's own array stays writable
    finite = np.isfinite(array)
    if not finite.all():
        position = np.unravel_index(int(np.argmin(finite)), array.shape)
        index = ", ".join(str(int(i)) for i in position)
        raise DataError(f"{name}[{index}] = {given[position]} is not finite in float32: remove or repair that row")
    return array


def check_labels(name: str, labels: ArrayLike, *, num_classes: int) -> np.ndarray:
    """Labels as an int32 array `[n]`, or a `DataError` that names the first label out of range."""
    given = np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise DataError(f"{name} has shape {given.shape} and dtype {given.dtype}: give integers as [rows]")
    outside = (given < 0) | (given >= num_classes)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{name}[{row}] = {given[row]} is outside 0..{num_classes - 1} of the {num_classes} classes: "
            "correct the label or restore the file that it came from"
        )
    return given.astype(np.int32)


def content_checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over name, dtype, shape and little-endian content of each array, in the mapping's order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{name} {plain.dtype.str} {plain.shape};".encode())
        digest.update(plain.data)
    return digest.hexdigest()
