"""From what the networks score to rows, and the two branches against each other, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._in_context.problem import Problem
from experiments._in_context.training import BRANCHES
from pbjax.runs import mean_and_error, sign_flip


def reference(problem: Problem) -> dict[str, Any]:
    """Accuracy of the predictors that know the law, on the networks' own prompts.

    Args:
        problem: with prompts and laws.

    Returns:
        `bayes`, `oracle` (told the concept) and `known` (no example: what p says of the test example alone), each
        [n + 1]; `bayes_error` and `known_error`, Monte-Carlo standard errors over prompts; `entropy` and
        `loss_deviation` of a test sequence, nats.
    """
    truth, count = np.asarray(problem.truth, float), len(problem.truth)

    def right(law: Any) -> np.ndarray:
        guess = np.asarray(law).argmax(axis=-1)
        return np.take_along_axis(truth, guess[..., None], axis=-1)[..., 0]

    bayes, known = right(problem.bayes), right(problem.known)
    nats = -np.asarray(problem.log_prob, float)
    return {
        "bayes": bayes.mean(0), "bayes_error": bayes.std(0, ddof=1) / count**0.5, "oracle": truth.max(-1).mean(0),
        "known": known.mean(0), "known_error": known.std(0, ddof=1) / count**0.5, "entropy": float(nats.mean()),
        "loss_deviation": float(nats.std(ddof=1)),
    }  # fmt: skip


def rows(config: Any, problem: Problem, scores: Any, seconds: float) -> list[dict[str, Any]]:
    """One row a network: seeds of the plain branch, then of the penalised one.

    Args:
        config: of the study.
        problem: what they were tested on.
        scores: `Scores` of all networks [2 S, ...].
        seconds: that training and scoring took, for all.

    Returns:
        Rows of results, part "network". `loss_change` is the penalised branch's test loss less the plain one's on the
        same sequences, and its standard error is over these sequences.
    """
    nats = np.asarray(scores.nats, float)
    exact = -np.asarray(problem.log_prob, float)
    above = nats - exact[None]
    count, seeds, n = nats.shape[1], config.seeds, config.taught_examples
    made = []
    for index in range(len(nats)):
        branch, s = BRANCHES[index // len(seeds)], index % len(seeds)
        change = nats[index] - nats[s]
        accuracy = np.asarray(scores.accuracy[index], float)
        made.append({
            "part": "network", "branch": branch, "seed": int(seeds[s]), "law": config.penalty_law,
            "start": config.penalty_start, "examples": n, "nats_per_sequence": float(nats[index].mean()),
            "kl": float(above[index].mean()), "standard_error": float(above[index].std(ddof=1) / count**0.5),
            "loss_change": float(change.mean()), "loss_change_error": float(change.std(ddof=1) / count**0.5),
            "accuracy_none": float(accuracy[0]), "accuracy_last": float(accuracy[-1]),
            "accuracy_last_error": float(scores.accuracy_error[index][-1]),
            **{f"accuracy_{i}": float(value) for i, value in enumerate(accuracy)},
            "from_bayes_last": float(scores.from_bayes[index][-1]),
            "from_known_last": float(scores.from_known[index][-1]), "seconds": seconds / len(nats),
            "flag": None if np.isfinite(above[index]).all() else "diverged",
        })  # fmt: skip
    return made


def compare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Penalised less plain over seeds: test loss, and in-context accuracy after the most examples and after none.

    Args:
        rows: of part "network".

    Returns:
        A row an outcome: mean of each branch, `spread` (standard deviation over seeds of the plain branch), mean
        `difference` with its `standard_error` over seeds, `p_value` of the sign-flip test, `seeds`, and `share`, the
        difference in units of the spread; `share_without_farthest` is the same without the seed whose plain value is
        farthest from the median, as one seed can make the spread (NaN for fewer than four seeds).

    Example:
        >>> made = [{"branch": b, "seed": s, "kl": 0.1 * s + d, "accuracy_last": 0.9 - 4 * d, "accuracy_none": 0.4}
        ...         for b, d in (("plain", 0.0), ("penalised", 0.02)) for s in range(3)]
        >>> [(row["outcome"], round(row["difference"], 3), row["p_value"]) for row in compare(made)][0]
        ('kl', 0.02, 0.25)
    """
    made = []
    for outcome in ("kl", "accuracy_last", "accuracy_none"):
        by_branch = {b: {row["seed"]: float(row[outcome]) for row in rows if row["branch"] == b} for b in BRANCHES}
        plain, penalised = (by_branch[branch] for branch in BRANCHES)
        kept = [seed for seed in plain if np.isfinite(plain[seed]) and np.isfinite(penalised.get(seed, np.nan))]
        differences = [penalised[seed] - plain[seed] for seed in kept]
        own = np.array([plain[seed] for seed in kept])
        mean, error, count = mean_and_error(differences)
        spread = float(own.std(ddof=1)) if count > 1 else float("nan")
        far = int(np.argmax(np.abs(own - np.median(own)))) if count > 3 else None  # a spread takes three
        others = [] if far is None else np.delete(own, far)
        less = float(np.std(others, ddof=1)) if far is not None else 0.0
        made.append({
            "outcome": outcome, "plain": float(own.mean()) if count else float("nan"),
            "penalised": mean_and_error([penalised[seed] for seed in kept])[0], "spread": spread,
            "difference": mean, "standard_error": error, "seeds": count,
            "share": abs(mean) / spread if spread > 0 else float("nan"),
            "share_without_farthest": abs(float(np.mean(np.delete(differences, far)))) / less
            if far is not None and less > 0
            else float("nan"),
            "p_value": sign_flip(differences) if count else None,
        })  # fmt: skip
    return made
