"""Sampling and exact inference: sequence probabilities, next-symbol laws and concept posteriors, by one scan.

The forward algorithm keeps the log-law of (concept, state) given the symbols read so far. It is normalised at every
step, so that long sequences lose nothing in float32; in logs, so that a concept may become as improbable as it likes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from pbjax._checks import check_n, check_range
from pbjax.formal.hmm.model import HMM, Mixture, as_mixture
from pbjax.formal.languages.language import as_tokens


class Sequences(NamedTuple):
    """Sequences and the concepts that made them.

    Attributes:
        tokens: int32, shape `[count, length]`.
        concept: int32, shape `[count]`.
    """

    tokens: Any
    concept: Any


class Logs(NamedTuple):
    """Log-probabilities of a mixture: `prior [c]`, `initial [c, s]`, `transition [c, s, s]`, `emission [c, s, v]`."""

    prior: Any
    initial: Any
    transition: Any
    emission: Any


def log_conditional(model: HMM | Mixture, tokens: Any) -> jax.Array:
    r"""Exact law of the next symbol after every prefix, the empty one and the whole sequence among them.

    $$p(y \mid x_{<i}) = \sum_{c, z} p(c, z_i = z \mid x_{<i})\, B_c(z, y)$$

    Args:
        model: one model, or a mixture (then this is the Bayes-optimal predictor under its prior).
        tokens: symbols, integers in [0, v), shape `[..., t]`.

    Returns:
        Nats, shape `[..., t + 1, v]`: entry `i` is the law after `tokens[..., :i]`. Uniform after a prefix of
        probability zero.

    Raises:
        ValueError: for what is no model, or tokens that are no symbols.

    Example:
        >>> stays = HMM(jnp.array([0.5, 0.5]), jnp.eye(2), jnp.array([[0.2, 0.8], [0.6, 0.4]]))
        >>> jnp.exp(log_conditional(stays, jnp.array([1]))).round(4).tolist()  # state 0 with probability 2/3
        [[0.4, 0.6], [0.3333, 0.6667]]
    """
    mixture, tokens = _checked(model, tokens)
    return read(mixture, tokens)[0]


def log_prob(model: HMM | Mixture, tokens: Any) -> jax.Array:
    r"""Log-probability that a sequence starts with these symbols, $\log \sum_c \pi_c\, p_c(x)$.

    Args:
        model: one model, or a mixture.
        tokens: symbols, integers in [0, v), shape `[..., t]`.

    Returns:
        Nats, shape `[...]`; -inf for what the model cannot give.

    Raises:
        ValueError: for what is no model, or tokens that are no symbols.

    Example:
        >>> stays = HMM(jnp.array([0.5, 0.5]), jnp.eye(2), jnp.array([[0.2, 0.8], [0.6, 0.4]]))
        >>> round(jnp.exp(log_prob(stays, jnp.array([1, 0]))).item(), 4)  # (0.8 × 0.2 + 0.4 × 0.6) / 2
        0.2
    """
    mixture, tokens = _checked(model, tokens)
    return _total(mixture, tokens)


def log_concept_posterior(mixture: Mixture, tokens: Any) -> jax.Array:
    r"""Log-posterior of the concept after every prefix.

    $$\log p(c \mid x_{<i}) = \log \pi_c + \log p_c(x_{<i}) - \log p(x_{<i})$$

    Args:
        mixture: the models and their prior.
        tokens: symbols, integers in [0, v), shape `[..., t]`.

    Returns:
        Nats, shape `[..., t + 1, c]`: entry `i` is the posterior after `tokens[..., :i]`. The prior after a prefix of
        probability zero.

    Raises:
        ValueError: for what is no mixture, or tokens that are no symbols.

    Example:
        >>> coins = [HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[p, 1 - p]])) for p in (0.2, 0.6)]
        >>> from pbjax.formal.hmm import make_mixture
        >>> jnp.exp(log_concept_posterior(make_mixture(coins), jnp.array([1]))).round(4).tolist()
        [[0.5, 0.5], [0.6667, 0.3333]]
    """
    mixture, tokens = _checked(mixture, tokens)
    return read(mixture, tokens)[1]


def sample_sequences(model: HMM | Mixture, key: jax.Array, *, count: int, length: int) -> Sequences:
    """Draws sequences, each from one concept of the prior; where the delimiter falls is left to the models.

    Args:
        model: one model, or a mixture.
        key: a key of `jax.random`.
        count: number of sequences, at least 1.
        length: number of symbols of each, at least 1.

    Returns:
        `Sequences`.

    Raises:
        ValueError: for what is no model, or a number below 1.

    Example:
        >>> coin = HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.0, 1.0]]))
        >>> sample_sequences(coin, jax.random.key(0), count=2, length=3).tokens.tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    mixture = as_mixture(model)
    check_n(count, name="count")
    check_n(length, name="length")
    return _draw(mixture, key, count, length)


# Compiled once for a shape, whoever calls: a scan outside jit would be compiled anew at every call.


@partial(jax.jit, static_argnums=(2, 3))
def _draw(mixture: Mixture, key: jax.Array, count: int, length: int) -> Sequences:
    concept_key, path_key = jax.random.split(key)
    logs = logs_of(mixture)
    concept = jax.random.categorical(concept_key, logs.prior, shape=(count,)).astype(jnp.int32)
    return Sequences(draw_paths(logs, path_key, concept, length), concept)


@jax.jit
def _total(mixture: Mixture, tokens: jax.Array) -> jax.Array:
    return taken(read(mixture, tokens)[0], tokens).sum(-1)


# What the other files of this room build on. They take checked mixtures and tokens.


def logs_of(mixture: Mixture) -> Logs:
    """Log-probabilities in the default precision (float64 where x64 is on), -inf where a probability is zero."""
    return Logs(*(jnp.log(jnp.asarray(part, jnp.result_type(float))) for part in mixture[:4]))


def draw_paths(logs: Logs, key: jax.Array, concept: jax.Array, length: int) -> jax.Array:
    """Symbols of one sequence for each of the concepts `[n]`, from its first state on, int32 `[n, length]`."""
    first_key, rest_key = jax.random.split(key)

    def step(state: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        symbol = jax.random.categorical(keys[0], logs.emission[concept, state]).astype(jnp.int32)
        return jax.random.categorical(keys[1], logs.transition[concept, state]), symbol

    first = jax.random.categorical(first_key, logs.initial[concept])
    return lax.scan(step, first, jax.random.split(rest_key, (length, 2)))[1].T


def start(logs: Logs) -> jax.Array:
    """Log-law of concept and first state, `[c, s]`."""
    return logs.prior[:, None] + logs.initial


def advance(logs: Logs, belief: jax.Array, token: jax.Array) -> jax.Array:
    """Log-law of concept and state after one more symbol; all -inf once the symbols are impossible."""
    size = logs.emission.shape[-1]
    emitted = jnp.take(logs.emission, jnp.clip(token, 0, size - 1), axis=-1)
    joint = belief + jnp.where((token >= 0) & (token < size), emitted, -jnp.inf)
    evidence = logsumexp(joint)
    moved = logsumexp(joint[:, :, None] + logs.transition, axis=1)
    return moved - jnp.where(evidence > -jnp.inf, evidence, 0)


def law_of(logs: Logs, belief: jax.Array) -> jax.Array:
    """Log-law of the next symbol, `[v]`; uniform for an impossible past."""
    law = logsumexp(belief[:, :, None] + logs.emission, axis=(0, 1))
    return jnp.where(belief.max() > -jnp.inf, law, -math.log(law.shape[0]))


@jax.jit
def read(mixture: Mixture, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Laws of the next symbol `[..., t + 1, v]` and posteriors of the concept `[..., t + 1, c]` after every prefix."""
    logs = logs_of(mixture)

    def step(belief: jax.Array, token: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        posterior = jnp.where(belief.max() > -jnp.inf, logsumexp(belief, axis=1), logs.prior)
        return advance(logs, belief, token), (law_of(logs, belief), posterior)

    flat = tokens.reshape(math.prod(tokens.shape[:-1]), tokens.shape[-1])
    padded = jnp.pad(flat, ((0, 0), (0, 1)))  # one more symbol, which nothing reads: the last law comes before it
    law, posterior = jax.vmap(lambda row: lax.scan(step, start(logs), row)[1])(padded)
    leading = tokens.shape[:-1]
    return law.reshape(*leading, *law.shape[1:]), posterior.reshape(*leading, *posterior.shape[1:])


def taken(law: jax.Array, tokens: jax.Array) -> jax.Array:
    """Log-probability that each symbol had, `[..., t]`, from laws `[..., t + 1, v]`; -inf for what is no symbol."""
    size = law.shape[-1]
    chosen = jnp.take_along_axis(law[..., :-1, :], jnp.clip(tokens, 0, size - 1)[..., None], axis=-1)[..., 0]
    return jnp.where((tokens >= 0) & (tokens < size), chosen, -jnp.inf)


def check_symbols(mixture: Mixture, tokens: Any) -> jax.Array:
    """Tokens as int32 `[..., t]`; ValueError where one is no symbol of the mixture."""
    tokens = as_tokens(tokens)
    check_range("tokens", tokens, low=0, high=jnp.shape(mixture.emission)[-1] - 1)
    return tokens


def _checked(model: HMM | Mixture, tokens: Any) -> tuple[Mixture, jax.Array]:
    mixture = as_mixture(model)
    return mixture, check_symbols(mixture, tokens)
