"""Data sets as host arrays: embedded digits, TFDS folders, original idx files; nothing is ever downloaded.

`load` gives one frozen `Dataset` of numpy arrays. The map from pixels to inputs uses constants only: a mean or a
standard deviation taken from the certified rows would make the prior, which lives on the network that reads these
inputs, depend on the data, and a PAC-Bayes bound would no longer hold.

`augmentation` works on device and is imported on first use: the rest of the room runs without jax.

Example:
    >>> from pbjax.data import load
    >>> digits = load("digits", binary=True)
    >>> digits.train_inputs.shape, digits.test_inputs.shape, digits.num_classes
    ((1437, 64), (360, 64), 2)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pbjax.data.dataset import DataError as DataError
from pbjax.data.dataset import DataNotFoundError as DataNotFoundError
from pbjax.data.dataset import Dataset as Dataset
from pbjax.data.dataset import from_arrays as from_arrays
from pbjax.data.images import DATASETS as DATASETS
from pbjax.data.loading import load as load

if TYPE_CHECKING:
    from types import ModuleType

    from pbjax.data import augmentation as augmentation

__all__ = ["DATASETS", "DataError", "DataNotFoundError", "Dataset", "augmentation", "from_arrays", "load"]


def __getattr__(name: str) -> "ModuleType":
    if name == "augmentation":
        return import_module("pbjax.data.augmentation")
    raise AttributeError(f"module 'pbjax.data' has no attribute {name!r}")
