"""Prepared folders: read without TensorFlow, found where they lie, damage and mix-ups named."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from pbjax.data import DataError, DataNotFoundError, load
from pbjax.data.images import Images, check_images


@pytest.mark.parametrize(("name", "version"), [("mnist", "3.0.1"), ("cifar10", "3.0.2"), ("cifar100", "3.0.2")])
def test_pixels_and_labels_come_back_in_order(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, name: str, version: str
) -> None:
    images = make_images(name, train=200, test=150)
    write_tfds(tmp_path, name, images, version=version)
    data = load(name, data_dir=tmp_path, flatten=False)
    np.testing.assert_array_equal(data.train_inputs, images.train_images.astype(np.float32) / 255)
    np.testing.assert_array_equal(data.test_inputs, images.test_images.astype(np.float32) / 255)
    np.testing.assert_array_equal(data.train_labels, images.train_labels)
    np.testing.assert_array_equal(data.test_labels, images.test_labels)
    assert data.source == f"TFDS {name}/{version}"
    assert data.num_classes == (100 if name == "cifar100" else 10)
    assert "tensorflow" not in sys.modules


def test_halves_of_a_hundred_classes(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    images = make_images("cifar100", train=200, test=150)
    write_tfds(tmp_path, "cifar100", images)
    data = load("cifar100", data_dir=tmp_path, binary=True)
    np.testing.assert_array_equal(data.test_labels, images.test_labels >= 50)
    with pytest.raises(DataError, match="holds cifar100, not cifar10"):
        load("cifar10", data_dir=tmp_path / "cifar100" / "3.0.1")


def test_cifar100_is_whole_with_500_and_100_images_a_class(caplog: pytest.LogCaptureFixture) -> None:
    def part(rows: int) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to(np.zeros((32, 32, 3), np.uint8), (rows, 32, 32, 3)), np.arange(rows) % 100

    check_images("cifar100", Images(*part(50_000), *part(10_000)), where="here")
    assert caplog.text == ""
    check_images("cifar100", Images(*part(49_999), *part(10_000)), where="here")
    assert "holds 49999 train and 10000 test rows, not the published cifar100 (50000 and 10000)" in caplog.text


@pytest.mark.parametrize("place", [".", "mnist", "mnist/3.0.1"])
def test_root_name_and_version_folder_all_do(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, place: str
) -> None:
    write_tfds(tmp_path, "mnist", make_images())
    assert load("mnist", data_dir=tmp_path / place).num_train == 30


def test_environment_names_the_folder(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tfds(tmp_path, "mnist", make_images())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load("mnist").num_train == 30


def test_the_newest_version_is_read(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    write_tfds(tmp_path, "mnist", make_images(train=10), version="3.0.9")
    write_tfds(tmp_path, "mnist", make_images(train=20), version="3.0.10")
    data = load("mnist", data_dir=tmp_path)
    assert (data.num_train, data.source) == (20, "TFDS mnist/3.0.10")


def test_both_routes_give_the_same_data(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, write_idx: Callable
) -> None:
    images = make_images()
    write_tfds(tmp_path / "prepared", "mnist", images)
    write_idx(tmp_path / "original", images)
    options = {"pool": 2, "binary": True, "limit": 11, "shuffle_labels": 5}
    prepared, original = (load("mnist", data_dir=tmp_path / place, **options) for place in ("prepared", "original"))
    assert prepared.checksum == original.checksum


def test_a_prepared_folder_is_preferred_to_idx_files(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, write_idx: Callable
) -> None:
    write_tfds(tmp_path, "mnist", make_images())
    write_idx(tmp_path / "mnist", make_images())
    assert load("mnist", data_dir=tmp_path).source == "TFDS mnist/3.0.1"


def test_shift_and_scale_by_channel(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    images = make_images("cifar10")
    write_tfds(tmp_path, "cifar10", images)
    shift, scale = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    data = load("cifar10", data_dir=tmp_path, shift=shift, scale=scale, flatten=False)
    np.testing.assert_allclose(data.test_inputs, (images.test_images - np.array(shift)) / np.array(scale), rtol=1e-6)


def test_missing_data_lists_the_ways_to_get_it(tmp_path: Path) -> None:
    for options, reason in (
        ({}, "no data folder is named"),
        ({"data_dir": tmp_path}, "no fashion_mnist in the data folder"),
        ({"data_dir": tmp_path / "absent"}, "does not exist"),
    ):
        with pytest.raises(DataNotFoundError, match=reason) as caught:
            load("fashion_mnist", **options)
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, ValueError)
        for way in ("TFDS_DATA_DIR", "--data-dir", "tfds build", "ubyte.gz", "dataset-fashion-mnist", "'digits'"):
            assert way in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataNotFoundError) as caught:
        load("cifar10", data_dir=tmp_path)
    assert "ubyte.gz" not in str(caught.value)  # CIFAR-10 never came in that format


def cut_shard(folder: Path) -> None:
    shard = next(folder.glob("*-train.*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def garble_shard(folder: Path) -> None:
    shard = next(folder.glob("*-test.*"))
    shard.write_bytes(np.random.default_rng(0).bytes(shard.stat().st_size))


def remove_shard(folder: Path) -> None:
    next(folder.glob("*-test.*")).unlink()


def remove_features(folder: Path) -> None:
    (folder / "features.json").unlink()


def garble_info(folder: Path) -> None:
    (folder / "dataset_info.json").write_text("{")


def info_without_name(folder: Path) -> None:
    (folder / "dataset_info.json").write_text("[]")


@pytest.mark.parametrize(
    "damage", [cut_shard, garble_shard, remove_shard, remove_features, garble_info, info_without_name]
)
def test_damage_names_the_folder_and_the_remedy(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, damage: Callable
) -> None:
    folder = write_tfds(tmp_path, "mnist", make_images())
    damage(folder)
    with pytest.raises(DataError, match=r"prepare .*again") as caught:
        load("mnist", data_dir=tmp_path)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))


def test_images_of_another_size_are_refused(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    images = make_images()
    write_tfds(tmp_path, "mnist", images._replace(test_images=images.test_images[:, :14]))
    with pytest.raises(DataError, match=r"size \(28, 14\) instead of L and \(28, 28\)"):
        load("mnist", data_dir=tmp_path)


def test_label_out_of_range(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    images = make_images()
    images.test_labels[2] = 10
    write_tfds(tmp_path, "mnist", images)
    with pytest.raises(DataError, match=r"test labels\[2\] = 10 is outside 0\.\.9"):
        load("mnist", data_dir=tmp_path)


def test_another_data_set_in_the_named_folder(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    folder = write_tfds(tmp_path, "fashion_mnist", make_images())
    with pytest.raises(DataError, match="holds fashion_mnist, not mnist"):
        load("mnist", data_dir=folder)


def test_tfrecord_folders_are_refused_with_the_command(
    tmp_path: Path, make_images: Callable, write_tfds: Callable
) -> None:
    folder = write_tfds(tmp_path, "mnist", make_images())
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"tfrecord format.*tfds build mnist --file_format=array_record"):
        load("mnist", data_dir=tmp_path)


def test_a_missing_reader_is_named(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tfds(tmp_path, "mnist", make_images())
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="pip install tensorflow-datasets pillow"):
        load("mnist", data_dir=tmp_path)


def test_no_network_code_runs(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    write_tfds(tmp_path, "mnist", make_images())
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load("mnist", data_dir=tmp_path).num_train == 30
    with pytest.raises(DataNotFoundError):
        load("cifar10", data_dir=tmp_path)


def test_a_fresh_process_reads_under_warnings_as_errors(
    tmp_path: Path, make_images: Callable, write_tfds: Callable
) -> None:
    """The import of tensorflow-datasets is where warnings would come from, and here it is long done."""
    write_tfds(tmp_path, "mnist", make_images())
    code = (
        "import sys; from pbjax.data import load; print(load('mnist', data_dir=sys.argv[1]).num_train);"
        "print([m for m in ('jax', 'tensorflow') if m in sys.modules])"
    )
    done = run([sys.executable, "-W", "error", "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["30", "[]"]
    (line,) = done.stderr.splitlines()  # no reader adds a line of its own
    assert "holds 30 train and 20 test rows" in line


def test_decoding_is_announced(
    tmp_path: Path, make_images: Callable, write_tfds: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write_tfds(tmp_path, "mnist", make_images())
    with caplog.at_level(logging.INFO, logger="pbjax.data"):
        load("mnist", data_dir=tmp_path)
        load("mnist", data_dir=tmp_path)
    assert caplog.text.count("decoding mnist") == 1
