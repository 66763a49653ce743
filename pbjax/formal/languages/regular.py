"""The two regular languages: an even number of a's behind a first b, and b's followed by an even number of a's.

Their law draws the length l uniformly up to `max_length`, then an even number of a's uniformly below l.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from pbjax.formal.languages.language import Language, Rule, as_tokens, count, marks, never_after
from pbjax.formal.vocabulary import EOS, FIRST_SYMBOL, PAD, SOS


@dataclass(frozen=True)
class EvenAs(Language):
    r"""Strings that start with b and hold an even number of a's. Regular; L1 of the follow-up paper.

    The law: l uniform on 1..max_length, k uniform on the even numbers below l, and the k a's at places drawn uniformly
    among the l - 1 behind the first b. A prefix of t symbols with c a's has the same probability wherever they stand,

    $$W(t, c) = P(t, c) + W(t + 1, c) + W(t + 1, c + 1), \quad P(l, k) = P(l) P(k \mid l) / \binom{l - 1}{k}.$$

    `r1`: an even number of a's. `r2`: starts with b.

    Attributes:
        max_length: largest number of symbols of a string.

    Example:
        >>> language = EvenAs(max_length=256)
        >>> round(language.loss_floor, 5)
        0.27337
        >>> [language.vocabulary.decode(row) for row in EvenAs(max_length=3).support()]
        ['b', 'bb', 'baa', 'bbb']
    """

    name: ClassVar[str] = "even-a"
    symbols: ClassVar[tuple[str, ...]] = ("a", "b")

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: an even number of a's; `r2`: starts with b."""
        return {"r1": lambda tokens: count(tokens, 0) % 2 == 0, "r2": _starts_with_b}

    @property
    def entropy(self) -> float:
        """Entropy in nats a sequence: log max_length + E log(number of even k) + E log(number of arrangements)."""
        arrangements = [np.mean(_log_choose(length - 1, 2 * np.arange(_evens(length)))) for length in _lengths(self)]
        return _entropy_of_counts(self) + float(np.mean(arrangements))

    @cached_property
    def _table(self) -> np.ndarray:
        """Log-probabilities of EOS, a, b after t symbols with c a's, `[t, c, 3]`."""
        size = self.max_length + 1
        never = np.full(size, -np.inf)
        prefix = never  # log W of one more symbol, for each number of a's
        table = np.full((size, size, 3), -np.inf)
        for t in range(self.max_length, -1, -1):
            with_b = prefix
            with_a = np.append(prefix[1:], -np.inf) if t > 0 else never  # the first symbol is b
            string = never.copy()
            k = 2 * np.arange(_evens(t))
            string[k] = -math.log(self.max_length) - math.log(max(_evens(t), 1)) - _log_choose(t - 1, k)
            law = np.stack([string, with_a, with_b], axis=-1)
            prefix = np.logaddexp.reduce(law, axis=-1)
            table[t] = np.where(np.isfinite(law), law - np.where(np.isfinite(prefix), prefix, 0)[:, None], -np.inf)
        return table

    def _start(self) -> Any:
        return (jnp.int32(0), jnp.int32(0))

    def _advance(self, state: Any, symbol: jax.Array) -> Any:
        length, a = state
        return ((length + 1).astype(jnp.int32), (a + (symbol == 0)).astype(jnp.int32))

    def _log_law(self, state: Any) -> jax.Array:
        return jnp.asarray(self._table, jnp.result_type(float))[state]


@dataclass(frozen=True)
class BThenEvenAs(Language):
    r"""b^n a^2m, n at least 1: b's, then an even number of a's. Regular; L2 of the follow-up paper.

    The law: l uniform on 1..max_length, the number of a's uniform on the even numbers below l.

    `r1`: an even number of a's behind the last b. `r2`: at least one b, and no b behind an a.

    Attributes:
        max_length: largest number of symbols of a string.

    Example:
        >>> language = BThenEvenAs(max_length=256)
        >>> round(language.loss_floor, 6)  # (log 256 + E log(number of even numbers below l)) / 257
        0.036667
        >>> [language.vocabulary.decode(row) for row in BThenEvenAs(max_length=3).support()]
        ['b', 'bb', 'bbb', 'baa']
    """

    name: ClassVar[str] = "b-then-even-a"
    symbols: ClassVar[tuple[str, ...]] = ("a", "b")

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: an even number of a's behind the last b; `r2`: at least one b, and no b behind an a."""
        return {
            "r1": _even_behind_last_b,
            "r2": lambda tokens: (count(tokens, 1) > 0) & never_after(tokens, 1, earlier=0),
        }

    @property
    def entropy(self) -> float:
        """Entropy in nats a sequence: log max_length + E log(number of even k)."""
        return _entropy_of_counts(self)

    def support(self) -> jax.Array:
        """All sequences of positive probability, by length, then by the number of a's."""
        pairs = np.array([(length, 2 * half) for length in _lengths(self) for half in range(_evens(length))], np.int32)
        length, a = pairs[:, :1], pairs[:, 1:]
        place = np.arange(self.max_length + 2)[None, :] - 1
        tokens = np.where(place < 0, SOS, np.where(place < length - a, FIRST_SYMBOL + 1, FIRST_SYMBOL))
        return jnp.asarray(np.where(place > length, PAD, np.where(place == length, EOS, tokens)).astype(np.int32))

    @cached_property
    def _table(self) -> np.ndarray:
        """Log-probabilities of EOS, a, b after b^p a^j, `[p, j, 3]`."""
        size = self.max_length + 1
        p, k = np.arange(size)[:, None], np.arange(size)[None, :]
        string = np.where(
            (p > 0) & (k % 2 == 0) & (p + k < size), 1 / ((p + k + 1) // 2).clip(1) / self.max_length, 0.0
        )
        more_a = np.cumsum(string[:, ::-1], axis=1)[:, ::-1]  # at least j a's behind p b's
        next_a = np.append(more_a[:, 1:], np.zeros((size, 1)), axis=1)
        next_b = np.zeros((size, size))
        next_b[:, 0] = np.append(np.cumsum(more_a[::-1, 0])[::-1][1:], 0.0)
        next_a[0] = 0.0  # the first symbol is b
        law = np.stack([string, next_a, next_b], axis=-1)
        total = law.sum(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            return np.log(law / np.where(total > 0, total, 1.0))

    def _start(self) -> Any:
        return (jnp.int32(0), jnp.int32(0))

    def _advance(self, state: Any, symbol: jax.Array) -> Any:
        b, a = state
        return ((b + (symbol == 1)).astype(jnp.int32), (a + (symbol == 0)).astype(jnp.int32))

    def _log_law(self, state: Any) -> jax.Array:
        return jnp.asarray(self._table, jnp.result_type(float))[state]


def _starts_with_b(tokens: Any) -> jax.Array:
    tokens = as_tokens(tokens)
    is_a, is_b = marks(tokens, 0), marks(tokens, 1)
    return jnp.any(is_b & (jnp.cumsum(is_a | is_b, axis=-1) == 1), axis=-1)


def _even_behind_last_b(tokens: Any) -> jax.Array:
    is_a, is_b = marks(tokens, 0), marks(tokens, 1)
    behind = jnp.cumsum(is_b, axis=-1) == is_b.sum(-1, keepdims=True)
    return (is_a & behind).sum(-1) % 2 == 0


def _lengths(language: Language) -> range:
    return range(1, language.max_length + 1)


def _evens(length: int) -> int:
    """How many even numbers there are in 0..length - 1."""
    return (length + 1) // 2


def _entropy_of_counts(language: Language) -> float:
    return math.log(language.max_length) + float(np.mean([math.log(_evens(length)) for length in _lengths(language)]))


def _log_choose(n: Any, k: Any) -> np.ndarray:
    return gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)
