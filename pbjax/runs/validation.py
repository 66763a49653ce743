"""What configs refuse: the checks that the `validate` methods of several experiments share, one clear line each."""

from typing import Any

__all__ = ["require", "require_at_least", "require_positive", "require_seeds"]


def require(condition: bool, message: str) -> None:
    """Refuses a value.

    Args:
      condition: what must hold.
      message: one line with the value and what would be right.

    Raises:
      ValueError: it does not hold.

    Example:
      >>> require(0 < 0.05 < 1, "delta = 0.05: must lie in (0, 1)")
    """
    if not condition:
        raise ValueError(message)


def require_at_least(config: Any, **least: float | int) -> None:
    """Refuses fields below their least value.

    Args:
      config: the config.
      **least: field -> least value.

    Raises:
      ValueError: a field is below.

    Example:
      >>> from types import SimpleNamespace
      >>> require_at_least(SimpleNamespace(draws=0), draws=1)
      Traceback (most recent call last):
      ...
      ValueError: draws = 0: must be at least 1
    """
    for name, value in least.items():
        require(getattr(config, name) >= value, f"{name} = {getattr(config, name)}: must be at least {value}")


def require_positive(config: Any, *names: str) -> None:
    """Refuses fields that are not positive.

    Args:
      config: the config.
      *names: its fields.

    Raises:
      ValueError: a field is 0 or below.

    Example:
      >>> from types import SimpleNamespace
      >>> require_positive(SimpleNamespace(beta=14.0), "beta")
    """
    for name in names:
        require(getattr(config, name) > 0, f"{name} = {getattr(config, name)}: must be positive")


def require_seeds(config: Any, *, name: str = "seeds") -> None:
    """Refuses seeds that are negative, given twice, or none at all.

    Args:
      config: the config.
      name: the field, a tuple of integers.

    Raises:
      ValueError: the seeds cannot be used.

    Example:
      >>> from types import SimpleNamespace
      >>> require_seeds(SimpleNamespace(seeds=(0, 1)))
    """
    seeds = getattr(config, name)
    require(len(seeds) >= 1, f"{name} is empty: give at least one, for example --{name.replace('_', '-')} 0")
    require(len(set(seeds)) == len(seeds), f"{name} = {seeds}: give each seed once")
    require(min(seeds) >= 0, f"{name} = {seeds}: must be non-negative integers")
