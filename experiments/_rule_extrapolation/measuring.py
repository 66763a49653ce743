"""Flatness of trained networks: Hessian trace, adaptive sharpness, Gaussian scale, at matched loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments._rule_extrapolation.problem import Problem
from pbjax import formal, runs, sharpness
from pbjax.models import LanguageModel


class Flatness(NamedTuple):
    """Measures of one network, of the loss in nats a sequence on the strings that it is tested on.

    Attributes:
        trace: of the Hessian, by Hutchinson's estimator.
        adaptive: adaptive worst-case sharpness, one step of ascent.
        gaussian_scale: noise on all weights that raises the loss by the config's `scale_rise`.
    """

    trace: jax.Array
    adaptive: jax.Array
    gaussian_scale: jax.Array


def make_measure(config: Any, problem: Problem, model: LanguageModel) -> Callable[[Any, jax.Array], Flatness]:
    """`measure(params [R, ...], keys [R]) -> Flatness [R]`."""
    rows = jnp.arange(problem.test.shape[0])

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = model.apply(params, tokens[:, :-1], rows=rows)
        return formal.nats_per_sequence(logits, tokens[:, 1:]).mean()

    def one(params: Any, key: jax.Array) -> Flatness:
        probes, noise = jax.random.split(key)
        count = config.sharpness_samples
        return Flatness(
            sharpness.hutchinson_trace(probes, loss, params, problem.test, probes=count).value,
            sharpness.worst_case(loss, params, problem.test, radius=config.adaptive_radius, metric="adaptive"),
            sharpness.gaussian_scale(noise, loss, params, problem.test, rise=config.scale_rise, samples=count),
        )

    return lambda params, keys: runs.over_replicas(one, (params, keys), at_once=config.replicas_at_once)
