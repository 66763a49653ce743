"""From what was seen of a group to rows and trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments._rule_extrapolation.groups import Arm, Group
from experiments._rule_extrapolation.problem import Problem
from experiments._rule_extrapolation.rows import MATCHED_ONLY

MASSES = ("mass_both", "mass_r1_only", "mass_r2_only", "mass_neither")


def chosen(kl: np.ndarray, *, match: float) -> dict[str, int | None]:
    """Which evaluation of a trajectory `kl` [C] each selection takes; None where it never came so near."""
    finite = np.where(np.isfinite(kl), kl, np.inf)
    near = np.flatnonzero(finite <= match)
    return {"best": int(np.argmin(finite)), "last": len(kl) - 1, "matched": int(near[0]) if len(near) else None}


def rows(
    config: Any, problem: Problem, group: Group, trained: dict[str, Any], measured: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One row a network and selection."""
    seen, seeds = trained["seen"], group.seeds
    for r in range(group.size):
        arm = group.arms[r // len(seeds)]
        kl = np.asarray(seen.kl, np.float64)[:, r]
        for selection, c in chosen(kl, match=config.match).items():
            if c is None:
                continue
            at = lambda tree, c=c, r=r: jax.tree.map(lambda leaf: leaf[c, r], tree)  # noqa: E731
            inside, outside, by_kind = at(seen.inside), at(seen.outside), at(seen.by_kind)
            row: dict[str, Any] = {
                **arm._asdict(), "seed": int(seeds[r % len(seeds)]), "selection": selection,
                "step": (c + 1) * config.evaluate_every, "loss": float(seen.loss[c, r]),
                "kl_per_sequence": float(kl[c]), "held_out_nats": float(seen.held_out_nats[c, r]),
                "id_r1": float(inside.r1), "id_finished": float(inside.finished), "ood_r1": float(outside.r1),
                "ood_r1_unconditional": float(outside.r1_unconditional),
                "ood_r2_completion": float(outside.r2_completion),
                "ood_r2_completion_unconditional": float(outside.r2_completion_unconditional),
                "finished": float(outside.finished),
            }  # fmt: skip
            for column, values in (
                ("ood_r1", by_kind.r1), ("ood_r1_unconditional", by_kind.r1_unconditional),
                ("finished", by_kind.finished),
            ):  # fmt: skip
                row |= {f"{column}_{kind}": float(v) for kind, v in zip(problem.kinds, values, strict=True)}
            row |= {name: float(seen.mass[c, r, i]) for i, name in enumerate(MASSES)}
            matched = selection == "matched"
            row |= {name: float(measured[name][r]) if matched and name in measured else None for name in MATCHED_ONLY}
            row |= {
                "seconds": float(trained["seconds"]) / group.size,
                "flag": None if np.isfinite(kl[c]) else "diverged",
            }  # fmt: skip
            yield row


def history(config: Any, problem: Problem, group: Group, trained: dict[str, Any]) -> dict[Arm, dict[str, np.ndarray]]:
    """Trajectories [S, C] of each arm of a group."""
    seen, count = trained["seen"], len(group.seeds)
    found = {}
    for i, arm in enumerate(group.arms):
        own = slice(i * count, (i + 1) * count)
        take = lambda value, own=own: np.swapaxes(np.asarray(value, np.float64)[:, own], 0, 1)  # noqa: E731
        mass = take(seen.mass)
        found[arm] = {
            "step": config.evaluate_every * np.arange(1, len(seen.loss) + 1),
            "loss": take(seen.loss),
            "kl_per_sequence": take(seen.kl),
            "id_r1": take(seen.inside.r1),
            "ood_r1": take(seen.outside.r1),
            "ood_r1_unconditional": take(seen.outside.r1_unconditional),
            "ood_r2_completion": take(seen.outside.r2_completion),
            "finished": take(seen.outside.finished),
            "ood_r1_by_kind": take(seen.by_kind.r1),
            **{name: mass[..., j] for j, name in enumerate(MASSES)},
        }
    return found
