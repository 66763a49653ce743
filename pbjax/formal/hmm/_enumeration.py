"""All strings of one length, by number: what the exact sums of this room go through."""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Sequences that an enumeration goes through at most, and how many of them at a time.
ENUMERATED = 2**18
BATCH = 2**12


def number_of_strings(size: int, length: int) -> int:
    """size^length, or a ValueError where they are too many to go through."""
    if length * math.log2(size) > math.log2(ENUMERATED) + 1e-9:
        raise ValueError(
            f"{size}^{length} sequences are too many to go through, at most 2^18 are: use Monte Carlo in place of it"
        )
    return size**length


def string_of(index: Any, size: int, length: int) -> jax.Array:
    """The index-th string of that many symbols, in the order of the alphabet, int32 `[length]`."""
    return (index // size ** jnp.arange(length - 1, -1, -1) % size).astype(jnp.int32)
