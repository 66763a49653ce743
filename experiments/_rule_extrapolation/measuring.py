"""What is measured on networks at matched loss: flatness, and what they make of impossible prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from configs.rule_extrapolation._schema import WITH_COMPLETIONS
from experiments._rule_extrapolation.problem import Problem, new_tokens
from pbjax import formal, sharpness
from pbjax.models import LanguageModel
from pbjax.replicas import Replicas

# Of the rows that prompts trade; no seed of a network.
ROW_KEY = 1_000_003

FOLLOWED = ("oracle", "stop", "append_b", "adversarial")
"""Extensions that completions are held against."""


def flatness(config: Any, problem: Problem, model: LanguageModel, params: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Measures of the loss in nats a sequence on the strings that it is tested on.

    Returns:
        sharpness_trace: of the Hessian, by Hutchinson's estimator; sharpness_adaptive: adaptive worst-case sharpness,
        one step of ascent; gaussian_scale: noise on all weights that raises the loss by the config's `scale_rise`.
    """
    rows, count = jnp.arange(problem.test.shape[0]), config.sharpness_samples

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = model.apply(params, tokens[:, :-1], rows=rows)
        return formal.nats_per_sequence(logits, tokens[:, 1:]).mean()

    probes, noise = jax.random.split(key)
    return {
        "sharpness_trace": sharpness.hutchinson_trace(probes, loss, params, problem.test, probes=count).value,
        "sharpness_adaptive": sharpness.worst_case(
            loss, params, problem.test, radius=config.adaptive_radius, metric="adaptive"
        ),
        "gaussian_scale": sharpness.gaussian_scale(
            noise, loss, params, problem.test, rise=config.scale_rise, samples=count
        ),
    }


def behaviour(config: Any, problem: Problem, model: LanguageModel, params: Any) -> dict[str, jax.Array]:
    """Shares of the prompts out of distribution, of greedy completions.

    Returns:
        row_agreement: completions that stay when the prompts trade rows, 1 for every network that does not read them;
        endless: completions without end. For languages of a's and b's also follows_*: completions that are exactly what
        this extension makes of the prompt; endless_after_a: of the prompts that end in a; append_b_after_b: of the
        prompts that end in b, those that get the b's that they lack, or none, and then the end.
    """
    outside = ~problem.prompts.in_distribution

    def completions(rows: jax.Array) -> jax.Array:
        return formal.decode(model, params, problem.prompts.tokens, max_new=new_tokens(config), rows=rows)

    made = completions(problem.rows)
    traded = completions(jax.random.permutation(jax.random.key(ROW_KEY), problem.rows))
    endless = ~jnp.any(made == formal.EOS, axis=1)
    shares = {
        "row_agreement": jnp.mean(jnp.all(made == traded, axis=1), where=outside),
        "endless": jnp.mean(endless, where=outside),
    }
    if problem.name in WITH_COMPLETIONS:
        follows = {kind: formal.follows(problem.prompts, made, kind) for kind in FOLLOWED}
        symbol = jnp.asarray(problem.prompts.tokens)[:, -1]
        a, b = problem.language.vocabulary.encode("ab")[1:3]
        shares |= {f"follows_{kind}": jnp.mean(value, where=outside) for kind, value in follows.items()}
        shares["endless_after_a"] = jnp.mean(endless, where=outside & (symbol == a))
        shares["append_b_after_b"] = jnp.mean(follows["append_b"], where=outside & (symbol == b))
    return shares


def make_measure(
    config: Any, problem: Problem, model: LanguageModel, *, replicas: Replicas
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """`measure(params [R, ...], keys [R])`, a column [R] each."""

    def one(params: Any, key: jax.Array) -> dict[str, jax.Array]:
        made = behaviour(config, problem, model, params)
        return made | flatness(config, problem, model, params, key) if config.sharpness else made

    return lambda params, keys: replicas.map(one, (params, keys))
