"""Annealed importance sampling: −log Z from the log-weights of annealed chains, with limits that need no mixing.

A forward chain has log-weight −A with E exp(−A) = Z(b)/Z(0) = exp(−Λ(b)), exactly, for any kernels that leave their
rungs invariant. A reverse chain, started by exact draws at b, has E exp(+A) = exp(Λ(b)). Markov's inequality turns
either mean into a one-sided limit on Λ; together they are a bracket.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from pbjax import _checks


class ImportanceEstimate(NamedTuple):
    """−log Z from M weighted chains, for any leading shape S.

    Attributes:
      neg_log_z: [*S] · −log((1/M) Σ exp(log_weight)), nats; on average too high (Jensen): a loose chain errs upwards.
      standard_error: [*S] · by the delta method, nats; not to be trusted when ``effective_sample_size`` is near 1.
      effective_sample_size: [*S] · (Σ w)²/Σ w² · in [1, M].
    """

    neg_log_z: jax.Array
    standard_error: jax.Array
    effective_sample_size: jax.Array


class Bracket(NamedTuple):
    """Limits on Λ = −log Z that hold together with probability at least 1 − delta.

    Attributes:
      lower: from reverse chains, nats, at least 0.
      upper: from forward chains, nats.
      forward: the estimate from forward chains, nats; on average too high.
      reverse: the estimate from reverse chains, nats; on average too low.
    """

    lower: jax.Array
    upper: jax.Array
    forward: jax.Array
    reverse: jax.Array


def _log_mean_exp(x: jax.Array) -> jax.Array:
    return logsumexp(x, axis=-1) - jnp.log(jnp.asarray(x.shape[-1], x.dtype))


def _weights(name: str, log_weights: ArrayLike) -> jax.Array:
    weights = jnp.asarray(log_weights, jnp.result_type(float, log_weights))
    if weights.ndim < 1 or weights.shape[-1] < 1:
        raise ValueError(f"{name} has shape {weights.shape}: the last axis holds at least one chain")
    # −inf is a chain that weighs nothing; +inf or NaN is a mistake.
    _checks.check_range(name, log_weights, open_high=True, remedy="a log-weight is finite, or −inf for weight 0")
    return weights


def effective_sample_size(log_weights: ArrayLike) -> jax.Array:
    """How many equally weighted draws the weights are worth.

    (Σ w_i)² / Σ w_i², w_i = exp(log_weight_i).

    Args:
      log_weights: [*S, M] · up to a common constant.

    Returns:
      [*S] · in [1, M].

    Raises:
      ValueError: outside jit, for an empty last axis, NaN or +inf.

    Example:
      >>> print(effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 0.0, 0.0]))))
      2.0

    References:
      Kong, Liu, Wong 1994, Sequential imputations and Bayesian missing data problems.
    """
    weights = _weights("log_weights", log_weights)
    # Relative to the largest, so that no exponential overflows; weights that are all zero count as one draw.
    scaled = jnp.exp(weights - jnp.maximum(jnp.max(weights, axis=-1, keepdims=True), jnp.finfo(weights.dtype).min))
    squares = jnp.sum(jnp.square(scaled), axis=-1)
    size = jnp.where(squares > 0, jnp.square(jnp.sum(scaled, axis=-1)) / jnp.where(squares > 0, squares, 1.0), 1.0)
    return jnp.clip(size, 1.0, weights.shape[-1])


def importance_estimate(log_weights: ArrayLike) -> ImportanceEstimate:
    """−log Z, its standard error and the effective sample size from forward annealed chains.

    −log((1/M) Σ_i exp(−A_i)); standard error sqrt((M/ESS − 1)/(M − 1)).

    Args:
      log_weights: [*S, M] · −A of M independent chains, nats.

    Returns:
      ImportanceEstimate; the standard error is NaN for one chain.

    Raises:
      ValueError: outside jit, for an empty last axis, NaN or +inf.

    Example:
      >>> estimate = importance_estimate(jnp.full((8,), -3.0))
      >>> print(estimate.neg_log_z, estimate.standard_error, estimate.effective_sample_size)
      3.0 0.0 8.0

    References:
      Neal 2001, Annealed importance sampling, Statistics and Computing 11.
    """
    weights = _weights("log_weights", log_weights)
    size, count = effective_sample_size(weights), weights.shape[-1]
    spread = jnp.maximum(count / size - 1, 0.0)
    error = jnp.sqrt(spread / (count - 1)) if count > 1 else jnp.full_like(size, jnp.nan)
    return ImportanceEstimate(-_log_mean_exp(weights), error, size)


def bidirectional_bracket(log_weights: ArrayLike, reverse_log_weights: ArrayLike, *, delta: float) -> Bracket:
    """Limits on Λ from both sides: forward chains from the prior, reverse chains from the target.

    log mean exp(A_reverse) − log(2/delta) ≤ Λ ≤ −log mean exp(−A_forward) + log(2/delta).

    The upper limit needs invariant kernels only. The lower one also needs reverse chains that start from exact draws of
    the target; with approximate ones it is an indication of how much the upper limit may give away.

    Args:
      log_weights: [*S, M] · −A of forward chains, nats.
      reverse_log_weights: [*S, M'] · −A of reverse chains, nats.
      delta: failure probability of both limits together · in (0,1).

    Returns:
      Bracket in the shape S. It can be empty (lower above upper) with probability at most ``delta``.

    Raises:
      ValueError: outside jit, for an empty last axis, weights that are NaN or +inf, or a delta outside (0,1).

    Example:
      >>> bracket = bidirectional_bracket(jnp.full((4,), -3.2), jnp.full((4,), -2.9), delta=0.05)
      >>> print(f"{float(bracket.reverse):.2f} {float(bracket.forward):.2f} {float(bracket.upper):.2f}")
      2.90 3.20 6.89

    References:
      Grosse, Ghahramani, Adams 2015, Sandwiching the marginal likelihood using bidirectional Monte Carlo.
    """
    _checks.check_delta(delta)
    forward = -_log_mean_exp(_weights("log_weights", log_weights))
    # exp(+A): the sign is that of minus the log-weight.
    reverse = _log_mean_exp(-_weights("reverse_log_weights", reverse_log_weights))
    price = -jnp.log(jnp.asarray(delta / 2, forward.dtype))
    return Bracket(jnp.maximum(reverse - price, 0.0), forward + price, forward, reverse)
