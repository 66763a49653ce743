"""The cache: decoded once, verified at every read, rebuilt when damaged, done without when it cannot be written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pbjax.data import load
from pbjax.data.cache import cached, default_cache_dir
from pbjax.data.images import Images


class Reader:
    """Counts how often the source is decoded."""

    def __init__(self, images: Images) -> None:
        self.images, self.calls = images, 0

    def __call__(self) -> Images:
        self.calls += 1
        return self.images


@pytest.fixture
def reader(make_images: Callable) -> Reader:
    return Reader(make_images())


def assert_same(left: Images, right: Images) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def cache_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_decodes_once(tmp_path: Path, reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "deep" / "folder"
    for _ in range(3):
        assert_same(cached("mnist", "source", reader, cache_dir=folder), reader.images)
    assert reader.calls == 1
    assert [path.name[:6] for path in folder.iterdir()] == ["mnist-"]
    assert caplog.text == ""


def test_another_source_is_another_file(tmp_path: Path, reader: Reader) -> None:
    cached("mnist", "one", reader, cache_dir=tmp_path / "c")
    cached("mnist", "two", reader, cache_dir=tmp_path / "c")
    assert (reader.calls, len(list((tmp_path / "c").iterdir()))) == (2, 2)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_pixel_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def other_pixels_under_the_old_checksum(path: Path) -> None:
    """A well-formed archive, as a faulty writer would leave it: only the checksum can tell."""
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["test_images"] = arrays["test_images"] ^ 1
    np.savez(path, **arrays)


def without_checksum(path: Path) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive if name != "checksum"}
    np.savez(path, **arrays)


def pickled(path: Path) -> None:
    np.savez(path, train_images=np.array([{}], dtype=object))


def bare_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, flip_pixel_byte, other_pixels_under_the_old_checksum, without_checksum, pickled, bare_array],
)
def test_damage_is_noticed_and_repaired(
    tmp_path: Path, reader: Reader, caplog: pytest.LogCaptureFixture, damage: Callable
) -> None:
    folder = tmp_path / "c"
    cached("mnist", "source", reader, cache_dir=folder)
    damage(cache_file(folder))
    assert_same(cached("mnist", "source", reader, cache_dir=folder), reader.images)
    assert reader.calls == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is damaged or unreadable and is built again" in caplog.text
    assert_same(cached("mnist", "source", reader, cache_dir=folder), reader.images)
    assert reader.calls == 2


def test_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")  # permission bits would not stop a test that runs as root
    assert_same(cached("mnist", "source", reader, cache_dir=tmp_path / "file" / "cache"), reader.images)
    assert "cannot write the cache file" in caplog.text
    assert "PBJAX_CACHE" in caplog.text


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, reader: Reader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert_same(cached("mnist", "source", reader, cache_dir=tmp_path / "c"), reader.images)
    assert "No space left" in caplog.text
    assert list((tmp_path / "c").iterdir()) == []


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBJAX_CACHE", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "named"
    monkeypatch.delenv("PBJAX_CACHE")
    assert default_cache_dir() == tmp_path / "xdg" / "pbjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "pbjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "pbjax"


def test_no_home_folder_is_a_warning(
    reader: Reader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PBJAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert_same(cached("mnist", "source", reader), reader.images)
    assert "no cache for mnist" in caplog.text


def test_load_reads_an_edited_folder_anew(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    write_tfds(tmp_path, "mnist", make_images(seed=1))
    before = load("mnist", data_dir=tmp_path)
    assert load("mnist", data_dir=tmp_path).checksum == before.checksum
    write_tfds(tmp_path, "mnist", make_images(seed=2))
    assert load("mnist", data_dir=tmp_path).checksum != before.checksum
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_load_writes_where_it_is_told(tmp_path: Path, make_images: Callable, write_tfds: Callable) -> None:
    write_tfds(tmp_path, "mnist", make_images())
    load("mnist", data_dir=tmp_path, cache_dir=tmp_path / "mine")
    assert len(list((tmp_path / "mine").iterdir())) == 1
    assert not (tmp_path / "cache").exists()
