"""Tokens: three that every language shares, then the symbols of the language in its own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.models.language_model import PAD  # after the end; models do not read it

SOS = 0  # start of sequence: the first token of every sequence, never predicted
EOS = 1  # end of sequence
FIRST_SYMBOL = 3

_MARKERS = ("<sos>", "<eos>", "<pad>")


@dataclass(frozen=True)
class Vocabulary:
    """Symbols of one character each, numbered from 3; 0, 1 and 2 are SOS, EOS and PAD.

    Attributes:
        symbols: the characters in the order of their tokens.

    Example:
        >>> vocabulary = Vocabulary(("a", "b"))
        >>> vocabulary.size, vocabulary.encode("aabb", length=8).tolist()
        (5, [0, 3, 3, 4, 4, 1, 2, 2])
        >>> vocabulary.decode([0, 3, 3, 4, 4, 1, 2, 2])
        'aabb'
    """

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.symbols or len(set(self.symbols)) != len(self.symbols) or any(len(x) != 1 for x in self.symbols):
            raise ValueError(f"symbols = {self.symbols!r}: they must be different characters, at least one")

    @property
    def size(self) -> int:
        """Number of tokens: the symbols and SOS, EOS, PAD."""
        return FIRST_SYMBOL + len(self.symbols)

    def encode(self, string: str, *, length: int | None = None, end: bool = True) -> jax.Array:
        """Tokens of a string: SOS, its symbols, EOS, then PAD.

        Args:
            string: characters of the vocabulary; may be empty.
            length: number of tokens to pad to; by default as many as the string needs.
            end: whether EOS follows the symbols; a prompt has none.

        Returns:
            int32, shape `[length]`.

        Raises:
            ValueError: for a character outside the vocabulary, or a string too long for `length`.
        """
        unknown = [character for character in string if character not in self.symbols]
        if unknown:
            raise ValueError(f"{string!r} holds {unknown[0]!r}: the symbols are {' '.join(self.symbols)}")
        tokens = [SOS, *(FIRST_SYMBOL + self.symbols.index(x) for x in string), *([EOS] if end else [])]
        length = len(tokens) if length is None else length
        if len(tokens) > length:
            raise ValueError(f"{string!r} needs {len(tokens)} tokens: length = {length} is too short for it")
        return jnp.asarray(tokens + [PAD] * (length - len(tokens)), jnp.int32)

    def decode(self, tokens: Any) -> str:
        """The string of a sequence, cut at the first EOS; SOS in front and PAD behind are left out.

        Args:
            tokens: integers, shape `[t]`.

        Returns:
            The symbols; `<sos>` or `<pad>` where one of these stands inside the string.

        Raises:
            ValueError: for a token outside the vocabulary.
        """
        values = np.asarray(tokens)
        if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
            raise ValueError(
                f"tokens has shape {values.shape} and dtype {values.dtype}: it must be one row of integers"
            )
        row = values.tolist()
        for token in row:
            if not 0 <= token < self.size:
                raise ValueError(f"token {token} is outside the vocabulary: it must lie in [0, {self.size - 1}]")
        ended = EOS in row
        row = row[: row.index(EOS)] if ended else row
        row = row[1:] if row[:1] == [SOS] else row
        while row and not ended and row[-1] == PAD:
            row.pop()
        return "".join((*_MARKERS, *self.symbols)[token] for token in row)
