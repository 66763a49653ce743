"""Certificates of a finished run, recomputed from the inputs that results.json keeps beside its rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pbjax import certificates
from pbjax.certificates import Certificate
from pbjax.runs.comparing import differences
from pbjax.runs.errors import RunError
from pbjax.runs.results import RECORDS, join_records

_ROUNDING = 1e-9
"""Relative difference of what stands beside a value, its KL say, that other machines and versions may make."""

_CLAIMS = ("n", "delta", "delta_ledger", "assumption")
"""What a row says about its certificate under the certificate's own names, in every experiment that has the column."""


class Verdict(NamedTuple):
    """One certificate, stored and recomputed.

    Attributes:
      row: number of its row.
      route: how it was made.
      loss: what it certifies.
      seed: of its row; None where it has none.
      stored: the value in the row.
      recomputed: the value from the inputs; NaN where there is none.
      objection: what is wrong; "" when the recomputed value is not above the stored one and all else agrees.
    """

    row: int
    route: str
    loss: str
    seed: int | None
    stored: float
    recomputed: float
    objection: str

    @property
    def verdict(self) -> str:
        """In a word: equal bit for bit, lower (recomputed below stored), or what is wrong."""
        return self.objection or ("equal" if self.recomputed == self.stored else "lower")


def read_record(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The record of results.json, wherever it stands; config.json is not needed.

    Args:
      path: results.json or the directory that it is in.

    Returns:
      (path of the file, what it holds).

    Raises:
      RunError: there is no such file, or it is not one that a run wrote.
    """
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise RunError(f"{path} holds no results.json; give the directory of a finished run, or its results.json")
    try:
        record = json.loads(file.read_bytes())
        if not all(isinstance(row, dict) for row in record["rows"]):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is not the results.json of a run ({type(error).__name__})") from None
    return file, record


def _objection(row: Mapping[str, Any], kept: Certificate, again: Certificate) -> str:
    if row["certificate"] != kept.value:
        return f"the inputs are of another certificate, {kept.value:g}"
    for name in _CLAIMS:
        if name in row and row[name] != getattr(kept, name):
            return f"the row states another {name} than its certificate"
    if again.value > kept.value:
        return "HIGHER"
    wrong = [
        name
        for name, stored, found in differences(kept.record(), again.record())
        if not (
            isinstance(stored, float)
            and isinstance(found, float)
            and (name == "value" or math.isclose(stored, found, rel_tol=_ROUNDING))
        )
    ]
    return f"another {', '.join(wrong)}" if wrong else ""


def verify(path: str | Path) -> list[Verdict]:
    """Recomputes every certificate of a finished run from its stored inputs.

    Args:
      path: results.json or the run directory.

    Returns:
      One entry for each row with a certificate.

    Raises:
      RunError: it is no such file, or its certificates came without their inputs.

    Example:
      >>> import dataclasses, tempfile
      >>> from pbjax.runs import Field, RunDirectory
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     delta: float = 0.05
      >>> folder = tempfile.mkdtemp() + "/run"
      >>> with RunDirectory(folder, experiment="demo", config=Example()) as run:
      ...     row = certificates.test_set(3, n=100, delta=0.05).row(record=True)
      ...     run.write_results([row], fields={"certificate": Field("number")})
      >>> [verdict] = verify(folder)
      >>> verdict.route, verdict.verdict
      ('test_set', 'equal')
    """
    file, record = read_record(path)
    rows = record["rows"]
    if RECORDS not in record:
        if any(row.get("certificate") is not None for row in rows):
            raise RunError(f"{file} was written before the inputs of certificates were kept: run its config again")
        raise RunError(f"{file} holds no certificates; there is nothing to recompute")
    kept = join_records(record[RECORDS])
    if len(kept) != len(rows):
        raise RunError(f"{file} has {len(rows)} rows and {len(kept)} records of certificates; it was changed by hand")
    # A certificate of float64 numbers, recomputed in float32, comes out higher by the rounding.
    x64 = bool(((record.get("provenance") or {}).get("precision") or {}).get("x64", True))
    pairs = [(place, given) for place, given in enumerate(kept) if given is not None]
    with jax.enable_x64(x64):
        recomputed = certificates.recompute_all(given for _, given in pairs)
    verdicts = []
    for (place, given), again in zip(pairs, recomputed, strict=True):
        row = rows[place]
        value, objection = math.nan, ""
        if isinstance(again, ValueError):
            objection = f"cannot be recomputed: {again}"
        else:
            value, objection = again.value, _objection(row, certificates.from_record(given), again)
        verdicts.append(
            Verdict(
                place, str(given.get("route")), str(given.get("loss")), row.get("seed"), row["certificate"], value,
                objection,
            )
        )  # fmt: skip
    return verdicts
