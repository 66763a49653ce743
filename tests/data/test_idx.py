"""The original files: read back as written, and every kind of damage named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pbjax.data import DataError, load
from pbjax.data.idx import FILES, read_idx, read_idx_folder


@pytest.mark.parametrize("place", [".", "mnist"])
def test_load_finds_and_reads_the_four_files(
    tmp_path: Path, make_images: Callable, write_idx: Callable, place: str
) -> None:
    images = make_images()
    write_idx(tmp_path / place, images)
    data = load("mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(data.train_inputs, images.train_images.reshape(30, -1).astype(np.float32) / 255)
    np.testing.assert_array_equal(data.train_labels, images.train_labels)
    np.testing.assert_array_equal(data.test_inputs, images.test_images.reshape(20, -1).astype(np.float32) / 255)
    np.testing.assert_array_equal(data.test_labels, images.test_labels)
    assert data.source == "idx files of mnist"
    assert not (tmp_path / "cache").exists()


def test_debians_folder_name_is_found(tmp_path: Path, make_images: Callable, write_idx: Callable) -> None:
    write_idx(tmp_path / "fashion-mnist", make_images())
    assert load("fashion_mnist", data_dir=tmp_path, pool=2).train_inputs.shape == (30, 14 * 14)


def test_data_dir_wins_over_the_environment(
    tmp_path: Path, make_images: Callable, write_idx: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "a", make_images(seed=1))
    write_idx(tmp_path / "b", make_images(seed=2))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a"))
    from_environment = load("mnist")
    assert from_environment.checksum == load("mnist", data_dir=tmp_path / "a").checksum
    assert from_environment.checksum != load("mnist", data_dir=tmp_path / "b").checksum


def test_pooling_averages_28_to_14(tmp_path: Path, make_images: Callable, write_idx: Callable) -> None:
    images = make_images()
    write_idx(tmp_path, images)
    pooled = load("mnist", data_dir=tmp_path, pool=2, flatten=False).train_inputs
    expected = images.train_images.reshape(30, 14, 2, 14, 2, 1).astype(np.float64).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=hnp.arrays(np.uint8, st.lists(st.integers(1, 6), min_size=3, max_size=3).map(tuple)))
def test_round_trip(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "any.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + np.array(array.shape, ">u4").tobytes() + array.tobytes()))
    np.testing.assert_array_equal(read_idx(path, dimensions=3), array)


def truncate_gzip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_compressed_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def not_gzip(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_rows(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def other_magic(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0\0\x0d" + gzip.decompress(path.read_bytes())[3:]))


@pytest.mark.parametrize("damage", [truncate_gzip, flip_compressed_byte, not_gzip, empty, drop_rows, other_magic])
@pytest.mark.parametrize("file", [FILES[0], FILES[3]])
def test_damage_names_the_file_and_the_remedy(
    tmp_path: Path, make_images: Callable, write_idx: Callable, damage: Callable, file: str
) -> None:
    write_idx(tmp_path, make_images())
    damage(tmp_path / file)
    with pytest.raises(DataError, match="restore the original file") as caught:
        read_idx_folder(tmp_path)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path, make_images: Callable, write_idx: Callable) -> None:
    write_idx(tmp_path, make_images())
    (tmp_path / FILES[2]).unlink()
    with pytest.raises(DataError, match=f"lacks {FILES[2]}: put the missing"):
        load("mnist", data_dir=tmp_path)


def test_more_images_than_labels(tmp_path: Path, make_images: Callable, write_idx: Callable) -> None:
    images = make_images()
    write_idx(tmp_path, images._replace(train_labels=images.train_labels[:-1]))
    with pytest.raises(DataError, match=r"\(30, 28, 28, 1\) and 29 labels"):
        load("mnist", data_dir=tmp_path)


def test_label_out_of_range_is_found_before_the_binary_map(
    tmp_path: Path, make_images: Callable, write_idx: Callable
) -> None:
    images = make_images()
    images.train_labels[4] = 77
    write_idx(tmp_path, images)
    with pytest.raises(DataError, match=r"mnist train labels\[4\] = 77 is outside 0\.\.9"):
        load("mnist", data_dir=tmp_path, binary=True)


def test_a_subset_is_announced(
    tmp_path: Path, make_images: Callable, write_idx: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write_idx(tmp_path, make_images())
    load("mnist", data_dir=tmp_path)
    assert "30 train and 20 test rows, not the published mnist (60000 and 10000)" in caplog.text


def test_fashion_mnist_is_not_taken_for_mnist(tmp_path: Path, write_idx: Callable) -> None:
    from pbjax.data.images import Images

    train, test = np.arange(60000) % 10, np.arange(10000) % 10
    blank = np.zeros((60000, 28, 28, 1), np.uint8)
    write_idx(tmp_path, Images(blank, train, blank[:10000], test))
    with pytest.raises(DataError, match="holds fashion_mnist, not mnist: load 'fashion_mnist'"):
        load("mnist", data_dir=tmp_path)
    assert load("fashion_mnist", data_dir=tmp_path, limit=10).num_train == 10
