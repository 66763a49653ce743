"""Random crop, flip and cutout: pure functions on device that change the images of a minibatch and not its labels.

Every image draws for itself from the one key. A certificate holds for the risk that it bounds: augment the images that
a network or posterior is trained on, and leave those alone whose empirical risk enters a bound.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from pbjax._checks import check_finite, check_range

__all__ = ["augment", "cutout", "random_crop", "random_flip"]


def random_crop(key: jax.Array, images: ArrayLike, *, padding: int = 4, fill: ArrayLike = 0.0) -> jax.Array:
    r"""Pad on all sides and cut out a random window of the old size: a shift by up to `padding` pixels.

    out[b, i, j] = padded[b, i + u_b, j + v_b], u_b and v_b independent and uniform on {0, ..., 2 padding}

    Args:
      key: random key.
      images: shape [n, h, w, c], floating.
      padding: pixels added on each side, >= 0; 4 is usual for 32x32. 0 returns the images as they are.
      fill: value of the added pixels, a number or one a channel [c], in the units of the images. 0 is black for pixels
        in 0..1; for normalised ones black is -shift/scale.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: images that are not [n, h, w, c] or not floating; a negative padding; a fill of another shape.

    Example:
      >>> corners = random_crop(jax.random.key(0), jnp.ones((100, 2, 2, 1)), padding=1).sum(axis=(1, 2, 3))
      >>> sorted(set(corners.tolist()))  # one row or column, or both, or none moved out of the picture
      [1.0, 2.0, 4.0]

    References:
      He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
    """
    images, fill = _door(images, fill)
    _check_padding(padding)
    return _crop(key, images, fill, padding=padding)


def random_flip(key: jax.Array, images: ArrayLike, *, probability: ArrayLike = 0.5) -> jax.Array:
    r"""Mirror each image left to right with a given probability.

    out[b, i, j] = images[b, i, w - 1 - j] with the probability, else images[b, i, j]

    Args:
      key: random key.
      images: shape [n, h, w, c], floating.
      probability: of a flip, in [0, 1]. Digits and letters do not survive one: give those 0.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: images that are not [n, h, w, c] or not floating; a probability outside [0, 1].

    Example:
      >>> image = jnp.array([[1.0, 2.0, 3.0]]).reshape(1, 1, 3, 1)
      >>> random_flip(jax.random.key(0), image, probability=1.0).ravel().tolist()
      [3.0, 2.0, 1.0]

    References:
      Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012,
      section 4.1.
    """
    images, _ = _door(images, 0.0)
    check_range("probability", probability, low=0.0, high=1.0)
    return _flip(key, images, probability)


def cutout(key: jax.Array, images: ArrayLike, *, size: int = 16, fill: ArrayLike = 0.0) -> jax.Array:
    r"""Blank a square whose centre is uniform over the pixels; what lies beyond the border is lost.

    out[b, i, j] = fill where 0 <= i - u_b + floor(size/2) < size and 0 <= j - v_b + floor(size/2) < size, else
    images[b, i, j]; u_b uniform on {0, ..., h - 1} and v_b on {0, ..., w - 1}

    With a = floor(size/2) and d = size - 1 - a the expected height of the cut is size - (a(a+1) + d(d+1)) / (2h), its
    width the same with w, and the expected area their product: 196 of 1,024 pixels for size 16 in 32x32.

    Args:
      key: random key.
      images: shape [n, h, w, c], floating.
      size: side of the square in pixels, 1..min(h, w); the paper takes 16 for CIFAR-10 and 8 for CIFAR-100.
      fill: value of the pixels in the square, a number or one a channel [c], in the units of the images. The paper
        cuts normalised images, so that its 0 is the mean colour.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: images that are not [n, h, w, c] or not floating; a size outside 1..min(h, w); a fill of another
        shape.

    Example:
      >>> cut = cutout(jax.random.key(0), jnp.ones((100, 3, 3, 1)), size=2)
      >>> areas = 9 - cut.sum(axis=(1, 2, 3))
      >>> sorted(set(areas.tolist()))  # clipped at no border, one or two
      [1.0, 2.0, 4.0]

    References:
      DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", arXiv 1708.04552.
    """
    images, fill = _door(images, fill)
    _check_size("size", size, images.shape)
    return _cutout(key, images, fill, size)


def augment(
    key: jax.Array,
    images: ArrayLike,
    *,
    padding: int = 4,
    flip: bool = True,
    cutout_size: int | None = None,
    fill: ArrayLike = 0.0,
) -> jax.Array:
    r"""Crop, flip with probability 1/2 and cut out, in that order, each with a key of its own.

    out = cutout(key_3, random_flip(key_2, random_crop(key_1, images)))

    The three keys are the same whatever is switched on, so that arms of a comparison share their crops and flips.

    Args:
      key: random key.
      images: shape [n, h, w, c], floating.
      padding: reach of the crop in pixels, >= 0; 0 switches it off.
      flip: whether images are mirrored.
      cutout_size: side of the square in pixels, 1..min(h, w); None switches it off.
      fill: value of the pixels that crop and cutout make up, a number or one a channel [c].

    Returns:
      Images of the same shape and dtype; with everything off, the images as they are.

    Raises:
      ValueError: as `random_crop` and `cutout`.

    Example:
      >>> images = jnp.ones((8, 32, 32, 3))
      >>> augment(jax.random.key(0), images, cutout_size=16).shape
      (8, 32, 32, 3)
      >>> bool((augment(jax.random.key(0), images, padding=0, flip=False) == images).all())
      True
    """
    images, fill = _door(images, fill)
    _check_padding(padding)
    if cutout_size is not None:
        _check_size("cutout_size", cutout_size, images.shape)
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    images = _crop(crop_key, images, fill, padding=padding)
    if flip:
        images = _flip(flip_key, images, 0.5)
    if cutout_size is not None:
        images = _cutout(cutout_key, images, fill, cutout_size)
    return jnp.asarray(images)


@partial(jax.jit, static_argnames="padding")
def _crop(key: jax.Array, images: jax.Array, fill: jax.Array, *, padding: int) -> jax.Array:
    if padding == 0:
        return images
    n, *window = images.shape
    starts = jax.random.randint(key, (n, 2), 0, 2 * padding + 1, jnp.int32)
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    inside = jnp.pad(jnp.ones((1, *window[:2], 1), bool), border)
    padded = jnp.where(inside, jnp.pad(images, border), fill)
    # One gather of whole windows, nearly as fast as a copy on CPU. One-hot products or chains of selects take five
    # times as long and more, and a product would round on hardware with short floats and spread a NaN over its row.
    starts = jnp.concatenate([starts, jnp.zeros((n, 1), jnp.int32)], axis=1)
    return jax.vmap(lambda image, start: lax.dynamic_slice(image, tuple(start), window))(padded, starts)


@jax.jit
def _flip(key: jax.Array, images: jax.Array, probability: ArrayLike) -> jax.Array:
    # float32 whatever jax_enable_x64 says, so that the same key flips the same images.
    flips = jax.random.uniform(key, (len(images), 1), jnp.float32) < probability
    # Taken by column, not chosen between an image and its mirror: inside a scan on CPU the compiler fuses that choice
    # into the gather of the crop and evaluates both for every pixel, and the pair takes seven times as long. The
    # default mode stays though no column is out of bounds: promising so lets the gather be fused into its readers,
    # and the pair takes twice as long.
    columns = lax.broadcasted_iota(jnp.int32, (1, images.shape[2]), 1)
    columns = jnp.where(flips, images.shape[2] - 1 - columns, columns)
    return jnp.take_along_axis(images, columns[:, None, :, None], axis=2)


@jax.jit
def _cutout(key: jax.Array, images: jax.Array, fill: jax.Array, size: int | jax.Array) -> jax.Array:
    n, height, width, _ = images.shape
    centres = jax.random.randint(key, (n, 2), 0, jnp.array([[height, width]]), jnp.int32)
    rows, columns = (
        lax.broadcasted_iota(jnp.int32, (n, side), 1) - centres[:, axis, None] + size // 2
        for axis, side in ((0, height), (1, width))
    )
    cut_rows, cut_columns = ((offsets >= 0) & (offsets < size) for offsets in (rows, columns))
    return jnp.where(cut_rows[:, :, None, None] & cut_columns[:, None, :, None], fill, images)


def _door(images: ArrayLike, fill: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The images, and the fill as [1, 1, 1, 1 or c] of their dtype."""
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images has shape {images.shape}: it must be [n, height, width, channels], not flattened")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images has dtype {images.dtype}: it must be floating, as a network reads them")
    check_finite("fill", fill)
    fill = jnp.asarray(fill, images.dtype)
    if fill.size != 1 and fill.shape != images.shape[-1:]:
        raise ValueError(
            f"fill has shape {fill.shape}: it must be one number or one for each of the {images.shape[-1]} channels"
        )
    return images, fill.reshape(1, 1, 1, -1)


def _check_padding(padding: int) -> None:
    check_range("padding", padding, low=0, whole=True, remedy="it counts pixels and must be a whole number, 0 or more")


def _check_size(name: str, size: int, shape: tuple[int, ...]) -> None:
    most = min(shape[1:3])
    remedy = f"it must be a whole number of pixels, 1..{most} for images of {shape[1]}x{shape[2]}"
    check_range(name, size, low=1, high=most, whole=True, remedy=remedy)
