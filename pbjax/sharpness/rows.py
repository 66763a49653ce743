"""Means over the rows of a batch, a chunk of rows at a time so that memory stays bounded."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pbjax._checks import check_range

__all__ = ["count_rows", "mean_over_rows", "micro_batches"]


def count_rows(batch: Any) -> int:
    """Number of rows that all arrays of the batch have.

    Raises:
        ValueError: no arrays, scalars, or different numbers of rows.
    """
    leaves = jax.tree.leaves(batch)
    rows = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in leaves}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"the arrays of the batch have {sorted(rows)} rows: give arrays with the same number, >= 1")
    return rows.pop()


def micro_batches(batch: Any, m: int | None) -> Any:
    """The batch as n/m micro-batches of m consecutive rows, arrays [n/m, m, ...]; one micro-batch if m is None.

    Raises:
        ValueError: m does not divide n.
    """
    n = count_rows(batch)
    size = n if m is None else m
    check_range("m", size, low=1, open_high=True, whole=True)
    if n % size:
        raise ValueError(f"m = {m} does not divide the {n} rows of the batch: choose a divisor or leave rows out")
    return jax.tree.map(lambda leaf: leaf.reshape(n // size, size, *leaf.shape[1:]), batch)


def mean_over_rows(function: Callable[[Any], Any], batch: Any, rows_per_chunk: int | None) -> Any:
    """`function(batch)`, a mean over rows, as the mean of its values on chunks, each weighted by its rows.

    One scan over chunks; rows that are left over are a last, shorter chunk. Pass the derivative of a loss rather than
    differentiate this: reverse mode would keep what every chunk stores for its backward pass.

    Args:
        function: `function(batch) -> pytree` of floats.
        batch: pytree of arrays with n rows; anything at all if rows_per_chunk is None.
        rows_per_chunk: >= 1; None takes all rows at once.

    Returns:
        What the function returns.

    Raises:
        ValueError: a number of rows below 1, or arrays of different length.
    """
    if rows_per_chunk is None:
        return function(batch)
    check_range("rows_per_chunk", rows_per_chunk, low=1, open_high=True, whole=True)
    n = count_rows(batch)
    chunks, left = divmod(n, rows_per_chunk)
    if chunks == 0 or n == rows_per_chunk:
        return function(batch)
    stacked = jax.tree.map(lambda leaf: leaf[: n - left].reshape(chunks, rows_per_chunk, *leaf.shape[1:]), batch)

    def add(total: Any, chunk: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(chunk)), None

    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], stacked))
    total, _ = jax.lax.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), stacked)
    if not left:
        return jax.tree.map(lambda whole: whole / chunks, total)
    rest = function(jax.tree.map(lambda leaf: leaf[n - left :], batch))
    return jax.tree.map(lambda whole, last: whole * (rows_per_chunk / n) + last * (left / n), total, rest)
