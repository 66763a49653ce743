"""Languages of counted blocks: a^n b^n, a^n b^n c^n, a^n b^n a^n and a^n b^m. The law is one over n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pbjax._checks import check_range
from pbjax.formal.languages.language import Language, Rule, as_tokens, count, marks, never_after
from pbjax.formal.vocabulary import EOS, FIRST_SYMBOL, PAD, SOS


@dataclass(frozen=True)
class CountedBlocks(Language):
    r"""Blocks of one symbol each, their lengths functions of one number n drawn from a law.

    Attributes:
        max_length: largest number of symbols of a string.
        lengths: the n that the law gives, or None for every n that fits.
        law: "uniform" over these n, or "geometric", $P(n) \propto \mathrm{decay}^n$.
        decay: ratio of the geometric law, in (0, 1]; not read by the uniform one.
    """

    lengths: tuple[int, ...] | None = None
    law: str = "uniform"
    decay: float = 0.9

    blocks: ClassVar[tuple[int, ...]] = ()  # the symbol of each block, an index from 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("decay", self.decay, low=0.0, high=1.0, open_low=True)
        if self.law not in ("uniform", "geometric"):
            raise ValueError(f"law = {self.law!r}: it must be 'uniform' or 'geometric'")
        if self.largest < 1:
            raise ValueError(f"max_length = {self.max_length}: no string of {self.name} is that short")
        if self.lengths is not None:
            if not self.lengths:
                raise ValueError("lengths = (): the law needs at least one n, or None for all")
            check_range("lengths", self.lengths, low=1, high=self.largest, whole=True)

    @property
    def largest(self) -> int:
        """Largest n that fits."""
        return self.max_length // len(self.blocks)

    def held_out(self) -> CountedBlocks:
        """The same language with the law on the n that this one leaves out.

        Raises:
            ValueError: where this law leaves out no n.
        """
        left_out = tuple(n for n in range(1, self.largest + 1) if n not in self._lengths)
        if not left_out:
            raise ValueError(f"lengths = {self.lengths}: all n up to {self.largest} are in it, none is held out")
        return replace(self, lengths=left_out)

    @property
    def entropy(self) -> float:
        """Entropy in nats a sequence, that of n: log of the number of n under the uniform law."""
        return float(-np.sum(np.exp(self._log_probabilities) * self._log_probabilities))

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws sequences from the law: int32 tokens, shape `[*shape, max_length + 2]`."""
        log_law = jnp.asarray(self._log_probabilities, jnp.result_type(float))
        drawn = jax.random.categorical(key, log_law, shape=shape)
        return self._sequences(jnp.asarray(self._lengths, jnp.int32)[drawn])

    def support(self) -> jax.Array:
        """All sequences of positive probability, by n: int32 tokens, shape `[N, max_length + 2]`."""
        return self._sequences(jnp.asarray(self._lengths, jnp.int32))

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(range(1, self.largest + 1)) if self.lengths is None else tuple(sorted(set(self.lengths)))

    @cached_property
    def _log_probabilities(self) -> np.ndarray:
        """Of each n in `_lengths`; logarithms, for a geometric law may fall below the smallest float."""
        log_weights = np.zeros(len(self._lengths))
        if self.law == "geometric":
            log_weights = np.asarray(self._lengths) * np.log(self.decay)
        return log_weights - np.logaddexp.reduce(log_weights)

    @cached_property
    def _hazards(self) -> np.ndarray:
        """Log-probabilities that the first block ends after k symbols, and that it goes on: `[largest + 1, 2]`."""
        mass = np.full(self.largest + 1, -np.inf)
        mass[list(self._lengths)] = self._log_probabilities
        ends = np.logaddexp.accumulate(mass[::-1])[::-1]  # log P(n >= k)
        hazards = np.stack([mass, np.append(ends[1:], -np.inf)], axis=1)
        return np.where(np.isfinite(hazards), hazards - np.where(np.isfinite(ends), ends, 0)[:, None], -np.inf)

    def _is_string(self, tokens: jax.Array) -> jax.Array:
        return super()._is_string(tokens) & (count(tokens, 0) > 0)

    def _block_length(self, block: jax.Array, n: jax.Array) -> jax.Array:
        """Length of a block after the first."""
        return n

    def _sequences(self, n: jax.Array) -> jax.Array:
        """The string of each n, shape `[..., max_length + 2]`."""
        place = jnp.arange(self.max_length + 2, dtype=jnp.int32) - 1
        place, n = jnp.broadcast_arrays(place.reshape((1,) * n.ndim + (-1,)), n[..., None])
        end = n
        tokens = jnp.where(place < 0, SOS, FIRST_SYMBOL + self.blocks[0])
        for block, symbol in enumerate(self.blocks[1:], start=1):
            tokens = jnp.where(place >= end, FIRST_SYMBOL + symbol, tokens)
            end = end + self._block_length(jnp.asarray(block), n)
        return jnp.where(place > end, PAD, jnp.where(place == end, EOS, tokens)).astype(jnp.int32)

    # State: which block, how many symbols of it, and n as far as it is known (the length of the first block).
    def _start(self) -> Any:
        return (jnp.int32(0), jnp.int32(0), jnp.int32(0))

    def _advance(self, state: Any, symbol: jax.Array) -> Any:
        block, inside, n = state
        same = symbol == jnp.asarray(self.blocks, jnp.int32)[block]
        # In the last block but one of a^n b^n a^n the symbols differ too: neighbours always do.
        block = jnp.where(same, block, block + 1).astype(jnp.int32)
        inside = jnp.where(same, inside + 1, 1).astype(jnp.int32)
        return (block, inside, jnp.where(block == 0, inside, n).astype(jnp.int32))

    def _log_law(self, state: Any) -> jax.Array:
        block, inside, n = state
        hazards = jnp.asarray(self._hazards, jnp.result_type(float))[jnp.minimum(n, self.largest)]
        full = jnp.where(inside >= self._block_length(block, n), 0, -jnp.inf)
        not_full = jnp.where(inside < self._block_length(block, n), 0, -jnp.inf)
        leave = jnp.where(block == 0, hazards[0], full)
        stay = jnp.where(block == 0, hazards[1], not_full)
        # The choice after the last block is EOS, which comes first in the law.
        choices = jnp.asarray([*(1 + symbol for symbol in self.blocks), 0])
        place = jnp.arange(1 + len(self.symbols))
        law = jnp.where(place == choices[block], stay, -jnp.inf)
        return jnp.where(place == choices[block + 1], leave, law)

    @property
    def _unrestricted(self) -> Language:
        return self if self.lengths is None else replace(self, lengths=None)


@dataclass(frozen=True)
class AnBn(CountedBlocks):
    """a^n b^n: as many b's as a's, the a's first. Context-free; L3 of the follow-up paper.

    `r1`: equal counts. `r2`: no a behind a b. Either holds where a symbol that it speaks of is missing altogether.

    Attributes:
        max_length: largest number of symbols, so that n is at most half of it.
        lengths: the n that the law gives, or None for every n that fits; `held_out()` has the others.
        law: "uniform" over these n, or "geometric".
        decay: ratio of the geometric law.

    Example:
        >>> language = AnBn(max_length=256)
        >>> round(language.loss_floor, 6)  # log(128) / 257
        0.018879
        >>> tokens = language.vocabulary.encode("aabb", length=258)
        >>> bool(language.contains(tokens)), round(float(language.log_prob(tokens)), 4)
        (True, -4.852)
        >>> language.sample(jax.random.key(0), (7,)).shape
        (7, 258)
    """

    name: ClassVar[str] = "anbn"
    symbols: ClassVar[tuple[str, ...]] = ("a", "b")
    blocks: ClassVar[tuple[int, ...]] = (0, 1)

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: equal counts; `r2`: no a behind a b."""
        return {"r1": _equal_counts(2), "r2": lambda tokens: never_after(tokens, 0, earlier=1)}


@dataclass(frozen=True)
class AnBnCn(CountedBlocks):
    """a^n b^n c^n. Context-sensitive; L5 of the follow-up paper.

    `r1`: equal counts. `r2`: a's before b's before c's.

    Attributes:
        max_length: largest number of symbols, so that n is at most a third of it.
        lengths: the n that the law gives, or None for every n that fits.
        law: "uniform" over these n, or "geometric".
        decay: ratio of the geometric law.

    Example:
        >>> language = AnBnCn(max_length=256)
        >>> round(language.loss_floor, 6)  # log(85) / 257
        0.017287
        >>> bool(language.contains(language.vocabulary.encode("aabbcc")))
        True
    """

    name: ClassVar[str] = "anbncn"
    symbols: ClassVar[tuple[str, ...]] = ("a", "b", "c")
    blocks: ClassVar[tuple[int, ...]] = (0, 1, 2)

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: equal counts; `r2`: a's before b's before c's."""
        return {"r1": _equal_counts(3), "r2": _in_order}


@dataclass(frozen=True)
class AnBnAn(CountedBlocks):
    """a^n b^n a^n, the language of the fine-tuning case.

    `r1`: twice as many a's as b's. `r2`: the b's stand together, with as many symbols before them as behind.

    Attributes:
        max_length: largest number of symbols, so that n is at most a third of it.
        lengths: the n that the law gives, or None for every n that fits.
        law: "uniform" over these n, or "geometric".
        decay: ratio of the geometric law.

    Example:
        >>> language = AnBnAn(max_length=9)
        >>> [language.vocabulary.decode(row) for row in language.support()]
        ['aba', 'aabbaa', 'aaabbbaaa']
    """

    name: ClassVar[str] = "anbnan"
    symbols: ClassVar[tuple[str, ...]] = ("a", "b")
    blocks: ClassVar[tuple[int, ...]] = (0, 1, 0)

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: twice as many a's as b's; `r2`: the b's together and in the middle."""
        return {"r1": lambda tokens: count(tokens, 0) == 2 * count(tokens, 1), "r2": _in_the_middle}


@dataclass(frozen=True)
class AnBm(CountedBlocks):
    """a^n b^m, n and m at least 1. The law has n + m fixed at `max_length - 2`, as in the public code.

    `r1`: both symbols occur. `r2`: no a behind a b.

    Attributes:
        max_length: two more than the number of symbols of every string.
        lengths: the n that the law gives, or None for every n that fits.
        law: "uniform" over these n, or "geometric".
        decay: ratio of the geometric law.

    Example:
        >>> language = AnBm(max_length=6)
        >>> [language.vocabulary.decode(row) for row in language.support()]
        ['abbb', 'aabb', 'aaab']
    """

    name: ClassVar[str] = "anbm"
    symbols: ClassVar[tuple[str, ...]] = ("a", "b")
    blocks: ClassVar[tuple[int, ...]] = (0, 1)

    @property
    def largest(self) -> int:
        """Largest n that fits, one less than the number of symbols."""
        return self.max_length - 3

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: both symbols occur; `r2`: no a behind a b."""
        return {
            "r1": lambda tokens: (count(tokens, 0) > 0) & (count(tokens, 1) > 0),
            "r2": lambda tokens: never_after(tokens, 0, earlier=1),
        }

    def _block_length(self, block: jax.Array, n: jax.Array) -> jax.Array:
        return self.max_length - 2 - n


def _equal_counts(num_symbols: int) -> Callable[[Any], jax.Array]:
    def rule(tokens: Any) -> jax.Array:
        first = count(tokens, 0)
        return jnp.stack([count(tokens, symbol) == first for symbol in range(num_symbols)]).all(0)

    return rule


def _in_order(tokens: Any) -> jax.Array:
    a_first = never_after(tokens, 0, earlier=1) & never_after(tokens, 0, earlier=2)
    return a_first & never_after(tokens, 1, earlier=2)


def _in_the_middle(tokens: Any) -> jax.Array:
    tokens = as_tokens(tokens)
    is_b, is_a = marks(tokens, 1), marks(tokens, 0)
    b_seen, all_b = jnp.cumsum(is_b, axis=-1), is_b.sum(-1)
    before = (is_a & (b_seen == 0)).sum(-1)
    behind = (is_a & (b_seen == all_b[..., None])).sum(-1)
    return (all_b > 0) & (before == behind) & (before + behind == is_a.sum(-1))
