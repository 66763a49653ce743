"""Thermodynamic integration: −log Z and KL of the Gibbs posterior from the mean energy along a ladder.

Symbols, here and in the rest of the room: L empirical risk in [0,1]; Q_b ∝ prior · exp(−b·L); m(b) = E_{Q_b} L;
Λ(b) = −log E_prior exp(−b·L), the "−log Z" of the field names; ladder 0 = b_0 < ... < b_{K-1}, d_k = b_k − b_{k-1}.
Then Λ' = m, m' = −Var_b(L) ≤ 0 and KL(Q_b‖prior) = Λ(b) − b m(b) = ∫_0^b t Var_t(L) dt. Because m decreases, the left
sum over-states Λ and KL and the right sum under-states them, on every ladder.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax import _checks
from pbjax.evidence.statistics import SampleStatistics


class ThermodynamicIntegration(NamedTuple):
    """Sums over a ladder, cumulative: entry k is the integral from 0 to betas[k], in nats. Entry 0 is zero.

    Attributes:
      left: [K] · left sum, at least Λ(b_k) if the means are exact.
      trapezium: [K] · mean of left and right; on either side of Λ.
      right: [K] · right sum, at most Λ(b_k) if the means are exact.
      kl_left: [K] · left − b_k m(b_k), at least KL(Q_b‖prior).
      kl_trapezium: [K] · trapezium − b_k m(b_k).
      kl_right: [K] · right − b_k m(b_k), at most KL(Q_b‖prior).
    """

    left: jax.Array
    trapezium: jax.Array
    right: jax.Array
    kl_left: jax.Array
    kl_trapezium: jax.Array
    kl_right: jax.Array


class VarianceForm(NamedTuple):
    """Second estimates that use the variances of L along the ladder, cumulative as above, in nats.

    Attributes:
      neg_log_z: [K] · kl + b_k m(b_k).
      kl: [K] · ∫_0^{b_k} t Var_t dt with Var linear between rungs.
      corrected_neg_log_z: [K] · trapezium − Σ d_k² (Var_{k-1} − Var_k)/12, the trapezium with its end-point correction.
      corrected_kl: [K] · corrected_neg_log_z − b_k m(b_k).
    """

    neg_log_z: jax.Array
    kl: jax.Array
    corrected_neg_log_z: jax.Array
    corrected_kl: jax.Array


class EvidenceEstimate(NamedTuple):
    """Thermodynamic integration with its Monte-Carlo errors.

    Attributes:
      value: the sums of the ladder.
      standard_error: the standard error of each of them, for independent rungs.
      chain_standard_error: the same from the spread of the sums over chains, which allows any dependence between the
        rungs of one chain; NaN with fewer than two chains.
      variance_form: second estimates, to be compared with ``value.trapezium`` and ``value.kl_trapezium``.
      bracket_width: [K-1] · d_k (m_{k-1} − m_k), what each interval adds to left − right.
    """

    value: ThermodynamicIntegration
    standard_error: ThermodynamicIntegration
    chain_standard_error: ThermodynamicIntegration
    variance_form: VarianceForm
    bracket_width: jax.Array


def check_ladder(betas: ArrayLike, **per_rung: ArrayLike) -> tuple[jax.Array, ...]:
    """The ladder and its per-rung values as float arrays of one dtype, after checks at the door.

    Args:
      betas: [K] · total inverse temperatures, increasing from 0.
      **per_rung: [K] each · values at the rungs; the name is used in messages.

    Returns:
      betas and the values in the given order, each [K].

    Raises:
      ValueError: if shapes differ, or (outside jit) if betas do not start at 0 or do not increase.

    Example:
      >>> betas, means = check_ladder(jnp.arange(3), means=jnp.array([0.5, 0.4, 0.3]))
      >>> print(betas)
      [0. 1. 2.]
    """
    arrays = [jnp.asarray(x) for x in (betas, *per_rung.values())]
    dtype = jnp.result_type(jnp.float32, *arrays)
    if arrays[0].ndim != 1 or arrays[0].size == 0:
        raise ValueError(f"betas must be one ladder [K], got shape {arrays[0].shape}; use jax.vmap for several")
    for name, x in zip(per_rung, arrays[1:], strict=True):
        if x.shape != arrays[0].shape:
            raise ValueError(f"{name} has shape {x.shape} for {arrays[0].size} rungs; give one value a rung")
    known = _checks.concrete(betas)
    if known is not None:
        if known[0] != 0:
            raise ValueError(f"betas must start at 0, the prior, got {known[0]}; put the prior rung first")
        if not (np.all(np.isfinite(known)) and np.all(np.diff(known) > 0)):
            raise ValueError(f"betas must be finite and increase, got {known}; sort them and drop repeats")
    return tuple(x.astype(dtype) for x in arrays)


def _cumulative(terms: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.zeros((1,), terms.dtype), jnp.cumsum(terms)])


def thermodynamic_integration(betas: ArrayLike, mean_losses: ArrayLike) -> ThermodynamicIntegration:
    """Bracket and trapezium of −log Z and of KL(Q_b‖prior) at every rung.

    left_k = Σ_{i≤k} d_i m_{i-1}, right_k = Σ_{i≤k} d_i m_i and, by parts, kl_left_k = Σ_{i≤k} b_i (m_{i-1} − m_i),
    kl_right_k = Σ_{i≤k} b_{i-1} (m_{i-1} − m_i): the KL is summed from differences of m, because left_k − b_k m_k
    would lose digits where KL ≪ b_k m_k.

    Args:
      betas: [K] · total inverse temperature · increasing from 0.
      mean_losses: [K] · E[L] under Q_b at each rung · in [0,1]. A NaN spoils its own and all later rungs.

    Returns:
      ThermodynamicIntegration of arrays [K]. With exact means right ≤ Λ ≤ left and kl_right ≤ KL ≤ kl_left.

    Raises:
      ValueError: if shapes differ, or (outside jit) if betas do not start at 0 or do not increase.

    Example:
      >>> sums = thermodynamic_integration(jnp.array([0.0, 2.0, 4.0]), jnp.array([0.5, 0.25, 0.125]))
      >>> print(sums.left, sums.right)
      [0. 1. 1.5] [0. 0.5 0.75]
      >>> print(sums.kl_left)
      [0. 0.5 1. ]

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.2.
    """
    return _sums(*check_ladder(betas, mean_losses=mean_losses))


@jax.jit
def _sums(betas: jax.Array, means: jax.Array) -> ThermodynamicIntegration:
    steps, drops = jnp.diff(betas), means[:-1] - means[1:]
    left, right = _cumulative(steps * means[:-1]), _cumulative(steps * means[1:])
    kl_left, kl_right = _cumulative(betas[1:] * drops), _cumulative(betas[:-1] * drops)
    return ThermodynamicIntegration(
        left=left,
        trapezium=(left + right) / 2,
        right=right,
        kl_left=kl_left,
        kl_trapezium=(kl_left + kl_right) / 2,
        kl_right=kl_right,
    )


def variance_form(betas: ArrayLike, mean_losses: ArrayLike, *, variances: ArrayLike) -> VarianceForm:
    """Second estimates of −log Z and KL, from the variances of L.

    kl_k = ∫_0^{b_k} t Var_t dt, with Var linear between rungs: Σ d (b_0 (2 V_0 + V_1) + b_1 (V_0 + 2 V_1))/6.

    Args:
      betas: [K] · total inverse temperature · increasing from 0.
      mean_losses: [K] · E[L] under Q_b · in [0,1].
      variances: [K] · variance of L under Q_b · at least 0.

    Returns:
      VarianceForm of arrays [K]. On a fine ladder both estimates agree with the trapezium; where they do not, the
      ladder is too coarse, or the variances are not those of the equilibrium whose means they accompany.

    Raises:
      ValueError: as ``thermodynamic_integration``.

    Example:
      >>> print(variance_form(jnp.array([0.0, 2.0]), jnp.array([0.5, 0.25]), variances=jnp.array([0.125, 0.125])).kl)
      [0. 0.25]

    References:
      Friel, Hurn, Wyse 2014, Improving power posterior estimation of statistical evidence (the corrected trapezium).
    """
    return _variance_sums(*check_ladder(betas, mean_losses=mean_losses, variances=variances))


@jax.jit
def _variance_sums(betas: jax.Array, means: jax.Array, variances: jax.Array) -> VarianceForm:
    steps, low, high = jnp.diff(betas), betas[:-1], betas[1:]
    before, after = variances[:-1], variances[1:]
    kl = _cumulative(steps * (low * (2 * before + after) + high * (before + 2 * after)) / 6)
    trapezium = _cumulative(steps * (means[:-1] + means[1:]) / 2)
    corrected = trapezium - _cumulative(steps**2 * (before - after) / 12)
    return VarianceForm(
        neg_log_z=kl + betas * means,
        kl=kl,
        corrected_neg_log_z=corrected,
        corrected_kl=corrected - betas * means,
    )


def _root(x: jax.Array) -> jax.Array:
    """sqrt with gradient 0 at 0, where rung 0 always is: its sums are empty."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), x)


def _standard_errors(betas: jax.Array, errors: jax.Array, dependent: bool) -> ThermodynamicIntegration:
    """Each sum is Σ_{j<k} w_j m_j + v_k m_k; w does not depend on k, so all k share one cumulative sum.

    The standard deviation of a sum of dependent terms is at most the sum of theirs (Minkowski).
    """
    steps = jnp.diff(betas)
    zero = jnp.zeros_like(betas[:1])
    after, before = jnp.concatenate([steps, zero]), jnp.concatenate([zero, steps])

    def error(interior: jax.Array, end: jax.Array) -> jax.Array:
        if dependent:
            return _cumulative(jnp.abs(interior * errors)[:-1]) + jnp.abs(end * errors)
        earlier = _cumulative((interior * errors)[:-1] ** 2)
        return _root(earlier + (end * errors) ** 2)

    middle = (after + before) / 2
    return ThermodynamicIntegration(
        left=error(after, jnp.zeros_like(betas)),
        trapezium=error(middle, before / 2),
        right=error(before, before),
        kl_left=error(after, betas),
        kl_trapezium=error(middle, before / 2 - betas),
        kl_right=error(before, before - betas),
    )


def thermodynamic_integration_with_errors(betas: ArrayLike, statistics: SampleStatistics) -> EvidenceEstimate:
    """Thermodynamic integration from sampled means, with Monte-Carlo errors and a second estimate.

    Every sum is linear in the means, so its variance is Σ_j a_j² se_j² with the sum's own weights a_j; the mean at the
    last rung enters −log Z and KL once, with its joint weight. Where the rungs are dependent, Σ_j |a_j| se_j is the
    standard error.

    Args:
      betas: [K] · total inverse temperature · increasing from 0.
      statistics: SampleStatistics of L at the rungs.

    Returns:
      EvidenceEstimate. The standard errors say nothing about a chain that never reached equilibrium, nor about the
      bracket: report both.

    Raises:
      ValueError: as ``thermodynamic_integration``.

    Example:
      >>> import numpy as np
      >>> statistics = SampleStatistics(
      ...     mean=np.array([0.5, 0.3]), variance=np.array([0.1, 0.1]), standard_error=np.array([0.01, 0.02]),
      ...     chain_means=np.array([[0.51, 0.49], [0.29, 0.31]]), num_draws=100)
      >>> estimate = thermodynamic_integration_with_errors(np.array([0.0, 2.0]), statistics)
      >>> print(f"{estimate.value.kl_left[1]:.3f} +- {estimate.standard_error.kl_left[1]:.3f}")
      0.400 +- 0.045

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.2.
    """
    betas, means, variances, errors = check_ladder(
        betas, mean=statistics.mean, variance=statistics.variance, standard_error=statistics.standard_error
    )
    chain_means = jnp.asarray(statistics.chain_means).astype(means.dtype)
    if chain_means.ndim != 2 or chain_means.shape[0] != means.size:
        raise ValueError(f"chain_means has shape {chain_means.shape} for {means.size} rungs; give [rungs, chains]")
    return _estimate(
        betas, means, variances, errors, chain_means, dependent_rungs=bool(statistics.dependent_rungs)
    )  # fmt: skip


@partial(jax.jit, static_argnames="dependent_rungs")
def _estimate(
    betas: jax.Array, means: jax.Array, variances: jax.Array, errors: jax.Array, chain_means: jax.Array, *,
    dependent_rungs: bool,
) -> EvidenceEstimate:  # fmt: skip
    chains = chain_means.shape[1]
    if chains < 2:
        chain_error = ThermodynamicIntegration(*(jnp.full_like(means, jnp.nan),) * 6)
    else:
        by_chain = jax.vmap(_sums, in_axes=(None, 1))(betas, chain_means)
        chain_error = jax.tree.map(lambda x: _root(jnp.var(x, axis=0, ddof=1) / chains), by_chain)
    return EvidenceEstimate(
        value=_sums(betas, means),
        standard_error=_standard_errors(betas, errors, dependent_rungs),
        chain_standard_error=chain_error,
        variance_form=_variance_sums(betas, means, variances),
        bracket_width=jnp.diff(betas) * (means[:-1] - means[1:]),
    )
