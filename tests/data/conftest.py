"""Tiny data folders in the real formats, and an environment that names no real one."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pbjax.data.images import PUBLISHED, Images

FolderWriter = Callable[..., Path]


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, or finds data that it did not ask for."""
    monkeypatch.setenv("PBJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def make_images() -> Callable[..., Images]:
    """Random images of a data set's shape: every class is there, and no two images are alike."""

    def make(name: str = "mnist", *, train: int = 30, test: int = 20, seed: int = 0) -> Images:
        rng = np.random.default_rng(seed)
        shape, classes = PUBLISHED[name].image_shape, PUBLISHED[name].num_classes
        return Images(
            rng.integers(0, 256, (train, *shape), dtype=np.uint8),
            rng.permutation(np.arange(train) % classes).astype(np.uint8),
            rng.integers(0, 256, (test, *shape), dtype=np.uint8),
            rng.permutation(np.arange(test) % classes).astype(np.uint8),
        )

    return make


@pytest.fixture
def write_idx() -> FolderWriter:
    """Writes images as the four original files."""

    def write(folder: Path, images: Images) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for stem, pixels, labels in (
            ("train", images.train_images, images.train_labels),
            ("t10k", images.test_images, images.test_labels),
        ):
            for kind, array in (("images-idx3", pixels[..., 0]), ("labels-idx1", labels)):
                header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
                with gzip.open(folder / f"{stem}-{kind}-ubyte.gz", "wb") as stream:
                    stream.write(header + array.astype(np.uint8).tobytes())
        return folder

    return write


@pytest.fixture
def write_tfds() -> FolderWriter:
    """Writes images as a prepared version folder, the way tensorflow-datasets lays one out."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    def write(root: Path, name: str, images: Images, *, version: str = "3.0.1") -> Path:
        folder = root / name / version
        folder.mkdir(parents=True, exist_ok=True)
        splits = []
        for split, pixels, labels in (
            ("train", images.train_images, images.train_labels),
            ("test", images.test_images, images.test_labels),
        ):
            writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
            for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                png = io.BytesIO()
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, format="PNG")
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(png.getvalue())
                example.features.feature["label"].int64_list.value.append(int(label))
                if name.startswith("cifar"):
                    example.features.feature["id"].bytes_list.value.append(b"%s_%05d" % (split.encode(), row))
                if name == "cifar100":  # five fine classes make a coarse one; the real ones are not in this order
                    example.features.feature["coarse_label"].int64_list.value.append(int(label) // 5)
                writer.write(example.SerializeToString())
            writer.close()
            splits.append({"name": split, "numBytes": "1", "shardLengths": [str(len(labels))]})
            splits[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info = {"name": name, "version": version, "fileFormat": "array_record", "splits": splits}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        core = "tensorflow_datasets.core.features"
        shape = {"dimensions": [str(size) for size in PUBLISHED[name].image_shape]}
        features = {
            "image": {
                "pythonClassName": f"{core}.image_feature.Image",
                "image": {"dtype": "uint8", "shape": shape, "encodingFormat": "png"},
            },
            "label": {
                "pythonClassName": f"{core}.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": str(PUBLISHED[name].num_classes)},
            },
        }
        if name.startswith("cifar"):
            features["id"] = {"pythonClassName": f"{core}.text_feature.Text", "text": {}}
        if name == "cifar100":
            features["coarse_label"] = features["label"] | {"classLabel": {"numClasses": "20"}}
        (folder / "features.json").write_text(
            json.dumps(
                {
                    "pythonClassName": f"{core}.features_dict.FeaturesDict",
                    "featuresDict": {"features": features},
                }
            )
        )
        return folder

    return write
