"""From limits on the ladder's means to one certificate a rung: checks, budget, bound, record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from pbjax import _checks, bounds
from pbjax.certificates.certificate import Certificate, as_value, check_union, split_delta
from pbjax.certificates.limits import Limits, Means
from pbjax.evidence import SampleStatistics
from pbjax.evidence.integration import check_ladder

_EPS = float(np.finfo(np.float64).eps)
_SLACK = 1e-6  # a float32 loss may leave [0,1] by rounding; more is a mistake

Flags = Sequence[str | bool | None] | np.ndarray | None


def _on_host(statistics: SampleStatistics, size: int, name: str) -> Means:
    def unit_interval(values: ArrayLike, what: str) -> np.ndarray:
        x = np.asarray(values, dtype=np.float64)
        if np.any((x < -_SLACK) | (x > 1 + _SLACK)):
            raise ValueError(f"{name}.{what} must be in [0, 1], got {x[(x < 0) | (x > 1)].flat[0]}; rescale the loss")
        return np.clip(x, 0, 1)

    mean = unit_interval(statistics.mean, "mean")
    chain_means = unit_interval(statistics.chain_means, "chain_means")
    variance = np.asarray(statistics.variance, dtype=np.float64)
    error = np.asarray(statistics.standard_error, dtype=np.float64)
    if any(x.shape != (size,) for x in (mean, variance, error)) or chain_means.shape[:1] != (size,):
        shapes = [x.shape for x in (mean, variance, error, chain_means)]
        raise ValueError(f"{name} has mean, variance, standard_error, chain_means of shapes {shapes} for {size} rungs")
    _checks.check_range(f"{name}.standard_error", error, low=0.0, allow_nan=True)
    _checks.check_range(f"{name}.variance", variance, low=0.0, allow_nan=True)
    _checks.check_n(statistics.num_draws, name=f"{name}.num_draws")
    draws = np.broadcast_to(np.asarray(statistics.num_draws), (size,)).astype(np.int64)
    ess = np.divide(variance, error**2, out=np.zeros(size), where=(error > 0) & ~np.isnan(variance))
    # Antithetic draws can be worth more than independent ones; the certificates do not count on it.
    return Means(mean, error, np.minimum(ess, draws), chain_means, draws)


def _kept(name: str, statistics: SampleStatistics, on_host: Means, reads: Sequence[str]) -> dict[str, Any]:
    """Those statistics under their names in a certificate's ``inputs``."""
    found = {
        "variance": np.asarray(statistics.variance, np.float64),
        "chain_means": on_host.chain_means,
        "num_draws": on_host.num_draws,
    }
    return {f"{name}_{part}": found[part].tolist() for part in reads}


def _flag(flags: Flags, k: int) -> str | None:
    """A certificate at rung k rests on rungs 0..k, so it inherits the flags of them all."""
    texts = []
    for j, flag in enumerate([] if flags is None else flags[: k + 1]):
        if flag:
            texts.append(f"rung {j}: {flag}" if isinstance(flag, str) else f"rung {j}: failed its diagnostics")
    return "; ".join(texts) or None


def _rungs(rungs_inspected: Sequence[int] | None, size: int) -> tuple[int, ...]:
    if rungs_inspected is None:
        return tuple(range(1, size))
    rungs = tuple(sorted({int(k) for k in rungs_inspected}))
    if not rungs or rungs[0] < 1 or rungs[-1] >= size:
        raise ValueError(f"rungs_inspected = {rungs_inspected}: name rungs from 1 to {size - 1}, or None for all")
    return rungs


def _pac_bayes_kl(risk: np.ndarray, kl: np.ndarray, *, n: int, delta: float) -> np.ndarray:
    # A KL that comes out negative is noise or a broken sampler: 0 is the value on the safe side.
    return np.asarray(bounds.pac_bayes_kl(risk, np.where(kl < 0, 0.0, kl), n=n, delta=delta), dtype=np.float64)


def _surrogate_values(betas: np.ndarray, limits: Limits, *, n: int, delta: float) -> np.ndarray:
    """The largest PAC-Bayes-kl bound over all values of m(b) inside its limits, given the limit on Λ; for k ≥ 1.

    g(q) = kl⁻¹(q, (Λ − b q + log)/n) is concave in q, because kl(q‖p) + (b/n) q is convex in (q, p). Its maximum over
    all q is the free-energy bound p*, reached where logit q = logit p* − b/n. So the value is p* if that q lies within
    the limits, and otherwise g at the limit next to it: never above the free-energy form, which needs Λ only.
    """
    beta, neg_log_z = betas[1:], limits.neg_log_z[1:]
    low, high = limits.energy_low[1:], limits.energy_high[1:]
    ends = np.stack([low, high])
    kl = neg_log_z - beta * ends + 2 * _EPS * (neg_log_z + beta)
    value = np.max(_pac_bayes_kl(ends, kl, n=n, delta=delta), axis=0)
    peak = np.asarray(bounds.free_energy(neg_log_z, beta, n=n, delta=delta), dtype=np.float64)
    at = peak * np.exp(-beta / n) / (1 + peak * np.expm1(-beta / n))
    # Where p* is clipped at 1, g increases up to q = 1 and its value at `high` is the largest.
    inside = (peak < 1) & (low - 1e-6 <= at) & (at <= high + 1e-6)
    return np.where(inside, np.maximum(value, peak), value)


def _plug_in_errors(
    betas: np.ndarray, energy: Means, risk: Means | None, kl: np.ndarray, *, n: int, delta: float, dependent: bool
) -> np.ndarray:
    """Delta method: standard error of kl⁻¹(risk_k, (KL_k + log)/n) at the estimates, KL the trapezium; for k ≥ 1."""
    q = (energy if risk is None else risk).mean[1:]
    p = _pac_bayes_kl(q, kl[1:], n=n, delta=delta)
    regular = (q > 0) & (p < 1)
    p_, q_ = np.where(regular, p, 0.5), np.where(regular, q, 0.25)
    by_c = p_ * (1 - p_) / (p_ - q_)
    by_q = (np.log(p_ / (1 - p_)) - np.log(q_ / (1 - q_))) * by_c
    steps = np.diff(betas)
    earlier = (steps + np.append(0, steps[:-1])) / 2 * energy.standard_error[:-1]
    variance = np.cumsum(earlier**2) * (by_c / n) ** 2
    here = (steps / 2 - betas[1:]) * by_c / n
    if risk is None:
        own = np.abs(here + by_q) * energy.standard_error[1:]
    else:  # the two means at rung k share their draws, so their errors may add up
        own = np.abs(here) * energy.standard_error[1:] + by_q * risk.standard_error[1:]
    # At p = 1 the value cannot move; at q = 0 its slope is infinite and there is no first-order error.
    total = np.cumsum(np.abs(earlier)) * by_c / n + own if dependent else np.sqrt(variance + own**2)
    return np.where(regular, total, np.where(p >= 1, 0.0, np.nan))


def certify(
    betas: ArrayLike,
    energy: SampleStatistics,
    *,
    risk: SampleStatistics | None,
    n: int,
    delta: float,
    loss: str,
    route: str,
    assumption: str,
    rungs_inspected: Sequence[int] | None,
    union: int,
    flags: Flags,
    monte_carlo_share: float,
    limit: Callable[..., Limits] | None,
    reads: Sequence[str] = (),
    risk_reads: Sequence[str] = (),
) -> list[Certificate]:
    """One certificate a rung. ``limit`` makes the Monte-Carlo limits; None takes the estimates as exact.

    ``reads`` and ``risk_reads`` are what the route takes from the statistics beyond means and standard errors.
    """
    _checks.check_n(n)
    _checks.check_delta(delta)
    check_union(union)
    _checks.check_range(
        "monte_carlo_share", monte_carlo_share, low=0.0, high=1.0, open_low=limit is not None, open_high=True
    )
    ladder = np.asarray(betas, dtype=np.float64)
    check_ladder(ladder)
    if ladder.size < 2:
        raise ValueError("a ladder of one rung certifies nothing; add rungs above the prior")
    if flags is not None and len(flags) != ladder.size:
        raise ValueError(f"{len(flags)} flags for {ladder.size} rungs; give one a rung, the prior's included")
    heat = _on_host(energy, ladder.size, "energy")
    certified = None if risk is None else _on_host(risk, ladder.size, "risk")
    rungs = _rungs(rungs_inspected, ladder.size)

    own = delta / union
    if limit is None:
        limits, shares = None, {"pac_bayes_kl": 1.0}
    else:
        limits = limit(ladder, heat, risk=certified, rungs=rungs, delta=own * monte_carlo_share)
        shares = {"pac_bayes_kl": 1 - monte_carlo_share, **{k: v / own for k, v in limits.shares.items()}}
    ledger = split_delta(delta, union=union, shares=shares)
    event = ledger["pac_bayes_kl"]

    # In float64 on the host, where the differences of m matter.
    drops = heat.mean[:-1] - heat.mean[1:]
    left = np.concatenate([[0.0], np.cumsum(ladder[1:] * drops)])
    right = np.concatenate([[0.0], np.cumsum(ladder[:-1] * drops)])
    middle, low, high = (
        np.maximum(x, 0) for x in ((left + right) / 2, np.minimum(left, right), np.maximum(left, right))
    )

    certified_means = (heat if certified is None else certified).mean
    details, kl_high = {}, high
    if limits is None:
        values = _pac_bayes_kl(certified_means[1:], middle[1:], n=n, delta=event)
    else:
        details = limits.details
        if certified is None:
            values = _surrogate_values(ladder, limits, n=n, delta=event)
            kl_high = np.maximum(limits.neg_log_z - ladder * limits.energy_low, high)
        else:
            values = _pac_bayes_kl(limits.risk[1:], limits.kl[1:], n=n, delta=event)
            kl_high = np.maximum(limits.kl, high)
    errors = _plug_in_errors(ladder, heat, certified, middle, n=n, delta=event, dependent=energy.dependent_rungs)

    # The whole ladder, shared by all certificates: a copy of each one's own part would take K² numbers.
    common: dict[str, Any] = {
        "betas": ladder.tolist(),
        "mean_energies": heat.mean.tolist(),
        "standard_errors": heat.standard_error.tolist(),
        "rungs_inspected": list(rungs),
        "union": int(union),
        "flags": None if flags is None else [flag if isinstance(flag, str) else bool(flag) for flag in flags],
        "dependent_rungs": bool(energy.dependent_rungs),
        **_kept("energy", energy, heat, reads),
        **details,
    }
    if limit is not None:
        common["monte_carlo_share"] = float(monte_carlo_share)
    if risk is not None and certified is not None:
        common["risk_means"] = certified.mean.tolist()
        common["risk_standard_errors"] = certified.standard_error.tolist()
        common |= _kept("risk", risk, certified, risk_reads)
    certificates = []
    for k in range(1, ladder.size):
        inputs = {"rung": k, **common}
        if limits is not None:
            for name in ("neg_log_z", "energy_low", "energy_high", "risk"):
                inputs[f"limit_{name}"] = float(getattr(limits, name)[k])
        value, flag = as_value(float(values[k - 1])), _flag(flags, k)
        if k not in rungs:
            value, flag = 1.0, "; ".join(filter(None, [flag, "not among the rungs inspected"]))
        certificates.append(
            Certificate(
                value=value,
                loss=loss,
                route=route,
                assumption=assumption,
                delta=float(delta),
                delta_ledger=dict(ledger),
                n=int(n),
                beta=float(ladder[k]),
                empirical_risk=float(certified_means[k]),
                kl=float(middle[k]),
                kl_low=float(low[k]),
                kl_high=float(kl_high[k]),
                inputs=inputs,
                standard_error=float(errors[k - 1]),
                flag=flag,
            )
        )
    return certificates
