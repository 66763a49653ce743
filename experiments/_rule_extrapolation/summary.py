"""What a finished study leaves: results.json, figures and summary.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments._rule_extrapolation import figures
from experiments._rule_extrapolation.problem import Problem
from experiments._rule_extrapolation.rows import FIELDS, MEASURES, value
from experiments._rule_extrapolation.tables import markdown
from pbjax import runs
from pbjax.formal import EXTENSIONS, extension_r1, rule_class_mass
from pbjax.runs.atomic import write_file


class Finished(NamedTuple):
    """A group that was trained and measured.

    Attributes:
        group: its `Group`.
        trained: what training left, see `Study.train`.
        measuring: seconds that its measures took.
        history: trajectories of its arms.
    """

    group: Any
    trained: Mapping[str, Any]
    measuring: float
    history: Mapping[Any, Mapping[str, np.ndarray]]


def _exact_mass(problem: Problem, length: int) -> float:
    language = problem.language
    return float(rule_class_mass(language, language.log_prob, max_length=length).both)


def _listed(seeds: Sequence[int]) -> str:
    """All seeds, a long row of neighbours by its ends."""
    if len(seeds) > 8 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _baselines(problems: Mapping[str, Problem]) -> str:
    """What the closed-form extensions score on these prompts."""
    if "anbn" not in problems:
        return ""
    prompts = problems["anbn"].prompts
    outside = ~np.asarray(prompts.in_distribution)
    r1 = {kind: np.asarray(extension_r1(prompts, kind)) for kind in EXTENSIONS}
    scores = {kind: f"{100 * r1[kind][outside].mean():.2f} %" for kind in EXTENSIONS}
    after_b = outside & (np.asarray(prompts.tokens)[:, -1] == problems["anbn"].language.vocabulary.encode("b")[1])
    return (
        f"\nR1 of the closed-form extensions on these OOD prompts of a^n b^n: {scores['oracle']} balance (E1), "
        f"{scores['stop']} stop at once (E2), {scores['append_b']} append the b's that are missing (E3), "
        f"{scores['adversarial']} one too many (E4), {scores['iid']} random symbols (E5); E3 on the {after_b.sum()} "
        f"that end in b, no end on the others: {100 * r1['append_b'][after_b].mean():.2f} % of completions that end, "
        f"{100 * np.sum(r1['append_b'] * after_b) / outside.sum():.2f} % of all.\n"
    )


def draw(
    config: Any, folder: Path, table: Sequence[Mapping[str, Any]], history: Mapping[Any, Any],
    problems: Mapping[str, Problem],
) -> None:  # fmt: skip
    """All figures that these rows allow, those of each language apart where there are several."""
    for name, problem in problems.items():
        prefix = f"{name}_" if len(problems) > 1 else ""
        own = [row for row in table if row["language"] == name]
        paths = {arm: trajectories for arm, trajectories in history.items() if arm.language == name}
        if not paths:
            continue
        place: Callable[[str], Path] = lambda figure, prefix=prefix: folder / f"{prefix}{figure}.png"  # noqa: E731
        figures.loss_against_accuracy(paths, place("loss_against_accuracy"))
        figures.accuracy_within_bands(paths, place("accuracy_within_bands"), bands=config.bands)
        if any(np.isfinite(one["mass_both"]).any() for one in paths.values()):
            figures.class_mass(paths, place("class_mass"), exact=_exact_mass(problem, config.class_length))
        # A short run need not come near enough to the data; then its last networks are shown.
        selection = "matched" if any(row["selection"] == "matched" for row in own) else "last"
        figures.accuracy_by_kind(own, place("accuracy_by_kind"), selection=selection)
        if len(paths) > len(config.regimes):
            figures.accuracy_by_arm(own, place("accuracy_by_arm"), selection=selection)
        if any(np.isfinite(value(row, measure)) for row in own for measure in list(MEASURES)[1:]):
            figures.sharpness_against_accuracy(own, place("sharpness_against_accuracy"))


def text(
    config: Any, table: Sequence[Mapping[str, Any]], finished: Sequence[Finished], history: Mapping[Any, Any],
    problems: Mapping[str, Problem],
) -> str:  # fmt: skip
    """The text of summary.md."""
    made = runs.provenance()
    trained = sum(float(entry.trained["seconds"]) for entry in finished)
    measuring = sum(entry.measuring for entry in finished)
    networks = sum(entry.group.size for entry in finished)
    share, first = runs.inside_share([entry.trained["timing"] for entry in finished])
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    laws = "\n".join(
        f"* {name}: entropy {problem.language.entropy:.4f} nats a sequence, floor of the loss "
        f"{problem.language.loss_floor:.6f} nats a position; "
        f"{int(problem.prompts.in_distribution.sum())} prompts in and "
        f"{int((~problem.prompts.in_distribution).sum())} out of distribution."
        for name, problem in problems.items()
    )
    pinned = (
        "" if config.pin is None else f" All regimes are held near {config.pin:g} nats a sequence above the data law."
    )
    others = config.completion_seeds
    seeds = _listed(config.seeds)
    seeds += "" if others is None else f" (of adversarial and oracle {_listed(others)})"
    cores = f"{made['host']['cpu_count']} cores" if made["device"]["platform"] == "cpu" else made["device"]["kind"]
    return f"""# rule_extrapolation, config {runs.config_hash(config)}

`python experiments/{runs.shown_command(made["command"])}`

Strings up to {config.max_length} symbols, prompts of {config.prompt_length}; {config.steps:,} steps, evaluated every \
{config.evaluate_every}; seeds {seeds}.{pinned} \
{(trained + measuring) / 60:.1f} minutes on {cores} ({made["host"]["machine"]}): {trained:.0f} s of \
training {networks} networks ({3600 * networks / max(trained, 1e-9):.0f} an hour), {measuring:.0f} s of measuring. \
{100 * share:.1f} % of the loops' wall time was spent inside compiled code; the first \
chunks, which compile, took {first:.0f} s and are not in that share. Finished {made["time"]}.

{laws}

A network is matched at the first evaluation whose KL to the data law is at most {config.match:g} nats a sequence. ID \
and OOD R1 count completions that end (NaN where none does); unconditional counts the others as failures. A network \
that does not end where it would break the rule scores higher in the first, so read it beside the second and finished.
{_baselines(problems)}
{markdown(table, history, bands=config.bands, pinned=config.pin is not None)}

{versions}; commit {(made["git"] or {}).get("commit", "none")}.
"""


def write(
    config: Any, directory: runs.RunDirectory, table: list[dict[str, Any]], finished: Sequence[Finished],
    problems: Mapping[str, Problem],
) -> None:  # fmt: skip
    """Results, figures and summary, and a table on the terminal."""
    directory.write_results(table, fields=FIELDS)
    history: dict[Any, Any] = {}
    for entry in finished:
        history |= entry.history
    draw(config, directory.figures, table, history, problems)
    content = text(config, table, finished, history, problems)
    write_file(directory.path / "summary.md", content.encode())
    selection = "matched" if any(row["selection"] == "matched" for row in table) else "last"
    runs.print_results(
        [row for row in table if row["selection"] == selection],
        columns=(
            "language", "model", "position", "optimiser", "regime", "seed", "step", "kl_per_sequence", "id_r1",
            "ood_r1", "ood_r1_unconditional", "finished",
        ),
        title="first evaluation within match" if selection == "matched" else "end of training",
    )  # fmt: skip
    print(f"results and figures in {directory.path}")
