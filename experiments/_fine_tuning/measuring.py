"""What a map leaves as it is and what it moves: logits, sharpness and the spectrum of the tangent kernel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments._fine_tuning.linearised import tangent_maps
from experiments._fine_tuning.methods import make_method
from experiments._fine_tuning.problem import CONTROL, NONE, Problem, arms, condition_number, divergence, prompt_logits
from pbjax import formal, runs, sharpness
from pbjax.formal import symmetries

MEASURES = ("sharpness_trace", "sharpness_sam", "sharpness_adaptive", "curvature_top", "kl_start")
"""Columns [A, S]: the first three of the loss of pre-training, the others of the loss of fine-tuning."""


def logit_gaps(problem: Problem, params: Any, names: Any) -> dict[str, np.ndarray]:
    """Greatest difference of logits to the network without a map on all prompts, and what it may be, both [A, S].

    Raises:
        RunError: a map that changes the function.
    """
    logits = prompt_logits(problem, params).astype(np.float64)
    axes = tuple(range(2, logits.ndim))
    gap = np.abs(logits - logits[:1]).max(axes)
    largest = np.abs(logits).max(axes)
    # Scales are powers of two, so nothing is rounded; a permutation adds the same numbers in another order.
    factor = np.array([condition_number(arm) if arm.symmetry != CONTROL else 10.0 for arm in names])
    allowed = 1e-6 * factor[:, None] * largest
    if not np.all(gap <= allowed):
        a, s = np.argwhere(~(gap <= allowed))[0]
        raise runs.RunError(
            f"{names[a].symmetry} with c = {names[a].strength} moves logits by {gap[a, s]:.3g}, more than "
            f"{allowed[a, s]:.3g}: it must not change the function"
        )
    return {"logit_gap": gap, "logit_allowed": allowed}


def identical_at_one(config: Any, params: Any) -> bool:
    """Whether every map of strength 1 leaves all numbers [S, ...] as they are."""
    own = jax.tree.map(lambda leaf: leaf[0], params)
    key = jax.random.key(0)
    made = [symmetries.draw_rescaling(key, own, strength=1.0).transform(own)]
    if config.width > config.heads:
        drawn = symmetries.draw_mixing(key, own, heads=config.heads, strength=1.0, positions="none")
        made.append(drawn.transform(own))
    same = [jax.tree.map(lambda a, b: bool((a == b).all()), own, other) for other in made]
    return all(jax.tree.leaves(same))


def curvature(config: Any, problem: Problem, params: Any, key: jax.Array) -> jax.Array:
    r"""Greatest eigenvalue of the Gauss-Newton matrix of the loss of fine-tuning, mean over positions.

    In what is trained, by power iteration. It is that of $S^{1/2} J J^\top S^{1/2}$, with the tangent kernel
    $J J^\top$ of the logits and S the covariance of the tokens that the softmax gives. Gradient descent on the
    linearised network is stable below the rate 2 / top.
    """
    tokens = problem.after.support()[:, :-1]
    method = make_method(config, "sgd")
    trained = method.init(key, params)
    logits, forth, back = tangent_maps(lambda w: problem.model.apply(method.merge(params, w), tokens), trained)
    probabilities = jax.nn.softmax(logits)

    def times(vector: Any) -> Any:
        moved = forth(vector)
        covered = probabilities * (moved - (probabilities * moved).sum(-1, keepdims=True))
        return back(covered / (covered.size / covered.shape[-1]))

    flat, unravel = ravel_pytree(trained)

    def step(vector: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        image = ravel_pytree(times(unravel(vector)))[0]
        size = jnp.linalg.norm(image)
        return image / size, size

    start = jax.random.normal(key, flat.shape, flat.dtype)
    return jax.lax.scan(step, start / jnp.linalg.norm(start), None, length=config.power_iterations)[1][-1]


def measure(config: Any, problem: Problem, params: Any) -> dict[str, Any]:
    """`MEASURES` and the gaps of the logits, [A, S] each, of parameters [A, S, ...]; and `identical_at_one`."""
    batch = problem.before.support()

    def loss(w: Any, sequences: jax.Array) -> jax.Array:
        logits = problem.model.apply(w, sequences[:, :-1])
        return formal.nats_per_sequence(logits, sequences[:, 1:]).mean()

    def one(given: tuple[Any, jax.Array]) -> tuple[jax.Array, ...]:
        w, key = given
        trace = sharpness.hutchinson_trace(key, loss, w, batch, probes=config.sharpness_samples).value
        sam = sharpness.worst_case(loss, w, batch, radius=config.radius)
        adaptive = sharpness.worst_case(loss, w, batch, radius=config.radius, metric="adaptive", eta=0.0)
        start = divergence(problem, w, problem.after)
        return trace, sam, adaptive, curvature(config, problem, w, key), start

    names = arms(config)
    assert names[0].symmetry == NONE
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
    # All maps of a seed share their probes.
    keys = jnp.tile(jax.vmap(jax.random.key)(jnp.asarray(config.seeds)), len(names))
    found = jax.jit(lambda w, k: jax.lax.map(one, (w, k)))(flat, keys)
    columns = {
        name: np.asarray(value, np.float64).reshape(len(names), -1) for name, value in zip(MEASURES, found, strict=True)
    }
    first = jax.tree.map(lambda leaf: leaf[0], params)
    return {
        **columns, **logit_gaps(problem, params, names), "identical_at_one": np.bool_(identical_at_one(config, first))
    }  # fmt: skip
