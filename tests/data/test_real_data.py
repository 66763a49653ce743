"""The published data sets, where this machine has them: counts a class, and the same pixels by both routes."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pbjax.data import Dataset, load

# Where Debian's package dataset-fashion-mnist puts the original files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="session")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for this module: each data set is decoded once a session."""
    return tmp_path_factory.mktemp("decoded")


def load_prepared(name: str, folder: Path, cache: Path) -> Dataset:
    if not (folder / name).is_dir():
        pytest.skip(f"the folder that TFDS_DATA_DIR names has no {name}")
    return load(name, data_dir=folder, cache_dir=cache)


def counts(data: Dataset) -> tuple[list[int], list[int]]:
    return np.bincount(data.train_labels).tolist(), np.bincount(data.test_labels).tolist()


def multiset(inputs: np.ndarray, labels: np.ndarray) -> Counter[bytes]:
    return Counter(
        hashlib.sha256(row.tobytes() + bytes([label])).digest() for row, label in zip(inputs, labels, strict=True)
    )


def test_mnist(tfds_data_dir: Path, decoded: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_prepared("mnist", tfds_data_dir, decoded)
    assert data.train_inputs.shape == (60_000, 784)
    assert counts(data) == (MNIST_TRAIN, MNIST_TEST)
    # Mean and spread that the literature quotes for x/255.
    np.testing.assert_allclose((data.train_inputs.mean(), data.train_inputs.std()), (0.1307, 0.3081), atol=5e-5)
    assert caplog.text == ""


def test_mnist_binary_pooled_is_read_from_the_cache(tfds_data_dir: Path, decoded: Path) -> None:
    load_prepared("mnist", tfds_data_dir, decoded)
    data = load("mnist", data_dir=tfds_data_dir, cache_dir=decoded, binary=True, pool=2)
    assert data.train_inputs.shape == (60_000, 196)
    assert counts(data) == (
        [sum(MNIST_TRAIN[:5]), sum(MNIST_TRAIN[5:])],
        [sum(MNIST_TEST[:5]), sum(MNIST_TEST[5:])],
    )
    np.testing.assert_allclose(data.train_inputs.mean(), 0.1307, atol=5e-5)


@pytest.mark.slow
def test_fashion_mnist_is_the_same_by_both_routes(tfds_data_dir: Path, decoded: Path) -> None:
    if not DEBIAN_FOLDER.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed, so there are no original files")
    prepared = load_prepared("fashion_mnist", tfds_data_dir, decoded)
    original = load("fashion_mnist", data_dir=DEBIAN_FOLDER)
    for part in ("train", "test"):
        one, other = (
            multiset(getattr(data, f"{part}_inputs"), getattr(data, f"{part}_labels")) for data in (prepared, original)
        )
        assert one == other
    assert counts(original) == ([6000] * 10, [1000] * 10)


@pytest.mark.slow
def test_fashion_mnist_counts(tfds_data_dir: Path, decoded: Path) -> None:
    assert counts(load_prepared("fashion_mnist", tfds_data_dir, decoded)) == ([6000] * 10, [1000] * 10)


@pytest.mark.slow
def test_cifar10(tfds_data_dir: Path, decoded: Path) -> None:
    data = load_prepared("cifar10", tfds_data_dir, decoded)
    assert data.train_inputs.shape == (50_000, 3072)
    assert counts(data) == ([5000] * 10, [1000] * 10)
    # Mean a channel that the literature quotes for x/255.
    means = data.train_inputs.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(means, (0.4914, 0.4822, 0.4465), atol=1e-4)
