"""scikit-learn's digits: 1,797 images of 8x8 pixels that ship inside the package, so nothing needs to be fetched."""

import numpy as np

from pbjax.data.images import Images
from pbjax.data.permutation import DIGITS_SPLIT, fixed_order

NUM_TRAIN = 1437  # leaves 360 for the test: four fifths and one fifth


def read_digits() -> Images:
    """Digits as uint8 in 0..16, split into 1,437 train and 360 test rows by one fixed permutation.

    The file is ordered by writer, so its first rows are not a random draw of all; the permutation makes train and
    test exchangeable, which a test-set bound and a comparison of test risk with a certificate both need.

    Returns:
        Images of shape `[1437, 8, 8, 1]` and `[360, 8, 8, 1]`.

    References:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part).
    """
    from sklearn.datasets import load_digits  # half a second to import, so only when digits are asked for

    pixels, targets = load_digits(return_X_y=True)
    images = np.asarray(pixels).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(targets).astype(np.int32)
    order = fixed_order(len(labels), DIGITS_SPLIT)
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return Images(images[train], labels[train], images[test], labels[test])
