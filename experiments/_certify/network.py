"""The networks that a run returned, kept with orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pbjax import runs
from pbjax.runs import CheckpointStore

FOLDER = "network"


def save(directory: runs.RunDirectory, params: Any) -> None:
    """Keep the networks of all seeds, leading axis [S], in RUN/network."""
    CheckpointStore(directory.path / FOLDER, directory.config_hash, keep=1).save(0, params)


def load(path: Path, config: Any, template: Any) -> Any:
    """The networks of a finished run.

    Args:
        path: the run directory.
        config: its config.
        template: parameters of the network's shapes with a leading axis [S], such as `jax.eval_shape` gives after a
            `jax.vmap` of the network's init.

    Returns:
        Parameters, leading axis [S] in the order of the seeds.

    Raises:
        ValueError: there is no network.
    """
    found = CheckpointStore(Path(path) / FOLDER, runs.config_hash(config)).latest(template)
    if found is None:
        raise ValueError(f"{path} holds no network: finish the run first")
    return found.tree
