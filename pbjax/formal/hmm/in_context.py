"""In-context learning: prompts of examples of one concept, the Bayes-optimal predictor, and how often it is right.

An example is k symbols of a concept, from its first state on; its label is the last of them. A prompt of n examples is
n examples with a delimiter behind each, and the test example without its label:

    x x y d  x x y d  x x          (k = 3, n = 2; the label of the test example comes next)

So the label after n examples stands at position n (k + 1) + k - 1, counted from 0, and the first n' examples of a
prompt and the next example without its label are a prompt of n' examples.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax._checks import check_n, check_range
from pbjax.formal.hmm._enumeration import BATCH, number_of_strings, string_of
from pbjax.formal.hmm.inference import check_symbols, draw_paths, logs_of, read, taken
from pbjax.formal.hmm.model import Mixture, check_layout, check_mixture
from pbjax.formal.hmm.neighbour import Neighbour, block_laws, check_neighbour, neighbour_law


class LabelledPrompts(NamedTuple):
    """Prompts of n examples of k symbols, their labels, and the concepts that made them.

    Attributes:
        tokens: int32, shape `[count, n (k + 1) + k - 1]`.
        label: the symbol that comes next, int32, shape `[count]`.
        concept: int32, shape `[count]`.
    """

    tokens: Any
    label: Any
    concept: Any


class Accuracy(NamedTuple):
    """In-context accuracy after 0, 1, ..., n examples.

    Attributes:
        value: estimated probability that the prediction is the label, shape `[n + 1]`.
        standard_error: of `value`, shape `[n + 1]`; the entries share their prompts.
        oracle: the same for a predictor that is told the concept, which none can beat in expectation, shape `[n + 1]`.
    """

    value: Any
    standard_error: Any
    oracle: Any


def sample_prompts(
    mixture: Mixture, key: jax.Array, *, count: int, examples: int, symbols: int, concept: Any = None
) -> LabelledPrompts:
    r"""Draws prompts $S_n = (e_1, d, \dots, e_n, d, x_{\mathrm{test}})$, all examples of a prompt from one concept.

    Prompts are no sequences of the mixture: every example starts anew, and the delimiters stand where the format has
    them with certainty. Inside an example the delimiter may come up like any other symbol.

    Args:
        mixture: the models and the law of the concept.
        key: a key of `jax.random`.
        count: number of prompts, at least 1.
        examples: number n of examples before the test example, at least 0.
        symbols: number k of symbols of an example with its label, at least 1.
        concept: index of the one concept to draw from; by default every prompt draws its own from the prior.

    Returns:
        `LabelledPrompts`.

    Raises:
        ValueError: for a number outside its range.

    Example:
        >>> from pbjax.formal.hmm import random_mixture
        >>> mixture = random_mixture(jax.random.key(0))
        >>> sample_prompts(mixture, jax.random.key(1), count=5, examples=3, symbols=4).tokens.shape
        (5, 18)
    """
    check_mixture(mixture)
    check_n(count, name="count")
    check_layout(symbols, examples)
    if concept is not None:
        check_range("concept", concept, low=0, high=len(mixture.prior) - 1, whole=True)
    return _draw(mixture, key, concept, count, examples, symbols)


def predict(mixture: Mixture, tokens: Any, *, neighbour: Neighbour | None = None) -> jax.Array:
    r"""The most probable next symbol, $\arg\max_y p(y \mid S_n, x_{\mathrm{test}})$: Bayes-optimal where p is the law.

    Args:
        mixture: the models and their prior.
        tokens: prompts, integers in [0, v), shape `[..., t]`.
        neighbour: predict by q_N of these settings in place of p.

    Returns:
        int32 symbols, shape `[...]`; the first of several that are equally probable.

    Raises:
        ValueError: for what is no mixture, tokens that are no symbols, or a neighbour that is none.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coins = [HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, p, 0.9 - p]])) for p in (0.3, 0.6)]
        >>> predict(make_mixture(coins), jnp.array([[1, 0, 1, 0], [2, 0, 2, 0]])).tolist()
        [1, 2]
    """
    check_mixture(mixture)
    tokens = check_symbols(mixture, tokens)
    if neighbour is None:
        law = read(mixture, tokens)[0]
    else:
        check_neighbour(mixture, neighbour)
        law = neighbour_law(mixture, tokens, neighbour)
    return jnp.argmax(law[..., -1, :], axis=-1).astype(jnp.int32)


def in_context_accuracy(
    mixture: Mixture,
    key: jax.Array,
    *,
    count: int,
    examples: int,
    symbols: int,
    concept: Any = None,
    neighbour: Neighbour | None = None,
) -> Accuracy:
    r"""How often the most probable symbol is the label, after 0, 1, ..., n examples, by Monte Carlo.

    The label is integrated out: a prompt of concept c counts with the probability $p_c(\hat y \mid x_{\mathrm{test}})$
    that the prediction is right. One set of prompts serves all numbers of examples.

    Args:
        mixture: the models, the prior of the predictor, and the law of the concept.
        key: a key of `jax.random`.
        count: number of prompts, at least 2.
        examples: largest number n of examples, at least 0.
        symbols: number k of symbols of an example with its label, at least 1.
        concept: index of the one concept to draw prompts from; the prior by default.
        neighbour: predict by q_N of these settings in place of p.

    Returns:
        `Accuracy`.

    Raises:
        ValueError: for a number outside its range, or a neighbour that is none or has examples of another length.

    Example:
        >>> from pbjax.formal.hmm import random_mixture
        >>> mixture = random_mixture(jax.random.key(0))
        >>> found = in_context_accuracy(mixture, jax.random.key(1), count=200, examples=8, symbols=4)
        >>> bool(found.value[0] < found.value[8]), bool(found.value[8] <= found.oracle[8])
        (True, True)

    References:
        Xie et al., "An Explanation of In-context Learning as Implicit Bayesian Inference", ICLR 2022, section 4.
    """
    check_range("count", count, low=2, open_high=True, whole=True, remedy="a standard error needs at least 2 prompts")
    if neighbour is not None:
        check_neighbour(mixture, neighbour, symbols=symbols)
    prompts = sample_prompts(mixture, key, count=count, examples=examples, symbols=symbols, concept=concept)
    return _score(mixture, prompts, neighbour, examples, symbols)


def exact_in_context_accuracy(
    mixture: Mixture, *, examples: int, symbols: int, neighbour: Neighbour | None = None
) -> jax.Array:
    r"""Probability that the most probable symbol is the label after n examples, over all prompts and labels.

    $$\sum_c \pi_c \sum_{e_1, \dots, e_{n+1}} \prod_j p_c(e_j)\; \mathbb 1[\hat y(S_n, x_{\mathrm{test}}) = y]$$

    Args:
        mixture: the models, the prior of the predictor, and the law of the concept.
        examples: number n of examples, at least 0.
        symbols: number k of symbols of an example with its label, at least 1.
        neighbour: predict by q_N of these settings in place of p.

    Returns:
        The accuracy, a scalar in [0, 1].

    Raises:
        ValueError: for more than 2^18 prompts with label, a number outside its range, or a neighbour that is none or
            has examples of another length.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coins = [HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, p, 0.9 - p]])) for p in (0.3, 0.6)]
        >>> [round(exact_in_context_accuracy(make_mixture(coins), examples=n, symbols=1).item(), 3) for n in (0, 1, 5)]
        [0.45, 0.495, 0.531]
    """
    check_mixture(mixture)
    check_layout(symbols, examples)
    if neighbour is not None:
        check_neighbour(mixture, neighbour, symbols=symbols)
    size = jnp.shape(mixture.emission)[-1]
    length = (examples + 1) * symbols
    number_of_strings(size, length)
    return _score_all(mixture, neighbour, examples, symbols)


# Compiled once for a shape, whoever calls: a scan outside jit would be compiled anew at every call.


@partial(jax.jit, static_argnums=(3, 4, 5))
def _draw(mixture: Mixture, key: jax.Array, concept: Any, count: int, examples: int, symbols: int) -> LabelledPrompts:
    logs = logs_of(mixture)
    concept_key, example_key = jax.random.split(key)
    if concept is None:
        concept = jax.random.categorical(concept_key, logs.prior, shape=(count,))
    concept = jnp.broadcast_to(jnp.asarray(concept, jnp.int32), (count,))
    drawn = draw_paths(logs, example_key, jnp.repeat(concept, examples + 1), symbols)
    drawn = _join(mixture, drawn.reshape(count, examples + 1, symbols))
    return LabelledPrompts(drawn[:, :-1], drawn[:, -1], concept)


@partial(jax.jit, static_argnums=(3, 4))
def _score(
    mixture: Mixture, prompts: LabelledPrompts, neighbour: Neighbour | None, examples: int, symbols: int
) -> Accuracy:
    labels = jnp.arange(examples + 1) * (symbols + 1) + symbols - 1
    law = read(mixture, prompts.tokens)[0] if neighbour is None else neighbour_law(mixture, prompts.tokens, neighbour)
    predicted = jnp.argmax(law[:, labels], axis=-1)
    told = jax.vmap(lambda tokens, index: block_laws(known_concept(mixture, index), tokens, symbols))
    truth = jnp.exp(told(prompts.tokens, prompts.concept))
    right = jnp.take_along_axis(truth, predicted[..., None], axis=-1)[..., 0]
    return Accuracy(right.mean(0), right.std(0, ddof=1) / math.sqrt(len(right)), truth.max(-1).mean(0))


@partial(jax.jit, static_argnums=(2, 3))
def _score_all(mixture: Mixture, neighbour: Neighbour | None, examples: int, symbols: int) -> jax.Array:
    size = jnp.shape(mixture.emission)[-1]
    length = (examples + 1) * symbols
    total = number_of_strings(size, length)

    def right(index: jax.Array) -> jax.Array:
        drawn = string_of(index, size, length).reshape(1, examples + 1, symbols)
        prompt = _join(mixture, drawn)[0]
        guess = predict(mixture, prompt[:-1], neighbour=neighbour)
        own = jax.vmap(lambda c: jnp.exp(taken(read(known_concept(mixture, c), drawn[0])[0], drawn[0]).sum()))
        weight = jnp.sum(jnp.asarray(mixture.prior) * own(jnp.arange(len(mixture.prior))))
        return jnp.where(guess == prompt[-1], weight, 0)

    return jax.lax.map(right, jnp.arange(total), batch_size=min(BATCH, total)).sum()


def _join(mixture: Mixture, examples: jax.Array) -> jax.Array:
    """Examples `[count, n + 1, k]` with delimiters between them, `[count, n (k + 1) + k]`."""
    count, number, symbols = examples.shape
    delimiters = jnp.full((count, number, 1), mixture.delimiter, jnp.int32)
    return jnp.concatenate([examples, delimiters], axis=2).reshape(count, number * (symbols + 1))[:, :-1]


def known_concept(mixture: Mixture, concept: Any) -> Mixture:
    """The mixture with all prior mass on one concept."""
    return mixture._replace(prior=jax.nn.one_hot(concept, len(mixture.prior), dtype=jnp.result_type(float)))
