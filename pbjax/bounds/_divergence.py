r"""The binary relative entropy and its root, accurate to a few units in the last place.

Symbols, all in the dtype of the caller: masses a + b = 1 move to p = a + d and r = b - d with d >= 0, and

    F(d) = a log(a/p) + b log(b/r) = a h(d/a) + b h(-d/b),   h(x) = x - log(1 + x) >= 0.

Both terms of the second form are non-negative, so nothing cancels when d is small; the textbook form loses every digit
there. `a`, `b`, `d`, `p` and `r` are passed together because each is known more accurately than differences of the
others: r matters when the complement is nearly used up, d when it is not.
"""

import jax
import jax.numpy as jnp
from jax import lax

_TERMS = {"float64": 15, "float32": 7}
_ITERATIONS = 5  # one more than a random search over all regimes found necessary, in either precision
_CEILING = 2000.0  # p is 1 and r is 0 in float64 far below this c; keeps inf out of the arithmetic


def _series(w: jax.Array) -> jax.Array:
    """sum_k w^k / (2k + 3): atanh(s) = s + s^3 * series(s^2), here with s <= 1/3."""
    terms = _TERMS[w.dtype.name]
    total = jnp.full_like(w, 1.0 / (2 * terms + 1))
    for k in range(terms - 2, -1, -1):
        total = total * w + 1.0 / (2 * k + 3)
    return total


def divergence(a: jax.Array, b: jax.Array, d: jax.Array, p: jax.Array, r: jax.Array) -> jax.Array:
    """Returns F(d) for positive b, p and r; a may be 0.

    x = d/a below 1 and y = d/b below 1/2 use log(1+x) = 2 atanh(x/(2+x)); beyond that the logarithms are large enough
    to be subtracted.
    """
    tiny = jnp.finfo(a.dtype).tiny
    s = d / (a + p)
    t = d / (b + r)
    near_left = d <= a
    near_right = 2 * d <= b
    log_left = a * jnp.log(p / jnp.maximum(a, tiny))
    log_right = b * jnp.log(b / r)
    w, z = s * s, t * t
    # Clipping keeps the unused branch of each series from overflowing.
    series_left = s * (d - 2 * a * w * _series(jnp.minimum(w, 0.12)))
    series_right = t * (d + 2 * b * z * _series(jnp.minimum(z, 0.12)))
    left = jnp.where(near_left, series_left, d - log_left)
    right = jnp.where(near_right, series_right, log_right - d)
    return jnp.where(near_left | near_right, left + right, log_right - log_left)


def solve(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (d, r) with F(d) = c, r = b - d, by Halley steps in logit(p) from an upper bound.

    F is convex in logit(p), with slope d and curvature p r, and nearly linear or quadratic everywhere; the start is
    within a constant factor of the root in every regime, so a fixed and small number of steps suffices.

    Args:
      a: mass that grows, in [0, 1).
      b: 1 - a to rounding, positive.
      c: relative entropy to be spent, positive, in nats.
    """
    dtype = a.dtype
    tiny = jnp.asarray(jnp.finfo(dtype).tiny, dtype)
    half = b / 2
    c = jnp.minimum(c, _CEILING)
    # Three lower bounds on F, each solved for d: (p-a)^2/(2p), (p-a)^2/(2 max variance), and p <= 1 in the first term.
    d = c + jnp.sqrt(c) * jnp.sqrt(c + 2 * a)
    d = jnp.minimum(d, jnp.sqrt(2 * c) * jnp.sqrt(jnp.where(a >= 0.5, a * b, 0.25)))
    entropy = -a * jnp.where(b < 0.5, jnp.log1p(-b), jnp.log(jnp.maximum(a, tiny)))  # a may have rounded to 1
    floor = b * jnp.exp(-(c + entropy) / b)
    r = jnp.maximum(jnp.maximum(floor, b - d), 4 * tiny)
    d = jnp.where(r < half, b - r, jnp.minimum(d, half))
    r = jnp.where(r < half, r, b - d)

    def step(_, carry):
        d, r = carry
        p = a + d
        excess = jnp.clip((divergence(a, b, d, p, r) - c) / d, -80.0, 80.0)
        e = jnp.expm1(-excess / (1 - excess * (p * (r / d) / 2)))
        ratio = 1 + p * e
        moved = jnp.maximum(d + p * r * (e / ratio), tiny)
        shrunk = jnp.maximum(r / ratio, 4 * tiny)
        far = shrunk < half
        return jnp.where(far, b - shrunk, moved), jnp.where(far, shrunk, b - moved)

    return lax.fori_loop(0, _ITERATIONS, step, (d, r))
