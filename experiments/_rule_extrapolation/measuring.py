"""Flatness of trained networks at matched loss, and whether completions depend on the row of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments._rule_extrapolation.problem import Problem, new_tokens
from pbjax import formal, runs, sharpness
from pbjax.models import LanguageModel

# Of the rows that prompts trade; no seed of a network.
ROW_KEY = 1_000_003


class Flatness(NamedTuple):
    """Measures of one network, of the loss in nats a sequence on the strings that it is tested on.

    Attributes:
        trace: of the Hessian, by Hutchinson's estimator.
        adaptive: adaptive worst-case sharpness, one step of ascent.
        gaussian_scale: noise on all weights that raises the loss by the config's `scale_rise`.
        row_agreement: share of prompts out of distribution whose completion stays when the prompts trade rows; 1 for
            every network that does not read them.
    """

    trace: jax.Array
    adaptive: jax.Array
    gaussian_scale: jax.Array
    row_agreement: jax.Array


def make_measure(config: Any, problem: Problem, model: LanguageModel) -> Callable[[Any, jax.Array], Flatness]:
    """`measure(params [R, ...], keys [R]) -> Flatness [R]`."""
    rows = jnp.arange(problem.test.shape[0])
    outside = ~problem.prompts.in_distribution
    permuted = jax.random.permutation(jax.random.key(ROW_KEY), problem.rows)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = model.apply(params, tokens[:, :-1], rows=rows)
        return formal.nats_per_sequence(logits, tokens[:, 1:]).mean()

    def completions(params: Any, rows: jax.Array) -> jax.Array:
        return formal.decode(model, params, problem.prompts.tokens, max_new=new_tokens(config), rows=rows)

    def one(params: Any, key: jax.Array) -> Flatness:
        probes, noise = jax.random.split(key)
        count = config.sharpness_samples
        same = jnp.all(completions(params, problem.rows) == completions(params, permuted), axis=1)
        return Flatness(
            sharpness.hutchinson_trace(probes, loss, params, problem.test, probes=count).value,
            sharpness.worst_case(loss, params, problem.test, radius=config.adaptive_radius, metric="adaptive"),
            sharpness.gaussian_scale(noise, loss, params, problem.test, rise=config.scale_rise, samples=count),
            jnp.mean(same, where=outside),
        )

    return lambda params, keys: runs.over_replicas(one, (params, keys), at_once=config.replicas_at_once)
