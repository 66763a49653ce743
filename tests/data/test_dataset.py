"""The container: checks at the door, read-only arrays, a checksum of the content."""

import numpy as np
import pytest

from pbjax.data import DataError, Dataset, from_arrays


def build(**changes: object) -> Dataset:
    arguments: dict = {
        "train_inputs": np.arange(12.0).reshape(4, 3),
        "train_labels": np.array([0, 1, 2, 1]),
        "test_inputs": np.ones((2, 3)),
        "test_labels": np.array([2, 0]),
        "num_classes": 3,
        "name": "toy",
        **changes,
    }
    return from_arrays(arguments.pop("train_inputs"), arguments.pop("train_labels"), **arguments)


def test_types_shapes_and_counts() -> None:
    data = build()
    assert data.train_inputs.dtype == data.test_inputs.dtype == np.float32
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert (data.num_train, data.num_test, data.image_shape) == (4, 2, (3,))
    assert "toy" in repr(data)
    assert data.checksum[:12] in repr(data)


def test_arrays_are_copies_that_cannot_be_written() -> None:
    mine = np.arange(12, dtype=np.float32).reshape(4, 3)
    data = build(train_inputs=mine)
    mine[0, 0] = 5.0
    assert data.train_inputs[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        data.train_inputs[0, 0] = 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"train_inputs": np.arange(12.0).reshape(4, 3) + np.eye(4, 3) * 1e-3},
        {"train_labels": np.array([1, 0, 2, 1])},
        {"test_inputs": np.zeros((2, 3))},
        {"test_labels": np.array([2, 1])},
        {"train_inputs": np.arange(12.0).reshape(4, 3, 1), "test_inputs": np.ones((2, 3, 1))},
    ],
)
def test_checksum_sees_every_array_and_shape(changes: dict) -> None:
    assert build(**changes).checksum != build().checksum


def test_checksum_is_of_the_content_alone() -> None:
    as_float64_and_int64 = build()
    other_types = build(
        train_inputs=np.arange(12).reshape(4, 3).astype(np.int16), train_labels=np.array([0, 1, 2, 1], np.uint8)
    )
    assert other_types.checksum == as_float64_and_int64.checksum
    assert build(name="other", source="elsewhere").checksum == as_float64_and_int64.checksum


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.array([0, 1, 3, 1])}, r"train_labels\[2\] = 3 is outside 0\.\.2 of the 3 classes: "),
        ({"test_labels": np.array([2, -1])}, r"test_labels\[1\] = -1 is outside"),
        ({"train_labels": np.array([0.0, 1, 2, 1])}, "dtype float64: give integers"),
        ({"train_labels": np.array([0, 1, 2])}, "4 rows but train_labels has 3"),
        ({"train_inputs": np.where(np.eye(4, 3) > 0, np.nan, 0.0)}, r"train_inputs\[0, 0\] = nan is not finite"),
        ({"test_inputs": np.array([[0, 0, 0], [0, -np.inf, 0]])}, r"test_inputs\[1, 1\] = -inf is not finite"),
        (
            {"test_inputs": np.array([[0, 0, 0], [0, 0, 1e39]])},
            r"test_inputs\[1, 2\] = 1e\+39 is not finite in float32",
        ),
        (
            {"train_inputs": np.zeros((0, 3)), "train_labels": np.zeros(0, int)},
            r"shape \(0, 3\): give at least one row",
        ),
        ({"train_inputs": np.zeros(4)}, r"train_inputs has shape \(4,\)"),
        ({"train_inputs": np.zeros((4, 3), complex)}, "complex128: give real numbers"),
        ({"test_inputs": np.ones((2, 4))}, r"shape \(3,\) but test examples \(4,\)"),
        ({"num_classes": 1}, "num_classes = 1 leaves nothing"),
    ],
)
def test_bad_arrays_are_named_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)  # the remedy follows
