r"""PAC-Bayes inequalities: an empirical risk, a KL divergence, n and delta in, a risk certificate out.

With probability at least 1 - delta over n independent examples, simultaneously for all posteriors Q, E_Q R is at most
each of these numbers. Symbols: L = E_Q of the empirical risk in [0, 1]; kl = KL(Q||P) in nats for a prior P that does
not depend on the n examples; kappa = kl + log(2 sqrt(n)/delta).
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_delta, check_n, check_range, check_unit_interval
from pbjax.bounds._rounding import as_floats, inflate, vacuous_where_nan, without_nan
from pbjax.bounds.bernoulli import kl_inverse

# Relative slack for the roundings in c = kappa/n (three logarithms, three sums, a quotient) and in the closed forms.
# The closed forms get more than the 8 ulp of `kl_inverse`, so that rounding cannot reverse kl <= min(quadratic, ...).
SLACK_COMPLEXITY = 8
_SLACK_CLOSED_FORM = 32


def pac_bayes_kl(risk: ArrayLike, kl: ArrayLike, *, n: ArrayLike, delta: ArrayLike) -> jax.Array:
    r"""PAC-Bayes-kl (Langford-Seeger-Maurer) certificate, the tightest of the family.

    kl^{-1}(L, (kl + log(2 sqrt(n)/delta)) / n)

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(pac_bayes_kl(0.1, 500.0, n=60_000, delta=0.05)), 4)
      0.1435

    References:
      Maurer, "A note on the PAC-Bayesian theorem", 2004, arXiv cs/0411099, Theorem 5.
    """
    risk, kl, n, delta = _door(risk, kl, n, delta)
    return _pac_bayes_kl(risk, kl, n, delta)


def mcallester(risk: ArrayLike, kl: ArrayLike, *, n: ArrayLike, delta: ArrayLike, clip: bool = True) -> jax.Array:
    r"""McAllester's square-root certificate, the objective f_classic.

    L + sqrt(kappa / (2 n)), kappa = kl + log(2 sqrt(n)/delta)

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).
      clip: False returns the formula itself, which may exceed 1 and is NaN for NaN: a training objective needs its
        slope where the certificate is vacuous.

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(mcallester(0.1, 500.0, n=60_000, delta=0.05)), 4)
      0.1651

    References:
      McAllester, "PAC-Bayesian model averaging", COLT 1999, with the constant of Maurer 2004.
    """
    given = risk, kl, n, delta = _door(risk, kl, n, delta)
    risk, kl, n, delta = _safe(*given)
    return _finish(risk + jnp.sqrt(complexity(kl, n, delta) / 2), *given, clip=clip)


def quadratic(risk: ArrayLike, kl: ArrayLike, *, n: ArrayLike, delta: ArrayLike, clip: bool = True) -> jax.Array:
    r"""Certificate from the refined Pinsker inequality, the objective f_quad.

    (sqrt(L + kappa/(2n)) + sqrt(kappa/(2n)))^2, kappa = kl + log(2 sqrt(n)/delta)

    At most `mcallester` exactly when sqrt(kappa/(2n)) + sqrt(L + kappa/(2n)) <= 1/2.

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).
      clip: False returns the formula itself, which may exceed 1 and is NaN for NaN: a training objective needs its
        slope where the certificate is vacuous.

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(quadratic(0.1, 500.0, n=60_000, delta=0.05)), 4)
      0.1505

    References:
      Perez-Ortiz et al., "Tighter risk certificates for neural networks", JMLR 2021, f_quad.
    """
    given = risk, kl, n, delta = _door(risk, kl, n, delta)
    risk, kl, n, delta = _safe(*given)
    half = complexity(kl, n, delta) / 2
    return _finish((jnp.sqrt(risk + half) + jnp.sqrt(half)) ** 2, *given, clip=clip)


def best_lambda(risk: ArrayLike, kl: ArrayLike, *, n: ArrayLike, delta: ArrayLike) -> jax.Array:
    r"""The lambda at which `lambda_bound` is smallest; the bound there equals `quadratic`.

    2 / (sqrt(2 n L/kappa + 1) + 1), kappa = kl + log(2 sqrt(n)/delta)

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).

    Returns:
      Numbers in (0, 1], broadcast shape; 1.0 where an argument is NaN (any lambda in (0, 2) gives a valid bound).

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> float(best_lambda(0.0, 10.0, n=100, delta=0.05))
      1.0

    References:
      Thiemann et al., "A strongly quasiconvex PAC-Bayesian bound", ALT 2017, Theorem 3.
    """
    given = _door(risk, kl, n, delta)
    return vacuous_where_nan(_best_lambda(*_safe(*given)), *given)


def lambda_bound(
    risk: ArrayLike,
    kl: ArrayLike,
    *,
    n: ArrayLike,
    delta: ArrayLike,
    lambda_: ArrayLike | None = None,
    clip: bool = True,
) -> jax.Array:
    r"""Certificate linear in risk and divergence, the objective f_lambda; simultaneous over posteriors and lambda.

    L/(1 - lambda/2) + kappa/(n lambda (1 - lambda/2)), kappa = kl + log(2 sqrt(n)/delta)

    For fixed lambda its minimiser over posteriors is the Gibbs posterior with beta = lambda n.

    Args:
      risk: empirical risk L of the posterior, any shape, in [0, 1].
      kl: divergence of posterior from prior, broadcast shape, nats, in [0, inf].
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).
      lambda_: trade-off in (0, 2), broadcast shape; None takes `best_lambda`, which costs no confidence.
      clip: False returns the formula itself, which may exceed 1 and is NaN for NaN: a training objective needs its
        slope where the certificate is vacuous.

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(lambda_bound(0.1, 500.0, n=60_000, delta=0.05, lambda_=0.5)), 4)
      0.156
      >>> round(float(lambda_bound(0.1, 500.0, n=60_000, delta=0.05)), 4)
      0.1505

    References:
      Thiemann et al., "A strongly quasiconvex PAC-Bayesian bound", ALT 2017, Theorem 3.
    """
    if lambda_ is None:
        given = _door(risk, kl, n, delta)
        risk, kl, n, delta = _safe(*given)
        trade_off = _best_lambda(risk, kl, n, delta)
    else:
        check_range(
            "lambda_",
            lambda_,
            low=0.0,
            high=2.0,
            open_low=True,
            open_high=True,
            allow_nan=True,
            remedy="it must lie strictly between 0 and 2; None takes the best one",
        )
        given = _door(risk, kl, n, delta, (lambda_, 0))
        risk, kl, n, delta = _safe(*given[:4])
        inside = (given[4] > 0) & (given[4] < 2)
        trade_off = jnp.where(inside, given[4], 1.0)
        given[4] = jnp.where(inside, given[4], jnp.nan)  # traced and out of range: vacuous
    value = (risk + complexity(kl, n, delta) / trade_off) / (1 - trade_off / 2)
    return _finish(value, *given, clip=clip)


def free_energy(
    neg_log_z: ArrayLike, beta: ArrayLike, *, n: ArrayLike, delta: ArrayLike, fixed_beta: bool = False
) -> jax.Array:
    r"""Certificate of the Gibbs posterior Q_beta from its free energy alone; neither its risk nor its KL is needed.

    (1 - exp(-(Lambda + log(2 sqrt(n)/delta))/n)) / (1 - exp(-beta/n)), Lambda(beta) = -log E_P exp(-beta L)

    Follows from `pac_bayes_kl` for all beta at once, because beta E L + kl = Lambda for a Gibbs posterior; its minimum
    over beta equals the minimum of `pac_bayes_kl`. Certifies the loss that defines the posterior.

    Args:
      neg_log_z: Lambda, or an upper bound on it, any shape, nats, in [0, inf].
      beta: total inverse temperature, broadcast shape, in [0, inf); 0 is vacuous.
      n: number of examples that the prior has not seen, whole, at least 1.
      delta: failure probability, in (0, 1).
      fixed_beta: True when the one beta was chosen before seeing the data; log(1/delta) then replaces
        log(2 sqrt(n)/delta), by Catoni's theorem.

    Returns:
      Certificates in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(free_energy(1000.0, 10_000.0, n=60_000, delta=0.05)), 4)
      0.1086

    References:
      Catoni, "PAC-Bayesian supervised classification", 2007, Theorem 1.2.6, for fixed beta; the uniform form inserts
      kl(q||p) >= -C q - log(1 - p(1 - exp(-C))), C = beta/n, into PAC-Bayes-kl.
    """
    check_range("neg_log_z", neg_log_z, low=0.0, allow_nan=True)
    check_range("beta", beta, low=0.0, open_high=True, allow_nan=True)
    check_n(n, allow_nan=True)
    check_delta(delta, allow_nan=True)
    given = as_floats((neg_log_z, beta, n, delta), (1, 0, -1, -1))
    positive = given[1] > 0
    beta = jnp.where(positive, given[1], 1.0)
    _, neg_log_z, n, delta = _safe(jnp.zeros_like(beta), given[0], given[2], given[3])
    confidence = -jnp.log(delta) if fixed_beta else log_confidence(n, delta)
    spent = inflate((neg_log_z + confidence) / n, SLACK_COMPLEXITY)
    value = jnp.where(positive, jnp.expm1(-spent) / jnp.expm1(-beta / n), 1.0)
    return _finish(value, *given, clip=True)


# --- shared arithmetic ------------------------------------------------------------------------------------------------


def _door(
    risk: ArrayLike, kl: ArrayLike, n: ArrayLike, delta: ArrayLike, *more: tuple[ArrayLike, int]
) -> list[jax.Array]:
    check_unit_interval("risk", risk, allow_nan=True)
    check_range("kl", kl, low=0.0, allow_nan=True)
    check_n(n, allow_nan=True)
    check_delta(delta, allow_nan=True)
    values = (risk, kl, n, delta, *(value for value, _ in more))
    return as_floats(values, (1, 1, -1, -1, *(direction for _, direction in more)))


def _floor(x: jax.Array, low: float) -> jax.Array:
    # Not jnp.maximum: at equality (risk 0, kl 0) it would halve the derivative.
    return jnp.where(x < low, jnp.asarray(low, x.dtype), x)


def _safe(risk: jax.Array, kl: jax.Array, n: jax.Array, delta: jax.Array) -> tuple[jax.Array, ...]:
    """Stand-ins for NaN and for traced values out of range, so that the arithmetic and its slopes stay finite."""
    return (
        _floor(without_nan(risk, 1.0), 0.0),
        _floor(without_nan(kl, 0.0), 0.0),
        _floor(without_nan(n, 1.0), 1.0),
        _floor(without_nan(delta, 0.5), float(jnp.finfo(delta.dtype).tiny)),
    )


def log_confidence(n: jax.Array, delta: jax.Array) -> jax.Array:
    """log(2 sqrt(n)/delta), in nats."""
    return math.log(2.0) + 0.5 * jnp.log(n) - jnp.log(delta)


def complexity(kl: jax.Array, n: jax.Array, delta: jax.Array) -> jax.Array:
    """kappa/n, rounded up."""
    return inflate((kl + log_confidence(n, delta)) / n, SLACK_COMPLEXITY)


@jax.jit
def _pac_bayes_kl(risk: jax.Array, kl: jax.Array, n: jax.Array, delta: jax.Array) -> jax.Array:
    safe_risk, safe_kl, safe_n, safe_delta = _safe(risk, kl, n, delta)
    return vacuous_where_nan(kl_inverse(safe_risk, complexity(safe_kl, safe_n, safe_delta)), risk, kl, n, delta)


def _best_lambda(risk: jax.Array, kl: jax.Array, n: jax.Array, delta: jax.Array) -> jax.Array:
    return 2 / (jnp.sqrt(2 * risk / complexity(kl, n, delta) + 1) + 1)


def _finish(value: jax.Array, *inputs: jax.Array, clip: bool) -> jax.Array:
    value = inflate(value, _SLACK_CLOSED_FORM)
    if clip:
        return vacuous_where_nan(jnp.where(value > 1, jnp.ones_like(value), value), *inputs)
    for x in inputs:
        value = jnp.where(jnp.isnan(x), jnp.nan, value)
    return value
