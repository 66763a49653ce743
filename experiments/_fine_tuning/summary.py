"""What a finished study leaves: results.json, figures and summary.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._fine_tuning import figures
from experiments._fine_tuning.problem import NONE, arms
from experiments._fine_tuning.rows import FIELDS, POLICIES, WORST_CASE, Slope, control, slope
from experiments._fine_tuning.tuning import Outcome
from pbjax import runs
from pbjax.runs.atomic import write_file

Table = Sequence[Mapping[str, Any]]
_TRAINED = {"all": "all parameters", "feed_forward": "the two layers around the ReLU neurons alone"}


class Tuned(NamedTuple):
    """A method's runs.

    Attributes:
        found: of the networks.
        linearised: of the networks made linear, or None.
        seconds: of both.
        timings: of their loops.
    """

    found: Outcome
    linearised: Outcome | None
    seconds: float
    timings: Sequence[Any]


def _steps(rows: Table) -> str:
    """Mean and standard error of the runs that came to the target, and how many did not."""
    reached = [float(row["steps"]) for row in rows if row["steps"] is not None]
    lost = len(rows) - len(reached)
    if not reached:
        return f"none of {lost} within {max(row['steps_taken'] for row in rows):,}"
    mean, error, count = runs.mean_and_error(reached)
    text = f"{mean:,.0f} ± {error:,.0f}" if count > 1 else f"{mean:,.0f}"
    return text + (f"; {lost} of {len(rows)} never" if lost else "")


def _slope(found: Slope | None) -> str:
    if found is None:
        return "–"
    text = f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"
    return text + (f", {found.censored} censored" if found.censored else "")


def _markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    return runs.markdown_table(lines, columns=list(lines[0]))


def steps_table(table: Table, config: Any) -> list[dict[str, Any]]:
    """A line a method, symmetry and choice of the learning rate: steps at each strength, and slopes."""
    lines = []
    for method in config.methods:
        for symmetry in config.symmetries:
            for policy in POLICIES:
                line: dict[str, Any] = {"method": method, "symmetry": symmetry, "learning rate": policy}
                for strength in (1, *config.strengths):
                    name = NONE if strength == 1 else symmetry
                    own = [
                        row for row in table
                        if (row["method"], row["policy"], row["symmetry"], row["strength"])
                        == (method, policy, name, strength)
                    ]  # fmt: skip
                    rate = f"{own[0]['learning_rate']:.2g}" + ("*" if own[0]["at_edge"] else "")
                    line[f"c = {strength}"] = f"{_steps(own)} (rate {rate})"
                found = {"method": method, "symmetry": symmetry, "policy": policy}
                line["slope"] = _slope(slope(table, **found))
                if config.linearised:
                    line["slope, linearised"] = _slope(slope(table, column="linearised_steps", **found))
                worst = WORST_CASE.get(method) if symmetry == "rescaling" else None
                line["worst case"] = "–" if worst is None else f"{worst:g}"
                lines.append(line)
    return lines


def measures_table(table: Table, config: Any) -> list[dict[str, Any]]:
    """A line a map: what it moves of sharpness and curvature, mean over seeds, and the gap of the logits."""
    lines = []
    method = config.methods[0]
    for arm in arms(config):
        own = [
            row for row in table
            if (row["method"], row["policy"]) == (method, "tuned")
            and (row["symmetry"], row["strength"]) == tuple(arm)
        ]  # fmt: skip

        def mean(column: str, own: Table = own) -> str:
            values = [row[column] for row in own if row[column] is not None]
            return f"{np.mean(values):.4g}" if values else "–"

        lines.append({
            "map": arm.symmetry, "c": arm.strength,
            "greatest logit gap": f"{max(row['logit_gap'] for row in own):.2g}",
            "Hessian trace": mean("sharpness_trace"), "SAM sharpness": mean("sharpness_sam"),
            "adaptive sharpness": mean("sharpness_adaptive"), "curvature": mean("curvature_top"),
        })  # fmt: skip
    return lines


def control_table(found: Mapping[str, Tuned], config: Any) -> list[dict[str, Any]]:
    """A line a method: how far the permuted networks' curves are from the original ones."""
    lines = []
    for method, made in found.items():
        early, gap, steps = control(made.found, config)
        lines.append({
            "method": method, "gap of the curves in 50 steps": f"{early:.2g}", "in all": f"{gap:.2g}",
            "of the steps": steps,
        })  # fmt: skip
    return lines


def text(
    config: Any, table: Table, found: Mapping[str, Tuned], pretrained: Mapping[str, Any], measured: Mapping[str, Any]
) -> str:
    """The text of summary.md."""
    made = runs.provenance()
    seconds = sum(one.seconds for one in found.values())
    rest = float(pretrained["seconds"]) + float(measured["seconds"])
    share, first = runs.inside_share([timing for one in found.values() for timing in one.timings])
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    cores = f"{made['host']['cpu_count']} cores" if made["device"]["platform"] == "cpu" else made["device"]["kind"]
    ended = np.asarray(pretrained["kl"])[-1]
    starts = np.asarray(measured["columns"]["kl_start"])[0]
    return f"""# fine_tuning, config {runs.config_hash(config)}

`python experiments/{runs.shown_command(made["command"])}`

Strings up to {config.max_length} symbols; pre-trained for {config.pretrain_steps:,} steps to {ended.mean():.3f} nats \
a sequence above a^n b^n ({ended.min():.3f} to {ended.max():.3f}), where they are {starts.mean():.1f} nats from \
a^n b^n a^n; fine-tuned to {config.target:g} nats ({_TRAINED[config.trained]}); at most {config.cap_factor:g} times \
the steps of the network without a map, and {config.max_steps:,}; seeds {", ".join(map(str, config.seeds))}; \
{config.rates} learning rates a factor 2 apart; {config.precision}. {(seconds + rest) / 60:.1f} minutes on {cores} \
({made["host"]["machine"]}); {100 * share:.1f} % of the loops' wall time was spent inside compiled code; the first \
chunks, which compile, took {first:.0f} s and are not in that share. Finished {made["time"]}.

## Steps to the target

Mean ± standard error over seeds. Slopes are d log(steps) / d log(c) with 95 % intervals over seeds, of the \
networks and of the networks made linear in their parameters, which move by the tangent kernel of the start alone; \
runs that never came to the target count with the steps that they took. A star marks a learning rate at the edge of \
those tried. Worst cases are those of rescaling.

{_markdown(steps_table(table, config))}
## What the maps move

The function is the same on all prompts, of probability zero too (greatest gap of a logit). The first three \
measures are of the loss of pre-training, in nats a sequence; the curvature is the greatest eigenvalue of the \
Gauss-Newton matrix of the loss of fine-tuning: gradient descent is stable below the learning rate 2 / curvature. Maps \
of strength 1 leave every number as it is: {"yes" if measured["columns"]["identical_at_one"] else "NO"}.

{_markdown(measures_table(table, config))}
## The control

Permuted networks at the learning rate of c = 1: greatest relative gap of a curve to that of the same seed without \
a map, and of the steps to the target. Above the stable rate, rounding grows from step to step.

{_markdown(control_table(found, config))}
{versions}; commit {(made["git"] or {}).get("commit", "none")}.
"""


def write(
    config: Any, directory: runs.RunDirectory, table: list[dict[str, Any]], found: Mapping[str, Tuned],
    pretrained: Mapping[str, Any], measured: Mapping[str, Any],
) -> None:  # fmt: skip
    """Results, figures and summary, and a table on the terminal."""
    directory.write_results(table, fields=FIELDS)
    outcomes = {name: one.found for name, one in found.items()}
    for symmetry in config.symmetries:
        folder = directory.figures
        figures.steps_against_strength(table, folder / f"steps_{symmetry}.png", symmetry=symmetry, target=config.target)
        figures.curves(config, outcomes, folder / f"curves_{symmetry}.png", symmetry=symmetry)
    figures.sharpness(table, directory.figures / "sharpness.png")
    write_file(directory.path / "summary.md", text(config, table, found, pretrained, measured).encode())
    lines = steps_table(table, config)
    shown = [name for name in lines[0] if name not in ("slope, linearised", "worst case")]
    runs.print_results(lines, columns=shown, title="steps to the target")
    print(f"results and figures in {directory.path}")
