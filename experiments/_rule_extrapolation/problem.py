"""Language, prompts and network of an arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.rule_extrapolation._schema import WITH_COMPLETIONS
from pbjax import formal, models
from pbjax.formal import languages

LANGUAGES: Mapping[str, Callable[..., Any]] = {
    "anbn": languages.AnBn,
    "anbncn": languages.AnBnCn,
    "anbm": languages.AnBm,
    "anbnan": languages.AnBnAn,
    "dyck": languages.Dyck,
    "interleaved": languages.Interleaved,
    "even_as": languages.EvenAs,
    "b_then_even_as": languages.BThenEvenAs,
}
BLOCKS = ("anbn", "anbncn", "anbm", "anbnan")

# Of the strings that are drawn once for all seeds; no seed of a network.
TRAIN_KEY, TEST_KEY = 1_000_001, 1_000_002


class Problem(NamedTuple):
    """One language with everything that all its networks share.

    Attributes:
        name: of the language in the config.
        language: its exact law; of the training lengths where some are held out.
        sequences: training set [N, t], or a function that draws a batch.
        batch_size: strings a step, None for all of them.
        test: sequences that the loss is measured on [M, t].
        log_weights: their weights, or None for equal ones.
        reference: nats a sequence that the exact law spends on them; the entropy where they are all strings.
        held_out: sequences of lengths that training never sees, or None.
        prompts: all prompts.
        rows: number of each prompt in its batch, counted in and out of distribution apart, as in the public code.
        completions: completions of the prompts out of distribution [2, M, t], adversarial and oracle, or None.
        kinds: names of the kinds of prompts, as columns spell them.
    """

    name: str
    language: Any
    sequences: Any
    batch_size: int | None
    test: jax.Array
    log_weights: jax.Array | None
    reference: jax.Array
    held_out: jax.Array | None
    prompts: formal.Prompts
    rows: jax.Array
    completions: jax.Array | None
    kinds: tuple[str, ...]


def new_tokens(config: Any) -> int:
    """Tokens that a completion may have."""
    return config.max_length + 8 if config.new_tokens is None else config.new_tokens


def make_language(config: Any, name: str, *, held_out: tuple[int, ...] = ()) -> Any:
    """The language; `held_out` leaves lengths out where it is made of counted blocks."""
    made = LANGUAGES[name](max_length=config.max_length)
    if not held_out:
        return made
    if name not in BLOCKS:
        raise ValueError(f"held_out = {held_out}: {name} has no number n to hold out; leave it empty")
    unknown = [n for n in held_out if not 1 <= n <= made.largest]
    if unknown:
        raise ValueError(f"held_out = {held_out}: n goes from 1 to {made.largest} at max_length = {config.max_length}")
    kept = tuple(n for n in range(1, made.largest + 1) if n not in held_out)
    if not kept:
        raise ValueError(f"held_out = {held_out}: every n is held out; leave one to train on")
    return LANGUAGES[name](max_length=config.max_length, lengths=kept)


def make_problem(config: Any, name: str) -> Problem:
    """All that the networks of a language share."""
    language = make_language(config, name, held_out=config.held_out)
    held_out = language.held_out().support() if config.held_out else None
    few = name in BLOCKS
    if config.pin is not None and not few:
        raise ValueError(f"pin = {config.pin}: {name} has too many strings to hold all in a batch; leave pin out")
    if config.data == "all" and few:
        sequences, batch_size = language.support(), None
    elif config.data == "fresh":
        sequences, batch_size = (lambda key: language.sample(key, (config.batch_size,))), None
    else:
        # Languages with too many strings to list train on a drawn set under "all", too.
        sequences = language.sample(jax.random.key(TRAIN_KEY), (config.train_strings,))
        batch_size = min(config.batch_size, config.train_strings)
    if few:
        test = language.support()
        log_weights, reference = language.log_prob(test), jnp.asarray(language.entropy, jnp.float32)
    else:
        test = language.sample(jax.random.key(TEST_KEY), (config.test_strings,))
        # What the true law spends on the same strings: the difference varies far less than either.
        log_weights, reference = None, -language.log_prob(test).mean()
    prompts = formal.all_prompts(language, length=config.prompt_length)
    inside = np.asarray(prompts.in_distribution)
    rows = np.where(inside, np.cumsum(inside) - 1, np.cumsum(~inside) - 1)
    completions = None
    if name in WITH_COMPLETIONS and set(config.regimes) != {"maximum_likelihood"}:
        outside = prompts._replace(**{
            part: getattr(prompts, part)[~inside] for part in ("tokens", "in_distribution", "kind")
        })  # fmt: skip
        longest = 2 * config.prompt_length + 1  # one symbol more than it takes to balance a prompt of one kind
        completions = jnp.stack([
            formal.extend(outside, kind, max_length=longest) for kind in formal.COMPLETION_REGIMES
        ])  # fmt: skip
    kinds = tuple(kind.replace(" ", "_") for kind in prompts.kind_names)
    return Problem(
        name, language, sequences, batch_size, test, log_weights, reference, held_out, prompts, jnp.asarray(rows),
        completions, kinds,
    )  # fmt: skip


def longest_read(config: Any) -> int:
    """Positions that a model must have: of the strings, of completions (of training, too), and of the rule classes."""
    return max(
        config.max_length + 1, config.prompt_length + new_tokens(config), 2 * config.prompt_length + 2,
        config.class_length + 1,
    )  # fmt: skip


def make_model(config: Any, model: str, position: str, vocabulary_size: int) -> models.LanguageModel:
    """The network."""
    if model == "transformer":
        return models.transformer(
            vocabulary_size, width=config.width, heads=config.heads, feed_forward=config.feed_forward,
            layers=config.layers, dropout=config.dropout, positions=position, max_positions=longest_read(config),
            norm_epsilon=config.norm_epsilon, identical_layers=config.identical_layers,
        )  # fmt: skip
    recurrent = {
        "width": config.recurrent_width, "layers": config.recurrent_layers, "dropout": config.recurrent_dropout
    }  # fmt: skip
    if model == "lstm":
        return models.lstm(vocabulary_size, **recurrent)
    if model == "state_space":
        return models.state_space(vocabulary_size, **recurrent)
    return models.causal_linear(vocabulary_size, embedding=config.width, max_positions=longest_read(config))
