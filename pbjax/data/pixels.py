"""From pixels to network inputs: average pooling and an affine map by constants."""

from collections.abc import Sequence

import numpy as np

from pbjax.data.dataset import DataError

# One number for all channels, or one for each.
PerChannel = int | float | Sequence[int | float] | np.ndarray


def check_map(shift: PerChannel, scale: PerChannel, *, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale as float32 arrays `[1]` or `[channels]`, or a `DataError` that names the value."""
    arrays = []
    for name, value in (("shift", shift), ("scale", scale)):
        array = np.atleast_1d(np.asarray(value, dtype=np.float32))
        positive = name == "shift" or bool((array > 0).all())
        if array.shape not in ((1,), (channels,)) or not np.isfinite(array).all() or not positive:
            kind = "finite" if name == "shift" else "positive finite"
            raise DataError(
                f"{name} = {value} cannot map pixels: give one {kind} number or one for each of the {channels} channels"
            )
        arrays.append(array)
    return arrays[0], arrays[1]


def average_pool(images: np.ndarray, pool: int) -> tuple[np.ndarray, int]:
    """Sums over `pool` x `pool` squares and the number of pixels in each.

    Sums of bytes are exact, so pooled inputs have the same bits on every machine.

    Args:
        images: `[n, height, width, channels]` uint8.
        pool: side of a square, a divisor of height and width.

    Returns:
        Sums `[n, height/pool, width/pool, channels]` and `pool**2`; uint8 and 1 without pooling.

    Example:
        >>> import numpy as np
        >>> from pbjax.data.pixels import average_pool
        >>> average_pool(np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1), 2)
        (array([[[[6]]]], dtype=uint32), 4)
    """
    if pool == 1:
        return images, 1
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // pool, pool, width // pool, pool, channels)
    return squares.sum(axis=(2, 4), dtype=np.uint32), pool**2


def to_inputs(sums: np.ndarray, count: int, *, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`(sums / count - shift) / scale` in float32.

    Args:
        sums: `[n, height, width, channels]` unsigned integers.
        count: pixels in each sum, at least 1.
        shift: `[1]` or `[channels]` float32.
        scale: `[1]` or `[channels]` float32, positive.

    Returns:
        `[n, height, width, channels]` float32.
    """
    inputs = sums.astype(np.float32)
    if count > 1:
        inputs /= np.float32(count)
    inputs -= shift
    inputs /= scale
    return inputs
