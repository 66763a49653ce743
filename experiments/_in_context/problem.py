"""Mixtures, the network, and what its tests are held against."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax import formal, models
from pbjax.formal import hmm
from pbjax.formal.hmm.in_context import known_concept
from pbjax.formal.hmm.neighbour import block_laws

FIRST_SYMBOL = 3
"""Token of the mixture's symbol 0, behind SOS, EOS and PAD."""

# Of what is drawn once for all networks, and of the exact part; no seed of a network.
EXACT_KEY, TINY_KEY, TEST_KEY, PROMPT_KEY, PRICE_KEY = range(2_000_001, 2_000_006)


class Problem(NamedTuple):
    """What all networks are tested on, with the exact answers.

    Attributes:
        tokens: test sequences [M, t + 1], SOS first.
        log_prob: of each under the mixture, nats [M].
        prompts: prompts with their labels [P, t + 1], SOS first.
        truth: probability that a token is the label, given the concept and the test example [P, n + 1, v].
        known: law of the label given the test example alone, without any example before it [P, n + 1, v].
        bayes: law of the label under the mixture, given all that comes before it [P, n + 1, v].
    """

    tokens: jax.Array
    log_prob: jax.Array
    prompts: jax.Array
    truth: jax.Array
    known: jax.Array
    bayes: jax.Array


def make_mixture(options: Any) -> hmm.Mixture:
    """The mixture of some options.

    Args:
        options: a `MixtureOptions`.

    Returns:
        The mixture.

    Raises:
        ValueError: a number outside its range.

    Example:
        >>> from configs.in_context._schema import MixtureOptions
        >>> make_mixture(MixtureOptions(concepts=2, vocabulary_size=7)).emission.shape
        (2, 12, 7)
    """
    if not 0 < options.prior_ratio < math.inf:
        raise ValueError(f"prior_ratio = {options.prior_ratio}: must be positive and finite")
    mixture = hmm.random_mixture(jax.random.key(options.seed), **options.rates())
    prior = options.prior_ratio ** jnp.arange(options.concepts, dtype=mixture.prior.dtype)
    mixture = mixture._replace(prior=prior / prior.sum())
    return with_resets(mixture, options.delimiter_probability) if options.resets else mixture


def with_resets(mixture: hmm.Mixture, probability: float) -> hmm.Mixture:
    """The same concepts with delimiters that are independent of all else, and a new first state behind each.

    One state is added, which gives the delimiter with certainty; every step goes there with the same probability. So
    the delimiter has that probability given any past, and a prompt is a sequence of the mixture, given its format.

    Args:
        mixture: whose delimiter is symbol 0.
        probability: of the delimiter at every position, in (0, 1).

    Returns:
        A mixture of one more state.

    Example:
        >>> made = with_resets(hmm.random_mixture(jax.random.key(0)), 0.2)
        >>> made.transition.shape, round(float(hmm.delimiter_bound(made)), 6)
        ((5, 13, 13), 0.2)
    """
    states = mixture.emission.shape[1]
    ordinary = mixture.emission[..., 1:] / mixture.emission[..., 1:].sum(-1, keepdims=True)
    emission = jnp.pad(ordinary, ((0, 0), (0, 1), (1, 0))).at[:, states, 0].set(1)
    anew = jnp.pad((1 - probability) * mixture.initial, ((0, 0), (0, 1)), constant_values=probability)
    moves = jnp.pad((1 - probability) * mixture.transition, ((0, 0), (0, 0), (0, 1)), constant_values=probability)
    return mixture._replace(initial=anew, transition=jnp.concatenate([moves, anew[:, None]], axis=1), emission=emission)


def sequence_length(examples: int, symbols: int) -> int:
    """Symbols of n examples and a test example with its label, $(n + 1)(k + 1) - 1$.

    Args:
        examples: n >= 0.
        symbols: k >= 1.

    Returns:
        A number of symbols; the last of them is the label.

    Example:
        >>> sequence_length(2, 3)  # x x y d x x y d x x y
        11
    """
    return (examples + 1) * (symbols + 1) - 1


def label_positions(examples: int, symbols: int, *, start: int = 0) -> jax.Array:
    """Where the labels after N, ..., n examples stand, counted from 0 without SOS.

    With SOS in front, the same numbers index the inputs whose outputs are the laws of these labels.

    Args:
        examples: n.
        symbols: k.
        start: N, from 0 to n.

    Returns:
        int32 [n - N + 1].

    Example:
        >>> label_positions(2, 3).tolist(), label_positions(2, 3, start=2).tolist()
        ([2, 6, 10], [10])
    """
    return jnp.arange(start, examples + 1) * (symbols + 1) + symbols - 1


def as_tokens(symbols: jax.Array) -> jax.Array:
    """Tokens of sequences of symbols, with SOS in front.

    Args:
        symbols: of a mixture, integers [n, t].

    Returns:
        int32 [n, t + 1].

    Example:
        >>> as_tokens(jnp.array([[0, 2]])).tolist()
        [[0, 3, 5]]
    """
    return jnp.pad(symbols.astype(jnp.int32) + FIRST_SYMBOL, ((0, 0), (1, 0)), constant_values=formal.SOS)


def over_tokens(law: jax.Array) -> jax.Array:
    """A law over symbols as one over tokens: SOS, EOS and PAD have no probability.

    Args:
        law: probabilities [..., v].

    Returns:
        [..., v + 3].

    Example:
        >>> over_tokens(jnp.array([0.5, 0.5])).tolist()
        [0.0, 0.0, 0.0, 0.5, 0.5]
    """
    return jnp.pad(law, [(0, 0)] * (law.ndim - 1) + [(FIRST_SYMBOL, 0)])


def label_laws(mixture: hmm.Mixture, sequences: jax.Array, *, symbols: int) -> jax.Array:
    """Law of every label given its own example alone, as if this stood at position 0: what is known without learning.

    Args:
        mixture: p, or p with all prior mass on one concept.
        sequences: prompts with their labels [P, (n + 1)(k + 1) - 1].
        symbols: k.

    Returns:
        Probabilities [P, n + 1, v].

    Example:
        >>> coin = hmm.make_mixture([hmm.HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.25, 0.75]]))])
        >>> label_laws(coin, jnp.array([[1, 1, 0, 1, 1]]), symbols=2).tolist()
        [[[0.25, 0.75], [0.25, 0.75]]]
    """
    return jnp.exp(block_laws(mixture, sequences, symbols))


def full_prompts(mixture: hmm.Mixture, key: jax.Array, *, count: int, examples: int, symbols: int) -> Any:
    """Prompts with the label at their end, and their concepts.

    Args:
        mixture: p.
        key: of the draw.
        count: P.
        examples: n.
        symbols: k.

    Returns:
        Symbols [P, (n + 1)(k + 1) - 1] and concepts [P].

    Example:
        >>> from configs.in_context._schema import MixtureOptions
        >>> drawn = full_prompts(make_mixture(MixtureOptions()), jax.random.key(0), count=5, examples=2, symbols=3)
        >>> drawn[0].shape, drawn[1].shape
        ((5, 11), (5,))
    """
    drawn = hmm.sample_prompts(mixture, key, count=count, examples=examples, symbols=symbols)
    return jnp.concatenate([drawn.tokens, drawn.label[:, None]], axis=1), drawn.concept


def make_problem(config: Any, mixture: hmm.Mixture) -> Problem:
    """Test sequences and prompts of the networks, with the mixture's own answers.

    Args:
        config: of the study.
        mixture: the one that the networks learn.

    Returns:
        `Problem`.

    Example:
        >>> import dataclasses
        >>> from configs.in_context._schema import InContext
        >>> config = dataclasses.replace(InContext(), test_sequences=4, test_prompts=3)
        >>> make_problem(config, make_mixture(config.taught)).truth.shape
        (3, 11, 8)
    """
    examples, symbols = config.taught_examples, config.taught_symbols
    length = sequence_length(examples, symbols)

    @jax.jit
    def made(mixture: hmm.Mixture) -> Problem:
        test_key, prompt_key = jax.random.key(TEST_KEY), jax.random.key(PROMPT_KEY)
        drawn = hmm.sample_sequences(mixture, test_key, count=config.test_sequences, length=length).tokens
        prompts, concept = full_prompts(
            mixture, prompt_key, count=config.test_prompts, examples=examples, symbols=symbols
        )
        truth = jax.vmap(lambda row, c: label_laws(known_concept(mixture, c), row[None], symbols=symbols)[0])
        bayes = jnp.exp(hmm.log_conditional(mixture, prompts)[:, label_positions(examples, symbols)])
        return Problem(
            as_tokens(drawn), hmm.log_prob(mixture, drawn), as_tokens(prompts), over_tokens(truth(prompts, concept)),
            over_tokens(label_laws(mixture, prompts, symbols=symbols)), over_tokens(bayes),
        )  # fmt: skip

    return made(mixture)


def make_model(config: Any) -> models.LanguageModel:
    """The network: a transformer with learned positions and no dropout.

    Args:
        config: of the study.

    Returns:
        The language model.

    Example:
        >>> from configs.in_context._schema import InContext
        >>> make_model(InContext()).max_positions
        32
    """
    return models.transformer(
        config.taught.vocabulary_size + FIRST_SYMBOL, width=config.width, heads=config.heads,
        feed_forward=config.feed_forward, layers=config.layers, dropout=0.0, positions="learned",
        max_positions=sequence_length(config.taught_examples, config.taught_symbols),
    )  # fmt: skip
