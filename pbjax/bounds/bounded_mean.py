"""Upper limits on the mean of a [0, 1] variable that profit from a small variance: from the draws, not their mean.

`sampled_risk` needs the mean only and must allow for the largest variance that it leaves room for, that of a 0-1
variable. Where the draws lie close together these two are tighter: an explicit formula, and a game.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_delta, check_unit_interval
from pbjax.bounds._rounding import as_floats, inflate, vacuous_where_nan, with_value, without_nan

# A bet loses at most this share of the capital in one round.
LARGEST_STAKE = 0.9


def _draws(values: ArrayLike, delta: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws [..., m] and log(1/delta) [...], where a NaN stands in for 1; and whether there was a NaN, [...]."""
    check_unit_interval("values", values, allow_nan=True)
    check_delta(delta, allow_nan=True)
    if jnp.ndim(values) < 1 or jnp.shape(values)[-1] < 1:
        raise ValueError(f"values has shape {jnp.shape(values)}: give the draws on the last axis, at least one")
    (x,), (share,) = as_floats((values,), (1,)), as_floats((delta,), (-1,))
    dtype = jnp.promote_types(x.dtype, share.dtype)
    x, share = x.astype(dtype), jnp.broadcast_to(share.astype(dtype), jnp.broadcast_shapes(share.shape, x.shape[:-1]))
    bad = jnp.any(jnp.isnan(x), axis=-1) | jnp.isnan(share)
    x = jnp.broadcast_to(without_nan(x, 1.0), (*share.shape, x.shape[-1]))
    # Not jnp.clip: its derivative at the ends 0 and 1, which are ordinary values here, is one half.
    x = jnp.where(x < 0, jnp.zeros_like(x), jnp.where(x > 1, jnp.ones_like(x), x))
    return x, -jnp.log(without_nan(share, 0.5)), bad


def empirical_bernstein(values: ArrayLike, *, delta: ArrayLike) -> jax.Array:
    r"""Upper limit on the mean of a [0, 1] variable from independent draws: explicit, with the sample variance.

    mean + sqrt(2 V log(2/delta)/m) + 7 log(2/delta)/(3 (m - 1)),  V the sample variance with divisor m - 1

    Args:
      values: independent draws of one law, shape [..., m], in [0, 1].
      delta: failure probability, broadcast shape [...], in (0, 1).

    Returns:
      Upper limits in [0, 1], shape [...], rounded up; 1.0 where a draw is NaN and for a single draw.

    Raises:
      ValueError: when an argument is out of range or there is no draw.

    Example:
      >>> import numpy as np
      >>> from pbjax.bounds import sampled_risk
      >>> values = np.tile([0.02, 0.04], 500)
      >>> limits = empirical_bernstein(values, delta=0.01), sampled_risk(0.03, 1000, delta=0.01)
      >>> [round(float(limit), 4) for limit in limits]
      [0.0434, 0.0493]

    References:
      Maurer and Pontil, "Empirical Bernstein bounds and sample variance penalization", COLT 2009, Theorem 4.
    """
    x, nats, bad = _draws(values, delta)
    m = x.shape[-1]
    if m < 2:
        return jnp.ones_like(nats)
    nats = inflate(nats + jnp.log(jnp.asarray(2.0, nats.dtype)), 8)
    mean, spread = jnp.mean(x, axis=-1), jnp.sqrt(jnp.sum(jnp.square(x - x.mean(-1, keepdims=True)), axis=-1))
    # The sums of m terms are off by at most m units in the last place each.
    limit = inflate(mean + spread * jnp.sqrt(2 * nats / m / (m - 1)) + 7 * nats / (3 * (m - 1)), 2 * m + 16)
    return vacuous_where_nan(jnp.minimum(jnp.where(bad, jnp.nan, limit), 1.0), limit)


def _log_capital(x: jax.Array, mean: jax.Array, stake: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Largest log-capital over the rounds when the truth is ``mean``, and how far rounding may have moved it, [...]."""
    mean = mean[..., None]
    bets = jnp.minimum(stake, LARGEST_STAKE / jnp.maximum(1 - mean, jnp.finfo(x.dtype).tiny))
    terms = jnp.log1p(-bets * (x - mean))
    eps, m = float(jnp.finfo(x.dtype).eps), x.shape[-1]
    # Every factor is at least 1 - LARGEST_STAKE, so an error of 4 eps in it is one of at most 40 eps in its logarithm.
    slack = eps * (40.0 * m + (m + 8) * jnp.sum(jnp.abs(terms), axis=-1))
    return jnp.max(jnp.cumsum(terms, axis=-1), axis=-1), slack


def betting(values: ArrayLike, *, delta: ArrayLike) -> jax.Array:
    r"""Upper limit on the mean of a [0, 1] variable from independent draws: the capital of a gambler against it.

    sup{mu : max_t prod_{i <= t} (1 - lambda_i(mu) (x_i - mu)) < 1/delta}
    lambda_i(mu) = min(sqrt(2 log(1/delta) / (m v_{i-1})), 0.9/(1 - mu)),
    v_i = (1/4 + sum_{j <= i} (x_j - mean_j)^2) / (i + 1),  mean_i = (1/2 + sum_{j <= i} x_j) / (i + 1)

    If mu is the mean, the capital is a non-negative martingale that starts at 1, as the bet on x_i is made from the
    draws before it: it ever reaches 1/delta with probability at most delta (Ville). Every factor grows with mu, so the
    values that are not refuted are those below the limit. The order of the draws matters and must not be chosen
    after seeing them.

    Args:
      values: independent draws of one law in the order in which they were made, shape [..., m], in [0, 1].
      delta: failure probability, broadcast shape [...], in (0, 1).

    Returns:
      Upper limits in [0, 1], shape [...], rounded up; 1.0 where a draw is NaN. Differentiable in the values by the
      implicit function theorem, with the bets as they are.

    Raises:
      ValueError: when an argument is out of range or there is no draw.

    Example:
      >>> import numpy as np
      >>> from pbjax.bounds import sampled_risk
      >>> values = np.tile([0.02, 0.04], 500)
      >>> limits = betting(values, delta=0.01), sampled_risk(0.03, 1000, delta=0.01)
      >>> [round(float(limit), 4) for limit in limits]
      [0.0351, 0.0493]

    References:
      Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024, section 4: one
      side of the hedged capital, with the predictable plug-in bets for a fixed number of draws.
    """
    return _betting(*_draws(values, delta))


@jax.jit
def _betting(x: jax.Array, nats: jax.Array, bad: jax.Array) -> jax.Array:
    nats = inflate(nats, 8)
    m = x.shape[-1]
    seen = jnp.broadcast_to(jnp.arange(1, m + 1, dtype=x.dtype), x.shape)
    mean = (0.5 + jnp.cumsum(x, axis=-1)) / (seen + 1)
    spread = (0.25 + jnp.cumsum(jnp.square(x - mean), axis=-1)) / (seen + 1)
    before = jnp.concatenate([jnp.full_like(spread[..., :1], 0.25), spread[..., :-1]], axis=-1)
    stake = jax.lax.stop_gradient(jnp.sqrt(2 * nats[..., None] / (m * before)))

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        capital, slack = _log_capital(x, middle, stake)
        refuted = (capital - slack >= nats) & (middle < 1)
        return jnp.where(refuted, low, middle), jnp.where(refuted, middle, high)

    low, high = jnp.zeros_like(nats), jnp.ones_like(nats)
    high = jax.lax.stop_gradient(jax.lax.fori_loop(0, jnp.finfo(x.dtype).nmant + 12, halve, (low, high))[1])
    slope = jax.grad(lambda at: jnp.sum(_log_capital(x, at, stake)[0]))(high)
    step = (_log_capital(x, high, stake)[0] - nats) / jax.lax.stop_gradient(jnp.where(slope > 0, slope, jnp.inf))
    limit = with_value(high - step, high)
    return vacuous_where_nan(jnp.where(bad, jnp.nan, limit), limit)
