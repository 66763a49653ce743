"""Training a grid of posteriors at once and keeping the best of each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax.posteriors.estimators import Estimator, direct_estimator
from pbjax.posteriors.family import MEAN_FIELD, Family
from pbjax.posteriors.gaussian import Gaussian, check_positive, wide_dtype
from pbjax.posteriors.objectives import make_objective
from pbjax.posteriors.training import TrainingMetrics, train

__all__ = ["GridResult", "train_grid"]


class GridResult(NamedTuple):
    """The best posterior for every inverse temperature, and what the search saw.

    Attributes:
        posterior: the family's posterior with leaves ``[K, ...]``, one for each ``beta`` (``K = 1`` without ``beta``).
        risk: array ``[K]``, estimate of ``E_Q L`` on all data.
        kl: array ``[K]``, ``KL(Q||P)`` in nats.
        objective: array ``[K]``, objective at ``risk`` and ``kl``, selected as the least.
        learning_rate: array ``[K]``, the chosen peak rates.
        initial_scale: array ``[K]``, the chosen initial scales.
        objectives: array ``[K, R, S]``, the objective of every run; infinite where a run diverged.
        metrics: ``TrainingMetrics`` of the chosen runs, arrays ``[K, num_records]``.
    """

    posterior: Any
    risk: jax.Array
    kl: jax.Array
    objective: jax.Array
    learning_rate: jax.Array
    initial_scale: jax.Array
    objectives: jax.Array
    metrics: TrainingMetrics


def train_grid(
    key: jax.Array,
    loss: Callable[[Any, Any], jax.Array],
    q0: Any,
    prior: Gaussian,
    data: Any,
    *,
    objective: str,
    n: int,
    delta: float,
    learning_rates: ArrayLike | Sequence[float],
    initial_scales: ArrayLike | Sequence[float],
    beta: ArrayLike | Sequence[float] | None = None,
    evaluation_draws: int = 64,
    rows_per_chunk: int = 1024,
    family: Family = MEAN_FIELD,
    estimator: Estimator | None = None,
    **options: Any,
) -> GridResult:
    """Train for all of ``beta x learning_rates x initial_scales`` as one program; keep the best run for each ``beta``.

    All runs share minibatches and noise. They are compared by their objective on all data, with fresh draws that they
    share too. The search is free: PAC-Bayes bounds hold for all posteriors at once. A search over *priors* is not; pay
    a union bound for it.

    Args:
        key: a random key.
        loss: ``(params, batch) -> scalar mean or per-example array``, values in [0,1].
        q0: initial posterior; its scales are multiplied by each of ``initial_scales``.
        prior: ``P``, a diagonal Gaussian.
        data: pytree of arrays ``[n, ...]``.
        objective: one of ``OBJECTIVES``.
        n: number of examples, the rows of ``data``.
        delta: failure probability in (0,1) inside the objective.
        learning_rates: array ``[R]`` or scalar, peak rates > 0.
        initial_scales: array ``[S]`` or scalar, > 0.
        beta: array ``[K]`` or scalar of inverse temperatures > 0, for ``lambda``.
        evaluation_draws: weight draws (in mirrored pairs) in the comparison, even.
        rows_per_chunk: rows evaluated at a time in the comparison.
        family: as for ``train``.
        estimator: as for ``train``; the comparison always uses direct draws of ``loss``.
        **options: passed on to ``train`` (``num_steps``, ``batch_size``, ``optimiser``, ...).

    Returns:
        ``GridResult``.

    Raises:
        ValueError: as for ``train``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> prior = q0 = Gaussian(jnp.zeros(()), jnp.zeros(()))
        >>> result = train_grid(
        ...     jax.random.key(0), lambda w, rows: w**2 / 2, q0, prior, jnp.zeros((1, 1)), objective="lambda", n=1,
        ...     delta=0.05, beta=jnp.array([1.0, 3.0]), learning_rates=[0.03, 0.1], initial_scales=0.5, num_steps=300)
        >>> result.objectives.shape, result.posterior.mean.shape
        ((2, 2, 1), (2,))
    """
    for name, values in (("beta", beta), ("learning_rates", learning_rates), ("initial_scales", initial_scales)):
        if values is not None:
            check_positive(name, jnp.asarray(values))
    rates, scales = (jnp.atleast_1d(jnp.asarray(values, jnp.float32)) for values in (learning_rates, initial_scales))
    betas = None if beta is None else jnp.atleast_1d(jnp.asarray(beta, wide_dtype()))
    shape = (1 if betas is None else betas.size, rates.size, scales.size)
    which = [jnp.asarray(index.ravel()) for index in np.indices(shape)]
    runs = {"learning_rate": rates[which[1]], "scale": scales[which[2]]}
    if betas is not None:
        runs["beta"] = betas[which[0]]
    train_key, batch_key, evaluation_key = jax.random.split(key, 3)

    def one(run: dict[str, jax.Array]) -> tuple[Any, TrainingMetrics]:
        start = family.rescale(q0, run["scale"])
        return train(
            train_key, loss, start, prior, data, objective=objective, n=n, delta=delta, beta=run.get("beta"),
            learning_rate=run["learning_rate"], family=family, estimator=estimator, batch_key=batch_key, **options,
        )  # fmt: skip

    posteriors, metrics = jax.vmap(one)(runs)
    risk, divergence = _evaluate(
        evaluation_key, posteriors, prior, data, loss=loss, family=family, num_draws=evaluation_draws,
        rows_per_chunk=min(rows_per_chunk, n),
    )  # fmt: skip
    bound = partial(make_objective, objective, n=n, delta=delta, eta=options.get("eta"))
    values = bound()(risk, divergence) if betas is None else jax.vmap(
        lambda b, r, d: bound(beta=b)(r, d)
    )(runs["beta"], risk, divergence)  # fmt: skip
    values = jnp.where(jnp.isfinite(values), values, jnp.inf).reshape(shape)
    best = jnp.argmin(values.reshape(shape[0], -1), axis=1)
    chosen = jnp.arange(shape[0]) * rates.size * scales.size + best
    return GridResult(
        posterior=jax.tree.map(lambda leaf: leaf[chosen], posteriors),
        risk=risk[chosen],
        kl=divergence[chosen],
        objective=values.reshape(-1)[chosen],
        learning_rate=runs["learning_rate"][chosen],
        initial_scale=runs["scale"][chosen],
        objectives=values,
        metrics=jax.tree.map(lambda leaf: leaf[chosen], metrics),
    )


@partial(jax.jit, static_argnames=("loss", "family", "num_draws", "rows_per_chunk"))
def _evaluate(
    key: jax.Array, posteriors: Any, prior: Gaussian, data: Any, *, loss: Any, family: Family, num_draws: int,
    rows_per_chunk: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Risk ``[G]`` on all data, the same draws for every posterior, and KL ``[G]``."""
    n = jax.tree.leaves(data)[0].shape[0]
    whole = n // rows_per_chunk
    chunks = jax.tree.map(lambda a: a[: whole * rows_per_chunk].reshape(whole, rows_per_chunk, *a.shape[1:]), data)
    remainder = jax.tree.map(lambda a: a[whole * rows_per_chunk :], data)
    estimate = direct_estimator(loss, family, num_samples=2, antithetic=True)

    def one_draw(total: jax.Array, draw: jax.Array) -> tuple[jax.Array, None]:
        draw_key = jax.random.fold_in(key, draw)

        def add(risk: jax.Array, rows: Any) -> tuple[jax.Array, None]:
            count = jax.tree.leaves(rows)[0].shape[0]
            batch_risk = jax.vmap(lambda q: estimate(draw_key, q, rows))(posteriors)
            return risk + batch_risk.astype(risk.dtype) * (count / n), None

        total, _ = jax.lax.scan(add, total, chunks)
        return (add(total, remainder)[0] if n % rows_per_chunk else total), None

    divergence = jax.vmap(lambda q: family.kl(q, prior))(posteriors)
    pairs = num_draws // 2
    total, _ = jax.lax.scan(one_draw, jnp.zeros(divergence.shape, wide_dtype()), jnp.arange(pairs))
    return total / pairs, divergence
