"""What differs between two finished runs: fields of their configs, where they come from, and their rows."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pbjax.runs.atomic import to_plain

TIMINGS = ("seconds", "seconds_per_step", "seconds_per_epoch", "compile_seconds", "steps_per_second")
"""Columns that two runs of one program never share."""

_MISSING = "–"


class Difference(NamedTuple):
    """One value that two runs do not share.

    Attributes:
        name: dotted name of a field, or "row.column".
        first: value in the first run, None where it has none.
        second: value in the second run.
    """

    name: str
    first: Any
    second: Any


def is_timing(name: str) -> bool:
    """Whether a column says how long something took.

    Args:
        name: of the column.

    Returns:
        True for those of `TIMINGS` and for others that begin or end with "seconds".

    Example:
        >>> is_timing("seconds_per_gradient"), is_timing("certificate")
        (True, False)
    """
    return name in TIMINGS or name.startswith("seconds") or name.endswith("seconds")


def differences(first: Mapping[str, Any], second: Mapping[str, Any], *, prefix: str = "") -> list[Difference]:
    """Where two nested mappings differ.

    Args:
        first: names -> values.
        second: likewise.
        prefix: put before every name.

    Returns:
        One entry a leaf, in the order of the first mapping.

    Example:
        >>> differences({"delta": 0.05, "radius": {"sam": 0.1}}, {"delta": 0.05, "radius": {"sam": 0.2}})
        [Difference(name='radius.sam', first=0.1, second=0.2)]
    """
    found = []
    for name in dict.fromkeys([*first, *second]):
        a, b = to_plain(first.get(name)), to_plain(second.get(name))
        if isinstance(a, dict) and isinstance(b, dict):
            found.extend(differences(a, b, prefix=f"{prefix}{name}."))
        elif a != b or type(a) is not type(b):
            found.append(Difference(f"{prefix}{name}", a, b))
    return found


def row_differences(
    first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]], *, timings: bool = False
) -> list[Difference]:
    """Where the rows of two runs differ, row by row in their order; numbers are compared bit for bit.

    Args:
        first: rows of the first run.
        second: rows of the second run.
        timings: whether columns that say how long something took count.

    Returns:
        One entry a value, called "<number of the row>.<column>"; and "rows" where their numbers differ.

    Example:
        >>> rows = [{"certificate": 0.2, "seconds": 1.0}]
        >>> row_differences(rows, [{"certificate": 0.2, "seconds": 2.0}])
        []
        >>> row_differences(rows, [{"certificate": 0.25, "seconds": 2.0}])
        [Difference(name='0.certificate', first=0.2, second=0.25)]
    """
    ours, theirs = [dict(row) for row in first], [dict(row) for row in second]
    found = [] if len(ours) == len(theirs) else [Difference("rows", len(ours), len(theirs))]
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        entries = differences(a, b, prefix=f"{number}.")
        found.extend(entry for entry in entries if timings or not is_timing(entry.name.partition(".")[2]))
    return found
