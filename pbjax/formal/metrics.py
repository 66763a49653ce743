"""Which rules completions keep, in and out of distribution, and how much probability the strings of each class have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax._checks import check_n
from pbjax.formal.languages import Language
from pbjax.formal.languages.language import all_strings, as_tokens, before_end
from pbjax.formal.prompts import Prompts
from pbjax.formal.vocabulary import EOS


class Rates(NamedTuple):
    """Shares of completions, all of the same shape.

    Those without a suffix are conditional on finishing (as the papers report; the first one's code also wants no a or b
    behind the end, which `decode` never writes) and NaN where no completion finished;
    `*_unconditional` counts an unfinished completion as a failure, so that it is `finished` times the other.

    Attributes:
        finished: share that holds an EOS.
        r1: share of the finished ones whose whole string keeps rule 1.
        r2: the same for rule 2.
        r2_completion: share of the finished ones that keep rule 2 behind the prompt, which itself may break it. The
            empty completion keeps it in most languages, but not where rule 2 asks for a symbol, as in a^n b^n a^n.
        grammatical: share of the finished ones that are strings of the language.
        r1_unconditional: share that finished and keeps rule 1.
        r2_unconditional: the same for rule 2.
        r2_completion_unconditional: the same for rule 2 behind the prompt.
        grammatical_unconditional: share of strings of the language among all.
    """

    finished: Any
    r1: Any
    r2: Any
    r2_completion: Any
    grammatical: Any
    r1_unconditional: Any
    r2_unconditional: Any
    r2_completion_unconditional: Any
    grammatical_unconditional: Any


class Metrics(NamedTuple):
    """Shares of completions by where their prompt stands.

    Attributes:
        in_distribution: `Rates` over the prompts in distribution, shape `[...]`.
        out_of_distribution: `Rates` over all others, shape `[...]`.
        by_kind: `Rates` over the prompts out of distribution, of each kind, shape `[..., num_kinds]`; NaN for a kind
            that has none.
    """

    in_distribution: Rates
    out_of_distribution: Rates
    by_kind: Rates


class RuleClassMass(NamedTuple):
    """Probability of all strings up to some length, by the rules that they keep.

    Attributes:
        both: probability of the strings that keep both rules.
        r1_only: probability of those that keep rule 1 alone.
        r2_only: probability of those that keep rule 2 alone.
        neither: probability of all others.
    """

    both: Any
    r1_only: Any
    r2_only: Any
    neither: Any


def completion_metrics(language: Language, prompts: Prompts, sequences: Any) -> Metrics:
    r"""How completions of prompts keep the rules of a language.

    conditional $= \sum_i f_i c_i / \sum_i f_i$ and unconditional $= \sum_i f_i c_i / N$, with f 1 where a completion
    finished and c 1 where it keeps the rule.

    Args:
        language: whose rules; static under jit.
        prompts: N prompts with `length` symbols.
        sequences: prompts and their completions, integers, shape `[..., N, t]`, `t > length`; leading axes (seeds)
            stay.

    Returns:
        `Metrics`, NaN for 0/0.

    Raises:
        ValueError: when the shapes disagree.

    Example:
        >>> from pbjax.formal.extensions import extend
        >>> from pbjax.formal.languages import AnBn
        >>> from pbjax.formal.prompts import all_prompts
        >>> language = AnBn(max_length=32)
        >>> prompts = all_prompts(language, length=8)
        >>> metrics = completion_metrics(language, prompts, extend(prompts, "stop", max_length=32))
        >>> round(100 * metrics.out_of_distribution.r1.item(), 2)
        27.49

    References:
        Reizinger et al., "Position: Understanding LLMs requires more than statistical generalization", ICML 2024.
    """
    sequences = as_tokens(sequences)
    number, width = prompts.tokens.shape
    if sequences.ndim < 2 or sequences.shape[-2] != number or sequences.shape[-1] < width:
        raise ValueError(
            f"sequences has shape {sequences.shape}: for {number} prompts of {width} tokens it must be "
            f"[..., {number}, t] with t of at least {width}"
        )
    finished = jnp.any(sequences == EOS, axis=-1)
    kept = {
        "r1": language.rules["r1"](sequences),
        "r2": language.rules["r2"](sequences),
        "r2_completion": language.rules["r2"](sequences[..., width:]),
        "grammatical": language.contains(sequences),
    }
    inside = jnp.asarray(prompts.in_distribution)
    kinds = jnp.arange(len(prompts.kind_names))
    of_kind = (jnp.asarray(prompts.kind)[None, :] == kinds[:, None]) & ~inside[None, :]
    return Metrics(
        in_distribution=_rates(finished, kept, inside[None, :], squeeze=True),
        out_of_distribution=_rates(finished, kept, ~inside[None, :], squeeze=True),
        by_kind=_rates(finished, kept, of_kind, squeeze=False),
    )


def string_log_prob(logits: Any, sequences: Any) -> jax.Array:
    r"""Log-probability of strings under a model, EOS included and PAD left out.

    $\sum_{i \le e} \log p(x_i \mid x_{<i})$, e the place of the first EOS, p = softmax(logits)

    Args:
        logits: what a model returns for `sequences[..., :-1]`, shape `[..., t - 1, v]`.
        sequences: integers, shape `[..., t]`, SOS first.

    Returns:
        Nats, shape `[...]`. Without an EOS the probability of a sequence that starts like this.

    Raises:
        ValueError: when the shapes disagree.

    Example:
        >>> from pbjax.formal.languages import AnBn
        >>> language = AnBn(max_length=8)
        >>> tokens = language.support()
        >>> string_log_prob(language.log_conditional(tokens)[:, :-1], tokens)[0].item()  # -log(4)
        -1.386294
    """
    sequences, logits = as_tokens(sequences), jnp.asarray(logits)
    targets = sequences[..., 1:]
    if logits.ndim < 2 or logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits has shape {logits.shape}: for sequences of shape {sequences.shape} it must be "
            f"{(*targets.shape, 'v')}"
        )
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    taken = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    counted = before_end(targets) | (targets == EOS) & (jnp.cumsum(targets == EOS, axis=-1) == 1)
    return jnp.where(counted, taken, 0).sum(-1)


def rule_class_mass(
    language: Language, log_prob: Callable[[jax.Array], jax.Array], *, max_length: int = 8
) -> RuleClassMass:
    r"""Total probability that a model gives to all strings of length 1 to `max_length`, by the rules they keep.

    $\sum_{x \in C} p(x)$ for the classes C: both rules, rule 1 alone, rule 2 alone, neither. Over a and b there are
    4, 94, 40 and 372 strings of length 1 to 8.

    Args:
        language: whose rules.
        log_prob: `log_prob(sequences [M, max_length + 2]) -> nats [..., M]`, for example `language.log_prob` or a model
            through `string_log_prob`; leading axes (seeds) stay.
        max_length: longest string.

    Returns:
        `RuleClassMass`, each of shape `[...]`.

    Raises:
        ValueError: for more than 2^17 strings.

    Example:
        >>> from pbjax.formal.languages import AnBn
        >>> language = AnBn(max_length=256)
        >>> rule_class_mass(language, language.log_prob).both.item()  # 4 / 128
        0.03125
    """
    check_n(max_length, name="max_length")
    alphabet = len(language.symbols)
    if sum(alphabet**length for length in range(1, max_length + 1)) > 2**17:
        raise ValueError(f"max_length = {max_length}: there are more than 2^17 strings over {alphabet} symbols")
    sequences = all_strings(alphabet, range(1, max_length + 1), max_length + 2)
    r1, r2 = language.rules["r1"](sequences), language.rules["r2"](sequences)
    mass = jnp.exp(log_prob(sequences))
    classes = jnp.stack([r1 & r2, r1 & ~r2, ~r1 & r2, ~r1 & ~r2])
    return RuleClassMass(*(jnp.where(is_in, mass, 0).sum(-1) for is_in in classes))


def _rates(finished: jax.Array, kept: dict[str, jax.Array], groups: jax.Array, *, squeeze: bool) -> Rates:
    """Rates of each group of prompts, `groups [g, N]`: shape `[..., g]`, without its axis where there is one."""
    dtype = jnp.result_type(float)
    weights = groups.astype(dtype).T

    def total(flags: jax.Array) -> jax.Array:
        sums = flags.astype(dtype) @ weights
        return sums[..., 0] if squeeze else sums

    everything, ended = total(jnp.ones_like(finished)), total(finished)
    both = {name: total(finished & flags) for name, flags in kept.items()}
    return Rates(
        finished=ended / everything,
        **{name: sums / ended for name, sums in both.items()},
        **{f"{name}_unconditional": sums / everything for name, sums in both.items()},
    )
