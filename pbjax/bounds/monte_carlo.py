"""Certificates when the empirical risk of the posterior is itself an average over finitely many posterior draws."""

import math
from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_delta, check_n, check_range, check_unit_interval
from pbjax.bounds._rounding import as_floats, inflate, without_nan
from pbjax.bounds.bernoulli import kl_inverse, kl_inverse_lower
from pbjax.bounds.pac_bayes import pac_bayes_kl


class Interval(NamedTuple):
    """A two-sided confidence interval.

    Attributes:
      lower: lower ends, rounded down, any shape.
      upper: upper ends, rounded up, same shape.
    """

    lower: jax.Array
    upper: jax.Array


@overload
def sampled_risk(
    mean: ArrayLike, m: ArrayLike, *, delta: ArrayLike, two_sided: Literal[False] = False
) -> jax.Array: ...


@overload
def sampled_risk(mean: ArrayLike, m: ArrayLike, *, delta: ArrayLike, two_sided: Literal[True]) -> Interval: ...


def sampled_risk(mean: ArrayLike, m: ArrayLike, *, delta: ArrayLike, two_sided: bool = False) -> jax.Array | Interval:
    r"""Upper bound on the expectation of a [0, 1] variable from the mean of m independent draws.

    kl^{-1}(mean, log(1/delta)/m); two-sided: both inverses at log(2/delta)/m

    The draws must be independent and exact; draws of a Markov chain are neither. Where the draws themselves are at hand
    and lie close together, `betting` is tighter.

    Args:
      mean: average over the draws, any shape, in [0, 1].
      m: number of independent draws, broadcast shape, whole, at least 1.
      delta: failure probability of the statement, both sides together, in (0, 1).
      two_sided: whether to bound the expectation from below as well.

    Returns:
      Upper bounds in [0, 1], broadcast shape, rounded up, 1.0 where an argument is NaN; an `Interval` of lower
      (0.0 for NaN) and upper bounds when `two_sided`.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(sampled_risk(0.02, 1000, delta=0.01)), 4)
      0.0365
      >>> lower, upper = sampled_risk(0.02, 1000, delta=0.01, two_sided=True)
      >>> round(float(lower), 4), round(float(upper), 4)
      (0.0088, 0.0379)

    References:
      Langford and Caruana, "(Not) bounding the true error", NeurIPS 2001 (sample convergence bound).
    """
    check_unit_interval("mean", mean, allow_nan=True)
    check_n(m, name="m", allow_nan=True)
    check_delta(delta, allow_nan=True)
    # Directed rounding of the mean is left to the inverses, which round it both ways.
    m_array, delta_array = as_floats((m, delta), (-1, -1))
    bad = jnp.isnan(m_array) | jnp.isnan(delta_array)
    m_array, delta_array = without_nan(m_array, 1.0), without_nan(delta_array, 0.5)
    nats = jnp.log(jnp.asarray(1.0, delta_array.dtype) / delta_array) + (math.log(2.0) if two_sided else 0.0)
    nats = jnp.where(bad, jnp.nan, inflate(nats / jnp.maximum(m_array, 1.0), 8))
    upper = kl_inverse(mean, nats)
    return Interval(kl_inverse_lower(mean, nats), upper) if two_sided else upper


def two_stage(
    empirical_mean: ArrayLike,
    m: ArrayLike,
    kl: ArrayLike,
    *,
    n: ArrayLike,
    delta: ArrayLike,
    delta_monte_carlo: ArrayLike,
) -> jax.Array:
    r"""Certificate from a Monte-Carlo mean: an inversion over m posterior draws inside one over n examples.

    kl^{-1}(kl^{-1}(mean, log(1/delta')/m), (kl + log(2 sqrt(n)/delta))/n), valid with probability 1 - delta - delta'

    Args:
      empirical_mean: empirical risk averaged over m independent draws from the posterior, any shape, in [0, 1].
      m: number of draws, broadcast shape, whole, at least 1.
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability over the examples, in (0, 1).
      delta_monte_carlo: failure probability over the draws (delta'), in (0, 1).

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range, or the two failure probabilities sum to 1 or more.

    Example:
      >>> round(float(two_stage(0.02, 1000, 100.0, n=60_000, delta=0.04, delta_monte_carlo=0.01)), 4)
      0.049

    References:
      Langford and Caruana, "(Not) bounding the true error", NeurIPS 2001; Perez-Ortiz et al., JMLR 2021.
    """
    check_range("kl", kl, low=0.0, allow_nan=True)
    check_n(n, allow_nan=True)
    check_delta(delta, allow_nan=True)
    check_delta(delta_monte_carlo, name="delta_monte_carlo", allow_nan=True)
    check_range(
        "delta + delta_monte_carlo",
        jnp.asarray(delta) + jnp.asarray(delta_monte_carlo),
        high=1.0,
        open_high=True,
        allow_nan=True,
        remedy="together they are the probability of failure and must stay below 1",
    )
    inner = sampled_risk(empirical_mean, m, delta=delta_monte_carlo)
    missing = jnp.isnan(jnp.asarray(empirical_mean, inner.dtype))
    return pac_bayes_kl(jnp.where(missing, jnp.nan, inner), kl, n=n, delta=delta)
