"""What stands beside the Gibbs routes: the two-stage certificate of a mean-field posterior, and the held-out bound."""

# ruff: noqa: PT028 — test_set is a bound, not a test

from __future__ import annotations

import math

import numpy as np
from jax.typing import ArrayLike

from pbjax import _checks, bounds
from pbjax.certificates.certificate import Certificate, as_value, check_union, split_delta


def mean_field(
    empirical_mean: ArrayLike,
    num_draws: int,
    kl: ArrayLike,
    *,
    n: int,
    delta: float,
    loss: str,
    union: int = 1,
    beta: ArrayLike | None = None,
    flag: str | None = None,
    monte_carlo_share: float = 0.5,
    draw_standard_error: ArrayLike = math.nan,
    prior_data: str | None = None,
) -> Certificate:
    """The two-stage certificate of a posterior that can be sampled exactly and whose KL is known.

    kl⁻¹(kl⁻¹(mean, log(1/d')/m), (KL + log(2 sqrt(n)/d))/n), with d + d' = delta/union.

    Args:
      empirical_mean: mean empirical risk over the m posterior draws, each on all n examples · in [0,1].
      num_draws: m, independent draws from the posterior; or independent pairs of draw and example, every example in
        equally many of them, as ``pbjax.posteriors.fresh_weights_risk`` makes them.
      kl: KL(posterior‖prior), exact · nats · at least 0.
      n: number of examples.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      union: size of a declared grid (of prior scales, say) of which this is one member; delta is divided by it.
      beta: total inverse temperature that the posterior was trained at, for the record.
      flag: what the diagnostics object to.
      monte_carlo_share: fraction of delta/union for the inner inversion · in (0,1).
      draw_standard_error: standard error of ``empirical_mean``, for the certificate's own.
      prior_data: what the prior was fitted on, for example "the other 25,000 training rows"; the certificate then
        assumes that none of the n examples is among it, nor chose anything else about the prior.

    Returns:
      Certificate.

    Raises:
      ValueError: for a delta outside (0,1), n, num_draws or union below 1, a negative kl or a mean outside [0,1].
        A NaN gives 1.0 instead.

    Example:
      >>> print(round(mean_field(0.1, 10_000, 50.0, n=1000, delta=0.05, loss="zero_one").value, 3))
      0.242

    References:
      Langford, Caruana 2001, (Not) bounding the true error; Pérez-Ortiz et al. 2021, Tighter risk certificates for
      neural networks, for the two stages.
    """
    _checks.check_n(n)
    _checks.check_n(num_draws, name="num_draws")
    _checks.check_delta(delta)
    _checks.check_unit_interval("empirical_mean", empirical_mean, allow_nan=True)
    _checks.check_range("kl", kl, low=0.0, allow_nan=True)
    _checks.check_range("monte_carlo_share", monte_carlo_share, low=0.0, high=1.0, open_low=True, open_high=True)
    mean, divergence = float(np.asarray(empirical_mean)), float(np.asarray(kl))
    ledger = split_delta(
        delta, union=union, shares={"pac_bayes_kl": 1 - monte_carlo_share, "risk_upper": monte_carlo_share}
    )
    event, draws = ledger["pac_bayes_kl"], ledger["risk_upper"]
    value = bounds.two_stage(mean, num_draws, divergence, n=n, delta=event, delta_monte_carlo=draws)
    risk_high = bounds.sampled_risk(mean, num_draws, delta=draws)

    error = math.nan
    plug_in = float(bounds.pac_bayes_kl(mean, divergence, n=n, delta=event))
    if 0 < mean < plug_in < 1:
        slope = math.log(plug_in / (1 - plug_in)) - math.log(mean / (1 - mean))
        error = slope * plug_in * (1 - plug_in) / (plug_in - mean) * float(np.asarray(draw_standard_error))
    return Certificate(
        value=as_value(float(value)),
        loss=loss,
        route="mean_field",
        assumption="the draws are independent and exact draws from the posterior, and its KL is exact"
        + ("" if prior_data is None else f"; the prior knows {prior_data} and none of the certified examples"),
        delta=float(delta),
        delta_ledger=ledger,
        n=int(n),
        beta=None if beta is None else float(np.asarray(beta)),
        empirical_risk=mean,
        kl=divergence,
        kl_low=divergence,
        kl_high=divergence,
        inputs={
            "empirical_mean": mean,
            "num_draws": int(num_draws),
            "kl": divergence,
            "limit_risk": float(np.asarray(risk_high)),
            "draw_standard_error": float(np.asarray(draw_standard_error)),
            "monte_carlo_share": float(monte_carlo_share),
            "prior_data": prior_data,
            "union": int(union),
        },
        standard_error=error,
        flag=flag,
    )


def test_set(
    errors: ArrayLike,
    *,
    n: int,
    delta: float,
    loss: str = "zero_one",
    union: int = 1,
    beta: ArrayLike | None = None,
    flag: str | None = None,
    tail: str = "binomial",
) -> Certificate:
    """The held-out bound on the risk of a predictor that never saw the n held-out examples.

    "binomial": the largest p with P(Binomial(n, p) ≤ errors) ≥ delta/union, exact for counts.
    "chernoff": kl⁻¹(errors/n, log(1/delta')/n), for sums of losses in [0,1], such as the mean errors of a Gibbs
    posterior's draws.

    Args:
      errors: number of errors, or the sum of n losses · in [0,n].
      n: number of held-out examples.
      delta: the whole budget · in (0,1).
      loss: name of the loss.
      union: number of predictors or settings tested on these examples; delta is divided by it.
      beta: total inverse temperature of the predictor, for the record.
      flag: what the diagnostics object to.
      tail: "binomial" or "chernoff".

    Returns:
      Certificate; its ``empirical_risk`` is the held-out one, and it has no KL.

    Raises:
      ValueError: for a delta outside (0,1), n or union below 1, errors outside [0,n], an unknown tail, or a count for
        the binomial tail that is not whole. A NaN gives 1.0 instead.

    Example:
      >>> print(round(test_set(0, n=100, delta=0.05).value, 4))
      0.0295

    References:
      Langford 2005, Tutorial on practical prediction theory for classification.
    """
    _checks.check_n(n)
    _checks.check_delta(delta)
    check_union(union)
    _checks.check_range("errors", errors, low=0.0, high=float(n), allow_nan=True)
    if tail not in ("binomial", "chernoff"):
        raise ValueError(f"tail = {tail!r}: choose 'binomial' for error counts or 'chernoff' for losses in [0, 1]")
    count = float(np.asarray(errors))
    if tail == "binomial" and not math.isnan(count) and count != int(count):
        raise ValueError(f"errors = {errors}: the binomial tail needs a count; use tail='chernoff' for sums of losses")
    own = delta / union
    if math.isnan(count):
        value = math.nan
    elif tail == "binomial":
        value = float(bounds.test_set(int(count), n=n, delta=own))
    else:
        value = float(np.asarray(bounds.sampled_risk(min(count / n * (1 + 1e-15), 1.0), n, delta=own)))
    rate = count / n
    return Certificate(
        value=as_value(value),
        loss=loss,
        route="test_set",
        assumption="the held-out examples are independent and played no part in training, tuning or selection",
        delta=float(delta),
        delta_ledger=split_delta(delta, union=union, shares={f"{tail}_tail": 1.0}),
        n=int(n),
        beta=None if beta is None else float(np.asarray(beta)),
        empirical_risk=rate,
        kl=None,
        kl_low=None,
        kl_high=None,
        inputs={"errors": count, "tail": tail, "union": int(union)},
        standard_error=math.sqrt(max(rate * (1 - rate), 0.0) / n) if not math.isnan(rate) else math.nan,
        flag=flag,
    )


test_set.__test__ = False  # a bound, whatever pytest makes of its name
