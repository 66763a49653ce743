"""From the end points of annealed chains to every certificate that they allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from pbjax.certificates import (
    Certificate,
    ais_free_energy,
    heat_law_asymptotic,
    heat_law_rigorous,
    heat_mean,
    heat_single,
)
from pbjax.certificates.heat_law import Limit

Numbers = ArrayLike | Sequence[Any]


def heat_certificates(
    heat: Numbers,
    log_weight: Numbers,
    risks: Mapping[str, Numbers],
    *,
    beta: float | int,
    n: int,
    delta: float,
    surrogate: str = "surrogate",
    slack: Numbers = 0.0,
    tries: int = 1,
    limit: Limit = "kl",
    parameter: float | None = None,
    flag: str | None = None,
) -> list[Certificate]:
    """All routes for C chains at one rung: each network, their average, the law they come from, the exact Gibbs law.

    The losses share delta equally. Within a loss every certificate has its share to itself: choosing among them is
    among the `tries`.

    Args:
        heat: W, nats, [C].
        log_weight: -A, nats, [C].
        risks: name -> empirical risk of each network on the n rows, [C]; the losses certified.
        beta: last total inverse temperature.
        n: number of rows.
        delta: failure probability of everything · in (0, 1).
        surrogate: the name in `risks` of the loss that was the chains' energy.
        slack: numerical slack, nats, scalar or [C].
        tries: networks, prior scales, losses and routes ever tried on these rows, among which this is one · >= 1.
        limit: of `heat_law_rigorous`: "kl", "empirical_bernstein" or "betting", chosen before the chains ran.
        parameter: C > 0, fixed before the data were seen, for Catoni's form in `heat_single` and `heat_mean`; None for
            the kl inversion.
        flag: what diagnostics object to.

    Returns:
        For every loss: `heat_single` of each chain in order (they share delta, so any may be chosen), `heat_mean`,
        and with two chains or more `heat_law_rigorous` and `heat_law_asymptotic`; for the surrogate `ais_free_energy`.

    Raises:
        ValueError: as the functions of `pbjax.certificates`, or no loss.

    Example:
        >>> made = heat_certificates(
        ...     [90.0, 110.0], [-600.0, -610.0], {"zero_one": [0.1, 0.1], "surrogate": [0.15, 0.16]}, beta=3000.0,
        ...     n=3000, delta=0.05)
        >>> [certificate.route for certificate in made if certificate.loss == "zero_one"]
        ['heat_single', 'heat_single', 'heat_mean', 'heat_law_rigorous', 'heat_law_asymptotic']
    """
    if not risks:
        raise ValueError("risks is empty: name at least one loss to certify")
    beta = float(beta)
    chains = np.size(np.asarray(heat))
    made: list[Certificate] = []
    for loss, values in risks.items():
        common: dict[str, Any] = {
            "n": n, "delta": delta / len(risks), "loss": loss, "slack": slack, "union": tries, "flag": flag,
        }  # fmt: skip
        made += heat_single(heat, values, beta=beta, parameter=parameter, **common)
        made.append(heat_mean(heat, values, beta=beta, parameter=parameter, **common))
        if chains > 1:
            made.append(heat_law_rigorous(heat, values, beta=beta, limit=limit, **common))
            made.append(heat_law_asymptotic(heat, values, beta=beta, **common))
        if loss == surrogate:
            made += ais_free_energy(beta, np.asarray(log_weight), energy=np.asarray(values), **common)
    return made
