"""Rounding to the safe side: dtypes, directed conversion, and steps of a few units in the last place.

A certificate may be too large by a few units in the last place (ulp), never too small. Two traps make plain
arithmetic insufficient: compilers for CPUs flush subnormal numbers to zero, and a Python float that becomes float32
may lose half an ulp downwards.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from pbjax._checks import concrete


def as_floats(values: Sequence[ArrayLike], directions: Sequence[int]) -> list[jax.Array]:
    """Brings numbers to one floating dtype and one shape, rounding known values in the given directions.

    Args:
      values: numbers or arrays whose shapes broadcast.
      directions: +1 (up), -1 (down) or 0 (nearest) for each; matters where float64 values meet float32.

    Returns:
      Arrays of one shape and of their common dtype, float32 or wider.
    """
    dtype = jnp.promote_types(jnp.result_type(*values, float), jnp.float32)
    arrays = []
    for value, direction in zip(values, directions, strict=True):
        known = concrete(value)
        if known is None or direction == 0 or known.dtype == dtype or known.dtype.kind not in "iuf":
            arrays.append(jnp.asarray(value, dtype))
            continue
        with np.errstate(over="ignore", under="ignore"):
            rounded = known.astype(dtype)
            exact = known.astype(np.longdouble)
            beyond = np.nextafter(rounded, np.asarray(direction * np.inf, dtype))
            wrong_side = (exact - rounded.astype(np.longdouble)) * direction > 0
        arrays.append(jnp.asarray(np.where(wrong_side, beyond, rounded)))
    # Broadcast by hand: the ranks of the arguments are the caller's choice, not an accident to warn about.
    return list(jnp.broadcast_arrays(*arrays))


def inflate(x: jax.Array, ulps: int) -> jax.Array:
    """Returns `x * (1 + ulps * eps)`, which covers `ulps` roundings of a non-negative number."""
    return x * jnp.asarray(1.0 + ulps * float(jnp.finfo(x.dtype).eps), x.dtype)


def to_bits(x: jax.Array) -> jax.Array:
    """Bit pattern as a signed integer; for x >= 0 its order is that of the numbers, subnormal ones included."""
    return lax.bitcast_convert_type(x, jnp.int64 if x.dtype == jnp.float64 else jnp.int32)


def from_bits(bits: jax.Array) -> jax.Array:
    """Inverse of `to_bits`."""
    return lax.bitcast_convert_type(bits, jnp.float64 if bits.dtype == jnp.int64 else jnp.float32)


@jax.custom_jvp
def with_value(differentiable: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `value` exactly, with the derivative of `differentiable`: rounding has no slope of its own."""
    del differentiable
    return value


@with_value.defjvp
def _with_value_jvp(primals, tangents):
    return primals[1], tangents[0]


def vacuous_where_nan(result: jax.Array, *inputs: jax.Array, vacuous: float = 1.0) -> jax.Array:
    """Replaces results that depend on a NaN by the vacuous value."""
    bad = jnp.isnan(result)
    for x in inputs:
        bad |= jnp.isnan(x)
    return jnp.where(bad, jnp.asarray(vacuous, result.dtype), result)


def without_nan(x: jax.Array, replacement: float) -> jax.Array:
    """Replaces NaN before the arithmetic, so that gradients at a NaN are 0 and not NaN."""
    return jnp.where(jnp.isnan(x), jnp.asarray(replacement, x.dtype), x)
