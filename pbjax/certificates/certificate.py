"""A certificate: a number that bounds a risk, together with what it assumes and every failure probability it spent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pbjax import _checks


@dataclasses.dataclass(frozen=True)
class Certificate:
    """An upper bound on a risk that holds with probability at least 1 − delta, under its assumption.

    Attributes:
      value: the bound · in [0,1] · 1.0 is vacuous. Never NaN, rounded upwards.
      loss: name of the certified loss.
      route: how it was made: gibbs_plugin, gibbs_iid, gibbs_asymptotic, gibbs_chains, mean_field, test_set,
        heat_single, heat_mean, heat_law_rigorous, heat_law_asymptotic or ais_free_energy.
      assumption: what has to be true beyond independent examples, in words.
      delta: the whole budget of failure probability.
      delta_ledger: name -> share of ``delta`` spent there; the shares sum to ``delta``.
      n: number of examples.
      beta: total inverse temperature; None where there is none.
      empirical_risk: estimated mean empirical risk of the certified loss under the posterior · in [0,1].
      kl: estimated KL(posterior‖prior) in nats (trapezium for a Gibbs posterior); None where there is none.
      kl_low: lower end of its bracket in nats (right sum of the estimates); None where there is none.
      kl_high: upper end in nats: the value that the certificate uses (for gibbs_plugin the left sum of the estimates).
      inputs: the plain numbers and lists that it was computed from, all of them: ``recompute`` needs nothing else.
      standard_error: Monte-Carlo standard error of the plug-in value; NaN where it is not known.
      flag: what the diagnostics object to, in words; None when nothing.
    """

    value: float
    loss: str
    route: str
    assumption: str
    delta: float
    delta_ledger: dict[str, float]
    n: int
    beta: float | None
    empirical_risk: float
    kl: float | None
    kl_low: float | None
    kl_high: float | None
    inputs: dict[str, Any]
    standard_error: float
    flag: str | None

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"a certificate lies in [0, 1], got {self.value}; use 1.0 for a vacuous one")
        if abs(sum(self.delta_ledger.values()) - self.delta) > 1e-9 * self.delta:
            raise ValueError(f"delta_ledger {self.delta_ledger} must sum to delta = {self.delta}")

    def row(self, *, record: bool = False) -> dict[str, Any]:
        """The certificate under the column names of a results table (``inputs`` stay out).

        Args:
          record: whether to add ``record()`` as "record", from which ``pbjax.runs`` keeps the inputs beside the rows.

        Returns:
          dict with method, loss, beta, empirical_risk, kl, kl_low, kl_high, n, delta, certificate, assumption,
          delta_ledger, standard_error and flag.

        Example:
          >>> from pbjax.certificates import test_set
          >>> test_set(10, n=100, delta=0.05).row()["method"]
          'test_set'
        """
        columns = {name: value for name, value in _fields(self).items() if name != "inputs"}
        columns["delta_ledger"] = dict(self.delta_ledger)
        row = {"method": columns.pop("route"), "certificate": columns.pop("value"), **columns}
        return {**row, "record": self.record()} if record else row

    def record(self) -> dict[str, Any]:
        """Every field in a form that JSON holds bit for bit, for ``from_record`` and ``recompute``.

        Returns:
          dict of the fields; NaN and infinities, which JSON lacks, are the texts "NaN", "Infinity" and "-Infinity".

        Example:
          >>> from pbjax.certificates import test_set
          >>> test_set(10, n=100, delta=0.05).record()["inputs"]
          {'errors': 10.0, 'tail': 'binomial', 'union': 1}
        """
        return {name: _encode(value) for name, value in _fields(self).items()}


_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _fields(certificate: Certificate) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies the inputs, which all rungs of a ladder share.
    return {field.name: getattr(certificate, field.name) for field in dataclasses.fields(certificate)}


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in value.items()}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        return _SPECIAL.get(value, value)
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _decode(item) for name, item in value.items()}
    return value


def from_record(record: Mapping[str, Any]) -> Certificate:
    """The certificate that ``Certificate.record`` wrote.

    Args:
      record: its fields, as they come out of JSON.

    Returns:
      The certificate, bit for bit.

    Raises:
      ValueError: a field is missing, unknown or out of range.

    Example:
      >>> from pbjax.certificates import test_set
      >>> made = test_set(10, n=100, delta=0.05)
      >>> from_record(made.record()) == made
      True
    """
    names = [field.name for field in dataclasses.fields(Certificate)]
    if set(names) != set(record):
        different = ", ".join(sorted(set(names) ^ set(record)))
        raise ValueError(f"not the record of a certificate: {different} missing or unknown; give what record() wrote")
    try:
        return Certificate(**{name: _decode(record[name]) for name in names})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not the record of a certificate ({error}); give what record() wrote") from None


def as_value(x: float) -> float:
    """The number that may be printed: NaN and anything above 1 are vacuous.

    Args:
      x: a bound.

    Returns:
      ``x`` in [0,1]; 1.0 for NaN.

    Example:
      >>> as_value(float("nan")), as_value(0.25), as_value(3.0)
      (1.0, 0.25, 1.0)
    """
    return 1.0 if math.isnan(x) else min(max(float(x), 0.0), 1.0)


def check_union(union: int) -> None:
    """Refuses a union over fewer than one member.

    Args:
      union: size of a declared grid.

    Raises:
      ValueError: if ``union`` is not a whole number of at least 1.

    Example:
      >>> check_union(5)
    """
    _checks.check_range(
        "union", union, low=1.0, whole=True, remedy="it is the size of a declared grid, a whole number of at least 1"
    )


def split_delta(delta: float, *, union: int, shares: dict[str, float]) -> dict[str, float]:
    """Divide a budget: delta/union is this certificate's own, the rest belongs to the union's other members.

    Args:
      delta: the whole budget · in (0,1).
      union: size of the declared grid from which one certificate will be chosen · at least 1.
      shares: name -> fraction of delta/union; the fractions sum to 1.

    Returns:
      name -> share of delta, with ``union`` as an entry of its own when it is larger than 1.

    Raises:
      ValueError: if ``union`` is not a whole number of at least 1.

    Example:
      >>> split_delta(0.5, union=2, shares={"pac_bayes_kl": 0.5, "monte_carlo": 0.5})
      {'pac_bayes_kl': 0.125, 'monte_carlo': 0.125, 'union': 0.25}
    """
    check_union(union)
    own = delta / union
    ledger = {name: own * share for name, share in shares.items()}
    if union > 1:
        ledger["union"] = delta - own
    return ledger
