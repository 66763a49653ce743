"""Catoni's certificate: linear inside an exponential, with a parameter that must be fixed in advance."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_delta, check_n, check_range, check_unit_interval, concrete
from pbjax.bounds._rounding import as_floats, inflate
from pbjax.bounds.pac_bayes import SLACK_COMPLEXITY, _finish, _safe


def catoni(risk: ArrayLike, kl: ArrayLike, *, n: ArrayLike, delta: ArrayLike, parameter: ArrayLike) -> jax.Array:
    r"""Catoni's certificate for one parameter C > 0 chosen before seeing the data.

    (1 - exp(-C L - (kl + log(1/delta))/n)) / (1 - exp(-C))

    For fixed C its minimiser over posteriors is the Gibbs posterior with beta = C n. Taking the smallest value over
    several C is not covered: use `catoni_grid`.

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).
      parameter: C, broadcast shape, in (0, inf).

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(catoni(0.1, 500.0, n=60_000, delta=0.05, parameter=0.4)), 4)
      0.1433

    References:
      Catoni, "PAC-Bayesian supervised classification", 2007, Theorem 1.2.6.
    """
    check_unit_interval("risk", risk, allow_nan=True)
    check_range("kl", kl, low=0.0, allow_nan=True)
    check_n(n, allow_nan=True)
    check_delta(delta, allow_nan=True)
    _check_parameter("parameter", parameter)
    risk, kl, n, delta, parameter = as_floats((risk, kl, n, delta, parameter), (1, 1, -1, -1, 0))
    return _catoni(risk, kl, n, delta, parameter, jnp.zeros_like(risk))


def catoni_grid(
    risk: ArrayLike,
    kl: ArrayLike,
    *,
    n: ArrayLike,
    delta: ArrayLike,
    parameters: ArrayLike,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Smallest of Catoni's certificates over a grid fixed in advance, each at its share of delta.

    min_j (1 - exp(-C_j L - (kl + log(1/(w_j delta)))/n)) / (1 - exp(-C_j)), sum_j w_j <= 1

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability of the whole grid, in (0, 1).
      parameters: the grid C_1..C_J, shape [J], in (0, inf).
      weights: shares of delta, shape [J], positive, summing to at most 1; None shares equally (cost: log J nats).

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> import numpy as np
      >>> grid = np.geomspace(0.01, 10.0, 30)
      >>> round(float(catoni_grid(0.1, 500.0, n=60_000, delta=0.05, parameters=grid)), 4)
      0.1436

    References:
      Catoni, "PAC-Bayesian supervised classification", 2007, section 1.2 (union over parameters).
    """
    check_unit_interval("risk", risk, allow_nan=True)
    check_range("kl", kl, low=0.0, allow_nan=True)
    check_n(n, allow_nan=True)
    check_delta(delta, allow_nan=True)
    _check_parameter("parameters", parameters)
    shape = jnp.shape(parameters)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"parameters has shape {shape}: it must be a vector with at least one entry")
    if weights is None:
        weights = jnp.full(shape, 1.0 / shape[0])
    else:
        check_range("weights", weights, low=0.0, high=1.0, open_low=True)
        known = concrete(weights)
        if jnp.shape(weights) != shape or (known is not None and known.sum() > 1 + 1e-6):
            raise ValueError(f"weights = {weights}: one positive share for each parameter, together at most 1")
    risk, kl, n, delta = as_floats((risk, kl, n, delta), (1, 1, -1, -1))
    parameters, weights = as_floats((parameters, weights), (0, -1))
    dtype = jnp.promote_types(risk.dtype, parameters.dtype)
    full = (*risk.shape, *shape)
    risk, kl, n, delta = (jnp.broadcast_to(x[..., None].astype(dtype), full) for x in (risk, kl, n, delta))
    parameters, weights = (jnp.broadcast_to(x.astype(dtype), full) for x in (parameters, weights))
    return jnp.min(_catoni(risk, kl, n, delta, parameters, -jnp.log(weights)), axis=-1)


def _check_parameter(name: str, value: ArrayLike) -> None:
    check_range(name, value, low=0.0, open_low=True, open_high=True, allow_nan=True, remedy="it must be positive")


def _catoni(
    risk: jax.Array, kl: jax.Array, n: jax.Array, delta: jax.Array, parameter: jax.Array, union_cost: jax.Array
) -> jax.Array:
    given = (risk, kl, n, delta, jnp.where(parameter > 0, parameter, jnp.nan))
    risk, kl, n, delta = _safe(risk, kl, n, delta)
    parameter = jnp.where(parameter > 0, parameter, 1.0)
    spent = inflate(parameter * risk + (kl + union_cost - jnp.log(delta)) / n, SLACK_COMPLEXITY)
    return _finish(jnp.expm1(-spent) / jnp.expm1(-parameter), *given, clip=True)
