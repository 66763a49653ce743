"""The networks that a run returned, kept with orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from pbjax import runs
from pbjax.runs import CheckpointStore

FOLDER = "network"


def save(directory: runs.RunDirectory, networks: Any) -> None:
    """Keep the networks of all seeds in RUN/network: {"end": ..., "best": ...}, each leaf with a leading axis [S]."""
    CheckpointStore(directory.path / FOLDER, directory.config_hash, keep=1).save(0, networks)


def load(path: Path, config: Any, template: Any) -> dict[str, Any]:
    """The networks of a finished run.

    Args:
        path: the run directory.
        config: its config.
        template: parameters of one network; only shapes and dtypes are read.

    Returns:
        {"end": parameters where the chains ended, "best": at each chain's best stop}, leading axis [S] in the order of
        the seeds.

    Raises:
        ValueError: there is no network.
    """
    one = jax.tree.map(lambda leaf: np.zeros((len(config.seeds), *leaf.shape), leaf.dtype), template)
    found = CheckpointStore(Path(path) / FOLDER, runs.config_hash(config)).latest({"end": one, "best": one})
    if found is None:
        raise ValueError(f"{path} holds no network: finish the run first")
    return found.tree
