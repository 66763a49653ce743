"""Permutations that are the same for everyone: no user seed, no numpy version enters them."""

import numpy as np

# First word of the seed, one for each use, so that no two uses share a permutation.
DIGITS_SPLIT, TRAIN_SUBSET, TRAIN_LABELS, TEST_LABELS = 1, 2, 3, 4


def fixed_order(count: int, use: int, *, seed: int = 0) -> np.ndarray:
    """A permutation of 0..count-1 that depends on (count, use, seed) alone.

    It sorts the raw 64-bit output of PCG64. numpy promises that raw streams never change, which it does not promise
    of `Generator.permutation`; a split that moved with numpy would silently change every certificate.

    Args:
        count: number of rows, at least 1.
        use: one of the constants of this module.
        seed: non-negative integer.

    Returns:
        `[count]` int64.

    Example:
        >>> from pbjax.data.permutation import DIGITS_SPLIT, fixed_order
        >>> fixed_order(6, DIGITS_SPLIT).tolist()
        [2, 4, 5, 0, 3, 1]
    """
    return np.argsort(np.random.PCG64([use, seed]).random_raw(count), kind="stable")
