"""Two kinds of brackets: well nested (Dyck), and each kind matched by itself (interleaved).

Both laws draw a length N uniformly among the even numbers up to `max_length`, then one symbol after the other uniformly
among those that are allowed; once the open brackets fill all that is left of N, they are closed. The length is hidden.
What a prefix of t symbols with d open brackets tells of it:

* N > t + d: no symbol was forced so far. There are m = (max_length - t - d) / 2 such N, all with the same likelihood.
* N = t + d: all closings since the last opening were forced. Each was certain (or one of two) where it would have been
  one choice of three (or four), so its likelihood is f times that of the others, f = 3^r 2^s for r closings with one
  kind open and s with both.

So the next-token law is a mixture of two with weights m and f.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.formal.languages.language import Language, Rule, as_tokens, count, marks
from pbjax.formal.vocabulary import FIRST_SYMBOL


@dataclass(frozen=True)
class Brackets(Language):
    """Strings of ( ) and [ ], with what Dyck and interleaved brackets share.

    Attributes:
        max_length: largest number of symbols of a string; an odd one is the same as the even one below.
    """

    symbols: ClassVar[tuple[str, ...]] = ("(", ")", "[", "]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 2:
            raise ValueError(f"max_length = {self.max_length}: the shortest string of brackets has 2 symbols")

    @property
    def rules(self) -> dict[str, Rule]:
        """`r1`: square brackets matched; `r2`: parentheses matched; each without regard to the other kind."""
        return {"r1": lambda tokens: _matched(tokens, 2), "r2": lambda tokens: _matched(tokens, 0)}

    @property
    def _pairs(self) -> int:
        return self.max_length // 2

    def _is_string(self, tokens: jax.Array) -> jax.Array:
        return super()._is_string(tokens) & (count(tokens, 0) + count(tokens, 2) > 0)

    # Of the state, `longer` is m above (the number of N that are longer than t + d) and `log_forced` is log f.

    @abstractmethod
    def _closable(self, state: Any) -> jax.Array:
        """Which kinds can be closed, bool `[2]`."""

    def _mixture(self, closable: jax.Array, longer: jax.Array, log_forced: jax.Array) -> jax.Array:
        """Law of EOS ( ) [ ] given the hidden length only through the weights of the two cases, `[5]`."""
        closing = closable.sum()
        free = jnp.concatenate([jnp.zeros(1, bool), jnp.stack([jnp.ones(2, bool), closable], axis=-1).reshape(4)])
        ends = jnp.concatenate([(closing == 0)[None], jnp.stack([jnp.zeros(2, bool), closable], -1).reshape(4)])
        weights = jnp.stack([jnp.log(longer.astype(log_forced.dtype)), log_forced])
        weights = weights - jax.nn.logsumexp(weights)
        laws = jnp.where(
            jnp.stack([free, ends]), -jnp.log(jnp.stack([2 + closing, closing.clip(1)]))[:, None], -jnp.inf
        )
        return jax.nn.logsumexp(laws + weights[:, None], axis=0)


@dataclass(frozen=True)
class Dyck(Brackets):
    """Well-nested strings of ( ) and [ ]. Context-free; L4 of the follow-up paper.

    The law stops when the last open bracket is closed, so that it gives prime words only, a third of them of length 2;
    `contains` accepts every well-nested string. Both rules together do not imply membership: ([)] keeps them.

    `r1`: square brackets matched. `r2`: parentheses matched.

    Attributes:
        max_length: largest number of symbols of a string.

    Example:
        >>> language = Dyck(max_length=256)
        >>> round(language.loss_floor, 4)
        0.2186
        >>> [bool(language.contains(language.vocabulary.encode(string))) for string in ("([])", "([)]", "()[]")]
        [True, False, True]
    """

    name: ClassVar[str] = "dyck"

    @cached_property
    def entropy(self) -> float:
        """Entropy in nats a sequence, by dynamic programming over (m, r, d); exact up to rounding.

        With V(m, r, d) the entropy of what follows m longer lengths, r closings since the last opening and d open
        brackets: V = H(law) + P(close) V(m, r + 1, d - 1) + P(open) V(m - 1, 0, d + 1), and V = 0 at d = 0.
        """
        pairs = self._pairs
        opened = np.zeros(pairs + 2)  # V(m - 1, 0, d) for every d; there is none below m = 0
        for m in range(pairs):
            depth = pairs - m  # of r + d: every opening lowered m by one
            value = np.zeros(depth + 2)
            for r in range(depth - 1, -1, -1):
                forced = 3.0**r
                opens, closes = m / 3 / (m + forced), (m / 3 + forced) / (m + forced)
                step = -closes * math.log(closes) - (2 * opens * math.log(opens) if m else 0.0)
                following = np.append(0.0, value[:-1])
                value = step + closes * following + 2 * opens * np.append(opened[1:], 0.0)[: depth + 2]
                value[0] = 0.0
            opened = np.append(value, np.zeros(pairs + 2 - len(value)))
        return math.log(2) + float(opened[1])

    def _is_string(self, tokens: jax.Array) -> jax.Array:
        return super()._is_string(tokens) & _nested(tokens)

    # State: the open brackets as a stack of kinds, their number, m, log f.

    def _start(self) -> Any:
        stack = jnp.zeros(self._pairs + 1, bool)
        return (stack, jnp.int32(0), jnp.int32(self._pairs), jnp.asarray(-jnp.inf, jnp.result_type(float)))

    def _advance(self, state: Any, symbol: jax.Array) -> Any:
        stack, depth, longer, log_forced = state
        opens = symbol % 2 == 0
        stack = stack.at[depth].set(jnp.where(opens, symbol == 2, stack[depth]))
        depth = jnp.where(opens, depth + 1, depth - 1).astype(jnp.int32)
        longer = jnp.where(opens, longer - 1, longer).astype(jnp.int32)
        return (stack, depth, longer, jnp.where(opens, 0, log_forced + math.log(3)))

    def _closable(self, state: Any) -> jax.Array:
        stack, depth, _, _ = state
        top = stack[jnp.maximum(depth - 1, 0)]
        return (depth > 0) & jnp.stack([~top, top])

    def _log_law(self, state: Any) -> jax.Array:
        _, depth, longer, log_forced = state
        # A prime word is over when the last bracket is closed: no longer length is left then.
        done = (depth == 0) & (log_forced > -jnp.inf)
        return self._mixture(self._closable(state), jnp.where(done, 0, longer), log_forced)


@dataclass(frozen=True)
class Interleaved(Brackets):
    """Strings whose ( ) are matched and whose [ ] are matched, in any interleaving. Context-sensitive; L6.

    `r1`: square brackets matched. `r2`: parentheses matched.

    Attributes:
        max_length: largest number of symbols of a string.

    Example:
        >>> language = Interleaved(max_length=256)
        >>> round(language.loss_floor, 4)
        0.6318
        >>> [bool(language.contains(language.vocabulary.encode(string))) for string in ("([])", "([)]", ")(")]
        [True, True, False]
    """

    name: ClassVar[str] = "interleaved"

    @cached_property
    def entropy(self) -> float:
        """Entropy in nats a sequence, by dynamic programming; exact up to rounding.

        A string runs to its full length N, so that H = log(number of N) + mean over N of V(N, 0, 0), with V(left, p, s)
        the entropy of what follows when `left` symbols are to come and p and s brackets are open.
        """
        size = self._pairs + 1
        p, s = np.arange(size)[:, None], np.arange(size)[None, :]
        value = np.zeros((size, size))
        total = []
        kinds = (p > 0).astype(int) + (s > 0)
        for left in range(1, 2 * self._pairs + 1):
            padded = np.pad(value, 1)
            more_p, more_s, less_p, less_s = padded[2:, 1:-1], padded[1:-1, 2:], padded[:-2, 1:-1], padded[1:-1, :-2]
            forced = p + s >= left
            choices = np.where(forced, np.maximum(kinds, 1), 2 + kinds)
            following = np.where(p > 0, less_p, 0) + np.where(s > 0, less_s, 0)
            following = following + np.where(forced, 0, more_p + more_s)
            value = np.log(choices) + following / choices
            if left % 2 == 0:
                total.append(value[0, 0])
        return math.log(self._pairs) + float(np.mean(total))

    # State: open parentheses, open square brackets, m, log f.

    def _start(self) -> Any:
        minus_infinity = jnp.asarray(-jnp.inf, jnp.result_type(float))
        return (jnp.int32(0), jnp.int32(0), jnp.int32(self._pairs), minus_infinity)

    def _advance(self, state: Any, symbol: jax.Array) -> Any:
        parentheses, square, longer, log_forced = state
        opens = symbol % 2 == 0
        change = jnp.where(opens, 1, -1)
        both = (parentheses > 0) & (square > 0)
        log_forced = jnp.where(opens, 0, log_forced + jnp.where(both, math.log(2), math.log(3)))
        parentheses = (parentheses + jnp.where(symbol < 2, change, 0)).astype(jnp.int32)
        square = (square + jnp.where(symbol >= 2, change, 0)).astype(jnp.int32)
        return (parentheses, square, jnp.where(opens, longer - 1, longer).astype(jnp.int32), log_forced)

    def _closable(self, state: Any) -> jax.Array:
        return jnp.stack([state[0] > 0, state[1] > 0])

    def _log_law(self, state: Any) -> jax.Array:
        return self._mixture(self._closable(state), state[2], state[3])


def _matched(tokens: Any, opening: int) -> jax.Array:
    """Whether one kind of bracket is matched, without regard to the other."""
    depth = jnp.cumsum(marks(tokens, opening).astype(jnp.int32) - marks(tokens, opening + 1), axis=-1)
    return jnp.all(depth >= 0, axis=-1) & jnp.all(depth[..., -1:] == 0, axis=-1)


def _nested(tokens: Any) -> jax.Array:
    """Whether every closing bracket is of the kind of the one it closes; for strings with both kinds matched.

    Brackets of one level (depth behind an opening, before a closing) come in turns, an opening and its closing. Sorted
    by level, stably, a closing therefore stands right behind its opening.
    """
    tokens = as_tokens(tokens)
    opens = marks(tokens, 0) | marks(tokens, 2)
    closes = marks(tokens, 1) | marks(tokens, 3)
    depth = jnp.cumsum(opens.astype(jnp.int32) - closes, axis=-1)
    level = jnp.where(opens, depth, jnp.where(closes, depth + 1, tokens.shape[-1] + 1))
    order = jnp.argsort(level, axis=-1, stable=True)
    square = jnp.take_along_axis((tokens - FIRST_SYMBOL) // 2, order, axis=-1)
    closes = jnp.take_along_axis(closes, order, axis=-1)
    return jnp.all(~closes[..., 1:] | (square[..., 1:] == square[..., :-1]), axis=-1)
