"""Decoded pixels before any option is applied, and what is published about each data set."""

import logging
from typing import NamedTuple

import numpy as np

from pbjax.data.dataset import DataError, check_labels, content_checksum

_logger = logging.getLogger("pbjax.data")


class Images(NamedTuple):
    """Pixels and labels as the files hold them, in the files' order.

    Attributes:
        train_images: `[n, height, width, channels]` uint8.
        train_labels: `[n]` integers.
        test_images: `[m, height, width, channels]` uint8.
        test_labels: `[m]` integers.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class Published(NamedTuple):
    """What a data set's authors publish: enough to notice a wrong or incomplete copy.

    Attributes:
        image_shape: `(height, width, channels)`.
        full_scale: largest pixel value; the default map to inputs divides by it.
        train_counts: `[k]` training images a class.
        test_counts: `[k]` test images a class.
    """

    image_shape: tuple[int, int, int]
    full_scale: int
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return len(self.train_counts)


PUBLISHED = {
    "digits": Published(  # the counts are those of the fixed split in digits.py
        image_shape=(8, 8, 1),
        full_scale=16,
        train_counts=(143, 140, 142, 152, 139, 141, 145, 149, 144, 142),
        test_counts=(35, 42, 35, 31, 42, 41, 36, 30, 30, 38),
    ),
    "mnist": Published(
        image_shape=(28, 28, 1),
        full_scale=255,
        train_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        test_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
    "fashion_mnist": Published(
        image_shape=(28, 28, 1), full_scale=255, train_counts=(6000,) * 10, test_counts=(1000,) * 10
    ),
    "cifar10": Published(image_shape=(32, 32, 3), full_scale=255, train_counts=(5000,) * 10, test_counts=(1000,) * 10),
    "cifar100": Published(image_shape=(32, 32, 3), full_scale=255, train_counts=(500,) * 100, test_counts=(100,) * 100),
}

DATASETS = tuple(PUBLISHED)


def images_checksum(images: Images) -> str:
    """SHA-256 (hex) over pixels and labels."""
    return content_checksum(images._asdict())


def check_images(name: str, images: Images, *, where: str) -> None:
    """Raise `DataError` where the pixels or labels cannot be those of `name`; warn where rows are missing.

    MNIST and Fashion-MNIST come under the same file names with the same sizes, so their class counts tell them apart.
    """
    published = PUBLISHED[name]
    for part, pixels, labels in (
        ("train", images.train_images, images.train_labels),
        ("test", images.test_images, images.test_labels),
    ):
        if pixels.shape[1:] != published.image_shape or len(pixels) != len(labels) or len(pixels) == 0:
            raise DataError(
                f"{where} holds {part} images of shape {pixels.shape} and {len(labels)} labels, but {name} has "
                f"examples of shape {published.image_shape}, one label each: restore the files"
            )
        check_labels(f"{name} {part} labels", labels, num_classes=published.num_classes)
    counts = tuple(
        tuple(np.bincount(labels, minlength=published.num_classes).tolist())
        for labels in (images.train_labels, images.test_labels)
    )
    expected = {other: (entry.train_counts, entry.test_counts) for other, entry in PUBLISHED.items()}
    if counts == expected[name]:
        return
    for other, other_counts in expected.items():
        if counts == other_counts and PUBLISHED[other].image_shape == published.image_shape:
            raise DataError(f"{where} holds {other}, not {name}: load {other!r} or point the data folder elsewhere")
    _logger.warning(
        "%s holds %d train and %d test rows, not the published %s (%d and %d): results are those of another data set",
        where,
        len(images.train_labels),
        len(images.test_labels),
        name,
        sum(published.train_counts),
        sum(published.test_counts),
    )
