"""The rows of a results table: which columns, of which type; as JSON and as Parquet."""

import io
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

from pbjax.runs.atomic import to_plain


class Field(NamedTuple):
    """One column.

    Attributes:
      type: "text", "integer", "number" or "ledger" (a mapping of names to numbers).
      nullable: whether a row may say null (also written for NaN and infinities).
    """

    type: str
    nullable: bool = False


ROW_FIELDS: dict[str, Field] = {
    "method": Field("text"),
    "loss": Field("text"),
    "beta": Field("number", nullable=True),
    "empirical_risk": Field("number", nullable=True),
    "test_risk": Field("number", nullable=True),
    "kl": Field("number", nullable=True),
    "kl_low": Field("number", nullable=True),
    "kl_high": Field("number", nullable=True),
    "n": Field("integer"),
    "delta": Field("number"),
    "certificate": Field("number"),
    "assumption": Field("text"),
    "delta_ledger": Field("ledger"),
    "standard_error": Field("number", nullable=True),
    "r_hat": Field("number", nullable=True),
    "ess": Field("number", nullable=True),
    "flag": Field("text", nullable=True),
    "seed": Field("integer"),
    "seconds": Field("number", nullable=True),
}
"""The columns of a row of certificates; `flag` is null when no diagnostic objects."""

_PARQUET = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "ledger": pa.string()}


def _fits(value: Any, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "ledger":
        return isinstance(value, Mapping) and all(_fits(share, "number") for share in value.values())
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return kind == "number" or isinstance(value, numbers.Integral)


def check_rows(rows: Sequence[Mapping[str, Any]], *, fields: Mapping[str, Field] = ROW_FIELDS) -> list[dict[str, Any]]:
    """Puts rows into plain form and makes sure that each holds every column with the right type.

    Args:
      rows: mappings from column to value; further columns are kept, after the required ones.
      fields: the required columns.

    Returns:
      The rows out of plain values: NaN and infinities are None, an empty flag is None.

    Raises:
      ValueError: names the row, the column and what is wrong with it.

    Example:
      >>> check_rows([{"risk": float("nan")}], fields={"risk": Field("number", nullable=True)})
      [{'risk': None}]
    """
    plain_rows = []
    for index, row in enumerate(rows):
        given = to_plain(dict(row))
        missing = [name for name in fields if name not in given]
        if missing:
            raise ValueError(f"row {index} lacks {', '.join(missing)}; each row holds {', '.join(fields)}")
        if given.get("flag") == "":
            given["flag"] = None
        for name, field in fields.items():
            value = given[name]
            if value is None:
                if not field.nullable:
                    raise ValueError(
                        f"row {index}: {name} = {row[name]!r} has no value in JSON, and this column always has one"
                    )
            elif not _fits(value, field.type):
                raise ValueError(f"row {index}: {name} = {row[name]!r} must be of type {field.type}")
        plain_rows.append({name: given[name] for name in (*fields, *(key for key in given if key not in fields))})
    return plain_rows


def parquet_bytes(
    rows: Sequence[Mapping[str, Any]],
    *,
    fields: Mapping[str, Field] = ROW_FIELDS,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The rows as a Parquet file; ledgers and other nested values are JSON strings.

    Args:
      rows: what `check_rows` returns.
      fields: the required columns; the types of further columns are inferred.
      metadata: text stored in the file's schema.

    Returns:
      The bytes of the file.
    """
    names = list(dict.fromkeys([*fields, *(name for row in rows for name in row)]))
    columns, schema = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, dict | list) for value in values):
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        kind = _PARQUET[fields[name].type] if name in fields else None
        column = pa.array(values, type=kind)
        columns.append(column)
        schema.append(pa.field(name, column.type))
    table = pa.Table.from_arrays(columns, schema=pa.schema(schema, metadata=dict(metadata or {})))
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def is_flagged(row: Mapping[str, Any]) -> bool:
    """Whether a diagnostic objects to a row.

    Args:
      row: a row of results.

    Returns:
      True when its `flag` says something.

    Example:
      >>> is_flagged({"flag": "r_hat 1.21 >= 1.05"}), is_flagged({"flag": None}), is_flagged({"flag": ""})
      (True, False, False)
    """
    flag = row.get("flag")
    return bool(flag) and not (isinstance(flag, float) and math.isnan(flag))
