"""Dropout whose masks cost a few integer operations a number, made where they are used and never stored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def hash_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    r"""Pseudo-random 32-bit words, $w_i = h(h(i \oplus k_0) + k_1)$ at the flat index i.

    h is an integer finaliser: multiplications by odd constants between shifted exclusive ors, a bijection of the 32-bit
    words in which each input bit flips each output bit about half of the time. Words of two keys are independent for
    the purposes of a mask, not of a Monte-Carlo estimate: for those there is `jax.random`, which takes ten times as
    long on a CPU. The operations are elementwise, so they fuse with what reads them, and the gradient makes the words
    a second time instead of loading them.

    Args:
        key: PRNG key.
        shape: shape of the result, fewer than 2³² words.

    Returns:
        uint32 words of that shape.

    Example:
        >>> import jax
        >>> hash_words(jax.random.key(0), (2, 3)).dtype
        dtype('uint32')

    References:
        Wellons, "Prospecting for hash functions", 2018 (the constants of the finaliser "lowbias32").
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return _mix(_mix(index ^ seeds[0]) + seeds[1])


def _mix(words: jax.Array) -> jax.Array:
    words = (words ^ (words >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return words ^ (words >> jnp.uint32(16))


def dropout(inputs: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    r"""Zeroes a share of the inputs at random and scales the rest, $x_i\, m_i / (1 - \rho)$ with $P(m_i = 0) = \rho$.

    Args:
        inputs: of any shape.
        rate: rho in [0, 1).
        key: PRNG key, or None for the identity.

    Returns:
        An array like the inputs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> sorted(set(dropout(jnp.ones(64), 0.5, jax.random.key(0)).tolist()))
        [0.0, 2.0]

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 2014.
    """
    if key is None or rate == 0.0:
        return inputs
    return inputs * keep_mask(key, rate, inputs.shape, inputs.dtype)


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """What dropout multiplies by: 0 with probability `rate`, else 1 / (1 - rate)."""
    return jnp.where(hash_words(key, shape) >= jnp.uint32(round(rate * 2**32)), 1.0 / (1.0 - rate), 0.0).astype(dtype)
