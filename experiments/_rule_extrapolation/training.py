"""Training of a group and what is seen of it on the way, in one compiled chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._rule_extrapolation.groups import Group
from experiments._rule_extrapolation.problem import Problem, new_tokens
from pbjax import formal, optim
from pbjax.models import LanguageModel
from pbjax.replicas import Replicas


class Snapshot(NamedTuple):
    """Weights of the first evaluation at which a network is near enough to the data law.

    Attributes:
        params: weights; those of the last evaluation as long as there is none.
        reached: whether there is one.
    """

    params: Any
    reached: jax.Array


class Seen(NamedTuple):
    """One evaluation of one network.

    Attributes:
        loss: nats a position, PAD included.
        kl: nats a sequence above the exact law.
        held_out_nats: nats a sequence on held-out lengths, NaN without.
        inside: `Rates` over prompts in distribution.
        outside: `Rates` over all others.
        by_kind: the latter by kind of prompt.
        mass: probability of all short strings by rule class: both, rule 1 alone, rule 2 alone, neither.
    """

    loss: jax.Array
    kl: jax.Array
    held_out_nats: jax.Array
    inside: formal.Rates
    outside: formal.Rates
    by_kind: formal.Rates
    mass: jax.Array


def make_optimiser(config: Any, name: str) -> optax.GradientTransformation:
    """AdamW on the schedule of the public code, behind a sharpness-aware gradient if asked."""
    schedule = formal.inverse_square_root(config.learning_rate, warmup=config.warmup)
    base = optax.adamw(schedule, weight_decay=config.weight_decay)
    if name == "adamw":
        return base
    member = {"sam": optim.sam, "asam": optim.asam, "random_sam": optim.random_sam}[name]
    return optax.chain(member(config.radius[name]), base)


def make_training(config: Any, problem: Problem, model: LanguageModel, group: Group) -> formal.Training:
    """The training program of a group; maximum likelihood has no completions to pay for."""
    plain = all(arm.regime == "maximum_likelihood" for arm in group.arms)
    pinned = config.pin is not None
    return formal.make_training(
        model, make_optimiser(config, group.arms[0].optimiser), sequences=problem.sequences,
        batch_size=problem.batch_size, completions=None if plain else problem.completions,
        prompt_length=None if plain else config.prompt_length, skip_first=config.skip_first,
        entropy=float(problem.language.entropy), sequence_dropout=not pinned,
    )  # fmt: skip


def init_replicas(config: Any, training: formal.Training, group: Group) -> tuple[formal.TrainingState, Snapshot]:
    """Every replica at its start; a seed has the same weights and dropout in every regime."""
    regimes = [
        formal.regime(
            arm.regime, completion_weight=config.completion_weight, pin=config.pin, pin_weight=config.pin_weight,
            pin_width=config.pin_width,
        )
        for arm in group.arms
        for _ in group.seeds
    ]  # fmt: skip
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *regimes)
    keys = jax.vmap(jax.random.key)(jnp.asarray(np.tile(group.seeds, len(group.arms))))
    state = jax.jit(jax.vmap(training.init))(keys, stacked)
    return state, Snapshot(state.params, jnp.zeros(group.size, bool))


def make_observe(config: Any, problem: Problem, model: LanguageModel) -> Callable[[Any], Seen]:
    """`observe(params) -> Seen` of one network."""
    classes = config.class_length if set(problem.language.symbols) == {"a", "b"} else 0

    def observe(params: Any) -> Seen:
        made = formal.evaluate_loss(model, params, problem.test, log_weights=problem.log_weights)
        held_out = jnp.float32(jnp.nan)
        if problem.held_out is not None:
            held_out = formal.evaluate_loss(model, params, problem.held_out).nats_per_sequence
        completed = formal.decode(model, params, problem.prompts.tokens, max_new=new_tokens(config), rows=problem.rows)
        metrics = formal.completion_metrics(problem.language, problem.prompts, completed)
        mass = jnp.full(4, jnp.nan)
        if classes:

            def log_prob(strings: jax.Array) -> jax.Array:
                # The last symbol of a sequence is never read, and every row takes the place of the first.
                logits = model.apply(params, strings[:, :-1], rows=jnp.zeros(strings.shape[0], jnp.int32))
                return formal.string_log_prob(logits, strings)

            mass = jnp.stack(formal.rule_class_mass(problem.language, log_prob, max_length=classes))
        return Seen(
            made.loss, made.nats_per_sequence - problem.reference, held_out, metrics.in_distribution,
            metrics.out_of_distribution, metrics.by_kind, mass,
        )  # fmt: skip

    return observe


def make_chunk(
    config: Any, problem: Problem, model: LanguageModel, training: formal.Training, *, replicas: Replicas
) -> Callable[..., Any]:
    """`chunk((states, snapshots)) -> ((states, snapshots), Seen [R, ...])`: some steps, then one evaluation."""
    observe = make_observe(config, problem, model)

    def one(state: formal.TrainingState, snapshot: Snapshot) -> tuple[formal.TrainingState, Snapshot, Seen]:
        state, _ = training.chunk(state, config.evaluate_every)
        seen = observe(state.params)
        kept = jax.tree.map(lambda old, new: jnp.where(snapshot.reached, old, new), snapshot.params, state.params)
        return state, Snapshot(kept, snapshot.reached | (seen.kl <= config.match)), seen

    def chunk(carry: tuple[formal.TrainingState, Snapshot]) -> tuple[Any, Seen]:
        state, snapshot, seen = replicas.map(one, carry)
        return (state, snapshot), seen

    return chunk
