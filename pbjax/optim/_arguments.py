"""Numbers that may be schedules of the step count, and the checks at the door that the members share."""

from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range, concrete

Schedule = ArrayLike | Callable[..., ArrayLike]


def at(value: Schedule, count: jax.Array) -> ArrayLike:
    """The value at a step."""
    return value(count) if callable(value) else value


def check_schedule(name: str, value: Schedule, *, open_low: bool = False) -> None:
    """Refuse a number below 0 (or at 0); a schedule is believed."""
    if not callable(value):
        check_range(name, value, low=0.0, open_low=open_low, open_high=True)


def check_decay(name: str, value: ArrayLike) -> None:
    """Refuse a decay outside [0, 1)."""
    check_range(name, value, low=0.0, high=1.0, open_high=True)


def check_static(name: str, value: Any) -> int:
    """A whole number of at least 1 that sets shapes, so that it cannot be traced."""
    if concrete(value) is None:
        raise ValueError(f"{name} is traced: it sets shapes, name it in inject_hyperparams(..., static_args=...)")
    check_n(value, name=name)
    return int(value)


def check_given(name: str, value: ArrayLike | None, meaning: str) -> ArrayLike:
    """The number, refused if it is missing: there is no honest default."""
    if value is None:
        raise ValueError(f"{name} is missing: pass {meaning}")
    return value
