"""Which columns every row of results has; rows of different parts share a file."""

from __future__ import annotations

from pbjax import runs

_NUMBER = runs.Field("number", nullable=True)

PARTS = ("neighbour", "enumerated", "accuracy", "network")
"""Exact neighbours by Monte Carlo; sums over all strings; accuracies against such sums; trained networks."""

FIELDS: dict[str, runs.Field] = {
    "part": runs.Field("text"),
    "law": runs.Field("text"),
    "start": runs.Field("integer"),
    "kl": _NUMBER,
    "standard_error": _NUMBER,
    "flag": runs.Field("text", nullable=True),
}
"""Columns of all rows: `law` is r and `start` is N ("none" and 0 for p itself), `kl` in nats a sequence."""


def complete(row: dict[str, object]) -> dict[str, object]:
    """A row with every column of `FIELDS`.

    Args:
        row: of any part.

    Returns:
        The same with None where it has no number.

    Example:
        >>> complete({"part": "accuracy", "law": "none", "start": 0, "flag": None})["kl"] is None
        True
    """
    return {**dict.fromkeys(FIELDS), **row}
