"""Training of all replicas of a method as one program, and what the host sees of it.

A run has two stages. In the first the rows of the prior are seen and no others; the weights at its end are the centre
of the certificate's prior. Then all training rows are seen. Both stages are one run of the optimiser under one
schedule, so the weights that are certified are also those whose accuracy and sharpness are reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._sam_as_vi.methods import Hyper, Setting, build
from pbjax import losses
from pbjax.data.augmentation import augment
from pbjax.models import Model
from pbjax.optim.member import find_state
from pbjax.optim.perturbation import PerturbationMetrics
from pbjax.replicas import Replicas

# Rows whose activations are held at once when nothing is differentiated.
ROWS = 1000

# The fields of a problem that programs take as arguments.
ARRAYS = ("inputs", "labels", "validation", "test", "other")


class Problem(NamedTuple):
    """Data and network, and how a batch is seen.

    Attributes:
        model: the network.
        name: of the data set, with the options that changed it.
        inputs: training rows [n, ...], those of the prior first.
        labels: [n].
        validation: rows that no training sees, (inputs [v, ...], labels [v]).
        test: (inputs [t, ...], labels [t]).
        other: inputs [o, ...] from another data set, or None.
        num_classes: k.
        prior_rows: how many rows the first stage sees; the certificate is over the others.
        batch_size: rows a step.
        label_smoothing: mass on the wrong classes in training.
        crop: padding of the random crop, 0 for none.
        flip: whether images are mirrored.
        cutout: side of the square that is cut out, 0 for none.
        fill: what a pixel outside the image is.
        checksums: (name, checksum) of every data set.
    """

    model: Model
    name: str
    inputs: jax.Array
    labels: jax.Array
    validation: tuple[jax.Array, jax.Array]
    test: tuple[jax.Array, jax.Array]
    other: jax.Array | None
    num_classes: int
    prior_rows: int
    batch_size: int
    label_smoothing: float
    crop: int
    flip: bool
    cutout: int
    fill: float
    checksums: tuple[tuple[str, str], ...]

    @property
    def n(self) -> int:
        """Number of training rows."""
        return self.inputs.shape[0]


class Plan(NamedTuple):
    """How many steps, in chunks of equal length.

    Attributes:
        steps: steps in a chunk.
        prior_chunks: chunks of the first stage.
        chunks: chunks in all.
        prior_passes: chunks that one pass over the prior's rows takes.
        passes: chunks that one pass over all rows takes.
    """

    steps: int
    prior_chunks: int
    chunks: int
    prior_passes: int
    passes: int


class Replica(NamedTuple):
    """One network in training.

    Attributes:
        params: weights.
        opt_state: state of the method.
        centre: weights at the end of the first stage (the initial ones before it).
        key: of the seed; the same for all methods, so that they see the same batches in the same order.
    """

    params: Any
    opt_state: Any
    centre: Any
    key: jax.Array


class Watched(NamedTuple):
    """What the host gets after a chunk, for every replica.

    Attributes:
        train_loss: mean cross-entropy on the first training rows at the end of the chunk.
        validation_loss: the same on validation rows.
        validation_accuracy: on the same rows.
        radius: mean norm of the perturbation over the chunk's steps, NaN for methods without.
        mean_scale: mean sigma at the end of the chunk, NaN for methods without.
    """

    train_loss: jax.Array
    validation_loss: jax.Array
    validation_accuracy: jax.Array
    radius: jax.Array
    mean_scale: jax.Array


def plan(problem: Problem, *, epochs: float, prior_share: float, per_step: int, chunks_per_pass: int = 1) -> Plan:
    """Chunks for a budget of `epochs` passes of gradients, `per_step` of which a step costs.

    A chunk is 1/chunks_per_pass of a pass over the prior's rows, and no longer than a pass over all of them.
    """
    steps = max(1, problem.prior_rows // problem.batch_size // chunks_per_pass)
    total = epochs * (problem.n // problem.batch_size) / per_step
    chunks = max(2, round(total / steps))
    prior_chunks = min(chunks - 1, max(1, round(prior_share * chunks)))
    rows = steps * problem.batch_size
    return Plan(steps, prior_chunks, chunks, problem.prior_rows // rows, problem.n // rows)


def logits(problem: Problem, params: Any, inputs: jax.Array, *, rows: int) -> jax.Array:
    """Logits of many inputs, `rows` at a time, so that their activations fit."""
    count = inputs.shape[0]
    if count <= rows:
        return problem.model.apply(params, inputs)
    padding = [(0, -count % rows)] + [(0, 0)] * (inputs.ndim - 1)
    chunks = jnp.pad(inputs, padding).reshape(-1, rows, *inputs.shape[1:])
    made = jax.lax.map(lambda chunk: problem.model.apply(params, chunk), chunks)
    return made.reshape(-1, made.shape[-1])[:count]


def training_loss(problem: Problem, params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean loss that is trained on: cross-entropy in nats, with label smoothing if asked."""
    logits = problem.model.apply(params, inputs)
    if problem.label_smoothing:
        return losses.smoothed_cross_entropy(logits, labels, smoothing=problem.label_smoothing, reduction="mean")
    return losses.cross_entropy(logits, labels, reduction="mean")


def init_replicas(method: str, hyper: Hyper, seeds: np.ndarray, setting: Setting, problem: Problem) -> Replica:
    """Every replica at its start; a seed has the same weights and batches under every method and hyper-parameter."""

    def one(hyper: Hyper, key: jax.Array) -> Replica:
        params = problem.model.init(jax.random.fold_in(key, 0), problem.inputs[:1])
        transformation = build(method, hyper, setting, jnp.float32(1))
        return Replica(params, transformation.init(params), params, key)

    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return jax.jit(jax.vmap(one))(hyper, keys)


def make_chunk(
    method: str, setting: Setting, problem: Problem, shape: Plan, *, replicas: Replicas, watch_rows: int
) -> Callable[..., tuple[Any, Watched]]:
    """`chunk((index, replicas), hyper, limits, problem data) -> ((index + 1, replicas), Watched)`.

    `limits = (prior_chunks, chunks)` is data, so that budgets of different length share one compilation. `replicas` is
    their layout: on CPUs few weights fit the cache, on an accelerator all go together.
    """

    def chunk(state: tuple[jax.Array, Replica], hyper: Hyper, limits: jax.Array, data: Any) -> tuple[Any, Watched]:
        index, networks = state
        first = index < limits[0]
        inputs, labels, validation = data

        def order(key: jax.Array) -> jax.Array:
            """Rows of this chunk's batches [steps, batch]: a permutation a pass, cut into chunks."""
            taken = shape.steps * problem.batch_size

            def cut(rows: int, passes: int, since: jax.Array) -> jax.Array:
                shuffled = jax.random.permutation(jax.random.fold_in(key, since // passes), rows)
                return jax.lax.dynamic_slice_in_dim(shuffled, (since % passes) * taken, taken)

            return jax.lax.cond(
                first,
                lambda: cut(problem.prior_rows, shape.prior_passes, index),
                lambda: cut(problem.n, shape.passes, shape.prior_passes * limits[0] + index - limits[0]),
            ).reshape(shape.steps, problem.batch_size)

        def one(replica: Replica, hyper: Hyper) -> tuple[Replica, Watched]:
            transformation = build(method, hyper, setting, (limits[1] * shape.steps).astype(jnp.float32))
            noise_key = jax.random.fold_in(jax.random.fold_in(replica.key, 2), index)

            def step(carry: tuple[Any, Any], given: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
                params, opt_state = carry
                rows, number = given
                view_key, key = jax.random.split(jax.random.fold_in(noise_key, number))
                batch = inputs[rows]
                if problem.crop or problem.flip or problem.cutout:
                    batch = augment(
                        view_key, batch, padding=problem.crop, flip=problem.flip, fill=problem.fill,
                        cutout_size=problem.cutout or None,
                    )  # fmt: skip
                gradient = jax.grad(lambda params: training_loss(problem, params, batch, labels[rows]))
                updates, opt_state = transformation.update(
                    gradient(params), opt_state, params, grad_fn=gradient, key=key
                )
                radius, _ = _perturbation(opt_state)
                return (optax.apply_updates(params, updates), opt_state), radius

            rows = order(jax.random.fold_in(replica.key, 1))
            (params, opt_state), radii = jax.lax.scan(
                step, (replica.params, replica.opt_state), (rows, jnp.arange(shape.steps))
            )
            ends = index + 1 == limits[0]
            centre = jax.tree.map(lambda now, before: jnp.where(ends, now, before), params, replica.centre)
            seen, validated = (problem.model.apply(params, part[:watch_rows]) for part in (inputs, validation[0]))
            watched = Watched(
                losses.cross_entropy(seen, labels[:watch_rows], reduction="mean"),
                losses.cross_entropy(validated, validation[1][:watch_rows], reduction="mean"),
                1 - losses.zero_one(validated, validation[1][:watch_rows], reduction="mean"),
                radii.mean(),
                _perturbation(opt_state)[1],
            )
            return Replica(params, opt_state, centre, replica.key), watched

        networks, watched = replicas.map(one, (networks, hyper))
        return (index + 1, networks), watched

    return chunk


def _perturbation(opt_state: Any) -> tuple[jax.Array, jax.Array]:
    """Norm of the last perturbation and mean scale, NaN where the method has none."""
    found = find_state(opt_state, PerturbationMetrics)
    if not found:
        return jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    return found[0].perturbation_norm, found[0].mean_scale
