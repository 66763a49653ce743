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

RECORD = "record"
"""Entry of a row with what its certificate was computed from; not a column."""
RECORDS = "records"
"""The section of results.json that these entries go to."""

_SHARED, _LONG = "shared", {str: 40, list: 4}
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


def split_records(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Takes what the rows' certificates were computed from out of the rows, for a section of its own.

    Rows of one ladder share long lists, so each text or list of some length is kept once.

    Args:
      rows: mappings from column to value; under `RECORD` the `record()` of the row's certificate, where it has one.

    Returns:
      (the rows without that entry, {"shared": distinct long values, "rows": one record or null a row}), in which
      {"shared": i} stands for the i-th of the long values; or (the rows, None) when no row has a record.

    Example:
      >>> rows, section = split_records([{"certificate": 0.2, "record": {"inputs": {"betas": [0.0, 1.0, 2.0, 3.0]}}}])
      >>> rows, section
      ([{'certificate': 0.2}], {'shared': [[0.0, 1.0, 2.0, 3.0]], 'rows': [{'inputs': {'betas': {'shared': 0}}}]})
    """
    shared: list[Any] = []
    places: dict[str, int] = {}

    def share(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: share(item) for name, item in value.items()}
        if not isinstance(value, str | list) or len(value) < _LONG[type(value)]:
            return value
        text = json.dumps(value)
        if text not in places:
            places[text] = len(shared)
            shared.append(value)
        return {_SHARED: places[text]}

    records = [None if row.get(RECORD) is None else share(row[RECORD]) for row in rows]
    plain = [{name: value for name, value in row.items() if name != RECORD} for row in rows]
    if all(record is None for record in records):
        return plain, None
    return plain, {_SHARED: shared, "rows": records}


def join_records(section: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """The records that `split_records` put into a section.

    Args:
      section: as it stands in results.json under `RECORDS`.

    Returns:
      One record or None a row.

    Raises:
      ValueError: it is not such a section.

    Example:
      >>> join_records({"shared": [[0.0, 1.0]], "rows": [None, {"betas": {"shared": 0}}]})
      [None, {'betas': [0.0, 1.0]}]
    """

    def whole(value: Any) -> Any:
        if isinstance(value, Mapping):
            return (
                section[_SHARED][value[_SHARED]] if set(value) == {_SHARED} else {k: whole(v) for k, v in value.items()}
            )
        return value

    try:
        return [whole(record) for record in section["rows"]]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{RECORDS} cannot be read as records of certificates ({type(error).__name__})") from None


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
