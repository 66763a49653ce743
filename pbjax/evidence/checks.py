"""What betrays a wrong evidence estimate: jumps, hysteresis, a trained posterior that beats the Gibbs optimum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.typing import ArrayLike

from pbjax import _checks
from pbjax.evidence.integration import check_ladder, thermodynamic_integration
from pbjax.evidence.statistics import SampleStatistics


class Transition(NamedTuple):
    """Jumps of E[L] that the variances at the two ends of an interval do not explain.

    Attributes:
      drop: [K-1] · m_k − m_{k+1}.
      explained: [K-1] · d · max(Var_k, Var_{k+1}); the drop is the integral of the variance between the rungs.
      z_score: [K-1] · (drop − factor · explained) in standard errors.
      flagged: [K-1] · bool.
    """

    drop: jax.Array
    explained: jax.Array
    z_score: jax.Array
    flagged: jax.Array


class Hysteresis(NamedTuple):
    """The ladder run upwards (cooling) against the ladder run downwards (heating).

    Attributes:
      difference: [K] · mean L upwards − mean L downwards.
      z_score: [K] · difference in standard errors.
      neg_log_z_difference: scalar · trapezium of −log Z upwards − downwards at the last rung, in nats.
      flagged: [K] · bool.
    """

    difference: jax.Array
    z_score: jax.Array
    neg_log_z_difference: jax.Array
    flagged: jax.Array


class VariationalCheck(NamedTuple):
    """Whether −log Z exceeds an upper bound that every posterior Q gives.

    Attributes:
      gap: b E_Q L + KL(Q‖prior) − Λ(b) = KL(Q‖Q_b), at least 0 for the true Λ, in nats.
      standard_error: of the gap, in nats.
      z_score: gap in standard errors.
      violated: bool · the gap is negative beyond error.
    """

    gap: jax.Array
    standard_error: jax.Array
    z_score: jax.Array
    violated: jax.Array


def _z_score(difference: jax.Array, error: jax.Array) -> jax.Array:
    """difference/error, where an error of zero means exact numbers: any difference is then infinitely many errors."""
    return jnp.where(difference == 0, difference, difference / error)


def _threshold(false_alarm: ArrayLike, tests: int) -> jax.Array:
    return -ndtri(jnp.asarray(false_alarm, dtype=float) / max(tests, 1))


def first_order_transition(
    betas: ArrayLike,
    statistics: SampleStatistics,
    *,
    factor: ArrayLike = 2.0,
    min_nats: ArrayLike = 0.1,
    false_alarm: ArrayLike = 1e-3,
) -> Transition:
    """Flag jumps of E[L] between neighbouring rungs, where thermodynamic integration can be nats off.

    m_k − m_{k+1} = ∫ Var_t dt. On a smooth curve, however coarse the ladder, the drop is below d times the larger end
    variance (m convex or concave between the rungs). At a first-order transition both phases are narrow and the drop
    lies between them: drop > factor · d · max(Var_k, Var_{k+1}). A smooth but steep fall wholly inside one interval
    looks the same until a rung is added there; a transition stays flagged however many are.

    Args:
      betas: [K] · total inverse temperature · increasing from 0.
      statistics: SampleStatistics of L at the rungs.
      factor: how much more than the end variances may explain is still called smooth · at least 1.
      min_nats: intervals whose bracket d · drop is below this are never flagged.
      false_alarm: probability that any interval of a smooth curve is flagged by Monte-Carlo noise; the variance's own
        error is taken as sqrt(2/ESS) of it, the value for a normal law.

    Returns:
      Transition of arrays [K-1]. An interval with a NaN is flagged.

    Raises:
      ValueError: as ``thermodynamic_integration``, or for a ``false_alarm`` outside (0,1).

    Example:
      >>> import numpy as np
      >>> narrow = SampleStatistics(
      ...     mean=np.array([0.9, 0.89, 0.1]), variance=np.full(3, 1e-4), standard_error=np.full(3, 1e-3),
      ...     chain_means=np.zeros((3, 1)), num_draws=100)
      >>> print(first_order_transition(np.array([0.0, 100.0, 200.0]), narrow).flagged)
      [False True]

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.2.
    """
    _checks.check_delta(false_alarm, name="false_alarm")
    betas, means, variances, errors = check_ladder(
        betas, mean=statistics.mean, variance=statistics.variance, standard_error=statistics.standard_error
    )
    steps, drop = jnp.diff(betas), means[:-1] - means[1:]
    explained = steps * jnp.maximum(variances[:-1], variances[1:])
    # se(Var)² = 2 Var²/ESS with ESS = Var/se².
    squared = 2 * variances * errors**2
    of_explained = (factor * steps) ** 2 * jnp.maximum(squared[:-1], squared[1:])
    error = jnp.sqrt(errors[:-1] ** 2 + errors[1:] ** 2 + of_explained)
    score = _z_score(drop - factor * explained, error)
    smooth = (score <= _threshold(false_alarm, means.size - 1)) | (steps * drop < min_nats)
    return Transition(drop=drop, explained=explained, z_score=score, flagged=~smooth)


def hysteresis(
    betas: ArrayLike, upward: SampleStatistics, *, downward: SampleStatistics, false_alarm: ArrayLike = 1e-3
) -> Hysteresis:
    """Compare a ladder run from the prior to the coldest rung with the same ladder run back.

    z_k = (m_k^up − m_k^down)/sqrt(se_up² + se_down²). In equilibrium both are the same mean.

    Args:
      betas: [K] · total inverse temperature · increasing from 0.
      upward: SampleStatistics of L, beta increasing along the run.
      downward: SampleStatistics of L, beta decreasing along the run, in the order of ``betas``.
      false_alarm: probability that any rung of an equilibrated ladder is flagged.

    Returns:
      Hysteresis. A rung with a NaN is flagged.

    Raises:
      ValueError: as ``thermodynamic_integration``, or for a ``false_alarm`` outside (0,1).

    Example:
      >>> import numpy as np
      >>> up = SampleStatistics(np.array([0.9, 0.5]), np.zeros(2), np.full(2, 0.01), np.zeros((2, 1)), 10)
      >>> down = up._replace(mean=np.array([0.9, 0.3]))
      >>> print(hysteresis(np.array([0.0, 10.0]), up, downward=down).flagged)
      [False True]
    """
    _checks.check_delta(false_alarm, name="false_alarm")
    betas, means, errors, down_means, down_errors = check_ladder(
        betas,
        mean=upward.mean,
        standard_error=upward.standard_error,
        downward_mean=downward.mean,
        downward_standard_error=downward.standard_error,
    )
    difference = means - down_means
    score = _z_score(difference, jnp.sqrt(errors**2 + down_errors**2))
    # Two-sided: a chain that lags behind is too high upwards, but a wandering one may err either way.
    quiet = jnp.abs(score) <= _threshold(false_alarm, 2 * means.size)
    return Hysteresis(
        difference=difference,
        z_score=score,
        neg_log_z_difference=thermodynamic_integration(betas, difference).trapezium[-1],
        flagged=~quiet,
    )


def gap_identity(risk: ArrayLike, kl: ArrayLike, *, neg_log_z: ArrayLike, beta: ArrayLike) -> jax.Array:
    """How far a posterior Q is from the Gibbs posterior, in units of risk.

    E_Q L + KL(Q‖prior)/b − Λ(b)/b = KL(Q‖Q_b)/b ≥ 0.

    Args:
      risk: E_Q L · any shape that broadcasts · in [0,1].
      kl: KL(Q‖prior) · nats.
      neg_log_z: Λ(b) = −log E_prior exp(−b L) · nats.
      beta: b · total inverse temperature · positive.

    Returns:
      KL(Q‖Q_b)/b, in the broadcast shape. Negative beyond error means that Λ is over-stated.

    Raises:
      ValueError: outside jit, if ``beta`` is not positive.

    Example:
      >>> print(gap_identity(0.1, 20.0, neg_log_z=25.0, beta=100.0))
      0.05

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 3.
    """
    _checks.check_range("beta", beta, low=0.0, open_low=True, open_high=True, allow_nan=True)
    return jnp.asarray(risk) + (jnp.asarray(kl) - jnp.asarray(neg_log_z)) / jnp.asarray(beta)


def violates_variational_bound(
    neg_log_z: ArrayLike,
    beta: ArrayLike,
    *,
    risk: ArrayLike,
    kl: ArrayLike,
    neg_log_z_standard_error: ArrayLike = 0.0,
    risk_standard_error: ArrayLike = 0.0,
    false_alarm: ArrayLike = 1e-3,
) -> VariationalCheck:
    """Check an estimate of −log Z against a trained posterior: Λ(b) ≤ b E_Q L + KL(Q‖prior) for every Q.

    A violation beyond error flags the evidence estimate (chains that kept L too high), not the posterior.

    Args:
      neg_log_z: estimate of Λ(b) · nats · scalar or any shape that broadcasts.
      beta: b · total inverse temperature · positive.
      risk: E_Q L, possibly estimated · in [0,1].
      kl: KL(Q‖prior) · nats.
      neg_log_z_standard_error: of ``neg_log_z`` · nats.
      risk_standard_error: of ``risk``; it counts b times.
      false_alarm: probability that one correct estimate is called a violation, when Q is the Gibbs posterior itself.

    Returns:
      VariationalCheck in the broadcast shape. A NaN counts as violated.

    Raises:
      ValueError: outside jit, if ``beta`` is not positive or ``false_alarm`` is outside (0,1).

    Example:
      >>> check = violates_variational_bound(30.0, 100.0, risk=0.1, kl=15.0, neg_log_z_standard_error=1.0)
      >>> print(check.gap, check.violated)
      -5.0 True

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, sections 3 and 7.
    """
    _checks.check_delta(false_alarm, name="false_alarm")
    beta = jnp.asarray(beta)
    gap = beta * gap_identity(risk, kl, neg_log_z=neg_log_z, beta=beta)
    error = jnp.hypot(jnp.asarray(neg_log_z_standard_error), beta * jnp.asarray(risk_standard_error))
    error = jnp.broadcast_to(error, gap.shape)
    score = _z_score(gap, error)
    return VariationalCheck(
        gap=gap, standard_error=error, z_score=score, violated=~(score >= -_threshold(false_alarm, 1))
    )
