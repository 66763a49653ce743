"""Prompts: all strings of one length, split into in-distribution and out-of-distribution, with a kind for each.

A prompt is in distribution when the law can give a sequence that starts with it. On all others every completion is
compatible with the smallest possible test loss, so what a model does there is its own choice.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax._checks import check_n
from pbjax.formal.languages import Brackets, BThenEvenAs, Language
from pbjax.formal.languages.language import as_tokens, count
from pbjax.formal.vocabulary import FIRST_SYMBOL, SOS


class Prompts(NamedTuple):
    """Prompts of one length, each with SOS in front.

    Attributes:
        tokens: int32, shape `[N, length + 1]`.
        in_distribution: bool, shape `[N]`.
        kind: index into `kind_names`, int32, shape `[N]`.
        kind_names: names of the kinds.
    """

    tokens: Any
    in_distribution: Any
    kind: Any
    kind_names: tuple[str, ...]


def all_prompts(language: Language, *, length: int) -> Prompts:
    r"""All prompts of a language with `length` symbols.

    Over letters: all $k^{\mathrm{length}}$ strings, in the order of the alphabet. Kinds: `balanced` (as many a's as
    b's), `excess a`, `excess b`; with three letters `balanced` (equal counts), `ordered` (rule 2 holds), `disordered`.
    For b^n a^2m: b's and then a's, at least one of each, and the same behind one a, which is out of distribution. Over
    brackets: `([` (in distribution, kind `opens`) or `)[` (kind `closes`) and then every prime word of `length - 2`.

    Args:
        language: the language; its `max_length` decides what can still be completed.
        length: number of symbols of a prompt, in [1, max_length]; for brackets even and at least 4.

    Returns:
        `Prompts`; the kinds do not depend on whether a prompt is in distribution.

    Raises:
        ValueError: for a length that does not fit, or more than 2^16 strings.

    Example:
        >>> from pbjax.formal.languages import AnBn
        >>> prompts = all_prompts(AnBn(max_length=256), length=8)
        >>> prompts.tokens.shape, int(prompts.in_distribution.sum())
        ((256, 9), 5)
        >>> jnp.bincount(prompts.kind[~prompts.in_distribution]).tolist(), prompts.kind_names
        ([69, 89, 93], ('balanced', 'excess a', 'excess b'))

    References:
        Meszaros et al., "Rule extrapolation in language models", NeurIPS 2024 (the kinds of prompts).
    """
    check_n(length, name="length")
    if length > language.max_length:
        raise ValueError(f"length = {length}: a prompt may have at most max_length = {language.max_length} symbols")
    strings = _strings(language, length)
    tokens = np.full((len(strings), length + 1), SOS, np.int32)
    tokens[:, 1:] = FIRST_SYMBOL + np.asarray(strings, np.int32)
    kind, names = _kinds(language, tokens)
    return Prompts(
        tokens=jnp.asarray(tokens),
        in_distribution=language.is_prefix(tokens),
        kind=jnp.asarray(kind, jnp.int32),
        kind_names=names,
    )


def excess(tokens: Any) -> jax.Array:
    """How many more a's than b's each row of tokens holds, up to its first EOS.

    Args:
        tokens: integers, shape `[..., t]`, of a language whose first two symbols are a and b.

    Returns:
        int, shape `[...]`.

    Example:
        >>> excess(jnp.array([[0, 3, 3, 4], [0, 4, 4, 4]])).tolist()
        [1, -3]
    """
    tokens = as_tokens(tokens)
    return count(tokens, 0) - count(tokens, 1)


def _strings(language: Language, length: int) -> list[tuple[int, ...]]:
    alphabet = len(language.symbols)
    if isinstance(language, BThenEvenAs):
        if length < 3:
            raise ValueError(f"length = {length}: prompts of {language.name} have at least 3 symbols")
        behind_a = [(0, *(1,) * b, *(0,) * (length - 1 - b)) for b in range(1, length - 1)]
        return behind_a + [(1,) * b + (0,) * (length - b) for b in range(1, length)]
    if isinstance(language, Brackets):
        words = _prime_words(length - 2)
        return [(*start, *word) for start in ((1, 2), (0, 2)) for word in words]
    if alphabet**length > 2**16:
        raise ValueError(f"length = {length}: {alphabet}^{length} prompts are too many, at most 2^16 are listed")
    return list(itertools.product(range(alphabet), repeat=length))


def _prime_words(length: int) -> list[tuple[int, ...]]:
    """Dyck words over ( ) [ ] that do not return to depth zero before their end."""
    if length < 2 or length % 2:
        raise ValueError(f"length = {length + 2}: prompts of brackets have an even number of symbols, at least 4")
    if length > 10:
        raise ValueError(f"length = {length + 2}: the prompts of brackets are listed up to length 12")
    words: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for place in range(length):
        longer = []
        for word, stack in words:
            if len(stack) <= length - place - 2:
                longer += [((*word, kind), (*stack, kind)) for kind in (0, 2)]
            if len(stack) > 1 or (stack and place == length - 1):
                longer.append(((*word, stack[-1] + 1), stack[:-1]))
        words = longer
    return [word for word, _ in words]


def _kinds(language: Language, tokens: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(language, Brackets):
        return (tokens[:, 1] != FIRST_SYMBOL).astype(np.int32), ("opens", "closes")
    if len(language.symbols) == 2:
        more = np.asarray(excess(tokens))
        return np.where(more == 0, 0, np.where(more > 0, 1, 2)), ("balanced", "excess a", "excess b")
    balanced, ordered = (np.asarray(language.rules[rule](tokens)) for rule in ("r1", "r2"))
    return np.where(balanced, 0, np.where(ordered, 1, 2)), ("balanced", "ordered", "disordered")
