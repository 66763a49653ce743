"""Certificates again from their own inputs: what a reader of a stored one can check without the run that made it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pbjax.certificates.annealed_importance import ais_free_energy
from pbjax.certificates.certificate import Certificate, from_record
from pbjax.certificates.gibbs import gibbs_asymptotic, gibbs_chains, gibbs_iid, gibbs_plugin
from pbjax.certificates.heat import heat_mean, heat_single
from pbjax.certificates.heat_law import heat_law_asymptotic, heat_law_rigorous
from pbjax.certificates.references import mean_field, test_set
from pbjax.evidence import SampleStatistics

Inputs = Mapping[str, Any]


class Call(NamedTuple):
    """The call that made a certificate.

    Attributes:
      arguments: of the route's function, plain values; with n, delta and loss it is all that the function gets.
      place: of the certificate in what the function returns, None where it returns a single one.
    """

    arguments: dict[str, Any]
    place: int | None


def _statistics(inputs: Inputs, name: str, means: str, errors: str) -> SampleStatistics:
    mean = np.asarray(inputs[means], np.float64)
    # What a route does not read was not kept; the shape of the chains' means is their number.
    chains = inputs.get(f"{name}_chain_means")
    return SampleStatistics(
        mean=mean,
        variance=np.asarray(inputs.get(f"{name}_variance", np.full(mean.size, math.nan)), np.float64),
        standard_error=np.asarray(inputs[errors], np.float64),
        chain_means=np.repeat(mean[:, None], inputs.get("chains", 1), axis=1) if chains is None else np.asarray(chains),
        num_draws=np.asarray(inputs.get(f"{name}_num_draws", 1)),
        dependent_rungs=bool(inputs["dependent_rungs"]),
    )


def _ladder(made: Certificate) -> Call:
    inputs = made.inputs
    arguments = {
        "betas": np.asarray(inputs["betas"], np.float64),
        "energy": _statistics(inputs, "energy", "mean_energies", "standard_errors"),
        "risk": _statistics(inputs, "risk", "risk_means", "risk_standard_errors") if "risk_means" in inputs else None,
        "rungs_inspected": inputs["rungs_inspected"],
        "flags": inputs["flags"],
        "union": inputs["union"],
    }
    if made.route != "gibbs_plugin":
        arguments["monte_carlo_share"] = inputs["monte_carlo_share"]
    if made.route == "gibbs_asymptotic":
        arguments["between_chains"] = inputs["variance"] == "between_chains"
    return Call(arguments, int(inputs["rung"]) - 1)


def _heats(inputs: Inputs) -> dict[str, Any]:
    names = {"heat": "heats", "empirical_risk": "risks", "slack": "slacks"}
    return {name: np.asarray(inputs[kept], np.float64) for name, kept in names.items()}


def _heat_single(made: Certificate) -> Call:
    inputs = made.inputs
    beta = None if inputs["betas"] is None else np.asarray(inputs["betas"], np.float64)
    return Call(
        {**_heats(inputs), "parameter": inputs["parameter"], "beta": beta, "union": inputs["union"], "flag": made.flag},
        int(inputs["network"]),
    )


def _heat_mean(made: Certificate) -> Call:
    names = ("weights", "parameter", "union")
    more = {"beta": made.beta, "flag": made.flag}
    return Call({**_heats(made.inputs), **{name: made.inputs[name] for name in names}, **more}, None)


def _heat_law(made: Certificate) -> Call:
    names = ("monte_carlo_share", "union") + (("limit",) if made.route == "heat_law_rigorous" else ())
    more = {"beta": made.beta, "flag": made.flag}
    return Call({**_heats(made.inputs), **{name: made.inputs[name] for name in names}, **more}, None)


def _annealed(made: Certificate) -> Call:
    inputs = made.inputs
    arrays = {"betas": "betas", "log_weights": "log_weights", "energy": "energies", "slack": "slacks"}
    arguments = {
        name: None if inputs[kept] is None else np.asarray(inputs[kept], np.float64) for name, kept in arrays.items()
    }
    names = ("monte_carlo_share", "union")
    return Call({**arguments, **{name: inputs[name] for name in names}, "flag": made.flag}, int(inputs["rung"]))


def _named(*names: str) -> Callable[[Certificate], Call]:
    def call(made: Certificate) -> Call:
        return Call({**{name: made.inputs[name] for name in names}, "beta": made.beta, "flag": made.flag}, None)

    return call


_MEAN_FIELD = ("empirical_mean", "num_draws", "kl", "draw_standard_error", "monte_carlo_share", "prior_data", "union")

ROUTES: Mapping[str, tuple[Callable[..., Any], Callable[[Certificate], Call]]] = {
    "gibbs_plugin": (gibbs_plugin, _ladder),
    "gibbs_iid": (gibbs_iid, _ladder),
    "gibbs_asymptotic": (gibbs_asymptotic, _ladder),
    "gibbs_chains": (gibbs_chains, _ladder),
    "mean_field": (mean_field, _named(*_MEAN_FIELD)),
    "test_set": (test_set, _named("errors", "tail", "union")),
    "heat_single": (heat_single, _heat_single),
    "heat_mean": (heat_mean, _heat_mean),
    "heat_law_rigorous": (heat_law_rigorous, _heat_law),
    "heat_law_asymptotic": (heat_law_asymptotic, _heat_law),
    "ais_free_energy": (ais_free_energy, _annealed),
}
"""Route -> the function that makes its certificates, and how its call is read off one of them."""


def _text(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def recompute_all(certificates: Iterable[Certificate | Mapping[str, Any]]) -> list[Certificate | ValueError]:
    """Certificates again from their inputs; those that were made together are made by one call.

    Args:
      certificates: certificates, or records of them.

    Returns:
      For each one the recomputed certificate, or the ``ValueError`` that says why there is none.

    Example:
      >>> [again, refused] = recompute_all([test_set(10, n=100, delta=0.05), {"value": 0.1}])
      >>> print(round(again.value, 4), type(refused).__name__)
      0.1638 ValueError
    """
    calls: dict[str, Any] = {}

    def one(given: Certificate | Mapping[str, Any]) -> Certificate:
        made = given if isinstance(given, Certificate) else from_record(given)
        if made.route not in ROUTES:
            raise ValueError(f"route = {made.route!r}: choose one of {', '.join(ROUTES)}")
        function, read = ROUTES[made.route]
        try:
            call = read(made)
        except KeyError as error:
            raise ValueError(
                f"this certificate by {made.route} lacks its input {error}: it was made before inputs were kept"
            ) from None
        fixed = {"n": made.n, "delta": made.delta, "loss": made.loss}
        key = json.dumps([made.route, fixed, call.arguments], default=_text)
        if key not in calls:
            calls[key] = function(**call.arguments, **fixed)
        return calls[key] if call.place is None else calls[key][call.place]

    found: list[Certificate | ValueError] = []
    for given in certificates:
        try:
            found.append(one(given))
        except (ValueError, TypeError, IndexError) as error:  # whatever was written over an input
            found.append(error if isinstance(error, ValueError) else ValueError(f"unusable inputs ({error})"))
    return found


def recompute(certificate: Certificate | Mapping[str, Any]) -> Certificate:
    """A certificate again from nothing but its inputs, n, delta and loss: the two records are equal.

    On another machine, or with other versions, the last digits may differ.

    Args:
      certificate: a certificate, or what its ``record()`` gave and JSON kept.

    Returns:
      The recomputed certificate.

    Raises:
      ValueError: the inputs are not complete, or no certificate follows from them.

    Example:
      >>> import json
      >>> [made] = heat_single(1100.0, 0.085, n=57_000, delta=0.05, loss="zero_one")
      >>> recompute(json.loads(json.dumps(made.record()))).value == made.value
      True
    """
    [found] = recompute_all([certificate])
    if isinstance(found, ValueError):
        raise found
    return found
