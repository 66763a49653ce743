"""Training objectives: bounds as functions of an empirical risk and a KL divergence.

Symbols: ``L`` empirical risk in [0,1]; ``n`` examples; ``beta`` total inverse temperature; ``kl`` in nats.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax import bounds

__all__ = ["OBJECTIVES", "make_objective"]

OBJECTIVES = ("lambda", "quadratic", "mcallester", "bbb", "pac_bayes_kl")


def make_objective(
    name: str, *, n: int, delta: float, beta: ArrayLike | None = None, eta: ArrayLike | None = None
) -> Callable[[ArrayLike, ArrayLike], jax.Array]:
    """A function ``(risk, kl) -> scalar`` to minimise.

    Where a bound is vacuous, ``pbjax.bounds`` says 1.0, which has no slope. An objective goes on above 1 instead, so
    that training finds its way from a start with a large KL.

    =================  ==============================================================================
    ``lambda``         with ``beta``: ``L + kl / beta``, the lambda bound at the fixed ``lambda = beta / n`` up to
                       constants; its minimiser over all posteriors is the Gibbs posterior ``Q_beta``
    ``lambda``         without ``beta``: the lambda bound at its best lambda, which is the quadratic bound
    ``quadratic``      ``(sqrt(L + k) + sqrt(k))^2``, ``k = (kl + log(2 sqrt(n) / delta)) / (2 n)``
    ``mcallester``     ``L + sqrt(k)``
    ``bbb``            ``L + eta kl / n`` (that is ``beta = n / eta``)
    ``pac_bayes_kl``   the largest ``p`` with ``kl(L || p) <= 2 k``; quadratic where ``p`` is 1 up to rounding
    =================  ==============================================================================

    Args:
        name: one of ``OBJECTIVES``.
        n: number of examples, >= 1.
        delta: failure probability in (0,1); ``lambda`` with ``beta`` and ``bbb`` do not depend on it.
        beta: scalar > 0, ``lambda`` only; may be traced.
        eta: scalar > 0, ``bbb`` only (default 0.1); may be traced.

    Returns:
        A differentiable function of two scalars.

    Raises:
        ValueError: for an unknown name, or ``beta`` or ``eta`` given to an objective that has none.

    Example:
        >>> float(make_objective("lambda", n=100, delta=0.05, beta=50.0)(0.25, 10.0))
        0.45
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}")
    if beta is not None and name != "lambda":
        raise ValueError(f"objective {name!r} has no inverse temperature, got beta={beta}; use 'lambda' for one")
    if eta is not None and name != "bbb":
        raise ValueError(f"objective {name!r} has no KL weight, got eta={eta}; use 'bbb'")

    log_term = math.log(2 * math.sqrt(n) / delta)

    def quadratic(risk: jax.Array, half: jax.Array) -> jax.Array:
        return jnp.square(jnp.sqrt(risk + half) + jnp.sqrt(half))

    def objective(risk: ArrayLike, kl: ArrayLike) -> jax.Array:
        # Risks come in the dtype of the net, KL in the widest; bounds want one.
        dtype = jnp.result_type(risk, kl, jnp.float32)
        risk, kl = jnp.asarray(risk, dtype), jnp.asarray(kl, dtype)
        if name == "bbb":
            return risk + (0.1 if eta is None else eta) * kl / n
        if beta is not None:
            return risk + kl / beta
        half = (kl + log_term) / (2 * n)
        if name == "mcallester":
            return risk + jnp.sqrt(half)
        if name == "pac_bayes_kl":
            # 1 - p falls like exp(-2 half / (1 - risk)): past 10 its slope is lost in rounding.
            flat = 2 * half >= 10 * (1 - risk)
            inverse = bounds.kl_inverse(jnp.where(flat, 0.5, risk), jnp.where(flat, 0.5, 2 * half))
            return jnp.where(flat, quadratic(risk, half), inverse)
        return quadratic(risk, half)

    return objective
