"""Compensated summation: long sums of large terms of both signs, in a scan, to the last digits of the dtype."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class CompensatedSum(NamedTuple):
    """A running sum and what rounding took from it.

    Attributes:
        total: rounded running sum, any shape.
        compensation: sum of the rounding errors, same shape; total + compensation is the sum.
    """

    total: jax.Array
    compensation: jax.Array


def init_sum(shape: tuple[int, ...]) -> CompensatedSum:
    """An empty sum.

    Args:
        shape: of what will be added.

    Returns:
        Zeros, float64 under x64.

    Example:
        >>> float(sum_value(add_to_sum(init_sum(()), jnp.float32(0.5))))
        0.5
    """
    zeros = jnp.zeros(shape, jax.dtypes.canonicalize_dtype(jnp.float64))
    return CompensatedSum(zeros, zeros)


def add_to_sum(running: CompensatedSum, term: jax.Array) -> CompensatedSum:
    """Add one term (Neumaier's form of Kahan's sum, right also when the term is larger than the sum).

    Args:
        running: the sum so far.
        term: same shape.

    Returns:
        The new sum. Its value is exact up to one rounding and the second-order errors, below eps + (N eps)^2 times the
        sum of absolute values after N terms; plain summation loses up to N eps.

    Example:
        >>> sum_ = init_sum(())
        >>> for term in (1.0, 1e8, 1.0, -1e8):
        ...     sum_ = add_to_sum(sum_, jnp.asarray(term, sum_.total.dtype))
        >>> float(sum_value(sum_))
        2.0

    References:
        Neumaier 1974, Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen, ZAMM 54.
    """
    term = term.astype(running.total.dtype)
    total = running.total + term
    larger = jnp.abs(running.total) >= jnp.abs(term)
    lost = jnp.where(larger, (running.total - total) + term, (term - total) + running.total)
    return CompensatedSum(total, running.compensation + lost)


def sum_value(running: CompensatedSum) -> jax.Array:
    """The value of a running sum.

    Args:
        running: the sum.

    Returns:
        total + compensation.

    Example:
        >>> float(sum_value(CompensatedSum(jnp.ones(()), jnp.full((), 0.5))))
        1.5
    """
    return running.total + running.compensation
