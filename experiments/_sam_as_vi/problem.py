"""Data and network of a config."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments._sam_as_vi.training import Problem
from pbjax import data, models
from pbjax.data import DataError


def model_options(config: Any, num_classes: int) -> dict[str, Any]:
    """The arguments of `pbjax.models.build`."""
    if config.model == "mlp":
        given: dict[str, Any] = {"widths": (*config.hidden, num_classes), "activation": config.activation}
    elif config.model == "small_cnn":
        given = {"num_classes": num_classes, "channels": config.channels, "activation": config.activation}
    else:
        given = {"num_classes": num_classes, "depth": config.depth, "width": config.width}
    return {"builder": config.model, **given}


def data_options(config: Any) -> dict[str, Any]:
    """The arguments of `pbjax.data.load`, without folders and the name."""
    return {
        "pool": config.pool, "flatten": config.model == "mlp",
        "shift": config.shift[0] if len(config.shift) == 1 else config.shift,
        "scale": config.scale[0] if config.scale is not None and len(config.scale) == 1 else config.scale,
    }  # fmt: skip


def make_problem(config: Any) -> Problem:
    """Rows of the prior first, then the certified ones; validation rows are the last of the training set."""
    options = data_options(config) | {"data_dir": config.data_dir}
    dataset = data.load(config.dataset, limit=config.limit, **options)
    n = dataset.num_train - config.validation_rows
    prior_rows = int(n * config.prior_share)
    if prior_rows < config.batch_size or n - prior_rows < config.batch_size:
        raise DataError(
            f"{dataset.name} has {dataset.num_train} training rows, of which validation_rows = "
            f"{config.validation_rows} leave {max(n, 0)}: prior_share = {config.prior_share} of them, and the others, "
            f"must each fill a batch of {config.batch_size}"
        )
    if config.sharpness_rows > n:
        raise DataError(f"sharpness_rows = {config.sharpness_rows}: there are {n} training rows")
    # A fixed order that looks at no row: TFDS shuffles when it prepares, other sources may be sorted.
    order = np.random.default_rng(0).permutation(dataset.num_train)
    inputs, labels = jnp.asarray(dataset.train_inputs[order]), jnp.asarray(dataset.train_labels[order])
    other, checksums = None, [(dataset.name, dataset.checksum)]
    if config.other_dataset != "none":
        strange = data.load(config.other_dataset, limit=1, **options)
        checksums.append((strange.name, strange.checksum))
        other = jnp.asarray(strange.test_inputs)
        if other.shape[1:] != inputs.shape[1:]:
            raise DataError(
                f"other_dataset = {config.other_dataset!r} has examples of shape {other.shape[1:]} and {dataset.name} "
                f"of shape {inputs.shape[1:]}: give one of the same shape, or none"
            )
    black = (0.0 - np.mean(config.shift)) / (255.0 if config.scale is None else np.mean(config.scale))
    return Problem(
        model=models.build(**model_options(config, dataset.num_classes)),
        name=dataset.name,
        inputs=inputs[:n],
        labels=labels[:n],
        validation=(inputs[n:], labels[n:]),
        test=(jnp.asarray(dataset.test_inputs), jnp.asarray(dataset.test_labels)),
        other=other,
        num_classes=dataset.num_classes,
        prior_rows=prior_rows,
        batch_size=config.batch_size,
        label_smoothing=config.label_smoothing,
        crop=config.crop,
        flip=config.flip,
        cutout=config.cutout,
        fill=float(black),
        checksums=tuple(checksums),
    )
