"""Checks at the door: values that are known outside jit are refused with the offending number and the remedy.

Inside jit (or vmap, grad) a value is a tracer and cannot be inspected; every check then passes, and the function that
called it must be total instead (clip, or return the vacuous bound).
"""

from typing import Any

import numpy as np
from jax.core import Tracer


def concrete(x: Any) -> np.ndarray | None:
    """Returns `x` as a numpy array, or None when it is traced and has no value yet.

    Args:
      x: a number, numpy array or jax array, of any shape.

    Returns:
      A numpy array of the same shape, or None inside jit, vmap or grad.

    Example:
      >>> concrete(0.5)
      array(0.5)
      >>> import jax
      >>> jax.jit(lambda x: 1.0 if concrete(x) is None else 0.0)(0.5).item()
      1.0
    """
    if isinstance(x, Tracer):
        return None
    return np.asarray(x)


def _refuse(name: str, values: np.ndarray, wrong: Any, remedy: str) -> None:
    if np.any(wrong):
        offending = values[np.asarray(wrong)].flat[0]
        raise ValueError(f"{name} = {offending}: {remedy}")


def check_range(
    name: str,
    x: Any,
    *,
    low: float | int = -np.inf,
    high: float | int = np.inf,
    open_low: bool = False,
    open_high: bool = False,
    allow_nan: bool = False,
    whole: bool = False,
    remedy: str | None = None,
) -> None:
    """Refuses a concrete value outside an interval; does nothing for traced values.

    Args:
      name: how the message calls the value.
      x: the value, of any shape.
      low: smallest allowed value.
      high: largest allowed value.
      open_low: whether `low` itself is refused.
      open_high: whether `high` itself is refused.
      allow_nan: whether NaN passes (the bounds turn it into the vacuous 1.0).
      whole: whether only whole numbers pass.
      remedy: what would be right; a text naming the interval by default.

    Raises:
      ValueError: with the offending value and the remedy.

    Example:
      >>> check_range("lambda", 0.5, low=0.0, high=2.0)
    """
    values = concrete(x)
    if values is None:
        return
    if values.dtype.kind not in "biuf":
        try:
            values = values.astype(np.float64)  # bfloat16 and friends have no kind of their own
        except (TypeError, ValueError):
            raise ValueError(f"{name} has dtype {values.dtype}: it must be a real number") from None
    if remedy is None:
        remedy = f"it must lie in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        remedy += " and be a whole number" if whole else ""
    below = values <= low if open_low else values < low
    above = values >= high if open_high else values > high
    wrong = below | above
    if values.dtype.kind == "f":
        wrong |= np.isnan(values) & (not allow_nan)
        if whole:
            wrong |= np.isfinite(values) & (values != np.floor(values))
    _refuse(name, values, wrong, remedy)


def check_finite(name: str, x: Any) -> None:
    """Refuses a concrete NaN or infinity.

    Args:
      name: how the message calls the value.
      x: the value, of any shape.

    Raises:
      ValueError: when an entry is not finite.

    Example:
      >>> check_finite("beta", [0.0, 1.0])
    """
    check_range(name, x, open_low=True, open_high=True, remedy="it must be finite")


def check_unit_interval(name: str, x: Any, *, allow_nan: bool = False) -> None:
    """Refuses a concrete value outside [0, 1].

    Args:
      name: how the message calls the value.
      x: the value, of any shape.
      allow_nan: whether NaN passes.

    Raises:
      ValueError: when an entry lies outside [0, 1].

    Example:
      >>> check_unit_interval("risk", 0.02)
    """
    check_range(name, x, low=0.0, high=1.0, allow_nan=allow_nan)


def check_delta(delta: Any, *, name: str = "delta", allow_nan: bool = False) -> None:
    """Refuses a concrete failure probability outside (0, 1).

    Args:
      delta: failure probability, of any shape.
      name: how the message calls it.
      allow_nan: whether NaN passes.

    Raises:
      ValueError: when an entry lies outside (0, 1).

    Example:
      >>> check_delta(0.05)
    """
    check_range(
        name,
        delta,
        low=0.0,
        high=1.0,
        open_low=True,
        open_high=True,
        allow_nan=allow_nan,
        remedy="it is a probability of failure and must lie strictly between 0 and 1, for example 0.05",
    )


def check_n(n: Any, *, name: str = "n", allow_nan: bool = False) -> None:
    """Refuses a concrete number of examples (or draws) that is not a whole number of at least 1.

    Args:
      n: number of examples or draws, of any shape.
      name: how the message calls it.
      allow_nan: whether NaN passes.

    Raises:
      ValueError: when an entry is below 1, infinite or not whole.

    Example:
      >>> check_n(60_000)
    """
    check_range(
        name,
        n,
        low=1.0,
        open_high=True,
        whole=True,
        allow_nan=allow_nan,
        remedy="it counts independent examples and must be a whole number of at least 1",
    )
