"""The exact part: neighbours q_N of a mixture, how far they are, how many sequences show it, and what they learn."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._in_context.detection import any_test, mean_test
from experiments._in_context.forced import moments
from experiments._in_context.problem import EXACT_KEY, sequence_length
from pbjax.formal import hmm


def measure(config: Any, mixture: hmm.Mixture) -> dict[str, Any]:
    """Everything that is known of p and its neighbours.

    Args:
        config: of the study.
        mixture: p.

    Returns:
        `rho`; `entropy` and `loss_deviation` of a sequence, nats; `reached` [n + 1], the probability that the format
        holds up to the label after 0, ..., n examples; `p` and, by law, `neighbours`: see `_neighbours`.
    """
    key = jax.random.key(EXACT_KEY)
    keys = dict(zip(("loss", "accuracy", *config.laws), jax.random.split(key, 2 + len(config.laws)), strict=True))
    length = sequence_length(config.examples, config.symbols)
    tokens = hmm.sample_sequences(mixture, keys["loss"], count=config.draws, length=length).tokens
    nats = -hmm.log_prob(mixture, tokens)
    neighbours = {law: _neighbours(config, mixture, law, keys[law], keys["accuracy"]) for law in config.laws}
    return {
        "rho": float(hmm.delimiter_bound(mixture)),
        "entropy": float(nats.mean()),
        "loss_deviation": float(nats.std(ddof=1)),
        "reached": np.asarray(jnp.exp(hmm.format_log_prob(mixture, examples=config.examples, symbols=config.symbols))),
        "p": neighbours[config.laws[0]].pop("p"),
        "neighbours": {law: {name: own[name] for name in own if name != "p"} for law, own in neighbours.items()},
    }


def _neighbours(config: Any, mixture: hmm.Mixture, law: str, key: jax.Array, prompts_key: jax.Array) -> dict[str, Any]:
    """For one law r and every N: `kl`, `kl_error`, `deviation` [s], and `accuracy`, `accuracy_error` [s, n + 1].

    Every N has the same sequences, every N and law the same prompts. `p` has `value`, `standard_error` and `oracle`
    [n + 1]: the mixture is its own neighbour for an N beyond all labels.
    """
    starts, eta = jnp.asarray(config.starts), jnp.asarray(config.eta, jnp.result_type(float))
    sizes = {"count": config.draws, "examples": config.examples, "symbols": config.symbols}
    moment = moments(mixture, key, starts, eta, law=law, **sizes)
    accuracy = jax.jit(
        jax.vmap(
            lambda start: hmm.in_context_accuracy(
                mixture, prompts_key, neighbour=hmm.Neighbour(start, eta, config.symbols, law), **sizes
            )
        )
    )(jnp.append(starts, config.examples + 1))
    value, error, oracle = (np.asarray(part) for part in accuracy)
    return {
        "p": {"value": value[-1], "standard_error": error[-1], "oracle": oracle[-1]},
        "kl": np.asarray(moment.mean),
        "kl_error": np.asarray(moment.mean_error),
        "deviation": np.asarray(moment.deviation),
        "accuracy": value[:-1],
        "accuracy_error": error[:-1],
    }


def rows(config: Any, found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a law and N.

    Args:
        config: of the study.
        found: from `measure`.

    Returns:
        Rows of results, part "neighbour". A KL more than five standard errors above a bound is flagged.
    """
    made, reached = [], np.asarray(found["reached"], float)
    for law, own in found["neighbours"].items():
        for i, start in enumerate(config.starts):
            kl, error = float(own["kl"][i]), float(own["kl_error"][i])
            bound = float(hmm.kl_bound(found["rho"], config.eta, start=start))
            format_bound = float(reached[start:].sum() * -np.log(config.eta))
            above = kl - 5 * error > min(bound, format_bound)
            deviation = float(own["deviation"][i])
            made.append({
                "part": "neighbour", "law": law, "start": int(start), "eta": float(config.eta), "rho": found["rho"],
                "kl": kl, "standard_error": error, "format_bound": format_bound, "bound": bound,
                "reached": float(reached[start]), "log_ratio_deviation": deviation,
                "accuracy_before": float(own["accuracy"][i][start - 1]) if start else None,
                "accuracy_at": float(own["accuracy"][i][start]), "accuracy_last": float(own["accuracy"][i][-1]),
                "accuracy_last_error": float(own["accuracy_error"][i][-1]),
                "p_accuracy_at": float(found["p"]["value"][start]), "p_accuracy_last": float(found["p"]["value"][-1]),
                "p_accuracy_last_error": float(found["p"]["standard_error"][-1]),
                "oracle_last": float(found["p"]["oracle"][-1]),
                "sequences_any_test": any_test(float(reached[start]), kl),
                "sequences_paired": mean_test(kl, deviation),
                "sequences_mean_losses": mean_test(kl, 2**0.5 * found["loss_deviation"]),
                "flag": "KL above its bound" if above else None,
            })  # fmt: skip
    return made
