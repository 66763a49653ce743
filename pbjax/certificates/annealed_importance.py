"""The certificate of the exact Gibbs posterior from annealed importance sampling: no assumption on convergence."""

from __future__ import annotations

import math

import numpy as np

from pbjax import _checks, bounds
from pbjax.certificates.certificate import Certificate, as_value, split_delta
from pbjax.certificates.heat import EPS, Numbers
from pbjax.evidence import importance_estimate


def ais_free_energy(
    betas: Numbers,
    log_weights: Numbers,
    *,
    n: int,
    delta: float,
    loss: str,
    energy: Numbers | None = None,
    monte_carlo_share: float = 0.5,
    slack: Numbers = 0.0,
    union: int = 1,
    flag: str | None = None,
) -> list[Certificate]:
    """Certificates of the surrogate risk of the Gibbs posteriors at J rungs, from the same M annealed chains.

    (1 − exp(−(Λ⁺ + log(2 sqrt(n)/δ))/n)) / (1 − exp(−b/n)), Λ⁺ = −log Ẑ + log(J/δ'), δ + δ' = delta/union.

    E Ẑ = exp(−Λ(b)) for any kernels that leave their rungs invariant, so Λ(b) ≤ Λ⁺ by Markov's inequality.

    Args:
      betas: [J] · total inverse temperatures looked at · > 0; stopping points of the chains.
      log_weights: [J, M], or [M] for one rung · −A of every chain up to each rung · nats.
      n: number of examples; the prior knows none of them.
      delta: the whole budget · in (0,1).
      loss: name of the surrogate, which must be the sampler's own energy, in [0,1].
      energy: [J, M] or [M] · L of every chain there, for the record's weighted mean; None to leave it out (NaN).
      monte_carlo_share: fraction of delta/union for the J limits on Λ together · in (0,1).
      slack: numerical slack of the log-weights, taken from them · scalar or as ``log_weights`` · nats · at least 0.
      union: size of a declared grid of which these are members.
      flag: what the diagnostics object to.

    Returns:
      J certificates, for a randomised predictor that one can only sample approximately: not for a network in hand. Its
      ``standard_error`` is NaN; ``inputs`` has the effective sample size of the weights.

    Raises:
      ValueError: for shapes that differ, betas that are not positive, log-weights that are NaN or +inf, n or union
        below 1, and a delta or share outside (0,1).

    Example:
      >>> [made] = ais_free_energy(3000.0, np.full(20, -500.0), n=3000, delta=0.05, loss="surrogate")
      >>> print(round(made.value, 3), made.inputs["effective_sample_size"])
      0.248 20.0

    References:
      Neal 2001, Annealed importance sampling, for E Ẑ; docs/heat.md, theorem 4, for the certificate.
    """
    _checks.check_n(n)
    _checks.check_delta(delta)
    _checks.check_range("monte_carlo_share", monte_carlo_share, low=0.0, high=1.0, open_low=True, open_high=True)
    ladder = np.atleast_1d(np.asarray(betas, np.float64))
    weights = np.atleast_2d(np.asarray(log_weights, np.float64))
    if ladder.ndim != 1 or weights.ndim != 2 or weights.shape[0] != ladder.size or weights.shape[1] < 1:
        raise ValueError(f"betas and log_weights have shapes {ladder.shape} and {weights.shape}: give [J] and [J, M]")
    _checks.check_range("betas", ladder, low=0.0, open_low=True, open_high=True)
    _checks.check_range("slack", slack, low=0.0)
    safe = weights - np.broadcast_to(np.asarray(slack, np.float64), weights.shape)
    estimate = importance_estimate(safe)
    neg_log_z, size = (np.asarray(x, np.float64) for x in (estimate.neg_log_z, estimate.effective_sample_size))
    mean_energy, energies = np.full(ladder.size, math.nan), None
    if energy is not None:
        values = np.atleast_2d(np.asarray(energy, np.float64))
        if values.shape != weights.shape:
            raise ValueError(f"energy has shape {values.shape} for log_weights of shape {weights.shape}")
        shares = np.exp(weights - np.max(weights, axis=1, keepdims=True))
        mean_energy, energies = np.sum(shares * values, axis=1) / np.sum(shares, axis=1), values.tolist()

    ledger = split_delta(
        delta, union=union, shares={"pac_bayes_kl": 1 - monte_carlo_share, "neg_log_z_upper": monte_carlo_share}
    )
    price = math.log(ladder.size / ledger["neg_log_z_upper"])
    # An energy in [0, 1] has Λ(b) in [0, b] whatever the weights say. The rounding of log-sum-exp is relative to M.
    rounding = 8 * EPS * (np.abs(neg_log_z) + weights.shape[1])
    high = np.clip(neg_log_z + rounding + price * (1 + 4 * EPS), 0.0, ladder)
    listed = {
        "betas": ladder.tolist(),
        "log_weights": weights.tolist(),
        "energies": energies,
        "slacks": np.asarray(slack, np.float64).tolist(),
        "monte_carlo_share": float(monte_carlo_share),
    }
    values = np.asarray(bounds.free_energy(high, ladder, n=n, delta=ledger["pac_bayes_kl"]), np.float64)
    return [
        Certificate(
            value=as_value(float(values[j])),
            loss=loss,
            route="ais_free_energy",
            assumption="each chain starts at an exact draw from the prior and every move leaves its rung invariant; "
            "the schedule was frozen before with independent randomness, and no run or rung was left out; the "
            "certified loss is the energy of the chains",
            delta=float(delta),
            delta_ledger=dict(ledger),
            n=int(n),
            beta=float(ladder[j]),
            empirical_risk=float(mean_energy[j]),
            kl=None,
            kl_low=None,
            kl_high=None,
            inputs={
                "neg_log_z": float(neg_log_z[j]),
                "limit_neg_log_z": float(high[j]),
                "effective_sample_size": float(size[j]),
                "chains": int(weights.shape[1]),
                "rungs_inspected": int(ladder.size),
                "rung": j,
                "union": int(union),
                **listed,
            },
            standard_error=math.nan,
            flag=flag,
        )
        for j in range(ladder.size)
    ]
