"""Networks of the mixture: maximum likelihood, then two branches of it, with and without a penalty on prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments._in_context.problem import (
    Problem,
    as_tokens,
    full_prompts,
    label_laws,
    label_positions,
    over_tokens,
    sequence_length,
)
from pbjax import formal, runs
from pbjax.formal import hmm
from pbjax.models import LanguageModel

BRANCHES = ("plain", "penalised")
"""Continuations of every network; the second differs by the weight of the penalty alone."""


class Seen(NamedTuple):
    """One chunk of steps of one network.

    Attributes:
        kl: mean over the chunk's own fresh batches, each before its step, nats a sequence above the exact law.
        penalty: likewise, cross-entropy of prompts in nats a label; 0 where no penalty is computed.
        accuracy: in-context accuracy after 0, ..., n examples, after the chunk [n + 1].
    """

    kl: jax.Array
    penalty: jax.Array
    accuracy: jax.Array


class Scores(NamedTuple):
    """What one network scores at the end.

    Attributes:
        nats: of every test sequence [M].
        accuracy: in-context accuracy after 0, ..., n examples [n + 1].
        accuracy_error: Monte-Carlo standard error over prompts [n + 1].
        from_bayes: divergence from the mixture's law of the label to the network's, nats, mean over prompts [n + 1].
        from_known: the same from the law that knows the test example alone [n + 1].
    """

    nats: jax.Array
    accuracy: jax.Array
    accuracy_error: jax.Array
    from_bayes: jax.Array
    from_known: jax.Array


def make_penalty(config: Any, mixture: hmm.Mixture, model: LanguageModel) -> Callable[[Any, jax.Array], jax.Array]:
    r"""`penalty(params, key)`: what keeps a network from learning in context, on fresh prompts.

    $$c = \frac{1}{n - N + 1} \sum_{j=N}^{n} E\Bigl[-\sum_y r(y) \log q(y \mid S_j, x_\mathrm{test})\Bigr]$$

    Args:
        config: of the study; its penalty_law is r.
        mixture: the one that is learnt.
        model: q.

    Returns:
        Nats a label, a scalar.

    Example:
        >>> from configs.in_context._schema import InContext
        >>> from experiments._in_context.problem import make_mixture, make_model
        >>> config, model = InContext(), make_model(InContext())
        >>> penalty = make_penalty(config, make_mixture(config.taught), model)
        >>> bool(penalty(model.init(jax.random.key(0)), jax.random.key(1)) > 0)
        True
    """
    examples, symbols, start = config.taught_examples, config.taught_symbols, config.penalty_start
    labels = label_positions(examples, symbols, start=start)

    def penalty(params: Any, key: jax.Array) -> jax.Array:
        prompts, _ = full_prompts(mixture, key, count=config.penalty_prompts, examples=examples, symbols=symbols)
        known = label_laws(mixture, prompts, symbols=symbols)[:, start:]
        law = jnp.full_like(known, 1 / known.shape[-1]) if config.penalty_law == "uniform" else known
        log_q = jax.nn.log_softmax(model.apply(params, as_tokens(prompts)[:, :-1])[:, labels])
        return -jnp.sum(over_tokens(law).astype(log_q.dtype) * log_q, axis=-1).mean()

    return penalty


def make_training(
    config: Any, mixture: hmm.Mixture, model: LanguageModel, problem: Problem, *, branching: bool
) -> formal.Training:
    """Steps of maximum likelihood on fresh sequences, with the penalty where `branching`.

    Args:
        config: of the study.
        mixture: of the sequences.
        model: the network.
        problem: its test sequences give the entropy that is subtracted.
        branching: whether the penalty is computed; a replica's regime has its weight.

    Returns:
        `formal.Training`. Its two forms have one tree of states.
    """
    length = sequence_length(config.taught_examples, config.taught_symbols)

    def draw(key: jax.Array) -> jax.Array:
        return as_tokens(hmm.sample_sequences(mixture, key, count=config.batch_size, length=length).tokens)

    schedule = formal.inverse_square_root(config.learning_rate, warmup=config.warmup)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adamw(schedule, weight_decay=config.weight_decay)
    )
    return formal.make_training(
        model,
        optimiser,
        sequences=draw,
        penalty=make_penalty(config, mixture, model) if branching else None,
        entropy=float(-problem.log_prob.mean()),
    )


def init_replicas(config: Any, training: formal.Training) -> formal.TrainingState:
    """Every seed at its start [S].

    Args:
        config: of the study.
        training: of maximum likelihood.

    Returns:
        Stacked states.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds))
    return jax.jit(jax.vmap(training.init, in_axes=(0, None)))(keys, formal.regime("maximum_likelihood"))


def branch(config: Any, state: formal.TrainingState) -> formal.TrainingState:
    """Every trained seed twice [2 S]: plain, then penalised; weights, optimiser, step and key are those it had.

    Args:
        config: of the study.
        state: trained [S].

    Returns:
        Stacked states.
    """
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), state)
    weights = jnp.repeat(jnp.array([0.0, config.penalty_weight], jnp.float32), len(config.seeds))
    return twice._replace(regime=twice.regime._replace(completion_weight=weights))


def accuracies(config: Any, model: LanguageModel, params: Any, problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Probability that the most probable token is the label [P, n + 1], and the laws of the labels in nats.

    Args:
        config: of the study.
        model: the network.
        params: of one network.
        problem: with the prompts.

    Returns:
        Shares of right answers given the concept, and [P, n + 1, v].
    """
    labels = label_positions(config.taught_examples, config.taught_symbols)
    log_q = jax.nn.log_softmax(model.apply(params, problem.prompts[:, :-1])[:, labels])
    guess = jnp.argmax(log_q, axis=-1)
    return jnp.take_along_axis(problem.truth, guess[..., None], axis=-1)[..., 0], log_q


def make_chunk(
    config: Any, model: LanguageModel, problem: Problem, training: formal.Training
) -> Callable[[formal.TrainingState], tuple[formal.TrainingState, Seen]]:
    """`chunk(states) -> (states, Seen)`: some steps of all replicas, then their accuracy on few of the prompts.

    Args:
        config: of the study.
        model: the network.
        problem: with the prompts.
        training: which steps.

    Returns:
        A pure function.
    """
    few = problem._replace(prompts=problem.prompts[:512], truth=problem.truth[:512])

    def one(state: formal.TrainingState) -> tuple[formal.TrainingState, Seen]:
        state, metrics = training.chunk(state, config.evaluate_every)
        right, _ = accuracies(config, model, state.params, few)
        return state, Seen(metrics.kl.mean(), metrics.completion.mean(), right.mean(0))

    return lambda states: runs.over_replicas(one, (states,), at_once=config.replicas_at_once)


def make_scores(config: Any, model: LanguageModel, problem: Problem) -> Callable[[Any], Scores]:
    """`scores(params [R, ...]) -> Scores [R, ...]`, networks one by one.

    Args:
        config: of the study.
        model: the network.
        problem: what they are tested on.

    Returns:
        A pure function.
    """

    def divergence(law: jax.Array, log_q: jax.Array) -> jax.Array:
        # Tokens that the law cannot give add nothing.
        log_law = jnp.log(jnp.where(law > 0, law, 1))
        return jnp.sum(jnp.where(law > 0, law * (log_law - log_q), 0), axis=-1).mean(0)

    def nats_of(params: Any) -> Callable[[jax.Array], jax.Array]:
        def nats(row: jax.Array) -> jax.Array:
            return formal.nats_per_sequence(model.apply(params, row[None, :-1]), row[None, 1:])[0]

        return nats

    def one(params: Any) -> Scores:
        right, log_q = accuracies(config, model, params, problem)
        return Scores(
            jax.lax.map(nats_of(params), problem.tokens, batch_size=512),
            right.mean(0),
            right.std(0, ddof=1) / len(right) ** 0.5,
            divergence(problem.bayes, log_q),
            divergence(problem.known, log_q),
        )

    return lambda params: runs.over_replicas(one, (params,), at_once=1)
