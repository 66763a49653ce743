"""Crops are windows, flips mirror, squares are cut: by definition, by law, and image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pbjax.data.augmentation import augment, cutout, random_crop, random_flip

KEY = jax.random.key(0)


def _images(n=6, height=5, width=7, channels=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, height, width, channels)).astype(np.float32))


@pytest.mark.parametrize("padding", [1, 3])
def test_every_crop_is_a_window_of_the_padded_image(padding):
    images = _images(40)
    made = np.asarray(random_crop(KEY, images, padding=padding, fill=-2.5))
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(np.asarray(images), border, constant_values=-2.5)
    for before, after in zip(padded, made, strict=True):
        windows = [
            before[i : i + 5, j : j + 7] for i in range(2 * padding + 1) for j in range(2 * padding + 1)
        ]  # fmt: skip
        assert sum(np.array_equal(window, after) for window in windows) >= 1


def _shifts(n, padding):
    """(row, column) of the window of every image, read off a mark in the middle."""
    side = 2 * padding + 1
    images = jnp.zeros((n, side, side, 1)).at[:, padding, padding].set(1.0)
    made = np.asarray(random_crop(KEY, images, padding=padding))[..., 0].reshape(n, -1)
    assert (made.sum(axis=1) == 1).all()  # the mark never leaves the picture
    return np.divmod(made.argmax(axis=1), side)


def test_windows_are_uniform_and_rows_independent_of_columns():
    n, padding = 9000, 1
    rows, columns = _shifts(n, padding)
    counts = np.bincount(3 * rows + columns, minlength=9)
    assert stats.chisquare(counts).pvalue > 1e-5  # false alarm 1e-5


def test_flip_mirrors_about_half_of_the_images():
    images = _images(4000, 2, 3, 1)
    made = np.asarray(random_flip(KEY, images))
    mirrored = np.asarray(images)[:, :, ::-1]
    flipped = (made == mirrored).all(axis=(1, 2, 3))
    kept = (made == np.asarray(images)).all(axis=(1, 2, 3))
    assert (flipped ^ kept).all()
    assert stats.binomtest(int(flipped.sum()), 4000, 0.5).pvalue > 1e-5  # false alarm 1e-5
    np.testing.assert_array_equal(random_flip(KEY, images, probability=1.0), mirrored)
    np.testing.assert_array_equal(random_flip(KEY, images, probability=0.0), images)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_is_a_clipped_square_with_the_stated_area(size):
    n, height, width = 4000, 5, 8
    made = np.asarray(cutout(KEY, jnp.ones((n, height, width, 2)), size=size, fill=jnp.array([7.0, 9.0])))
    cut = made[..., 0] == 7.0
    np.testing.assert_array_equal(cut, made[..., 1] == 9.0)
    assert ((made[..., 0] == 1.0) | cut).all()
    rows, columns = cut.any(axis=2), cut.any(axis=1)
    np.testing.assert_array_equal(cut, rows[:, :, None] & columns[:, None, :])  # a rectangle
    a, d = size // 2, size - 1 - size // 2
    expected = np.prod([size - (a * (a + 1) + d * (d + 1)) / (2 * side) for side in (height, width)])
    areas = cut.sum(axis=(1, 2))
    error = areas.std(ddof=1) / n**0.5
    assert abs(areas.mean() - expected) < 4.5 * error + 1e-12  # false alarm 7e-6
    assert areas.max() == size**2


def test_images_draw_for_themselves():
    same = jnp.tile(_images(1), (50, 1, 1, 1))
    for change in (random_crop, random_flip, lambda key, x: cutout(key, x, size=2)):
        assert len(np.unique(np.asarray(change(KEY, same)).reshape(50, -1), axis=0)) > 1


def test_augment_is_the_three_in_order_and_nothing_when_all_are_off():
    images = _images()
    keys = jax.random.split(KEY, 3)
    by_hand = cutout(keys[2], random_flip(keys[1], random_crop(keys[0], images, padding=2, fill=0.5)), size=3, fill=0.5)
    np.testing.assert_array_equal(augment(KEY, images, padding=2, cutout_size=3, fill=0.5), by_hand)
    np.testing.assert_array_equal(augment(KEY, images, padding=0, flip=False), images)
    np.testing.assert_array_equal(random_crop(KEY, images, padding=0), images)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_dtype_is_kept_and_vmap_is_a_loop(dtype):
    images = _images().astype(dtype)
    call = jax.jit(lambda key, x: augment(key, x, padding=1, cutout_size=2))
    assert call(KEY, images).dtype == dtype
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(call, in_axes=(0, None))(keys, images)
    np.testing.assert_array_equal(together, jnp.stack([call(key, images) for key in keys]))


def test_the_same_with_and_without_wide_numbers():
    images = _images()
    wide = augment(KEY, images, padding=1, cutout_size=2)
    with jax.enable_x64(False):
        narrow = augment(jax.random.key(0), images, padding=1, cutout_size=2)
    np.testing.assert_array_equal(wide, narrow)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_crop(KEY, jnp.zeros((2, 3, 3)), padding=1), "not flattened"),
        (lambda: random_crop(KEY, jnp.zeros((2, 3, 3, 1), int), padding=1), "floating"),
        (lambda: random_crop(KEY, _images(), padding=-1), "padding = -1"),
        (lambda: cutout(KEY, _images(), size=6), "size = 6"),
        (lambda: augment(KEY, _images(), cutout_size=0), "cutout_size = 0"),
        (lambda: random_flip(KEY, _images(), probability=1.5), "probability"),
        (lambda: random_crop(KEY, _images(), fill=jnp.zeros(2)), "fill"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
