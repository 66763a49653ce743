"""Five ways to continue a prompt of a's and b's, all compatible with the same test loss, and what each one scores.

The law of a^n b^n says nothing about prompts of probability zero. A model that follows the law wherever it speaks and
one of these extensions elsewhere has a Kullback-Leibler divergence of zero to the law, whichever extension it is. They
are the completions of the adversarial and the oracle objective, and the known answers that every metric must return.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pbjax._checks import concrete
from pbjax.formal.languages.language import before_end
from pbjax.formal.prompts import Prompts, excess
from pbjax.formal.vocabulary import EOS, FIRST_SYMBOL, PAD, SOS

EXTENSIONS = ("oracle", "stop", "append_b", "adversarial", "iid")

_A, _B = FIRST_SYMBOL, FIRST_SYMBOL + 1


def extend(prompts: Prompts, kind: str, *, max_length: int, key: jax.Array | None = None) -> jax.Array:
    r"""Continues every prompt by one rule.

    With d the number of a's less that of b's in a prompt:

    * "oracle" (E1): |d| symbols of the kind that is missing, then EOS; rule 1 of a^n b^n is met.
    * "stop" (E2): EOS at once.
    * "append_b" (E3): d b's where d is positive, then EOS.
    * "adversarial" (E4): |d| + 1 symbols of the kind that is missing (b's where none is), then EOS; one too many.
    * "iid" (E5): a, b or EOS with equal probability, until EOS.

    Args:
        prompts: prompts over a and b, N of them.
        kind: which rule, one of `EXTENSIONS`.
        max_length: largest number of symbols of a sequence.
        key: a key of `jax.random`; read by "iid" only, which needs it.

    Returns:
        int32 sequences, shape `[N, max_length + 2]`; with "iid" a string that reaches `max_length` symbols has its EOS
        there, if at all.

    Raises:
        ValueError: for an unknown kind, other symbols than a and b, a missing key, or strings above `max_length`.

    Example:
        >>> from pbjax.formal.languages import AnBn
        >>> from pbjax.formal.prompts import all_prompts
        >>> language = AnBn(max_length=16)
        >>> prompts = all_prompts(language, length=3)
        >>> [language.vocabulary.decode(row) for row in extend(prompts, "oracle", max_length=16)[:3]]
        ['aaabbb', 'aabb', 'abab']

    References:
        Reizinger et al., "Position: Understanding LLMs requires more than statistical generalization", ICML 2024.
    """
    _check_kind(kind)
    tokens = jnp.asarray(prompts.tokens, jnp.int32)
    _check_letters(tokens)
    room = max_length + 2 - tokens.shape[-1]
    if room < 1:
        raise ValueError(f"max_length = {max_length}: the prompts alone have {tokens.shape[-1] - 1} symbols")
    if kind == "iid":
        if key is None:
            raise ValueError("key = None: the 'iid' extension draws its symbols and needs a key")
        drawn = jax.random.choice(key, jnp.array([EOS, _A, _B], jnp.int32), (tokens.shape[0], room))
        # EOS is the last place of a sequence: there a symbol that would be one too many is left out.
        drawn = drawn.at[:, -1].set(jnp.where(drawn[:, -1] == EOS, EOS, PAD))
        ended = ~before_end(drawn) & (jnp.cumsum(drawn == EOS, axis=-1) - (drawn == EOS) > 0)
        return jnp.concatenate([tokens, jnp.where(ended, PAD, drawn)], axis=-1)
    symbol, number = _appended(excess(tokens), kind)
    largest = concrete(number)
    if largest is not None and largest.size and largest.max() > room - 1:
        needed = tokens.shape[-1] - 1 + int(largest.max())
        raise ValueError(f"max_length = {max_length}: the {kind!r} extension of these prompts has {needed} symbols")
    place = jnp.arange(room)[None, :]
    number, symbol = number[:, None], symbol[:, None]
    completion = jnp.where(place < number, symbol, jnp.where(place == number, EOS, PAD))
    return jnp.concatenate([tokens, completion.astype(jnp.int32)], axis=-1)


def follows(prompts: Prompts, completed: Any, kind: str) -> jax.Array:
    r"""Whether a completed prompt is what an extension makes of it, symbol by symbol and with its EOS.

    Extensions agree on some prompts: "stop" and "append_b" wherever there are no more a's than b's, and "oracle" with
    both where the prompt is balanced.

    Args:
        prompts: prompts over a and b, N of them, of p symbols.
        completed: the prompts and what a model made of them, tokens `[N, t]` as `decode` returns them.
        kind: which rule, one of `EXTENSIONS` but "iid".

    Returns:
        bool, shape `[N]`. A completion that is cut off before its EOS follows none.

    Raises:
        ValueError: for "iid", which says nothing certain, or an unknown kind; for another number of rows.

    Example:
        >>> from pbjax.formal.languages import AnBn
        >>> from pbjax.formal.prompts import all_prompts
        >>> prompts = all_prompts(AnBn(), length=2)
        >>> follows(prompts, extend(prompts, "stop", max_length=8), "append_b").tolist()
        [False, True, True, True]
    """
    _check_kind(kind)
    if kind == "iid":
        raise ValueError("kind = 'iid': its completions are drawn, so none of them is the one that it makes")
    completed = jnp.asarray(completed, jnp.int32)
    count, own = prompts.tokens.shape
    if completed.ndim != 2 or completed.shape[0] != count or completed.shape[1] < own:
        raise ValueError(
            f"completed has shape {completed.shape}: it must hold the {count} prompts of {own} tokens first"
        )
    length = max(completed.shape[1], 2 * own + 2)
    made = extend(prompts, kind, max_length=length - 2)
    return jnp.all(jnp.pad(completed, ((0, 0), (0, length - completed.shape[1])), constant_values=PAD) == made, axis=1)


def extension_r1(prompts: Prompts, kind: str) -> jax.Array:
    r"""Probability that an extension meets rule 1 of a^n b^n, for each prompt, in closed form.

    1 for "oracle", 1[d = 0] for "stop", 1[d >= 0] for "append_b", 0 for "adversarial". For "iid" the excess of the
    completion is a fair walk stopped after a geometric number of steps,

    $$P(S = -d) = \frac{1}{3} \sum_k \left(\frac{2}{3}\right)^k P(S_k = d)
      = \frac{1}{\sqrt 5} \left(\frac{3 - \sqrt 5}{2}\right)^{|d|}.$$

    Args:
        prompts: prompts over a and b, N of them.
        kind: which rule, one of `EXTENSIONS`.

    Returns:
        Probabilities, shape `[N]`, without a limit on the length. Their mean over prompts is the expected accuracy.

    Raises:
        ValueError: for an unknown kind or other symbols than a and b.

    Example:
        >>> from pbjax.formal.languages import AnBn
        >>> from pbjax.formal.prompts import all_prompts
        >>> prompts = all_prompts(AnBn(), length=8)
        >>> outside = ~prompts.in_distribution
        >>> [round(100 * extension_r1(prompts, kind)[outside].mean().item(), 2) for kind in ("stop", "append_b", "iid")]
        [27.49, 62.95, 15.4]
    """
    _check_kind(kind)
    _check_letters(prompts.tokens)
    more = excess(prompts.tokens)
    if kind == "iid":
        return ((3 - math.sqrt(5)) / 2) ** jnp.abs(more) / math.sqrt(5)
    symbol, number = _appended(more, kind)
    met = more + jnp.where(symbol == _A, number, -number) == 0
    return met.astype(jnp.result_type(float))


def extension_r2_completion(kind: str) -> float:
    r"""Probability that the completion alone has no a behind a b, in closed form.

    1 for all rules that append symbols of one kind; for "iid" $\frac13 \sum_k (\frac23)^k \frac{k + 1}{2^k} = \frac34$.

    Args:
        kind: which rule, one of `EXTENSIONS`.

    Returns:
        The probability, the same for every prompt.

    Raises:
        ValueError: for an unknown kind.

    Example:
        >>> extension_r2_completion("iid")
        0.75
    """
    _check_kind(kind)
    return 0.75 if kind == "iid" else 1.0


def _check_letters(tokens: Any) -> None:
    values = concrete(tokens)
    if values is not None and np.any((values != SOS) & (values != _A) & (values != _B)):
        raise ValueError(f"a prompt holds token {values.max()}: extensions are defined for strings of a and b")


def _check_kind(kind: str) -> None:
    if kind not in EXTENSIONS:
        raise ValueError(f"kind = {kind!r}: it must be one of {', '.join(EXTENSIONS)}")


def _appended(more: Any, kind: str) -> tuple[jax.Array, jax.Array]:
    """Which symbol is appended to a prompt with `more` a's than b's, and how often."""
    symbol = jnp.where(more >= 0, _B, _A)
    if kind == "append_b":
        return jnp.full_like(symbol, _B), jnp.maximum(more, 0)
    number = {"oracle": jnp.abs(more), "stop": jnp.zeros_like(more), "adversarial": jnp.abs(more) + 1}[kind]
    return symbol, number
