"""`load` and its options on the embedded digits."""

import sys
from subprocess import run

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pbjax.data import DATASETS, DataError, load


def test_split_is_a_partition_of_scikit_learns_rows() -> None:
    pixels, labels = load_digits(return_X_y=True)
    digits = load()
    assert digits.train_inputs.shape == (1437, 64)
    assert digits.test_inputs.shape == (360, 64)
    rows = np.concatenate([digits.train_inputs, digits.test_inputs])
    rows = np.column_stack([rows * 16, np.concatenate([digits.train_labels, digits.test_labels])])
    expected = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])


def test_split_never_moves() -> None:
    """A certificate is of these rows: a change here voids every stored result."""
    assert load("digits").checksum == "d0ef2e9effb238120d132ac90ccb54237f4ed863e0d2d5fbab6be5d5aee1fe7d"
    assert load("digits", limit=100).checksum == "279408d12e95639fc76bf4cdc34bbf533f13513aacd577b713bbe90c829d2840"


def test_every_class_is_in_both_parts_in_proportion() -> None:
    digits = load("digits")
    share = np.bincount(digits.test_labels) / (np.bincount(digits.test_labels) + np.bincount(digits.train_labels))
    # Hypergeometric: each share has standard error about 0.03; 4.5 of them give 10 classes a false alarm below 1e-4.
    assert np.abs(share - 360 / 1797).max() < 0.135


def test_binary_splits_at_five() -> None:
    whole, halves = load("digits"), load("digits", binary=True)
    np.testing.assert_array_equal(halves.train_labels, whole.train_labels >= 5)
    np.testing.assert_array_equal(halves.test_labels, whole.test_labels >= 5)
    assert halves.num_classes == 2
    np.testing.assert_array_equal(halves.train_inputs, whole.train_inputs)


def test_pool_averages_squares() -> None:
    whole, pooled = load("digits", flatten=False), load("digits", flatten=False, pool=2)
    assert pooled.train_inputs.shape == (1437, 4, 4, 1)
    assert pooled.image_shape == (4, 4, 1)
    for row, column in ((0, 0), (1, 3), (3, 2)):
        square = whole.train_inputs[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, 0]
        np.testing.assert_allclose(pooled.train_inputs[:, row, column, 0], square.mean(axis=(1, 2)), rtol=1e-6)
    assert load("digits", pool=1).checksum == load("digits").checksum


def test_flatten_keeps_the_order_of_pixels() -> None:
    images, rows = load("digits", flatten=False), load("digits")
    np.testing.assert_array_equal(images.train_inputs.reshape(1437, 64), rows.train_inputs)
    assert rows.image_shape == images.image_shape == (8, 8, 1)


def test_limit_gives_nested_subsets_with_their_own_labels() -> None:
    small, large, whole = load("digits", limit=50), load("digits", limit=200), load("digits")
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:50])
    np.testing.assert_array_equal(small.train_labels, large.train_labels[:50])
    np.testing.assert_array_equal(small.test_inputs, whole.test_inputs)
    # A fixed permutation, not the first rows of the file; and each row still with its label.
    assert not np.array_equal(large.train_inputs, whole.train_inputs[:200])
    labels = {row.tobytes(): label for row, label in zip(whole.train_inputs, whole.train_labels, strict=True)}
    assert [labels[row.tobytes()] for row in large.train_inputs] == large.train_labels.tolist()


def test_shuffled_labels_are_a_permutation_unrelated_to_the_inputs() -> None:
    whole, shuffled = load("digits"), load("digits", shuffle_labels=3)
    np.testing.assert_array_equal(shuffled.train_inputs, whole.train_inputs)
    for part in ("train_labels", "test_labels"):
        before, after = getattr(whole, part), getattr(shuffled, part)
        np.testing.assert_array_equal(np.bincount(before), np.bincount(after))
        # Agreement of a random permutation: mean 0.1, standard error 0.3/sqrt(m); 5 of them, false alarm below 1e-6.
        assert abs(np.mean(before == after) - 0.1) < 5 * 0.3 / len(before) ** 0.5
    assert load("digits", shuffle_labels=3).checksum == shuffled.checksum
    assert load("digits", shuffle_labels=4).checksum != shuffled.checksum


def test_a_row_keeps_its_shuffled_label_in_every_subset() -> None:
    small, large = (load("digits", shuffle_labels=3, binary=True, limit=limit) for limit in (50, 200))
    np.testing.assert_array_equal(small.train_labels, large.train_labels[:50])


def test_map_is_affine_in_the_pixels() -> None:
    centred = load("digits", shift=8.0, scale=8.0)
    np.testing.assert_array_equal(centred.train_inputs, load("digits").train_inputs * 2 - 1)


def test_name_says_which_options_changed_the_arrays() -> None:
    data = load("digits", binary=True, pool=2, limit=7, shuffle_labels=0)
    assert data.name == "digits-binary-pool2-limit7-shuffled0"
    assert (load("digits").name, load("digits").source) == ("digits", "scikit-learn digits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "imagenet"}, "name = 'imagenet' is not a known data set: choose one of " + ", ".join(DATASETS)),
        ({"pool": 3}, "pool = 3 does not divide digits's 8x8"),
        ({"pool": 0}, "pool = 0 does not divide"),
        ({"limit": 0}, "limit = 0 is not .*: give 1 to 1437"),
        ({"limit": 1438}, "limit = 1438 is not"),
        ({"shuffle_labels": -1}, "shuffle_labels = -1 is not a seed"),
        ({"shuffle_labels": True}, "shuffle_labels = True is not a seed"),
        ({"scale": 0.0}, "scale = 0.0 cannot map pixels: give one positive finite number"),
        ({"shift": float("nan")}, "shift = nan cannot map pixels"),
        ({"scale": [1.0, 2.0]}, r"scale = \[1.0, 2.0\] cannot map pixels"),
    ],
)
def test_bad_options_are_named_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(**{"name": "digits", **options})
    assert "\n" not in str(caught.value)


def test_room_imports_neither_jax_nor_readers() -> None:
    """A data worker must not start an accelerator, and reading digits must not need the TFDS packages."""
    code = (
        "import sys; from pbjax.data import load; load('digits');"
        "print([m for m in ('jax', 'tensorflow', 'tensorflow_datasets', 'array_record') if m in sys.modules])"
    )
    done = run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
