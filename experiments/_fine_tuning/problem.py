"""The two languages, the network, its pre-training, and the parameters that the maps make of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pbjax import formal, models
from pbjax.formal import languages, symmetries
from pbjax.models import LanguageModel

CONTROL = "permutation"
NONE = "none"


class Arm(NamedTuple):
    """A map of the parameters.

    Attributes:
        symmetry: "none", "permutation", "rescaling" or "mixing".
        strength: c.
    """

    symmetry: str
    strength: int


class Problem(NamedTuple):
    """What all networks share.

    Attributes:
        model: the network.
        before: the language of pre-training.
        after: the language of fine-tuning.
        prompts: strings on which functions are compared, in and out of distribution.
    """

    model: LanguageModel
    before: Any
    after: Any
    prompts: jax.Array


def arms(config: Any) -> tuple[Arm, ...]:
    """All maps; the first is none, the second the control."""
    maps = [Arm(symmetry, strength) for symmetry in config.symmetries for strength in config.strengths]
    return (Arm(NONE, 1), Arm(CONTROL, 1), *maps)


def make_problem(config: Any) -> Problem:
    """Languages, network and prompts."""
    before, after = languages.AnBn(max_length=config.max_length), languages.AnBnAn(max_length=config.max_length)
    model = models.transformer(
        before.vocabulary.size, width=config.width, heads=config.heads, feed_forward=config.feed_forward,
        layers=config.layers, dropout=0.0, positions="none", norm_epsilon=config.norm_epsilon,
    )  # fmt: skip
    prompts = formal.all_prompts(before, length=min(8, config.max_length - 1)).tokens
    return Problem(model, before, after, jnp.asarray(prompts))


def kl(logits: jax.Array, language: Any) -> jax.Array:
    """Divergence from the uniform law of a language, of the logits of its strings: nats a sequence, with padding."""
    return formal.nats_per_sequence(logits, language.support()[:, 1:]).mean() - language.entropy


def divergence(problem: Problem, params: Any, language: Any) -> jax.Array:
    """`kl` of a network."""
    return kl(problem.model.apply(params, language.support()[:, :-1]), language)


def make_pretraining(config: Any, problem: Problem) -> formal.Training:
    """Maximum likelihood on a^n b^n, without dropout."""
    schedule = formal.inverse_square_root(config.pretrain_rate, warmup=max(config.pretrain_steps // 10, 1))
    return formal.make_training(
        problem.model, optax.adamw(schedule, weight_decay=config.weight_decay), sequences=problem.before.support(),
        entropy=float(problem.before.entropy),
    )  # fmt: skip


def map_keys(config: Any) -> jax.Array:
    """Keys of the maps [S], away from what pre-training draws with the same seeds."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1_000_003))(jnp.asarray(config.seeds))


def draw_control(config: Any, key: jax.Array, params: Any) -> symmetries.Permutation:
    """The permutation of one seed, by its key of `map_keys`."""
    return symmetries.draw_permutation(key, params, heads=config.heads)


def transformed(config: Any, params: Any) -> Any:
    """Parameters [A, S, ...] of all arms from pre-trained ones [S, ...], in the config's precision.

    Every seed draws its own maps.
    """

    def draw(arm: Arm, own: Any, key: jax.Array) -> Any:
        if arm.symmetry == NONE:
            return own
        if arm.symmetry == CONTROL:
            return draw_control(config, key, own).transform(own)
        if arm.symmetry == "rescaling":
            return symmetries.draw_rescaling(key, own, strength=float(arm.strength)).transform(own)
        drawn = symmetries.draw_mixing(
            key, own, heads=config.heads, strength=float(arm.strength) ** 2, positions="none"
        )
        return drawn.transform(own)

    def all_arms(own: Any, key: jax.Array) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(draw(arm, own, key) for arm in arms(config)))

    exact = jax.tree.map(lambda leaf: leaf.astype(config.precision), params)
    return jax.jit(jax.vmap(all_arms, out_axes=1))(exact, map_keys(config))


def condition_number(arm: Arm) -> float:
    """Of the map's matrices, for what rounding may leave between two equal functions; 0 for exact maps."""
    return float(arm.strength) ** 2 if arm.symmetry == "mixing" else 0.0


def prompt_logits(problem: Problem, params: Any) -> np.ndarray:
    """Logits [A, S, prompts, t, v] of parameters [A, S, ...]."""
    run = jax.jit(lambda w: jax.lax.map(lambda own: problem.model.apply(own, problem.prompts), w))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
    found = np.asarray(run(flat))
    leading = jax.tree.leaves(params)[0].shape[:2]
    return found.reshape(*leading, *found.shape[1:])
