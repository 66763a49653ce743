"""What a language is: an oracle for its strings, a law over them with exact next-token probabilities, a sampler.

A law is given as a small machine that reads symbols one after the other: the next-token probabilities depend on its
state alone. Sampler, probabilities and prefixes of every language are then the same scan over that machine, while
membership and rules are computed from the whole string and know nothing of the law.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pbjax._checks import check_range
from pbjax.formal.vocabulary import EOS, FIRST_SYMBOL, PAD, SOS, Vocabulary

# Where the reader of a sequence is: before SOS, inside the string, after EOS, or past a token of probability zero.
_BEFORE, _INSIDE, _ENDED, _IMPOSSIBLE = range(4)

Rule = Callable[[Any], jax.Array]

# Where it is, the state of the law, and the log-probabilities of the next token over the vocabulary.
_Reader = tuple[jax.Array, Any, jax.Array]


@dataclass(frozen=True)
class Language(ABC):
    """A set of strings, and a law over those of them with at most `max_length` symbols.

    `contains` and `rules` speak of the set, whatever the length and the law; `log_prob`, `log_conditional`, `sample`,
    `entropy` and `support` speak of the law. A sequence is SOS, the string, EOS, then PAD up to `max_length + 2`.

    Attributes:
        max_length: largest number of symbols of a string that the law gives.
        name: short name of the language.
        symbols: its characters; the first is token 3.
    """

    max_length: int = 256

    name: ClassVar[str] = ""
    symbols: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_range("max_length", self.max_length, low=1, open_high=True, whole=True)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the language."""
        return Vocabulary(self.symbols)

    # The machine of the law. States are pytrees of scalars; the base class maps them over strings.

    @abstractmethod
    def _start(self) -> Any:
        """State after SOS."""

    @abstractmethod
    def _advance(self, state: Any, symbol: jax.Array) -> Any:
        """State after one more symbol, an index from 0, that had positive probability; same dtypes as `_start`."""

    @abstractmethod
    def _log_law(self, state: Any) -> jax.Array:
        """Log-probabilities of EOS and of each symbol in this state, shape `[1 + k]`."""

    @property
    @abstractmethod
    def entropy(self) -> float:
        """Entropy of the law in nats a sequence."""

    @property
    @abstractmethod
    def rules(self) -> dict[str, Rule]:
        """The two rules `r1`, `r2`, each `tokens [..., t] -> bool [...]`.

        A rule reads the symbols up to the first EOS, or all of them where there is none; SOS and PAD do not count.
        """

    @property
    def loss_floor(self) -> float:
        """Smallest mean cross-entropy per target position, PAD counted: `entropy / (max_length + 1)`, in nats."""
        return self.entropy / (self.max_length + 1)

    def contains(self, tokens: Any) -> jax.Array:
        """Whether a sequence is SOS, a string of the language, and EOS; what follows EOS does not matter.

        Args:
            tokens: integers, shape `[..., t]`.

        Returns:
            bool, shape `[...]`; False where there is no EOS.

        Raises:
            ValueError: for tokens that are not integers of at least one axis.
        """
        tokens = as_tokens(tokens)
        if tokens.shape[-1] < 2:
            return jnp.zeros(tokens.shape[:-1], bool)
        inside = before_end(tokens)[..., 1:]
        well_formed = (tokens[..., 0] == SOS) & jnp.any(tokens == EOS, axis=-1)
        symbol = (tokens[..., 1:] >= FIRST_SYMBOL) & (tokens[..., 1:] < self.vocabulary.size)
        well_formed &= jnp.all(~inside | symbol, axis=-1)
        return well_formed & self._is_string(tokens)

    def _is_string(self, tokens: jax.Array) -> jax.Array:
        return self.rules["r1"](tokens) & self.rules["r2"](tokens)

    def is_prefix(self, tokens: Any) -> jax.Array:
        """Whether the law can give a sequence that starts with these tokens.

        Lengths that a law leaves out (`AnBn(lengths=...)`) count here: what is in distribution does not depend on them.

        Args:
            tokens: integers, shape `[..., t]`, SOS first.

        Returns:
            bool, shape `[...]`.
        """
        where, _ = _read(self._unrestricted, as_tokens(tokens))
        return where[..., -1] != _IMPOSSIBLE

    @property
    def _unrestricted(self) -> Language:
        return self

    def log_conditional(self, tokens: Any) -> jax.Array:
        r"""Exact law of the next token after every prefix, $\log p(x_{i+1} \mid x_0, \dots, x_i)$.

        Args:
            tokens: integers, shape `[..., t]`, SOS first.

        Returns:
            Nats, shape `[..., t, v]`: entry `i` is the law after `tokens[..., : i + 1]`. Uniform after a prefix of
            probability zero, PAD with certainty after EOS.

        Raises:
            ValueError: for tokens that are not integers of at least one axis.
        """
        return _read(self, as_tokens(tokens))[1]

    def log_prob(self, tokens: Any) -> jax.Array:
        """Log-probability of whole sequences.

        Args:
            tokens: integers, shape `[..., t]`: SOS, string, EOS, PAD.

        Returns:
            Nats, shape `[...]`; -inf for what the law cannot give, also where there is no EOS.
        """
        tokens = as_tokens(tokens)
        where, log_law = _read(self, tokens)
        taken = jnp.take_along_axis(log_law[..., :-1, :], tokens[..., 1:, None], axis=-1, mode="clip")[..., 0]
        return jnp.where(where[..., -1] == _ENDED, taken.sum(-1), -jnp.inf)

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws sequences from the law.

        Args:
            key: a key of `jax.random`.
            shape: how many.

        Returns:
            int32 tokens, shape `[*shape, max_length + 2]`.
        """
        return _draw(self, key, math.prod(shape)).reshape(*shape, self.max_length + 2)

    def support(self) -> jax.Array:
        """All sequences of positive probability, short ones first.

        Returns:
            int32 tokens, shape `[N, max_length + 2]`.

        Raises:
            ValueError: where the strings up to `max_length` are too many to go through.
        """
        total = sum(len(self.symbols) ** length for length in range(self.max_length + 1))
        if total > 2**17:
            raise ValueError(
                f"{self}: {total:.3g} strings of up to {self.max_length} symbols are too many to go through"
            )
        tokens = all_strings(len(self.symbols), range(self.max_length + 1), self.max_length + 2)
        return tokens[np.asarray(self.log_prob(tokens)) > -np.inf]

    def _readers(self, count: int, *, start: int) -> _Reader:
        """Readers of that many sequences, before SOS or just inside the string."""
        where, state = jnp.asarray(start, jnp.int32), self._start()
        reader = (where, state, self._vocabulary_law(where, state))
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), reader)

    def _step(self, reader: _Reader, token: jax.Array) -> _Reader:
        """Reads one token."""
        where, state, law = reader
        possible = (token >= 0) & (token < self.vocabulary.size) & jnp.take(law > -jnp.inf, token, mode="clip")
        possible &= where != _IMPOSSIBLE
        is_symbol = token >= FIRST_SYMBOL
        reading = possible & is_symbol
        advanced = self._advance(state, jnp.where(reading, token - FIRST_SYMBOL, 0))
        state = jax.tree.map(lambda new, old: jnp.where(reading, new, old), advanced, state)
        after = jnp.where(is_symbol | (token == SOS), _INSIDE, _ENDED)
        where = jnp.where(possible, after, _IMPOSSIBLE).astype(jnp.int32)
        return where, state, self._vocabulary_law(where, state)

    def _vocabulary_law(self, where: jax.Array, state: Any) -> jax.Array:
        law = self._log_law(state)
        never = jnp.full((1,), -jnp.inf, law.dtype)
        inside = jnp.concatenate([never, law[:1], never, law[1:]])
        size = self.vocabulary.size
        only = {token: jnp.where(jnp.arange(size) == token, 0, -jnp.inf).astype(law.dtype) for token in (SOS, PAD)}
        uniform = jnp.full((size,), -math.log(size), law.dtype)
        return lax.select_n(where, only[SOS], inside, only[PAD], uniform)


# Compiled once for a language and a shape, whoever calls: a scan outside jit would be compiled anew at every call.


@partial(jax.jit, static_argnums=0)
def _read(language: Language, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the reader is after each token `[..., t]`, and the next-token law there `[..., t, v]`."""
    flat = tokens.reshape(math.prod(tokens.shape[:-1]), tokens.shape[-1])

    def read(reader: _Reader, token: jax.Array) -> tuple[_Reader, tuple[jax.Array, jax.Array]]:
        where, state, law = jax.vmap(language._step)(reader, token)
        return (where, state, law), (where, law)

    _, (where, law) = lax.scan(read, language._readers(len(flat), start=_BEFORE), flat.T)
    return where.T.reshape(tokens.shape), jnp.moveaxis(law, 0, 1).reshape(*tokens.shape, language.vocabulary.size)


@partial(jax.jit, static_argnums=(0, 2))
def _draw(language: Language, key: jax.Array, count: int) -> jax.Array:
    """That many sequences of the law, `[count, max_length + 2]`."""

    def draw(reader: _Reader, key: jax.Array) -> tuple[_Reader, jax.Array]:
        token = jax.random.categorical(key, reader[2], axis=-1).astype(jnp.int32)
        return jax.vmap(language._step)(reader, token), token

    readers = language._readers(count, start=_INSIDE)
    _, tokens = lax.scan(draw, readers, jax.random.split(key, language.max_length + 1))
    return jnp.concatenate([jnp.full((1, count), SOS, jnp.int32), tokens]).T


def as_tokens(tokens: Any) -> jax.Array:
    """Tokens as an int32 array `[..., t]`; ValueError for anything else."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim < 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens has shape {tokens.shape} and dtype {tokens.dtype}: it must be integers [..., t]")
    return tokens.astype(jnp.int32)


def before_end(tokens: jax.Array) -> jax.Array:
    """True before the first EOS, bool `[..., t]`."""
    return jnp.cumsum(tokens == EOS, axis=-1) == 0


def marks(tokens: Any, symbol: int) -> jax.Array:
    """Where the string holds a symbol, an index from 0: bool `[..., t]`, False from the first EOS on."""
    tokens = as_tokens(tokens)
    return before_end(tokens) & (tokens == FIRST_SYMBOL + symbol)


def count(tokens: Any, symbol: int) -> jax.Array:
    """How often the string holds a symbol, an index from 0: `[...]`."""
    return marks(tokens, symbol).sum(-1)


def never_after(tokens: Any, symbol: int, earlier: int) -> jax.Array:
    """Whether no `symbol` stands behind an `earlier` one, bool `[...]`."""
    seen = jnp.cumsum(marks(tokens, earlier), axis=-1) > 0
    return ~jnp.any(seen & marks(tokens, symbol), axis=-1)


def all_strings(num_symbols: int, lengths: Any, size: int) -> jax.Array:
    """Every string of the given lengths as sequences `[N, size]`, in the order of the lengths, then of the tokens."""
    blocks = []
    for length in lengths:
        rows = np.full((num_symbols**length, size), PAD, np.int32)
        rows[:, 0], rows[:, length + 1] = SOS, EOS
        rest = np.arange(len(rows))
        for place in range(length, 0, -1):
            rest, symbol = np.divmod(rest, num_symbols)
            rows[:, place] = FIRST_SYMBOL + symbol
        blocks.append(rows)
    return jnp.asarray(np.concatenate(blocks))
