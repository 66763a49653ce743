"""Certificates of the law of an annealed chain's output: a fresh chain for every prediction, E[W] from chains."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from pbjax import _checks, bounds
from pbjax.certificates.certificate import Certificate, split_delta
from pbjax.certificates.heat import CHAIN, EPS, Numbers, assemble, check_chains, mean_up, risk_bounds

Limit = Literal["kl", "empirical_bernstein", "betting"]


def _limit(values: np.ndarray, *, delta: float, limit: Limit) -> float:
    """Upper limit on the mean of a [0, 1] variable from independent values; NaN for a NaN."""
    if np.any(np.isnan(values)):
        return math.nan
    if limit == "kl":
        return float(bounds.sampled_risk(min(mean_up(values), 1.0), values.size, delta=delta))
    made = {"empirical_bernstein": bounds.empirical_bernstein, "betting": bounds.betting}
    if limit not in made:
        raise ValueError(f"limit = {limit!r}: choose 'kl', 'empirical_bernstein' or 'betting' before the chains run")
    return float(made[limit](np.minimum(values, 1.0), delta=delta))


def _law(
    heat: Numbers, empirical_risk: Numbers, *, beta: Numbers, n: int, delta: float, loss: str,
    monte_carlo_share: float, slack: Numbers, union: int, flag: str | None, asymptotic: bool,
    limit: Limit,
) -> Certificate:  # fmt: skip
    _checks.check_n(n)
    _checks.check_delta(delta)
    _checks.check_range("beta", beta, low=0.0, open_low=True, open_high=True)
    _checks.check_range("monte_carlo_share", monte_carlo_share, low=0.0, high=1.0, open_low=True, open_high=True)
    w, q, s, high = check_chains(heat, empirical_risk, slack)
    most, m = float(np.asarray(beta)), w.size
    excess = np.abs(w) > most * (1 + 1e-6) + s
    if np.any(excess):
        raise ValueError(f"heat = {w[excess][0]} with beta = {most}: |W| is at most beta for an energy in [0, 1]")
    half = monte_carlo_share / 2
    ledger = split_delta(
        delta, union=union, shares={"pac_bayes_kl": 1 - monte_carlo_share, "heat_upper": half, "risk_upper": half}
    )

    # E W ≤ E max(W, 0), which lies in [0, beta].
    clipped = np.where(high < 0, 0.0, np.minimum(high, most))
    clipped = np.where(np.isnan(high), np.nan, clipped)
    shares = clipped / most * (1 + 2 * EPS)
    heat_high = most * _limit(shares, delta=ledger["heat_upper"], limit=limit) * (1 + 2 * EPS)
    risk_high = _limit(q, delta=ledger["risk_upper"], limit=limit)
    error, risk_error = (float(np.std(x, ddof=1) / math.sqrt(m)) if m > 1 else math.nan for x in (high, q))
    if asymptotic and m > 1:
        # Without spread there is nothing to take a limit from; the rigorous one stands.
        if np.ptp(high) > 0:
            heat_high = mean_up(high) + float(stdtrit(m - 1, 1 - ledger["heat_upper"])) * error
        if np.ptp(q) > 0:
            risk_high = min(mean_up(q) + float(stdtrit(m - 1, 1 - ledger["risk_upper"])) * risk_error, 1.0)
    how = (
        "and, asymptotically only, the means of heat and risk over the chains obey Student's t limits (a central limit "
        "theorem); heavy upper tails of the heat are not excluded"
        if asymptotic
        else "and the energy lies in [0, 1], so that every heat is at most beta"
    )
    if limit != "kl":
        how += f"; the kind of limit ({limit.replace('_', ' ')}) was chosen before the chains ran"
    return assemble(
        risk_bounds(np.array([risk_high]), np.array([heat_high]), n=n, delta=ledger["pac_bayes_kl"])[0],
        loss=loss,
        route="heat_law_asymptotic" if asymptotic else "heat_law_rigorous",
        assumption=f"{CHAIN}; the {m} chains are independent of each other and none was left out; {how}",
        delta=float(delta),
        delta_ledger=ledger,
        n=int(n),
        beta=most,
        empirical_risk=float(np.mean(q)),
        inputs={"heat": float(np.mean(w)), "heat_standard_error": error, "limit_heat": heat_high,
                "limit_risk": risk_high, "slack": float(np.max(s)), "chains": int(m), "union": int(union),
                "limit": "student_t" if asymptotic else limit, "heats": w.tolist(), "risks": q.tolist(),
                "slacks": s.tolist(), "monte_carlo_share": float(monte_carlo_share)},
        flag=flag,
    )  # fmt: skip


def heat_law_rigorous(
    heat: Numbers,
    empirical_risk: Numbers,
    *,
    beta: Numbers,
    n: int,
    delta: float,
    loss: str,
    limit: Limit = "kl",
    monte_carlo_share: float = 0.5,
    slack: Numbers = 0.0,
    union: int = 1,
    flag: str | None = None,
) -> Certificate:
    """Certificate of the law of a chain's output: a fresh chain for every prediction.

    kl(E L̂ ‖ E R) ≤ (E W + log(2 sqrt(n)/δ))/n, as KL(law(w_K)‖prior) ≤ E W. From m independent chains, with
    E W ≤ E max(W, 0) = beta · (mean of a variable in [0,1]), both expectations by an upper limit at δ' from the range:
    kl inversion at log(1/δ')/m, or one that profits from heats that lie close together.

    Args:
      heat: W of independent chains · [m] · nats · at most beta in size.
      empirical_risk: certified loss of every network on all n examples · [m] · in [0,1].
      beta: last total inverse temperature b_K, the range of the heat for an energy in [0,1] · > 0.
      n: number of examples; the prior knows none of them.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      limit: "kl" (``bounds.sampled_risk``), "empirical_bernstein" or "betting" (``bounds.betting``; the tightest of
        the three for heats, which vary by little of their range). To be chosen before the heats are seen.
      monte_carlo_share: fraction of delta/union for the two limits, half each · in (0,1).
      slack: numerical slack of each heat · scalar or [m] · nats · at least 0.
      union: size of a declared grid of which this is one member.
      flag: what the diagnostics object to.

    Returns:
      Certificate. The range costs about (beta/n) log(1/δ')/m nats an example whatever the limit: with few chains
      ``heat_mean`` is tighter.

    Raises:
      ValueError: as ``heat_single``, for a beta that is not positive, a heat beyond its range and an unknown limit.

    Example:
      >>> from pbjax.certificates import heat_mean
      >>> many = dict(heat=np.full(400, 60.0), empirical_risk=np.full(400, 0.1), n=3000, delta=0.05, loss="zero_one")
      >>> print(round(heat_law_rigorous(beta=3000.0, **many).value, 3), round(heat_mean(**many).value, 3))
      0.285 0.175
      >>> print(round(heat_law_rigorous(beta=3000.0, limit="betting", **many).value, 3))
      0.211

    References:
      docs/heat.md, theorem 1.
    """
    return _law(
        heat, empirical_risk, beta=beta, n=n, delta=delta, loss=loss, monte_carlo_share=monte_carlo_share, slack=slack,
        union=union, flag=flag, asymptotic=False, limit=limit,
    )  # fmt: skip


def heat_law_asymptotic(
    heat: Numbers,
    empirical_risk: Numbers,
    *,
    beta: Numbers,
    n: int,
    delta: float,
    loss: str,
    monte_carlo_share: float = 0.5,
    slack: Numbers = 0.0,
    union: int = 1,
    flag: str | None = None,
) -> Certificate:
    """``heat_law_rigorous`` with Student's t limits in place of the range of the heat: asymptotic in m only.

    mean + t_{m−1}(1 − δ') · sd/sqrt(m) for both expectations.

    Args:
      heat: W of independent chains · [m] · nats.
      empirical_risk: certified loss of every network on all n examples · [m] · in [0,1].
      beta: last total inverse temperature · > 0.
      n: number of examples.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      monte_carlo_share: fraction of delta/union for the two limits, half each · in (0,1).
      slack: numerical slack of each heat · scalar or [m] · nats · at least 0.
      union: size of a declared grid of which this is one member.
      flag: what the diagnostics object to.

    Returns:
      Certificate; its assumption says that it is asymptotic. Values without spread (one chain, or chains that agree
      exactly) fall back on the rigorous limit.

    Raises:
      ValueError: as ``heat_law_rigorous``.

    Example:
      >>> heat = 60.0 + np.linspace(-3, 3, 40)
      >>> risk = 0.1 + np.linspace(-0.01, 0.01, 40)
      >>> made = heat_law_asymptotic(heat, risk, beta=3000.0, n=3000, delta=0.05, loss="zero_one")
      >>> print(round(made.value, 3), "asymptotically" in made.assumption)
      0.179 True
    """
    return _law(
        heat, empirical_risk, beta=beta, n=n, delta=delta, loss=loss, monte_carlo_share=monte_carlo_share, slack=slack,
        union=union, flag=flag, asymptotic=True, limit="kl",
    )  # fmt: skip
