"""From a name and options to a `Dataset`."""

import os
from pathlib import Path

import numpy as np

from pbjax.data.cache import cached, folder_digest
from pbjax.data.dataset import DataError, Dataset, from_arrays
from pbjax.data.digits import read_digits
from pbjax.data.idx import read_idx_folder
from pbjax.data.images import DATASETS, PUBLISHED, Images, check_images
from pbjax.data.locate import locate
from pbjax.data.permutation import TEST_LABELS, TRAIN_LABELS, TRAIN_SUBSET, fixed_order
from pbjax.data.pixels import PerChannel, average_pool, check_map, to_inputs
from pbjax.data.tfds_folder import check_tfds_folder, read_tfds_folder


def load(
    name: str = "digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    binary: bool = False,
    pool: int | None = None,
    limit: int | None = None,
    shuffle_labels: int | None = None,
    flatten: bool = True,
    shift: PerChannel = 0.0,
    scale: PerChannel | None = None,
) -> Dataset:
    r"""Load a data set as host arrays; never downloads.

    $$\text{input} = (\text{pixel} - \text{shift}) / \text{scale}$$

    `digits` is embedded. The others come from a folder prepared by tensorflow-datasets in the array_record format
    (decoded once into a checksummed cache), or, for `mnist` and `fashion_mnist`, from the four original `.gz` files.
    Rows keep the order of their source; TFDS shuffles when it prepares, so the two routes give the same rows in
    another order, and `limit` then selects other ones.

    Args:
        name: `"digits"`, `"mnist"`, `"fashion_mnist"`, `"cifar10"` or `"cifar100"`, the last with its 100 fine labels.
            Reading `"cifar100"` has been tested on a synthetic folder in the layout of TFDS cifar100 3.0.2 only.
        data_dir: folder of the data; `TFDS_DATA_DIR` if left out. Not needed for `"digits"`.
        cache_dir: folder of the decoded images; else `PBJAX_CACHE`, `$XDG_CACHE_HOME/pbjax` or `~/.cache/pbjax`.
        binary: label 0 for the first half of the classes, 0 to 4 of ten, and 1 for the others. For `"cifar10"` that is
            airplane, automobile, bird, cat, deer against dog, frog, horse, ship, truck.
        pool: side of the squares of pixels that are averaged, a divisor of height and width: 2 makes 28x28 to 14x14.
        limit: number of training rows to keep, 1..n: the first ones of a permutation that is the same for everyone,
            so smaller subsets lie within larger ones. The test set stays whole.
        shuffle_labels: non-negative seed of a permutation of the labels, train and test each within itself: the
            control without anything to learn, whose true risk is that of guessing.
        flatten: `False` keeps inputs as `[n, height, width, channels]`.
        shift: pixel value that becomes 0, in the units of the file (0..255, digits 0..16); one number or one a
            channel. It must be fixed without looking at the certified rows, or the prior depends on the data and the
            certificate is void.
        scale: positive divisor, as `shift`; the largest pixel value (255, digits 16) if left out.

    Returns:
        The data set: inputs `[n, d]` float32 and labels `[n]` int32 for train and test, in 0..1 by default.

    Raises:
        DataError: an option is out of range, or the data folder is incomplete or corrupt.
        DataNotFoundError: the data set is not on this machine; the message lists the ways to get it.

    Example:
        >>> from pbjax.data import load
        >>> digits = load("digits")
        >>> digits.train_inputs.shape, digits.test_inputs.shape, digits.image_shape
        ((1437, 64), (360, 64), (8, 8, 1))
        >>> float(digits.train_inputs.min()), float(digits.train_inputs.max())
        (0.0, 1.0)
        >>> small = load("digits", binary=True, pool=2, limit=100, flatten=False)
        >>> small.name, small.train_inputs.shape, small.num_classes
        ('digits-binary-pool2-limit100', (100, 4, 4, 1), 2)
    """
    if name not in DATASETS:
        raise DataError(f"name = {name!r} is not a known data set: choose one of {', '.join(DATASETS)}")
    if shuffle_labels is not None and (isinstance(shuffle_labels, bool) or shuffle_labels < 0):
        raise DataError(f"shuffle_labels = {shuffle_labels} is not a seed: give a non-negative integer")
    published = PUBLISHED[name]
    height, width, channels = published.image_shape
    if pool is not None and (pool < 1 or height % pool or width % pool):
        raise DataError(f"pool = {pool} does not divide {name}'s {height}x{width} pixels: give a common divisor")
    shift_array, scale_array = check_map(shift, published.full_scale if scale is None else scale, channels=channels)

    images, source = _read(name, data_dir, cache_dir)
    rows = len(images.train_labels)
    if limit is not None and not 1 <= limit <= rows:
        raise DataError(f"limit = {limit} is not a number of training rows of {name}: give 1 to {rows}")

    train_labels, test_labels = images.train_labels, images.test_labels
    if shuffle_labels is not None:  # before the limit, so that a row has the same label in every subset
        train_labels = train_labels[fixed_order(rows, TRAIN_LABELS, seed=shuffle_labels)]
        test_labels = test_labels[fixed_order(len(test_labels), TEST_LABELS, seed=shuffle_labels)]
    if binary:
        train_labels, test_labels = (
            (labels >= published.num_classes // 2).astype(np.int32) for labels in (train_labels, test_labels)
        )
    train_images = images.train_images
    if limit is not None:
        keep = fixed_order(rows, TRAIN_SUBSET)[:limit]
        train_images, train_labels = train_images[keep], train_labels[keep]

    train_inputs, test_inputs = (
        to_inputs(*average_pool(part, pool or 1), shift=shift_array, scale=scale_array)
        for part in (train_images, images.test_images)
    )
    image_shape = train_inputs.shape[1:]
    if flatten:
        train_inputs, test_inputs = (inputs.reshape(len(inputs), -1) for inputs in (train_inputs, test_inputs))
    options = {
        "binary": binary,
        f"pool{pool}": pool is not None and pool > 1,
        f"limit{limit}": limit is not None,
        f"shuffled{shuffle_labels}": shuffle_labels is not None,
    }
    return from_arrays(
        train_inputs,
        train_labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        num_classes=2 if binary else published.num_classes,
        name="-".join([name, *(option for option, used in options.items() if used)]),
        image_shape=image_shape,
        source=source,
    )


def _read(
    name: str, data_dir: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> tuple[Images, str]:
    if name == "digits":
        images, source = read_digits(), "scikit-learn digits"
        check_images(name, images, where="scikit-learn")
        return images, source
    kind, folder = locate(name, data_dir)
    if kind == "idx":  # unpacking takes no longer than reading a cache would
        images, source = read_idx_folder(folder), f"idx files of {name}"
    else:
        version = check_tfds_folder(folder, name)
        try:
            digest = folder_digest(folder)
        except OSError as error:
            raise DataError(f"cannot read the data folder {folder} ({error}): make its files readable") from error
        images = cached(
            name,
            digest,
            lambda: read_tfds_folder(folder, name),
            cache_dir=None if cache_dir is None else Path(cache_dir).expanduser(),
        )
        source = f"TFDS {name}/{version}"
    check_images(name, images, where=str(folder))
    return images, source
