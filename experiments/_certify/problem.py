"""The learning problem of a config: which rows are certified, the network, and the centre of its prior."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pbjax import losses, runs
from pbjax.certify import Target, make_target, pilot_rows
from pbjax.data import DataError, Dataset, load
from pbjax.data.permutation import TRAIN_SUBSET, fixed_order
from pbjax.models import Model, build
from pbjax.posteriors import fan_in_prior
from pbjax.posteriors.energy import ExampleLoss, Rows, chunk_rows

# A constant of this experiment, so that the split of the rows is the same for everyone.
SPLIT_SEED = 7


class Problem(NamedTuple):
    """What the phases share.

    Attributes:
        dataset: the arrays on the host.
        model: the network.
        template: parameters of its shapes.
        surrogate: per-example loss whose mean is the energy.
        certified: rows of the training set that are certified, increasing, [n].
        prior_rows: rows that the prior's centre is trained on, increasing; none for a prior that saw no data.
    """

    dataset: Dataset
    model: Model
    template: Any
    surrogate: ExampleLoss
    certified: np.ndarray
    prior_rows: np.ndarray


def data_options(config: Any) -> dict[str, Any]:
    """The arguments of `pbjax.data.load`, without folders."""
    return {
        "name": config.dataset, "pool": config.pool, "limit": config.limit, "shuffle_labels": config.shuffle_labels,
        "flatten": config.model == "mlp",
    }  # fmt: skip


def model_options(config: Any, num_classes: int) -> dict[str, Any]:
    """The arguments of `pbjax.models.build`."""
    if config.model == "mlp":
        return {"builder": "mlp", "widths": (*config.hidden, num_classes), "activation": config.activation}
    return {
        "builder": "small_cnn", "num_classes": num_classes, "channels": config.channels, "kernel": config.kernel,
        "activation": config.activation,
    }  # fmt: skip


def make_problem(config: Any) -> Problem:
    """Load the data of a config and build its network."""
    dataset = load(data_dir=config.data_dir, **data_options(config))
    model = build(**model_options(config, dataset.num_classes))
    template = model.init(jax.random.key(0), jnp.asarray(dataset.train_inputs[:1]))
    if config.surrogate == "smooth_bounded_cross_entropy":
        surrogate = partial(losses.smooth_bounded_cross_entropy, ceiling=config.ceiling)
    else:
        surrogate = partial(losses.bounded_cross_entropy, p_min=config.p_min)
    count = round(config.prior_fraction * dataset.num_train)
    if config.prior_fraction and not 0 < count < dataset.num_train:
        raise DataError(
            f"prior_fraction = {config.prior_fraction} of {dataset.num_train} rows leaves {count} for the prior and "
            f"{dataset.num_train - count} to certify: both need some"
        )
    order = fixed_order(dataset.num_train, TRAIN_SUBSET, seed=SPLIT_SEED)
    return Problem(dataset, model, template, surrogate, np.sort(order[count:]), np.sort(order[:count]))


def train_centre(config: Any, problem: Problem, phase: runs.Phase) -> dict[str, Any]:
    """Adam on the surrogate over the prior's rows: the centre of a prior that the certified rows know nothing of."""
    key, rows = jax.random.key(config.seeds[0]), problem.prior_rows
    key_start, key_batches = (jax.random.fold_in(key, i) for i in (100, 101))
    inputs, labels = (jnp.asarray(x[rows]) for x in (problem.dataset.train_inputs, problem.dataset.train_labels))
    optimiser = optax.adam(optax.cosine_decay_schedule(config.prior_learning_rate, config.prior_steps))
    params = problem.model.init(key_start, inputs[:1])
    batch = min(config.prior_batch_size, len(rows))

    def loss(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(problem.surrogate(problem.model.apply(params, inputs), labels, axis=-1))

    def step(carry: Any, index: jax.Array, inputs: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        chosen = jax.random.randint(jax.random.fold_in(key_batches, index), (batch,), 0, labels.shape[0])
        value, gradient = jax.value_and_grad(loss)(params, inputs[chosen], labels[chosen])
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    length = -(-config.prior_steps // 10)

    def chunk(carry: Any, inputs: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        done, trained = carry
        trained, values = jax.lax.scan(
            lambda c, i: jax.lax.cond(
                i < config.prior_steps, lambda c: step(c, i, inputs, labels),
                lambda c: (c, jnp.zeros((), jnp.float32)), c,
            ),
            trained, done + jnp.arange(length),
        )  # fmt: skip
        return (done + length, trained), values.mean()

    def tell(index: int, value: Any) -> None:
        phase.log(chunk=index, surrogate=float(value))

    start = (jnp.zeros((), jnp.int32), (params, optimiser.init(params)))
    (_, (params, _)), _ = phase.run_chunks(chunk, start, num_chunks=10, arguments=(inputs, labels), on_chunk=tell)
    return {"centre": jax.tree.map(np.asarray, params)}


def make_parts(config: Any, problem: Problem, centre: Any | None) -> tuple[Target, Target, Rows]:
    """The target of the chains, that of the pilot over fewer rows, and the test rows in chunks."""
    prior = fan_in_prior(
        problem.template, scale=config.prior_scale,
        centre=None if centre is None else jax.tree.map(jnp.asarray, centre),
    )  # fmt: skip
    data, model = problem.dataset, problem.model

    def of_rows(rows: np.ndarray) -> Target:
        return make_target(
            model.apply, prior, data.train_inputs[rows], data.train_labels[rows], surrogate=problem.surrogate,
            rows_per_chunk=config.rows_per_chunk, columns=model.columns, matmul_precision=config.matmul_precision,
        )  # fmt: skip

    target = of_rows(problem.certified)
    quick = of_rows(problem.certified[pilot_rows(target.n, config.pilot_rows)])
    test = chunk_rows(
        data.test_inputs, data.test_labels, rows_per_chunk=config.rows_per_chunk, columns=model.columns is not None
    )
    return target, quick, test
