"""The bound to compare every certificate with: errors on held-out examples, inverted through the binomial tail."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from pbjax._checks import check_delta, check_n, check_range, concrete
from pbjax.bounds._rounding import as_floats, inflate, with_value, without_nan
from pbjax.bounds.bernoulli import bernoulli_kl, kl_inverse


def test_set(errors: ArrayLike, *, n: ArrayLike, delta: ArrayLike) -> jax.Array:
    r"""Upper confidence bound on an error rate from errors on n held-out examples (Clopper-Pearson, one-sided).

    max{p : P(Binomial(n, p) <= errors) >= delta}

    Differentiable in delta; an error count has no slope, its derivative is 0.

    Args:
      errors: number of errors, any shape, whole, in [0, n].
      n: number of held-out examples, broadcast shape, whole, at least 1.
      delta: failure probability, in (0, 1).

    Returns:
      Upper bounds in [0, 1], broadcast shape, rounded up; 1.0 where an argument is NaN.

    Raises:
      ValueError: when an argument is out of range.

    Example:
      >>> round(float(test_set(0, n=100, delta=0.05)), 4)
      0.0295
      >>> round(float(test_set(200, n=10_000, delta=0.05)), 4)
      0.0225

    References:
      Langford, "Tutorial on practical prediction theory for classification", JMLR 2005, Theorem 3.3.
    """
    check_n(n, allow_nan=True)
    check_delta(delta, allow_nan=True)
    known_errors, known_n = concrete(errors), concrete(n)
    remedy = "it counts errors among the n examples and must be a whole number from 0 to n"
    check_range("errors", errors, low=0.0, whole=True, allow_nan=True, remedy=remedy)
    if known_errors is not None and known_n is not None and (known_errors > known_n).any():
        raise ValueError(f"errors = {errors} exceeds n = {n}: {remedy}")
    return _test_set(*as_floats((errors, n, delta), (1, -1, -1)))


test_set.__test__ = False  # not a test, whatever pytest makes of the name


@jax.jit
def _test_set(errors: jax.Array, n: jax.Array, delta: jax.Array) -> jax.Array:
    missing = jnp.isnan(errors) | jnp.isnan(n) | jnp.isnan(delta)
    n = jnp.maximum(without_nan(n, 1.0), 1.0)
    k = jnp.maximum(without_nan(errors, 0.0), 0.0)
    open_end = k < n  # with n errors among n, or traced nonsense, nothing below 1 is excluded
    k = jnp.where(open_end, k, 0.0)
    delta = without_nan(delta, 0.5)
    none = k == 0
    # No errors: P = (1 - p)^n, solved in closed form.
    closed = -jnp.expm1(jnp.log(delta) / n)
    p = jnp.where(none, closed, _solve(jnp.where(none, 1.0, k), jnp.where(none, jnp.maximum(n, 2.0), n), delta))
    p = jnp.where(open_end & ~missing, p, 1.0)
    return with_value(p, jnp.minimum(inflate(lax.stop_gradient(p), 64), 1.0))


def _stirling_error(z: jax.Array) -> jax.Array:
    """log z! - ((z + 1/2) log z - z + log(2 pi)/2), for z >= 1."""
    large = jnp.maximum(z, 16.0)
    inverse_square = 1 / (large * large)
    series = (1 / 12 - inverse_square * (1 / 360 - inverse_square * (1 / 1260 - inverse_square / 1680))) / large
    small = jnp.minimum(z, 16.0)
    exact = lax.lgamma(small + 1) - (small + 0.5) * jnp.log(small) + small - 0.5 * math.log(2 * math.pi)
    return jnp.where(z >= 16, series, exact)


def _log_tail(p: jax.Array, k: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log P(Binomial(n, p) <= k) and its derivative in p, for 1 <= k < n.

    P = pmf(k) (1 + sum_j prod_{i<j} (k-i)(1-p) / ((n-k+1+i) p)), all terms positive. The mass function comes from
    n kl(k/n||p) and Stirling's errors (Loader's form), which keeps digits where log-gamma functions of n would cancel.
    """

    def more(carry):
        i, term, total = carry
        return jnp.any((term > total * jnp.finfo(p.dtype).eps / 4) & (i < k))

    def add(carry):
        i, term, total = carry
        term = term * jnp.maximum(k - i, 0) / (n - k + 1 + i) * ((1 - p) / p)
        return i + 1, term, total + term

    start = jnp.zeros_like(p), jnp.ones_like(p), jnp.ones_like(p)
    _, _, total = lax.while_loop(more, add, start)
    rest = n - k
    constant = 0.5 * (jnp.log(n / k) - jnp.log(rest) - math.log(2 * math.pi))
    constant = constant + _stirling_error(n) - _stirling_error(k) - _stirling_error(rest)
    log_mass = constant - n * bernoulli_kl(k / n, p)
    return log_mass + jnp.log(total), -rest / ((1 - p) * total)


@jax.custom_jvp
def _solve(k: jax.Array, n: jax.Array, delta: jax.Array) -> jax.Array:
    """Newton steps from Chernoff's bound; the log tail is concave in p, so they approach the root from above."""
    eps = jnp.finfo(delta.dtype).eps
    q = k / n
    start = jnp.minimum(kl_inverse(q, -jnp.log(delta) / n), 1 - eps)
    # Aim below delta by more than the log tail is wrong: its constants, its sum of some sqrt(k) terms, and the
    # rounding of q, relative to q, which n times the log odds multiplies.
    log_odds = jnp.log(start / q) + jnp.log((1 - q) / (1 - start))
    target = jnp.log(delta) - eps * (256 - 8 * jnp.log(delta) + 8 * jnp.sqrt(k) + k * log_odds)

    def more(carry):
        count, _, moved = carry
        return (count < 60) & jnp.any(moved)

    def step(carry):
        count, p, _ = carry
        value, slope = _log_tail(p, k, n)
        down = jnp.maximum((value - target) / slope, 0)
        return count + 1, p - down, down > 4 * eps * p

    return lax.while_loop(more, step, (0, start, jnp.ones(start.shape, bool)))[1]


@_solve.defjvp
def _solve_jvp(primals, tangents):
    k, n, delta = primals
    p = _solve(k, n, delta)
    return p, tangents[2] / (delta * _log_tail(p, k, n)[1])
