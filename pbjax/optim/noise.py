"""Standard normals, the same numbers as `jax.random.normal`, in one fused loop.

jax hashes its counters in a rolled loop on CPUs: five passes that write and read two arrays as large as the draw, which
for a small batch costs more than the gradient. Written out, the twenty rounds and the inverse error function become one
elementwise loop that never leaves the registers. The bits are those of jax for its default, partitionable, threefry
keys; other kinds of key, float64 and draws of 2^32 numbers or more go to `jax.random.normal`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

# Rotations and key-schedule parity of Threefry-2x32 with 20 rounds.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def standard_normal(key: jax.Array, shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Independent standard normals, z ~ N(0, I).

    Args:
        key: typed PRNG key.
        shape: of the draw.
        dtype: floating.

    Returns:
        An array; equal to `jax.random.normal(key, shape, dtype)` up to rounding of the last place.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key = jax.random.key(0)
        >>> bool(jnp.allclose(standard_normal(key, (3,)), jax.random.normal(key, (3,), jnp.float32), rtol=1e-6))
        True

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    size = math.prod(shape)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    threefry = typed and str(jax.random.key_impl(key)) == "threefry2x32"
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    if not (threefry and partitionable) or jnp.dtype(dtype) != jnp.float32 or size >= 2**32:
        return jax.random.normal(key, shape, dtype)
    first, second = jax.random.key_data(key)
    bits = _hash(first, second, jax.lax.iota(jnp.uint32, size).reshape(shape))
    # The mantissa of a float in [1, 2), moved to (-1, 1).
    unit = jax.lax.bitcast_convert_type((bits >> 9) | np.float32(1).view(np.uint32), jnp.float32) - 1
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(low, unit * (np.float32(1) - low) + low)
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)


def _hash(first: jax.Array, second: jax.Array, counts: jax.Array) -> jax.Array:
    """Both words of the hash of (0, count) under the key, folded into one by exclusive or."""
    keys = (first, second, first ^ second ^ _PARITY)
    left, right = jnp.broadcast_to(first, counts.shape), counts + second
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            left = left + right
            right = ((right << rotation) | (right >> (32 - rotation))) ^ left
        left = left + keys[(block + 1) % 3]
        right = right + keys[(block + 2) % 3] + np.uint32(block + 1)
    return left ^ right
