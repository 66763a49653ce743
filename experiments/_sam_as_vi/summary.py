"""What a finished study leaves: results.json, figures and summary.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._sam_as_vi import figures
from experiments._sam_as_vi.rows import FIELDS, OUTCOMES, summarise, value
from experiments._sam_as_vi.tables import markdown
from pbjax import runs
from pbjax.calibration import ReliabilityBins
from pbjax.runs.atomic import write_file
from pbjax.runs.statistics import mean_and_error


class Finished(NamedTuple):
    """A group that was trained and measured.

    Attributes:
        group: its `Group`.
        trained: what training left, see `Study.train`.
        outcome: what was measured.
    """

    group: Any
    trained: dict[str, Any]
    outcome: dict[str, Any]


def _history(finished: Sequence[Finished], budget: str) -> dict[str, Any]:
    found = {}
    for entry in finished:
        if entry.group.stage == "final" and (entry.group.budget == budget or entry.group.method not in found):
            watched = entry.trained["watched"]
            epochs = np.broadcast_to(entry.trained["epochs"], watched["train_loss"].shape)
            found[entry.group.method] = (epochs, watched["train_loss"], watched["validation_accuracy"])
    return found


def _pooled(bins: ReliabilityBins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of all seeds together: counts add up, confidence and accuracy are means over examples."""
    count = np.asarray(bins.count, np.float64)
    total = count.sum(axis=0)
    weigh = lambda values: (count * np.nan_to_num(values)).sum(axis=0) / np.maximum(total, 1)  # noqa: E731
    return total, weigh(bins.confidence), weigh(bins.accuracy)


def _reliability(finished: Sequence[Finished], budget: str) -> dict[str, Any]:
    found = {}
    for entry in finished:
        if entry.group.stage == "final" and (entry.group.budget == budget or entry.group.method not in found):
            kinds = [kind for kind in ("mean", "averaged") if kind in entry.outcome]
            found[entry.group.method] = {kind: _pooled(entry.outcome[kind]["bins"]) for kind in kinds}
    return found


def with_scale_curve(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows again, with the radius curves of fixed and learned Gaussians also under the name curve_scale."""
    again = [
        row | {"stage": "curve_scale"}
        for row in table
        if row["stage"] == "curve_radius" and row["method"] in ("random_sam", "mean_field")
    ]
    return [*table, *again]


def _tuning(table: Sequence[dict[str, Any]]) -> str:
    tuned = [row for row in table if row["stage"] == "tune"]
    if not tuned:
        return ""
    lines = []
    for method in dict.fromkeys(row["method"] for row in tuned):
        own = [row for row in tuned if row["method"] == method]
        cells: dict[tuple[float, float | None], list[float]] = {}
        for row in own:
            nll = row["validation_nll"]
            cells.setdefault((row["learning_rate"], row["radius"]), []).append(np.inf if nll is None else nll)
        best = min(cells, key=lambda cell: float(np.mean(cells[cell])))
        rates = sorted({rate for rate, _ in cells})
        radii = sorted({radius for _, radius in cells if radius is not None})
        edges = [
            name
            for name, value, grid in (("rate", best[0], rates), ("radius", best[1], radii))
            if len(grid) > 1 and value in (grid[0], grid[-1])
        ]
        lines.append(
            {
                "method": method, "cells": len(cells), "learning rate": f"{best[0]:.3g}",
                "radius": "" if best[1] is None else f"{best[1]:.3g}", "validation NLL": float(np.mean(cells[best])),
                "at the edge of its grid": ", ".join(edges),
            }
        )  # fmt: skip
    return (
        "## The search\n\nTraining on the prior's rows, validation NLL at the mean; equal gradients.\n\n"
        + runs.markdown_table(lines, columns=tuple(lines[0]))
        + "\n"
    )


def _curves(table: Sequence[dict[str, Any]]) -> str:
    parts = []
    for stage in ("curve_radius", "curve_kappa", "curve_samples"):
        lines = []
        cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in table:
            if row["stage"] == stage:
                cells.setdefault((row["method"], row["radius"], row["kappa"], row["samples"]), []).append(row)
        for (method, radius, kappa, samples), own in cells.items():
            line = {"method": method, "radius": radius, "kappa": kappa, "samples": samples, "seeds": len(own)}
            for outcome in ("effective_radius", "test_accuracy", "test_nll", "averaged_nll"):
                factor, digits = OUTCOMES[outcome].factor, OUTCOMES[outcome].digits or 3
                mean, error, count = mean_and_error(value(row, outcome) * factor for row in own)
                shown = f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
                line[OUTCOMES[outcome].title + (" averaged" if outcome.startswith("averaged") else "")] = (
                    shown if count else ""
                )
            lines.append(line)
        if lines:
            shared = [name for name in lines[0] if any(line[name] not in (None, "") for line in lines)]
            parts.append(f"## {stage.replace('_', ' ')}\n\n" + runs.markdown_table(lines, columns=tuple(shared)) + "\n")
    return "\n".join(parts)


def text(
    config: Any, table: Sequence[dict[str, Any]], finished: Sequence[Finished], *, parameters: int, n: int,
    seconds: float,
) -> str:  # fmt: skip
    """The text of summary.md."""
    made = runs.provenance()
    share, first = runs.inside_share([entry.trained["timing"] for entry in finished])
    trained = sum(float(entry.trained["seconds"]) for entry in finished)
    measured = sum(float(entry.outcome["seconds"]) for entry in finished)
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    certified = n - int(n * config.prior_share)
    return f"""# sam_as_vi, config {runs.config_hash(config)}

`python experiments/{runs.shown_command(made["command"])}`

{config.model} with {parameters:,} weights, n = {n:,} training rows and {config.validation_rows:,} validation rows;
seeds {", ".join(map(str, config.seeds))}. {seconds / 60:.1f} minutes on {made["host"]["cpu_count"]} \
{made["device"]["platform"]} cores ({made["host"]["machine"]}): {trained:.0f} s of training, \
{measured:.0f} s of measuring; of an interrupted run only the last part is counted in the minutes. \
{100 * share:.1f} % of the training loops' wall time was spent inside compiled code; the first chunks, which compile, \
took {first:.0f} s and are not in that share. Finished {made["time"]}.

Training sees {n - certified:,} rows in the first {100 * config.prior_share:.0f} % of its steps and all rows after that.
A certificate is over the other {certified:,} rows and holds with probability {1 - config.delta:g} for one network. It \
is of the 0-1 risk of N(weights, sigma^2) with sigma trained on the bound; its prior is centred at the weights at the \
end of the first part.

{markdown(table)}
{_curves(table)}
{_tuning(table)}
{versions}; commit {(made["git"] or {}).get("commit", "none")}.
"""


def write(
    config: Any, directory: runs.RunDirectory, table: list[dict[str, Any]], finished: Sequence[Finished], *,
    parameters: int, n: int, seconds: float,
) -> None:  # fmt: skip
    """Results, figures and summary, and a table on the terminal."""
    directory.write_results(table, fields=FIELDS)
    budget = config.budgets[0]
    everything = with_scale_curve(table)
    stages = {row["stage"] for row in everything}
    figures.learning_curves(_history(finished, budget), directory.figures / "learning_curves.png")
    figures.reliability(_reliability(finished, budget), directory.figures / "reliability.png")
    final = [row for row in table if row["stage"] == "final" and row["budget"] == budget]
    if set(config.measures) == {"sharpness", "certificate"}:
        figures.sharpness_scatter(final, directory.figures / "sharpness.png")
    if "curve_radius" in stages:
        figures.accuracy_against_radius(table, directory.figures / "radius.png")
    if stages & {"curve_kappa", "curve_samples", "curve_scale"}:
        figures.curves(everything, directory.figures / "curves.png")
    content = text(config, table, finished, parameters=parameters, n=n, seconds=seconds)
    write_file(directory.path / "summary.md", content.encode())
    shown = [line for line in summarise(table) if line["budget"] == budget]
    runs.print_results(
        shown, columns=("method", "test_accuracy", "test_nll", "ece", "certificate", "sharpness_worst"),
        title=f"mean over seeds, equal {budget}",
    )  # fmt: skip
    print(f"results and figures in {directory.path}")
