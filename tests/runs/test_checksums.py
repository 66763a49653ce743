"""Checksums: any change is seen, and pieces give that of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pbjax.runs.checksums import checksum, checksum_of_pieces

MESH = jax.make_mesh((2, 2), ("a", "b"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint32, np.int8, bool])
@pytest.mark.parametrize("spec", [("a",), ("a", "b"), (None, ("b", "a")), ()])
def test_pieces_give_the_checksum_of_the_whole(dtype, spec):
    whole = np.random.default_rng(0).integers(0, 2, (4, 8, 3)).astype(dtype)
    spread = jax.device_put(jnp.asarray(whole), NamedSharding(MESH, PartitionSpec(*spec)))
    assert checksum_of_pieces(spread) == checksum_of_pieces(whole)


@pytest.mark.parametrize("of", [checksum, checksum_of_pieces])
def test_every_flipped_bit_and_every_swap_is_seen(of):
    whole = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    seen = {of(whole)}
    for bit in range(8 * whole.nbytes):
        flipped = whole.copy()
        flipped.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << (bit % 8)
        seen.add(of(flipped))
    for first in range(whole.size):
        for second in range(first):
            swapped = whole.copy().reshape(-1)
            swapped[[first, second]] = swapped[[second, first]]
            seen.add(of(swapped.reshape(whole.shape)))
    assert len(seen) == 1 + 8 * whole.nbytes + whole.size * (whole.size - 1) // 2
