"""Networks of the mixture: maximum likelihood, then two branches of it, with and without a penalty on prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
from pbjax import formal
from pbjax.formal import hmm
from pbjax.models import LanguageModel
from pbjax.replicas import Replicas

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


def make_schedule(config: Any) -> Callable[[Any], jax.Array]:
    r"""Learning rate: up, down with the square root, held for half of a branch, and to zero over its other half.

    $$\eta_t = \eta \min(t / W, \sqrt{W / t}) \text{ for } t \le T, \qquad
      \eta_t = \eta_T \min(1, 2 (T + B - t) / B) \text{ for } T < t \le T + B$$

    So a branch has time to fit the penalty, and then to repair what that broke beside the prompts.

    Args:
        config: of the study; W is its warmup, T its steps and B its branch_steps.

    Returns:
        `schedule(step) -> rate`.

    Example:
        >>> from configs.in_context._schema import InContext
        >>> schedule = make_schedule(InContext(learning_rate=0.1, warmup=10, steps=40, branch_steps=20))
        >>> [round(float(schedule(step)), 4) for step in (0, 10, 40, 50, 60)]
        [0.0, 0.1, 0.05, 0.05, 0.0]
    """
    rising = formal.inverse_square_root(config.learning_rate, warmup=config.warmup)

    def schedule(step: Any) -> jax.Array:
        left = config.steps + config.branch_steps - jnp.asarray(step, jnp.float32)
        return rising(jnp.minimum(step, config.steps)) * jnp.clip(2 * left / config.branch_steps, 0, 1)

    return schedule


def make_training(
    config: Any, mixture: hmm.Mixture, model: LanguageModel, problem: Problem, *, penalised: jax.Array | bool
) -> formal.Training:
    """Steps of maximum likelihood on fresh sequences, with the penalty where `penalised`.

    Args:
        config: of the study.
        mixture: of the sequences.
        model: the network.
        problem: its test sequences give the entropy that is subtracted.
        penalised: whether the penalty is computed, a scalar that may be traced, so that one program serves all parts
            of the study; a replica's regime has its weight.

    Returns:
        `formal.Training`.
    """
    length = sequence_length(config.taught_examples, config.taught_symbols)
    full = make_penalty(config, mixture, model)

    def draw(key: jax.Array) -> jax.Array:
        return as_tokens(hmm.sample_sequences(mixture, key, count=config.batch_size, length=length).tokens)

    def penalty(params: Any, key: jax.Array) -> jax.Array:
        dtype = jax.eval_shape(full, params, key).dtype
        return jax.lax.cond(penalised, full, lambda *_: jnp.zeros((), dtype), params, key)

    optimiser = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adamw(make_schedule(config), weight_decay=config.weight_decay)
    )
    return formal.make_training(
        model, optimiser, sequences=draw, penalty=penalty, entropy=float(-np.asarray(problem.log_prob).mean())
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


def branch(config: Any, state: formal.TrainingState, name: str) -> formal.TrainingState:
    """Every trained seed at the start of a branch [S]; weights, optimiser, step and key are those it had.

    Args:
        config: of the study.
        state: trained [S].
        name: one of `BRANCHES`.

    Returns:
        Stacked states.
    """
    weight = config.penalty_weight if name == "penalised" else 0.0
    weights = jnp.full(len(config.seeds), weight, jnp.float32)
    return state._replace(regime=state.regime._replace(completion_weight=weights))


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
    config: Any, mixture: hmm.Mixture, model: LanguageModel, problem: Problem, *, replicas: Replicas
) -> Callable[[formal.TrainingState], tuple[formal.TrainingState, Seen]]:
    """`chunk(states) -> (states, Seen)`: some steps of all replicas, then their accuracy on few of the prompts.

    Args:
        config: of the study.
        mixture: of the sequences.
        model: the network.
        problem: with the prompts.
        replicas: how the networks are laid out.

    Returns:
        A jitted function that donates its states: maximum likelihood and both branches are one compiled program, in
        which the penalty is skipped where no replica has a weight for it.
    """
    few = problem._replace(prompts=problem.prompts[:512], truth=problem.truth[:512])

    def chunk(states: formal.TrainingState) -> tuple[formal.TrainingState, Seen]:
        penalised = jnp.any(states.regime.completion_weight > 0)
        training = make_training(config, mixture, model, problem, penalised=penalised)

        def one(state: formal.TrainingState) -> tuple[formal.TrainingState, Seen]:
            state, metrics = training.chunk(state, config.evaluate_every)
            right, _ = accuracies(config, model, state.params, few)
            return state, Seen(metrics.kl.mean(), metrics.completion.mean(), right.mean(0))

        return replicas.map(one, (states,))

    return jax.jit(chunk, donate_argnums=0)


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

    return lambda params: Replicas(at_once=1).map(one, (params,))
