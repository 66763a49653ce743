"""Training a posterior on a bound: one scan, ready for ``vmap`` over replicas.

Everything that a sweep varies (``beta``, ``eta``, learning rate, initial posterior, prior, keys) may be traced, so a
grid of runs is one ``vmap`` of ``train``. Keep ``data`` and ``batch_key`` out of the ``vmap``: replicas then share each
minibatch, the gather is done once, and the first layer of all replicas is one matrix product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_delta, check_n
from pbjax.posteriors.estimators import Estimator, direct_estimator
from pbjax.posteriors.family import MEAN_FIELD, Family
from pbjax.posteriors.gaussian import Gaussian, check_positive, wide_dtype
from pbjax.posteriors.objectives import make_objective

Optimiser = Callable[[optax.Schedule], optax.GradientTransformation]

__all__ = ["TrainingMetrics", "cosine", "train"]


class TrainingMetrics(NamedTuple):
    """Averages over equal blocks of steps, in the order of training.

    Attributes:
        objective: array ``[num_records]``, the minibatch objective.
        risk: array ``[num_records]``, estimates of ``E_Q L`` on minibatches.
        kl: array ``[num_records]``, ``KL(Q||P)`` in nats.
    """

    objective: jax.Array
    risk: jax.Array
    kl: jax.Array


def cosine(progress: jax.Array) -> jax.Array:
    """Learning-rate profile: a linear rise over the first 2 %, then a half cosine to zero.

    Args:
        progress: fraction of the steps done, in [0,1].

    Returns:
        Factor in [0,1] of the peak rate.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(f), 3) for f in cosine(jnp.array([0.0, 0.02, 0.51, 1.0]))]
        [0.0, 1.0, 0.5, 0.0]
    """
    rise = 0.02
    fall = jnp.clip((progress - rise) / (1 - rise), 0.0, 1.0)
    return jnp.minimum(progress / rise, 1.0) * 0.5 * (1 + jnp.cos(jnp.pi * fall))


def train(
    key: jax.Array,
    loss: Callable[[Any, Any], jax.Array] | None,
    q0: Any,
    prior: Gaussian,
    data: Any,
    *,
    objective: str,
    n: int,
    delta: float,
    learning_rate: ArrayLike,
    num_steps: int,
    batch_size: int | None = None,
    beta: ArrayLike | None = None,
    eta: ArrayLike | None = None,
    optimiser: Optimiser = optax.adam,
    schedule: Callable[[jax.Array], jax.Array] = cosine,
    scale_rate: ArrayLike = 1.0,
    num_samples: int = 1,
    antithetic: bool = False,
    estimator: Estimator | None = None,
    family: Family = MEAN_FIELD,
    batch_key: jax.Array | None = None,
    num_records: int = 100,
) -> tuple[Any, TrainingMetrics]:
    """Minimise a bound over a family of posteriors by stochastic gradients.

    ``minimise over Q:  F(E_Q L, KL(Q||P))``, with ``E_Q L`` estimated on a minibatch by reparametrised draws

    Args:
        key: random key of the weight draws.
        loss: ``(params, batch) -> scalar or per-example array``, values in [0,1]; ``None`` only with ``estimator``.
        q0: initial posterior, of the given family.
        prior: ``P``, a diagonal Gaussian.
        data: pytree of arrays ``[n, ...]``; a batch has the same structure with ``batch_size`` rows.
        objective: one of ``OBJECTIVES``, see ``make_objective``.
        n: number of examples that the bound is about, equal to the rows of ``data``.
        delta: failure probability in (0,1) inside the objective.
        learning_rate: scalar > 0, peak rate; may be traced.
        num_steps: steps, >= 1; rounded up to a multiple of ``num_records``.
        batch_size: rows per step, in ``1..n``; ``None`` for all rows. Batches run through a fresh permutation every
            epoch, without its incomplete last batch.
        beta: inverse temperature for ``lambda``; may be traced.
        eta: KL weight for ``bbb``; may be traced.
        optimiser: ``schedule -> optax.GradientTransformation``, for example ``optax.adam`` or
            ``lambda rate: optax.sgd(rate, momentum=0.95)``.
        schedule: ``progress in [0,1] -> factor`` of the peak rate.
        scale_rate: factor of the updates of the log-scales (of ``T`` for full covariance); may be traced.
        num_samples: weight draws per step.
        antithetic: draws in mirrored pairs; see ``direct_estimator``.
        estimator: ``(key, q, batch) -> scalar`` in place of ``direct_estimator(loss, family)``, for example
            ``local_estimator``; ``num_samples`` and ``antithetic`` are then its own business.
        family: ``MEAN_FIELD`` or ``full_covariance.family(params)``.
        batch_key: random key of the minibatches; ``None`` derives it from ``key``.
        num_records: blocks of steps that metrics are averaged over.

    Returns:
        The trained posterior and its ``TrainingMetrics``.

    Raises:
        ValueError: for values out of range, or ``n`` that is not the number of rows.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> prior = q0 = Gaussian(jnp.zeros(()), jnp.zeros(()))
        >>> q, _ = train(  # L = w^2 / 2, so Q_beta is N(0, 1 / (1 + beta))
        ...     jax.random.key(0), lambda w, rows: w**2 / 2, q0, prior, jnp.zeros((1, 1)), objective="lambda", n=1,
        ...     delta=0.05, beta=3.0, learning_rate=0.1, num_steps=500, num_samples=8, antithetic=True, num_records=5)
        >>> bool(abs(jnp.exp(q.log_scale) - 0.5) < 0.05)
        True
    """
    check_delta(delta)
    check_n(n)
    check_positive("learning_rate", learning_rate)
    for name, value in (("beta", beta), ("eta", eta)):
        if value is not None:
            check_positive(name, value)
    rows = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(data)}
    if rows != {n}:
        raise ValueError(f"n = {n} but data has {sorted(rows)} rows; the bound must count the training rows")
    batch_size = n if batch_size is None else batch_size
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be in 1..{n}, got {batch_size}")
    if num_steps < 1 or num_records < 1:
        raise ValueError(f"num_steps and num_records must be at least 1, got {num_steps} and {num_records}")
    if estimator is None:
        if loss is None:
            raise ValueError("give a loss or an estimator, got neither")
        direct_estimator(loss, family, num_samples=num_samples, antithetic=antithetic)  # checks num_samples
    make_objective(objective, n=n, delta=delta, beta=beta, eta=eta)  # checks names
    if batch_key is None:
        key, batch_key = jax.random.split(key)
    return _train(
        key,
        batch_key,
        q0,
        prior,
        data,
        {"learning_rate": learning_rate, "scale_rate": scale_rate, "beta": beta, "eta": eta},
        loss=loss,
        objective=objective,
        n=n,
        delta=delta,
        num_steps=num_steps,
        batch_size=batch_size,
        optimiser=optimiser,
        schedule=schedule,
        num_samples=num_samples,
        antithetic=antithetic,
        estimator=estimator,
        family=family,
        num_records=min(num_records, num_steps),
    )


_STATIC = (
    "loss", "objective", "n", "delta", "num_steps", "batch_size", "optimiser", "schedule", "num_samples", "antithetic",
    "estimator", "family", "num_records",
)  # fmt: skip


@partial(jax.jit, static_argnames=_STATIC)
def _train(
    key: jax.Array,
    batch_key: jax.Array,
    q0: Any,
    prior: Gaussian,
    data: Any,
    rates: dict[str, Any],
    *,
    loss: Any,
    objective: str,
    n: int,
    delta: float,
    num_steps: int,
    batch_size: int,
    optimiser: Optimiser,
    schedule: Callable[[jax.Array], jax.Array],
    num_samples: int,
    antithetic: bool,
    estimator: Estimator | None,
    family: Family,
    num_records: int,
) -> tuple[Any, TrainingMetrics]:
    steps_per_record = -(-num_steps // num_records)
    total_steps = steps_per_record * num_records
    estimate = estimator or direct_estimator(loss, family, num_samples=num_samples, antithetic=antithetic)
    bound = make_objective(objective, n=n, delta=delta, beta=rates["beta"], eta=rates["eta"])
    transformation = optimiser(lambda count: rates["learning_rate"] * schedule(jnp.asarray(count) / total_steps))
    batches_per_epoch = n // batch_size

    def value(raw: Any, draw_key: jax.Array, batch: Any) -> tuple[jax.Array, TrainingMetrics]:
        q = family.constrain(raw)
        risk, divergence = estimate(draw_key, q, batch), family.kl(q, prior)
        result = bound(risk, divergence)
        return result, TrainingMetrics(result, risk, divergence)

    def next_batch(step: jax.Array, order: jax.Array) -> tuple[Any, jax.Array]:
        if batch_size == n:
            return data, order
        epoch, position = step // batches_per_epoch, step % batches_per_epoch
        order = jax.lax.cond(
            position == 0,
            lambda: jax.random.permutation(jax.random.fold_in(batch_key, epoch), n),
            lambda: order,
        )
        rows = jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
        return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), data), order

    def one_step(carry: Any, step: jax.Array) -> tuple[Any, TrainingMetrics]:
        raw, optimiser_state, order = carry
        batch, order = next_batch(step, order)
        grads, metrics = jax.grad(value, has_aux=True)(raw, jax.random.fold_in(key, step), batch)
        updates: Any
        updates, optimiser_state = transformation.update(grads, optimiser_state, raw)
        spread = jax.tree.map(lambda leaf: (rates["scale_rate"] * leaf).astype(leaf.dtype), updates[1])
        raw = optax.apply_updates(raw, type(raw)(updates[0], spread))
        return (raw, optimiser_state, order), metrics

    def one_record(carry: Any, record: jax.Array) -> tuple[Any, TrainingMetrics]:
        steps = record * steps_per_record + jnp.arange(steps_per_record)
        carry, metrics = jax.lax.scan(one_step, carry, steps)
        return carry, jax.tree.map(lambda leaf: jnp.mean(leaf, dtype=wide_dtype()), metrics)

    raw = family.unconstrain(q0)
    order = jnp.arange(1 if batch_size == n else n)
    carry = (raw, transformation.init(raw), order)
    (raw, _, _), metrics = jax.lax.scan(one_record, carry, jnp.arange(num_records))
    return family.constrain(raw), metrics
