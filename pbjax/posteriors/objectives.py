"""Training objectives: bounds as functions of an empirical risk and a KL divergence.

Symbols: ``L`` empirical risk in [0,1]; ``n`` examples; ``beta`` total inverse temperature; ``kl`` in nats.
"""

from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from pbjax import bounds

__all__ = ["OBJECTIVES", "make_objective"]

OBJECTIVES = ("lambda", "quadratic", "mcallester", "bbb", "pac_bayes_kl")


def make_objective(
    name: str, *, n: int, delta: float, beta: ArrayLike | None = None, eta: ArrayLike | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A function ``(risk, kl) -> scalar`` to minimise.

    =================  ==============================================================================
    ``lambda``         with ``beta``: ``L + kl / beta``, the lambda bound at the fixed ``lambda = beta / n`` up to
                       constants; its minimiser over all posteriors is the Gibbs posterior ``Q_beta``
    ``lambda``         without ``beta``: the lambda bound at its best lambda
    ``quadratic``      ``(sqrt(L + k) + sqrt(k))^2``, ``k = (kl + log(2 sqrt(n) / delta)) / (2 n)``
    ``mcallester``     ``L + sqrt(k)``
    ``bbb``            ``L + eta kl / n`` (that is ``beta = n / eta``)
    ``pac_bayes_kl``   the inverse of ``kl(L || .) <= 2 k``
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
        raise ValueError(f"objective {name!r} has no inverse temperature, got beta={beta}; use 'lambda' for a fixed beta")
    if eta is not None and name != "bbb":
        raise ValueError(f"objective {name!r} has no KL weight, got eta={eta}; use 'bbb'")

    def objective(risk: jax.Array, kl: jax.Array) -> jax.Array:
        if name == "lambda" and beta is not None:
            return risk + kl / beta
        if name == "lambda":
            return bounds.lambda_bound(risk, kl, n=n, delta=delta)
        if name == "quadratic":
            return bounds.quadratic(risk, kl, n=n, delta=delta)
        if name == "mcallester":
            return bounds.mcallester(risk, kl, n=n, delta=delta)
        if name == "bbb":
            return risk + (0.1 if eta is None else eta) * kl / n
        return bounds.pac_bayes_kl(risk, kl, n=n, delta=delta)

    return objective
