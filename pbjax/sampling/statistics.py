"""Streamed statistics of scalar functionals: mean, variance and lagged autocovariance without keeping the draws."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class StreamedStatistics(NamedTuple):
    """Running sums over a chain, for any leading shape S of scalars (rungs, chains, functionals).

    Sums are taken about the first draw, so a small variance on a large mean does not cancel.

    Attributes:
        count: draws seen, int32 scalar.
        shift: the first draw, [*S].
        total: sum of (x - shift), [*S].
        products: sum over t of (x_t - shift)(x_{t-k} - shift) for k = 0..lags, [lags + 1, *S].
        head: the first `lags` shifted draws, [lags, *S]; the mean correction of a lagged product needs the ends.
        recent: the last `lags` shifted draws, newest first, [lags, *S].
    """

    count: jax.Array
    shift: jax.Array
    total: jax.Array
    products: jax.Array
    head: jax.Array
    recent: jax.Array


def init_statistics(shape: tuple[int, ...], *, lags: int) -> StreamedStatistics:
    """Empty statistics of an array of scalars.

    Args:
        shape: shape S of what `update_statistics` will be given.
        lags: largest lag of the autocovariance, >= 1; about the longest expected autocorrelation time.

    Raises:
        ValueError: lags below 1.

    Example:
        >>> statistics = init_statistics((), lags=2)
        >>> for draw in (1.0, 2.0, 4.0, 1.0):
        ...     statistics = update_statistics(statistics, jnp.asarray(draw))
        >>> int(statistics.count)
        4
    """
    if lags < 1:
        raise ValueError(f"lags must be at least 1; got {lags}")
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    zeros = jnp.zeros(shape, dtype)
    return StreamedStatistics(
        jnp.zeros((), jnp.int32),
        zeros,
        zeros,
        jnp.zeros((lags + 1, *shape), dtype),
        jnp.zeros((lags, *shape), dtype),
        jnp.zeros((lags, *shape), dtype),
    )


def update_statistics(statistics: StreamedStatistics, draw: jax.Array) -> StreamedStatistics:
    """Add one draw, [*S]; a scan carry of constant shape.

    Example:
        >>> statistics = init_statistics((), lags=2)
        >>> for draw in (1.0, 2.0, 4.0, 1.0):
        ...     statistics = update_statistics(statistics, jnp.asarray(draw))
        >>> float(statistics.total)
        4.0
    """
    count, shift, total, products, head, recent = statistics
    lags = recent.shape[0]
    shift = jnp.where(count == 0, draw.astype(shift.dtype), shift)
    value = draw.astype(shift.dtype) - shift
    # `recent` starts as zeros, so products with draws before the first vanish by themselves.
    products = products + value[None] * jnp.concatenate([value[None], recent])
    at = jnp.minimum(count, lags - 1)
    head = head.at[at].set(jnp.where(count < lags, value, head[at]))
    recent = jnp.concatenate([value[None], recent[:-1]])
    return StreamedStatistics(count + 1, shift, total + value, products, head, recent)


def mean(statistics: StreamedStatistics) -> jax.Array:
    """Mean of the draws, [*S]; NaN before the first.

    Example:
        >>> statistics = init_statistics((), lags=2)
        >>> for draw in (1.0, 2.0, 4.0, 1.0):
        ...     statistics = update_statistics(statistics, jnp.asarray(draw))
        >>> float(mean(statistics))
        2.0
    """
    return statistics.shift + statistics.total / statistics.count


def variance(statistics: StreamedStatistics) -> jax.Array:
    """Sample variance with divisor count - 1, [*S].

    Example:
        >>> statistics = init_statistics((), lags=2)
        >>> for draw in (1.0, 2.0, 4.0, 1.0):
        ...     statistics = update_statistics(statistics, jnp.asarray(draw))
        >>> float(variance(statistics))
        2.0
    """
    count = statistics.count.astype(statistics.total.dtype)
    return jnp.maximum(statistics.products[0] - statistics.total**2 / count, 0.0) / (count - 1)


def autocovariance(statistics: StreamedStatistics) -> jax.Array:
    r"""Biased autocovariance $\frac1N\sum_{t>k}(x_t-\bar x)(x_{t-k}-\bar x)$ for k = 0..lags, [lags + 1, *S].

    Equal to the value computed from the kept draws (to rounding) once count > lags.

    Example:
        >>> statistics = init_statistics((), lags=2)
        >>> for draw in (1.0, 2.0, 4.0, 1.0):
        ...     statistics = update_statistics(statistics, jnp.asarray(draw))
        >>> [round(float(c), 3) for c in autocovariance(statistics)]
        [1.5, -0.5, -0.5]
    """
    count = statistics.count.astype(statistics.total.dtype)
    centre = statistics.total / count
    lags = statistics.recent.shape[0]
    zero = jnp.zeros_like(statistics.total)[None]
    # Sum of x_t over t > k leaves out the first k draws; sum of x_{t-k} leaves out the last k.
    first = jnp.concatenate([zero, jnp.cumsum(statistics.head, axis=0)])
    last = jnp.concatenate([zero, jnp.cumsum(statistics.recent, axis=0)])
    k = jnp.arange(lags + 1).reshape((-1,) + (1,) * statistics.total.ndim)
    total = statistics.total[None]
    sums = (total - first) + (total - last)
    return (statistics.products - centre[None] * sums + (count - k) * centre[None] ** 2) / count


def standard_error(statistics: StreamedStatistics) -> jax.Array:
    """Markov-chain Monte-Carlo standard error of the mean, [*S].

    Geyer's initial positive sequence, cut at `lags`: autocovariances are summed in pairs until a pair's sum is not
    positive. Never below the independent-draws value.

    Example:
        >>> statistics = init_statistics((), lags=2)
        >>> for draw in (1.0, 2.0, 4.0, 1.0):
        ...     statistics = update_statistics(statistics, jnp.asarray(draw))
        >>> round(float(standard_error(statistics)), 4)
        0.6124

    References:
        Geyer (1992), "Practical Markov chain Monte Carlo", section 3.3.
    """
    covariance = autocovariance(statistics)
    pairs = (covariance.shape[0]) // 2
    paired = covariance[: 2 * pairs].reshape(pairs, 2, *covariance.shape[1:]).sum(axis=1)
    keep = jnp.cumprod(paired > 0, axis=0)
    long_run = 2.0 * jnp.sum(paired * keep, axis=0) - covariance[0]
    return jnp.sqrt(jnp.maximum(long_run, covariance[0]) / statistics.count)
