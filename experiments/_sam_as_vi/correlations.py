"""Does sharpness go with the error? Rank correlations across networks and methods, resampled by method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments._sam_as_vi.rows import MEASURES, Row, arms, value
from pbjax import runs


def _rank_statistics(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's rho and Kendall's tau-b when point i counts weights[b, i] times: [B] each, NaN without variation.

    Signs of all differences give both: twice the centred rank of i is the weighted sum of sign(x_i - x_j) over j.
    """
    a, b = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    rank_a, rank_b = weights @ a.T, weights @ b.T

    def pairs(signs: np.ndarray) -> np.ndarray:
        return np.sum((weights @ signs) * weights, axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.sum(weights * rank_a * rank_b, axis=1) / np.sqrt(
            np.sum(weights * rank_a**2, axis=1) * np.sum(weights * rank_b**2, axis=1)
        )
        tau = pairs(a * b) / np.sqrt(pairs(a * a) * pairs(b * b))
    return rho, tau


def rank_correlations(
    rows: Iterable[Row], *, resamples: int = 2000, seed: int = 0, stage: str = "final"
) -> list[dict[str, Any]]:
    """Spearman's rho and Kendall's tau-b between each sharpness, or the certificate, and error, gap and certificate.

    Networks of one method are not independent, so the 95 % percentile intervals come from drawing *methods* with
    replacement, each with all its seeds. Flagged networks are left out and counted: sharpness says nothing about a
    network that is at no minimum.

    Args:
      rows: rows of results.
      resamples: of the bootstrap; 0 for none.
      seed: of the bootstrap.
      stage: which rows.

    Returns:
      Rows with dataset, model, budget, measure, target, over ("networks" or "methods", the latter between means over
      seeds), count, methods, left_out, rho, rho_low, rho_high, tau, tau_low, tau_high. None where fewer than two
      points, or constant ones, leave no correlation, and no interval below four methods.

    Example:
      >>> rows = [{"stage": "final", "method": m, "seed": 0, "sharpness_trace": t, "test_accuracy": 1 - t / 100}
      ...         for m, t in zip(("sgd", "sam", "asam", "ivon"), (4.0, 3.0, 2.0, 1.0))]
      >>> [round(row["rho"], 6) for row in rank_correlations(rows) if row["target"] == "test_error" and row["count"]]
      [1.0, 1.0]
    """
    table = []
    for (dataset, model, budget), group in arms(rows, stage=stage).items():
        for measure in (*MEASURES, "certificate"):
            for target in ("test_error", "gap", "certificate"):
                if measure == target:
                    continue
                points, left_out = {}, 0
                for arm, seeds in group.items():
                    kept = [row for row in seeds.values() if not runs.is_flagged(row)]
                    pairs = np.array([(value(row, measure), value(row, target)) for row in kept]).reshape(-1, 2)
                    pairs = pairs[np.all(np.isfinite(pairs), axis=1)]
                    left_out += len(seeds) - len(pairs)
                    if len(pairs):
                        points[arm] = pairs
                drawn = np.ones((1, len(points)))
                if resamples and len(points) >= 4:
                    even = np.full(len(points), 1 / len(points))
                    draws = np.random.default_rng(seed).multinomial(len(points), even, size=resamples)
                    drawn = np.concatenate([drawn, draws])
                for over in ("networks", "methods"):
                    parts = [p if over == "networks" else p.mean(axis=0, keepdims=True) for p in points.values()]
                    stacked = np.concatenate([np.empty((0, 2)), *parts])
                    weights = np.repeat(drawn, [len(part) for part in parts], axis=1)
                    line: dict[str, Any] = {
                        "dataset": dataset, "model": model, "budget": budget, "measure": measure, "target": target,
                        "over": over, "count": len(stacked), "methods": len(points), "left_out": left_out,
                    }  # fmt: skip
                    for name, found in zip(
                        ("rho", "tau"), _rank_statistics(stacked[:, 0], stacked[:, 1], weights), strict=True
                    ):
                        bootstrap = found[1:][np.isfinite(found[1:])]
                        low, high = np.quantile(bootstrap, (0.025, 0.975)) if len(bootstrap) else (None, None)
                        line[name] = float(found[0]) if np.isfinite(found[0]) else None
                        line[f"{name}_low"] = None if low is None else float(low)
                        line[f"{name}_high"] = None if high is None else float(high)
                    table.append(line)
    return table
