"""Confidence limits on what a Gibbs certificate needs from the ladder: Λ, KL, and the means at its own rung.

Two kinds. *Units*: every rung has N independent units in [0,1] (draws, or chains by their mean), so the kl inversion of
its mean holds at any N. *Asymptotic*: the functionals are linear in the means, so their errors follow from the central
limit theorem. Both spend their budget evenly over the one-sided limits that the rungs looked at need.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from pbjax import bounds

_EPS = float(np.finfo(np.float64).eps)


class Means(NamedTuple):
    """Statistics of one scalar on the host.

    Attributes:
      mean: [K] · in [0,1] or NaN.
      standard_error: [K] · of the mean.
      ess: [K] · effective number of draws, variance/standard_error², at most num_draws; 0 where the error is 0.
      chain_means: [K, C].
      num_draws: [K].
    """

    mean: np.ndarray
    standard_error: np.ndarray
    ess: np.ndarray
    chain_means: np.ndarray
    num_draws: np.ndarray


class Limits(NamedTuple):
    """One-sided confidence limits, all valid together with probability 1 − the Monte-Carlo budget.

    Attributes:
      neg_log_z: [K] · upper limit on Λ(b_k), nats.
      kl: [K] · upper limit on KL(Q_{b_k}‖prior), nats.
      energy_low: [K] · lower limit on m(b_k).
      energy_high: [K] · upper limit on m(b_k).
      risk: [K] · upper limit on the certified empirical risk at b_k.
      shares: name -> share of the Monte-Carlo budget.
      details: plain numbers for the record.
    """

    neg_log_z: np.ndarray
    kl: np.ndarray
    energy_low: np.ndarray
    energy_high: np.ndarray
    risk: np.ndarray
    shares: dict[str, float]
    details: dict[str, float | int | str | list[float]]


def _upper(mean: np.ndarray, nats: np.ndarray) -> np.ndarray:
    return np.asarray(bounds.kl_inverse(mean, nats), dtype=np.float64)


def _lower(mean: np.ndarray, nats: np.ndarray) -> np.ndarray:
    return np.asarray(bounds.kl_inverse_lower(mean, nats), dtype=np.float64)


def left_sums(betas: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Σ_{j<k} d_{j+1} u_j for every k, rounded upwards: the left sum of upper limits bounds Λ(b_k).

    Args:
      betas: [K] · increasing from 0.
      upper: [K] · at least m at each rung, in [0,1]; a NaN spoils the later rungs.

    Returns:
      [K] · nats.

    Example:
      >>> print(left_sums(np.array([0.0, 2.0, 4.0]), np.array([0.5, 0.25, 0.0])))
      [0. 1. 1.5]
    """
    total = np.concatenate([[0.0], np.cumsum(np.diff(betas) * upper[:-1])])
    # Every term is non-negative, so the rounding of K additions, K products and K differences stays below this.
    return total * (1 + 4 * betas.size * _EPS)


def unit_limits(
    betas: np.ndarray,
    energy: Means,
    *,
    risk: Means | None,
    rungs: tuple[int, ...],
    delta: float,
    by_chain: bool,
) -> Limits:
    """Limits for independent units in [0,1] at every rung: draws, or whole chains.

    P(kl(mean‖E) > log(1/d)/N on one side) ≤ d for the mean of N independent variables in [0,1], so each one-sided limit
    is a kl inversion at log(1/d)/N. Needed for the rungs S: upper limits on m_j for j < max S, upper and lower
    limits on m_k for k in S (only lower ones if another risk is certified), upper limits on that risk for k in S.

    Args:
      betas: [K] · increasing from 0.
      energy: of L.
      risk: of the certified loss; None if that is L itself.
      rungs: S, the rungs looked at.
      delta: Monte-Carlo budget.
      by_chain: whether a unit is a chain (its mean) or a draw.

    Returns:
      Limits, valid at the rungs in S.

    References:
      Langford 2005, Tutorial on practical prediction theory for classification (relative-entropy Chernoff bound);
      Hoeffding 1963, Theorem 1, for variables in [0,1].
    """
    last = max(rungs)
    counts = {"energy_upper": last + (risk is None), "energy_lower": len(rungs)}
    if risk is not None:
        counts["risk_upper"] = len(rungs)
    each = delta / sum(counts.values())

    def unit(x: Means) -> tuple[np.ndarray, np.ndarray]:
        if by_chain:
            return np.mean(x.chain_means, axis=1), np.full(betas.size, x.chain_means.shape[1])
        return x.mean, x.num_draws

    mean, units = unit(energy)
    price = -math.log(each) / units * (1 + 4 * _EPS)
    broken = np.isnan(mean)
    high = np.where(broken, np.nan, _upper(mean, price))
    low = np.where(broken, np.nan, _lower(mean, price))
    neg_log_z = left_sums(betas, high)
    risk_high = high
    if risk is not None:
        risk_mean, risk_units = unit(risk)
        risk_high = _upper(risk_mean, -math.log(each) / risk_units * (1 + 4 * _EPS))
    return Limits(
        neg_log_z=neg_log_z,
        # Above and below by one rounding each; Λ was rounded up by more.
        kl=np.maximum(neg_log_z - betas * low, 0) + 2 * _EPS * betas,
        energy_low=low,
        energy_high=high,
        risk=risk_high,
        shares={name: each * count for name, count in counts.items()},
        details={
            "unit": "chain" if by_chain else "draw",
            "units": [int(u) for u in units],
            "one_sided_limits": sum(counts.values()),
            "delta_per_limit": each,
        },
    )


def _quantile(delta: float, freedom: np.ndarray) -> np.ndarray:
    return -stdtrit(np.clip(freedom, 1.0, 1e8), delta)


def _functional(weights: np.ndarray, x: Means, by_chain: bool, dependent_rungs: bool) -> tuple[np.ndarray, np.ndarray]:
    """Standard error and degrees of freedom of weights[k] · means, for every row k."""
    if by_chain:
        chains = x.chain_means.shape[1]
        if chains < 2:
            return np.full(len(weights), np.nan), np.ones(len(weights))
        sums = weights @ x.chain_means
        return np.std(sums, axis=1, ddof=1) / math.sqrt(chains), np.full(len(weights), chains - 1.0)
    parts = weights * x.standard_error
    # A rung's variance is worth its effective draws minus one. The least of the rungs' degrees of freedom, unlike a
    # combined number (Welch-Satterthwaite), cannot make a limit tighter when some rung's error grows.
    freedom = np.where(parts != 0, np.maximum(x.ess - 1, 1), np.inf).min(axis=1)
    if dependent_rungs:  # the standard deviation of a sum is at most the sum of the standard deviations
        return np.abs(parts).sum(axis=1), freedom
    return np.sqrt((parts**2).sum(axis=1)), freedom


def asymptotic_limits(
    betas: np.ndarray,
    energy: Means,
    *,
    risk: Means | None,
    rungs: tuple[int, ...],
    delta: float,
    by_chain: bool,
    dependent_rungs: bool = False,
) -> Limits:
    """Limits from the Markov-chain central limit theorem, with the delta method through the (linear) left sum.

    Λ_left = Σ_j d_{j+1} m_j and KL_left = Λ_left − b_k m_k have variances Σ a_j² se_j²; the limit is the estimate plus
    a t quantile of the standard error, with the least effective number of draws of the rungs involved, minus one, as
    degrees of freedom (C − 1 if the variance is that of the functional over C chains). For each rung in S: Λ, and m_k
    from both sides; or KL and the risk. Rungs are taken as independent of each other, except between chains and where
    they are said to be dependent: Σ |a_j| se_j then is the standard error.

    A standard error of exactly zero is no evidence of certainty (a chain that never moved has it): the mean concerned
    gets the trivial limits 0 and 1; a certified risk that never varied while the energy did, such as a training error
    of zero, gets the kl inversion with the energy's effective number of draws.

    Args:
      betas: [K] · increasing from 0.
      energy: of L.
      risk: of the certified loss; None if that is L itself.
      rungs: S, the rungs looked at.
      delta: Monte-Carlo budget.
      by_chain: variance from the spread between chains (True) or from the standard errors of the rungs.
      dependent_rungs: whether the rungs of a chain depend on each other.

    Returns:
      Limits, valid at the rungs in S asymptotically.

    References:
      Jones 2004, On the Markov chain central limit theorem.
    """
    if risk is None:
        counts = {"neg_log_z_upper": len(rungs), "energy_lower": len(rungs), "energy_upper": len(rungs)}
    else:
        counts = {"kl_upper": len(rungs), "risk_upper": len(rungs)}
    each = delta / sum(counts.values())
    size = betas.size
    frozen = (np.std(energy.chain_means, axis=1) == 0) if by_chain else (energy.standard_error == 0)
    steps = np.append(np.diff(betas), 0.0)
    left = np.tril(np.broadcast_to(steps, (size, size)), k=-1)
    at_rung = np.diag(np.ones(size))

    def limit(weights: np.ndarray, x: Means, still: np.ndarray) -> np.ndarray:
        """Upper limit on weights · E; a mean that never varied enters by the trivial limit on its side."""
        error, freedom = _functional(np.where(still, 0.0, weights), x, by_chain, dependent_rungs)
        worst = np.where(still, (weights > 0).astype(float), x.mean)  # 1 where it counts upwards, 0 downwards
        # 0 · NaN is NaN: a broken rung must not reach the sums that do not contain it.
        used = np.where(weights != 0, weights * worst, 0.0).sum(axis=1)
        size_of_terms = np.where(weights != 0, np.abs(weights * worst), 0.0).sum(axis=1)
        return used + _quantile(each, freedom) * error + 4 * size * _EPS * size_of_terms

    safe = Means(*(np.nan_to_num(part) for part in energy))
    broken = np.isnan(energy.mean) | np.isnan(energy.standard_error)
    before = np.concatenate([[False], np.cumsum(broken)[:-1] > 0])
    neg_log_z = np.where(before, np.nan, np.minimum(limit(left, safe, frozen), betas))
    kl = np.where(before | broken, np.nan, np.clip(limit(left - at_rung * betas, safe, frozen), 0, betas))
    high = np.where(broken, np.nan, np.minimum(limit(at_rung, safe, frozen), 1))
    low = np.where(broken, np.nan, np.maximum(-limit(-at_rung, safe, frozen), 0))
    risk_high = high
    if risk is not None:
        still = (np.std(risk.chain_means, axis=1) == 0) if by_chain else (risk.standard_error == 0)
        effective = np.where(frozen, 0.0, risk.chain_means.shape[1] if by_chain else energy.ess)
        price = np.divide(-math.log(each), effective, out=np.full(size, np.inf), where=effective > 0)
        wrong = np.isnan(risk.mean) | np.isnan(risk.standard_error)
        moving = limit(at_rung, Means(*(np.nan_to_num(part) for part in risk)), still)
        risk_high = np.where(still, _upper(risk.mean, price) if still.any() else 1.0, np.minimum(moving, 1))
        risk_high = np.where(wrong, 1.0, risk_high)
    return Limits(
        neg_log_z=neg_log_z,
        kl=kl,
        energy_low=low,
        energy_high=high,
        risk=risk_high,
        shares={name: each * count for name, count in counts.items()},
        details={
            "variance": "between_chains" if by_chain else "effective_sample_size",
            "ess": [float(x) for x in energy.ess],
            "chains": int(energy.chain_means.shape[1]),
            "one_sided_limits": sum(counts.values()),
            "delta_per_limit": each,
        },
    )
