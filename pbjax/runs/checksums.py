"""Checksums of arrays, whole or in pieces on several processes."""

import zlib
from typing import Any

import jax
import numpy as np

from pbjax.runs import hosts


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes.

    Args:
      array: any array of numbers.

    Returns:
      The checksum, in [0, 2^32).

    Example:
      >>> checksum(np.arange(3.0)) == checksum(np.arange(3.0) + 1e-15)
      False
    """
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)


def _mix(words: np.ndarray) -> np.ndarray:
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection in which each bit moves half of the others.
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _of_piece(piece: np.ndarray, begins: tuple[int, ...], shape: tuple[int, ...]) -> int:
    place = np.zeros((), np.uint64)
    for axis, begin in enumerate(begins):
        stride = np.uint64(np.prod(shape[axis + 1 :], dtype=np.uint64))
        along = (np.arange(begin, begin + piece.shape[axis], dtype=np.uint64) * stride).reshape(
            [-1 if other == axis else 1 for other in range(piece.ndim)]
        )
        place = place + along
    size = piece.dtype.itemsize
    values = np.ascontiguousarray(piece).view(f"u{size}").astype(np.uint64)
    return int(_mix(_mix(place + np.uint64(1)) ^ values).sum(dtype=np.uint64))


def checksum_of_pieces(array: Any) -> int:
    """A checksum that does not depend on how an array is spread over devices and processes.

    sum over elements of mix(mix(place + 1) xor bits)    modulo 2^64

    Each process sums over what it holds, every element once, and the sums are added: all processes must call it.

    Args:
      array: numpy or JAX array of at least one axis, elements of 1, 2, 4 or 8 bytes.

    Returns:
      The checksum, in [0, 2^64), the same on every process.

    Example:
      >>> checksum_of_pieces(np.arange(3.0)) == checksum_of_pieces(np.array([0.0, 2.0, 1.0]))
      False
    """
    if not isinstance(array, jax.Array):
        return _of_piece(np.asarray(array), (0,) * np.ndim(array), np.shape(array))
    pieces = (
        _of_piece(np.asarray(shard.data), tuple(part.start or 0 for part in shard.index), array.shape)
        for shard in array.addressable_shards
        if shard.replica_id == 0
    )
    return hosts.total(sum(pieces) % 2**64)
