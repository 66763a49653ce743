"""The bound and the estimators against sums over all strings of a tiny mixture, and the case where the bound is met."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._in_context.problem import TINY_KEY
from pbjax.formal import hmm

ROUNDING = 1e-9
"""Relative: how far rounding may carry a sum over strings above a bound that it meets."""
ERRORS = 5.0
"""Standard errors within which Monte Carlo must meet an exact value; a right one fails once in two million."""
DRAWS = 20_000
"""Sequences or prompts of a Monte-Carlo value that is held against an exact one."""


def bound_row(
    case: str, law: str, start: int, eta: float, *, kl: float, format_bound: float, bound: float, equal: bool = False
) -> dict[str, Any]:
    """A row of an exact KL beside its bounds, with `holds`: KL <= format_bound <= bound, or both equal to the KL.

    Args:
        case: "tiny", or "equality" where the bound is met.
        law: r.
        start: N.
        eta: weight of p.
        kl: exact, nats.
        format_bound: the bound with the exact probability of the format.
        bound: the closed form.
        equal: whether all three must be one number.

    Returns:
        A row of results, part "enumerated"; flagged where it does not hold.

    Example:
        >>> row = bound_row("tiny", "prior", 1, 0.01, kl=0.2, format_bound=0.1, bound=0.3)
        >>> row["holds"], row["flag"]
        (False, 'exact KL breaks its bound')
    """
    slack = ROUNDING * bound
    if equal:
        holds = abs(kl - bound) <= slack and abs(format_bound - bound) <= slack
    else:
        holds = kl <= format_bound + slack and format_bound <= bound + slack
    return {
        "part": "enumerated", "case": case, "law": law, "start": start, "eta": eta, "kl": kl,
        "format_bound": format_bound, "bound": bound, "holds": bool(holds),
        "flag": None if holds else "exact KL does not meet its bound" if equal else "exact KL breaks its bound",
    }  # fmt: skip


def tiny_rows(config: Any, mixture: hmm.Mixture) -> list[dict[str, Any]]:
    """The exact KL of every q_N that the strings have room for, beside its bounds and a Monte-Carlo estimate.

    Args:
        config: of the study.
        mixture: the tiny one.

    Returns:
        Rows, part "enumerated", case "tiny"; `monte_carlo` and its `standard_error` come with each, and a flag where
        they miss the exact value by more than `ERRORS` standard errors.
    """
    symbols, length, eta = config.tiny_symbols, config.tiny_length, config.eta
    last = (length + 1) // (symbols + 1) - 1
    reached = np.exp(np.asarray(hmm.format_log_prob(mixture, examples=last, symbols=symbols)))
    rho, key, made = float(hmm.delimiter_bound(mixture)), jax.random.key(TINY_KEY), []
    for law in config.laws:
        for start in range(last + 1):
            neighbour = hmm.Neighbour(start=start, eta=eta, symbols=symbols, law=law)
            kl = float(hmm.exact_kl(mixture, neighbour=neighbour, length=length))
            row = bound_row(
                "tiny", law, start, eta, kl=kl, format_bound=float(reached[start:].sum() * -np.log(eta)),
                bound=float(hmm.kl_bound(rho, eta, start=start)),
            )  # fmt: skip
            drawn = hmm.monte_carlo_kl(
                mixture, jax.random.fold_in(key, start), neighbour=neighbour, length=length, count=DRAWS
            )
            row |= {"monte_carlo": float(drawn.value), "standard_error": float(drawn.standard_error)}
            if abs(row["monte_carlo"] - kl) > ERRORS * row["standard_error"] + ROUNDING * kl:
                row["flag"] = "; ".join(filter(None, (row["flag"], "Monte Carlo misses the exact KL")))
            made.append(row)
    return made


def equality_rows(config: Any) -> list[dict[str, Any]]:
    """Independent symbols and an r that gives what p holds impossible: the KL is the bound, not below it.

    The last symbol is impossible under p, and r gives it with certainty. Changed after N examples only, the KL is
    rho^N log(1/eta); changed after all n >= N, the bound is summed to infinity, and the strings end before.

    Args:
        config: of the study; its tiny_symbols and eta are used, and rho = 0.25.

    Returns:
        Rows, part "enumerated", case "equality" (after N only) and "equality, all n" (from N on, against the bound
        with the format's exact probability, as the strings end).
    """
    rho, symbols, eta = 0.25, config.tiny_symbols, config.eta
    # Concepts and states that are all alike; of the tiny mixture's sizes, so that one program serves both.
    concepts, states = config.tiny.concepts, config.tiny.entities * config.tiny.properties
    law = jnp.pad(jnp.array([rho, 1 - rho]), (0, config.tiny.vocabulary_size - 2))
    even = jnp.full((states, states), 1 / states)
    coin = hmm.make_mixture([hmm.HMM(even[0], even, jnp.tile(law, (states, 1)))] * concepts)
    length = config.tiny_length
    last = (length + 1) // (symbols + 1) - 1
    reached = np.exp(np.asarray(hmm.format_log_prob(coin, examples=last, symbols=symbols)))
    made = []
    for start in range(last + 1):
        once = hmm.Neighbour(start=start, eta=eta, symbols=symbols, law="wrong", single=True)
        made.append(bound_row(
            "equality", "wrong", start, eta, kl=float(hmm.exact_kl(coin, neighbour=once, length=length)),
            format_bound=float(reached[start] * -np.log(eta)),
            bound=float(hmm.kl_bound(rho, eta, start=start, single=True)), equal=True,
        ))  # fmt: skip
        every = hmm.Neighbour(start=start, eta=eta, symbols=symbols, law="wrong")
        with_format = float(reached[start:].sum() * -np.log(eta))
        made.append(bound_row(
            "equality, all n", "wrong", start, eta, kl=float(hmm.exact_kl(coin, neighbour=every, length=length)),
            format_bound=with_format, bound=with_format, equal=True,
        ))  # fmt: skip
    return made


def accuracy_rows(config: Any, mixture: hmm.Mixture) -> list[dict[str, Any]]:
    """In-context accuracy of p and of q_1 by the forward algorithm on drawn prompts, beside the exact sum.

    Args:
        config: of the study.
        mixture: the tiny one.

    Returns:
        Rows, part "accuracy": `law` is "none" for p; `start` is N (0 for p), `examples` is n.
    """
    symbols, made = config.tiny_symbols, []
    most = config.tiny_length // symbols - 1  # delimiters are certain, so they make no strings
    for start in (most + 1, 1):  # from most + 1 on no label is changed: p
        neighbour = hmm.Neighbour(start=start, eta=config.eta, symbols=symbols, law=config.laws[0])
        drawn = hmm.in_context_accuracy(
            mixture, jax.random.key(TINY_KEY), count=DRAWS, examples=most, symbols=symbols, neighbour=neighbour
        )
        for n in sorted({min(1, most), most}):
            exact = float(hmm.exact_in_context_accuracy(mixture, examples=n, symbols=symbols, neighbour=neighbour))
            value, error = float(drawn.value[n]), float(drawn.standard_error[n])
            holds = abs(value - exact) <= ERRORS * error + ROUNDING
            made.append({
                "part": "accuracy", "law": "none" if start > most else neighbour.law,
                "start": 0 if start > most else start, "examples": n, "exact": exact,
                "monte_carlo": value, "standard_error": error, "holds": bool(holds),
                "flag": None if holds else "Monte Carlo misses the exact accuracy",
            })  # fmt: skip
    return made
