"""The exact distance between a trained posterior and the Gibbs posterior."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["VariationalGap", "variational_gap"]


class VariationalGap(NamedTuple):
    """``KL(Q||Q_beta) / beta`` and what is known about its error.

    Attributes:
        value: array, the gap in units of the loss, >= 0 up to errors.
        standard_error: array, from the errors of the risk and of ``Lambda``.
        violated: boolean array, true where ``Lambda > beta E_Q L + KL`` beyond error: impossible for the true
            ``Lambda``, so the evidence estimate is to be flagged.
    """

    value: jax.Array
    standard_error: jax.Array
    violated: jax.Array


def variational_gap(
    risk: ArrayLike,
    kl: ArrayLike,
    *,
    neg_log_z: ArrayLike,
    beta: ArrayLike,
    risk_error: ArrayLike = 0.0,
    neg_log_z_error: ArrayLike = 0.0,
    tolerance: float = 4.0,
) -> VariationalGap:
    """What a posterior loses against the Gibbs posterior in the objective ``L + KL / beta``.

    ``E_Q L + KL(Q||P) / beta - Lambda / beta = KL(Q||Q_beta) / beta >= 0``, ``Lambda = -log E_P exp(-beta L)``

    Args:
        risk: ``E_Q L``, any shape, of the loss that defines ``Lambda``.
        kl: ``KL(Q||P)`` in nats.
        neg_log_z: ``Lambda(beta)`` in nats.
        beta: inverse temperature, > 0.
        risk_error: standard error of ``risk``.
        neg_log_z_error: standard error of ``Lambda`` in nats.
        tolerance: standard errors below zero that count as a violation; 4 raises a false alarm once in 30,000 checks.

    Returns:
        ``VariationalGap``; NaN anywhere counts as violated.

    Raises:
        ValueError: if ``tolerance`` is negative.

    Example:
        >>> gap = variational_gap(0.2, 30.0, neg_log_z=45.0, beta=100.0)
        >>> round(float(gap.value), 6), bool(gap.violated)
        (0.05, False)

    References:
        Donsker and Varadhan's variational formula; Gibbs variational principle.
    """
    if not tolerance >= 0 or math.isinf(tolerance):
        raise ValueError(f"tolerance must be a finite number of standard errors >= 0, got {tolerance}")
    risk, kl, neg_log_z, beta = jnp.broadcast_arrays(*map(jnp.asarray, (risk, kl, neg_log_z, beta)))
    value = risk + (kl - neg_log_z) / beta
    error = jnp.sqrt(jnp.square(risk_error) + jnp.square(neg_log_z_error / beta)) + jnp.zeros_like(value)
    rounding = 8 * jnp.finfo(value.dtype).eps * (jnp.abs(risk) + (jnp.abs(kl) + jnp.abs(neg_log_z)) / beta)
    return VariationalGap(value, error, ~(value >= -tolerance * error - rounding))
