"""The learning problem of a config: data, network, prior, energy and what is observed of every draw."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax import losses
from pbjax.data import Dataset, load
from pbjax.models import Model, build
from pbjax.posteriors import Gaussian, fan_in_prior
from pbjax.posteriors.energy import ExampleLoss, Rows, chunk_rows, energy, mean_losses
from pbjax.posteriors.gibbs import Whitening, whiten
from pbjax.precision import EXACT, with_fast_forces, with_matmul

FUNCTIONALS = ("energy", "zero_one", "test_energy", "test_zero_one", "test_log_likelihood")


class Problem(NamedTuple):
    """Everything the phases share; arrays in `data`, the rest static.

    Attributes:
        dataset: the arrays on the host.
        model: the network.
        prior: Gaussian over its parameters.
        whitening: the map from z [d] to parameters.
        surrogate: per-example loss whose mean is the energy.
        losses: per-example losses that are certified, by name: the surrogate and "zero_one".
        data: training and test rows in chunks.
        energy: (z, data) -> L; its forces may be fast (`pbjax.precision`).
        observe: (z, data) -> values of `FUNCTIONALS`, float64 [F].
    """

    dataset: Dataset
    model: Model
    prior: Gaussian
    whitening: Whitening
    surrogate: ExampleLoss
    losses: dict[str, ExampleLoss]
    data: tuple[Rows, Rows]
    energy: Callable[..., jax.Array]
    observe: Callable[..., jax.Array]

    @property
    def n(self) -> int:
        """Number of certified examples."""
        return self.dataset.num_train


def data_options(config: Any) -> dict[str, Any]:
    """The arguments of `pbjax.data.load`, without folders."""
    return {
        "name": config.dataset, "binary": config.binary, "pool": config.pool, "limit": config.limit,
        "shuffle_labels": config.shuffle_labels,
    }  # fmt: skip


def model_options(config: Any, num_classes: int) -> dict[str, Any]:
    """The arguments of `pbjax.models.build`."""
    return {"builder": "mlp", "widths": (*config.hidden, num_classes), "activation": config.activation}


def make_problem(config: Any) -> Problem:
    """Load the data of a config and build its network, prior, energy and observables."""
    dataset = load(data_dir=config.data_dir, **data_options(config))
    model = build(**model_options(config, dataset.num_classes))
    # Shapes and, if asked for, a centre: a random draw that sees no data, so the prior stays data-free.
    initial = model.init(jax.random.key(20_053), jnp.asarray(dataset.train_inputs[:1]))
    prior = fan_in_prior(initial, scale=config.prior_scale, centre=initial if config.prior_centre == "random" else None)
    whitening = whiten(prior.mean, prior.log_scale)
    if config.surrogate == "smooth_bounded_cross_entropy":
        surrogate = partial(losses.smooth_bounded_cross_entropy, ceiling=config.ceiling)
    else:
        surrogate = partial(losses.bounded_cross_entropy, p_min=config.p_min)
    columns = model.columns is not None
    prepare, apply = model.columns if model.columns is not None else (lambda params: params, model.apply)
    chunk = partial(chunk_rows, rows_per_chunk=config.rows_per_chunk, columns=columns)
    data = (
        chunk(dataset.train_inputs, dataset.train_labels),
        chunk(dataset.test_inputs, dataset.test_labels),
    )
    function = energy(apply, surrogate, columns=columns, prepare=prepare)
    certified = {"energy": surrogate, "zero_one": losses.zero_one}

    def energy_of(z: jax.Array, data: tuple[Rows, Rows]) -> jax.Array:
        return function(whitening.to_params(z), rows=data[0])

    def observe(z: jax.Array, data: tuple[Rows, Rows]) -> jax.Array:
        params = prepare(whitening.to_params(z))
        train = mean_losses(apply, certified, params, rows=data[0], columns=columns)
        test = mean_losses(
            apply, {**certified, "cross_entropy": losses.cross_entropy}, params, rows=data[1], columns=columns
        )
        return jnp.stack([train["energy"], train["zero_one"], test["energy"], test["zero_one"], -test["cross_entropy"]])

    named = {config.surrogate: surrogate, "zero_one": losses.zero_one}
    return Problem(
        dataset, model, prior, whitening, surrogate, named, data,
        with_fast_forces(energy_of, config.matmul_precision), with_matmul(EXACT, observe),
    )  # fmt: skip
