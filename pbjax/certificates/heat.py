"""Certificates from the heat of annealed chains: no assumption on convergence, for the networks that really came out.

A chain w_0 ~ prior, w_k ~ T_k(·|w_{k-1}) with T_k reversible for prior · exp(−b_k L) gives off the heat
W = Σ_k b_k (L(w_{k-1}) − L(w_k)). For every bounded g, E[exp(−W) g(w_K)] = E_prior[g]: W plays the part of a
log-density ratio between the output and the prior, path by path (docs/heat.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from pbjax import _checks, bounds
from pbjax.certificates.certificate import Certificate, as_value, split_delta

Numbers = ArrayLike | Sequence[float]
EPS = float(np.finfo(np.float64).eps)
CHAIN = (
    "each chain starts at an exact draw from the prior and makes Metropolis-corrected moves that are reversible for "
    "their rung; ladder, step sizes, trajectory lengths and stopping point were frozen before it with independent "
    "randomness"
)


def vector(name: str, values: Numbers, size: int | None = None) -> np.ndarray:
    given = np.atleast_1d(np.asarray(values, np.float64))
    if given.ndim != 1 or given.size == 0 or (size is not None and given.size not in (1, size)):
        raise ValueError(f"{name} has shape {given.shape}: give one number for each of {size or 'at least one'} chains")
    return given if size is None or given.size == size else np.broadcast_to(given, (size,))


def check_chains(heat: Numbers, risk: Numbers, slack: Numbers) -> tuple[np.ndarray, ...]:
    """Heats, empirical risks, slacks, and heats plus slack (rounded up), each [m]; a NaN stays one."""
    w = vector("heat", heat)
    q = vector("empirical_risk", risk, w.size)
    s = vector("slack", slack, w.size)
    if np.size(np.asarray(risk)) != w.size:
        raise ValueError(f"{w.size} heats for {np.size(np.asarray(risk))} empirical risks; give one for each chain")
    _checks.check_unit_interval("empirical_risk", q, allow_nan=True)
    _checks.check_range("slack", s, low=0.0, allow_nan=True)
    _checks.check_range("heat", w, allow_nan=True)
    high = w + s
    return w, q, s, high + 2 * EPS * np.abs(high)


def mean_up(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """A weighted mean, rounded up."""
    if not np.all(np.isfinite(values)):
        return float(np.sum(values))
    terms = values / values.size if weights is None else values * weights
    return math.fsum(terms) + 4 * EPS * math.fsum(np.abs(terms))


def risk_bounds(
    risk: np.ndarray, heat: np.ndarray, *, n: int, delta: float, parameter: float | None = None
) -> list[float]:
    """kl⁻¹(risk, (heat + log(2 sqrt(n)/delta))/n) of every entry, or Catoni's form at a parameter; 1.0 for a NaN."""
    # A negative heat is possible (a chain that warmed up); 0 is the value on the safe side. A NaN stays one.
    spent = np.where(heat < 0, 0.0, heat)
    capped = np.where(risk > 1, 1.0, risk)
    if parameter is None:
        values = bounds.pac_bayes_kl(capped, spent, n=n, delta=delta)
    else:
        values = bounds.catoni(capped, spent, n=n, delta=delta, parameter=parameter)
    return [as_value(float(value)) for value in np.asarray(values)]


def _fixed(parameter: float | None) -> str:
    return "" if parameter is None else f"; C = {parameter:g} was fixed before the data were seen"


def assemble(value: float, **fields: object) -> Certificate:
    common = {"kl": None, "kl_low": None, "kl_high": None, "standard_error": math.nan}
    return Certificate(value=value, **{**common, **fields})  # type: ignore[arg-type]


def heat_single(
    heat: Numbers,
    empirical_risk: Numbers,
    *,
    n: int,
    delta: float,
    loss: str,
    slack: Numbers = 0.0,
    union: int = 1,
    parameter: float | None = None,
    beta: Numbers | None = None,
    flag: str | None = None,
) -> list[Certificate]:
    """Certificates of single networks, the end points of annealed chains.

    kl(L̂(w_K) ‖ R(w_K)) ≤ (W + log(2 sqrt(n)/δ'))/n with δ' = delta/(J · union), all J together.

    The J entries are everything that was looked at: chains, and stopping points of one chain (the same path up to a
    lower rung, with the heat up to there). Each costs delta/J, so the best may be chosen.

    Args:
      heat: W of each run or stopping point · scalar or [J] · nats; may be negative.
      empirical_risk: certified loss of each network on all n examples · same shape · in [0,1].
      n: number of examples; the prior knows none of them.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss; any loss in [0,1] fixed in advance, not only the energy.
      slack: numerical slack of each heat, added to it · scalar or [J] · nats · at least 0.
      union: size of a declared grid (prior scales, networks, losses tried on these rows) of which these are members.
      parameter: C > 0, fixed before the data were seen, for Catoni's form: (1 − exp(−C L̂ − (W + log(1/δ'))/n)) /
        (1 − exp(−C)) in place of the kl inverse; saves log(2 sqrt(n)) nats where C is the best.
      beta: last total inverse temperature, scalar or [J], for the record.
      flag: what the diagnostics object to.

    Returns:
      J certificates, in the given order; a NaN makes its own 1.0.

    Raises:
      ValueError: for shapes that differ, a delta outside (0,1), n or union below 1, a negative slack or a risk outside
        [0,1].

    Example:
      >>> [made] = heat_single(1100.0, 0.085, n=57_000, delta=0.05, loss="zero_one")
      >>> print(round(made.value, 3), made.delta_ledger)
      0.15 {'heat': 0.05}

    References:
      docs/heat.md, theorem 2.
    """
    _checks.check_n(n)
    _checks.check_delta(delta)
    w, q, s, high = check_chains(heat, empirical_risk, slack)
    betas = None if beta is None else vector("beta", beta, w.size)
    ledger = split_delta(delta, union=union, shares={"heat": 1.0})
    own = ledger["heat"] / w.size
    if w.size > 1:
        ledger = {**ledger, "heat": own, "other_networks": ledger["heat"] - own}
    listed = {
        "heats": w.tolist(), "risks": q.tolist(), "slacks": s.tolist(),
        "betas": None if betas is None else betas.tolist(),
    }  # fmt: skip
    made = []
    for j, value in enumerate(risk_bounds(q, high, n=n, delta=own, parameter=parameter)):
        made.append(
            assemble(
                value,
                loss=loss,
                route="heat_single",
                assumption=f"{CHAIN}; every run and stopping point that was looked at is among the {w.size} listed"
                f"{_fixed(parameter)}",
                delta=float(delta),
                delta_ledger=dict(ledger),
                n=int(n),
                beta=None if betas is None else float(betas[j]),
                empirical_risk=float(q[j]),
                inputs={
                    "heat": float(w[j]),
                    "slack": float(s[j]),
                    "networks_inspected": int(w.size),
                    "network": j,
                    "union": int(union),
                    "parameter": parameter,
                    **listed,
                },
                flag=flag,
            )
        )
    return made


def heat_mean(
    heat: Numbers,
    empirical_risk: Numbers,
    *,
    n: int,
    delta: float,
    loss: str,
    weights: Numbers | None = None,
    slack: Numbers = 0.0,
    union: int = 1,
    parameter: float | None = None,
    beta: Numbers | None = None,
    flag: str | None = None,
) -> Certificate:
    """Certificate of m realised networks of which one is picked at random for every prediction.

    kl(Σ v_i L̂_i ‖ Σ v_i R_i) ≤ (Σ v_i W_i + log(2 sqrt(n)/delta))/n: nothing is estimated, delta is not divided by m.

    Args:
      heat: W of every chain · [m] · nats.
      empirical_risk: certified loss of every network on all n examples · [m] · in [0,1].
      n: number of examples; the prior knows none of them.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      weights: probabilities v of picking each network, [m], fixed before the chains ran; None for equal ones.
      slack: numerical slack of each heat · scalar or [m] · nats · at least 0.
      union: size of a declared grid of which this is one member.
      parameter: C > 0, fixed before the data were seen, as ``heat_single``.
      beta: last total inverse temperature, for the record.
      flag: what the diagnostics object to.

    Returns:
      Certificate; ``standard_error`` is NaN, for there is no estimate in it.

    Raises:
      ValueError: as ``heat_single``, and for weights that are negative or do not sum to 1.

    Example:
      >>> made = heat_mean([90.0, 110.0], [0.08, 0.1], n=3000, delta=0.05, loss="zero_one")
      >>> print(round(made.value, 3), round(heat_single(100.0, 0.09, n=3000, delta=0.05, loss="x")[0].value, 3))
      0.186 0.186

    References:
      docs/heat.md, theorem 3.
    """
    _checks.check_n(n)
    _checks.check_delta(delta)
    w, q, s, high = check_chains(heat, empirical_risk, slack)
    shares = None if weights is None else vector("weights", weights)
    if shares is not None:
        _checks.check_range("weights", shares, low=0.0)
        if shares.size != w.size or abs(float(shares.sum()) - 1) > 1e-9:
            raise ValueError(f"weights {shares.tolist()} must be {w.size} probabilities that sum to 1")
    mean, mean_heat = mean_up(q, shares), mean_up(high, shares)
    ledger = split_delta(delta, union=union, shares={"heat": 1.0})
    return assemble(
        risk_bounds(np.array([mean]), np.array([mean_heat]), n=n, delta=ledger["heat"], parameter=parameter)[0],
        loss=loss,
        route="heat_mean",
        assumption=f"{CHAIN}; all {w.size} chains that were run are averaged, and their weights were fixed before"
        f"{_fixed(parameter)}",
        delta=float(delta),
        delta_ledger=ledger,
        n=int(n),
        beta=None if beta is None else float(np.asarray(beta)),
        empirical_risk=min(mean, 1.0) if not math.isnan(mean) else mean,
        inputs={"heat": mean_heat, "heats": w.tolist(), "slack": float(np.max(s)), "chains": int(w.size),
                "union": int(union), "parameter": parameter, "risks": q.tolist(), "slacks": s.tolist(),
                "weights": None if shares is None else shares.tolist()},
        flag=flag,
    )  # fmt: skip
