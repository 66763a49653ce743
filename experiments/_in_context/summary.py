"""What a finished study leaves: results.json, figures and summary.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._in_context import exact, figures, pair, tables
from experiments._in_context.problem import Problem, sequence_length
from experiments._in_context.rows import FIELDS, complete
from experiments._in_context.training import BRANCHES
from pbjax import runs
from pbjax.runs.atomic import write_file


def history(config: Any, trained: Mapping[str, Any], branched: Mapping[str, Any]) -> dict[str, Any]:
    """What was seen over the steps.

    Args:
        config: of the study.
        trained: what maximum likelihood left, `seen` [C, S].
        branched: what each branch left by its name, `seen` [B, S].

    Returns:
        As `figures.training` takes it, `penalty` of the penalised branch beside it.
    """

    def take(seen: Any) -> dict[str, np.ndarray]:
        return {"kl": np.asarray(seen.kl, float), "accuracy": np.asarray(seen.accuracy, float)[..., -1]}

    every, penalty = config.evaluate_every, np.asarray(branched["penalised"]["seen"].penalty, float)
    return {
        "step": every * np.arange(1, len(np.asarray(trained["seen"].kl)) + 1),
        **take(trained["seen"]),
        "branch_step": config.steps + every * np.arange(1, len(penalty) + 1),
        **{name: take(branched[name]["seen"]) for name in BRANCHES},
        "penalty": penalty,
    }


def _provenance(config: Any, seconds: Mapping[str, float], timings: Sequence[Any]) -> tuple[str, str]:
    """The line under the title, and the last line."""
    made = runs.provenance()
    share, first = runs.inside_share(timings)
    cores = f"{made['host']['cpu_count']} cores" if made["device"]["platform"] == "cpu" else made["device"]["kind"]
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    head = (
        f"{sum(seconds.values()) / 60:.1f} minutes on {cores} ({made['host']['machine']}): {parts}. "
        f"{100 * share:.1f} % of the loops' wall time was spent inside compiled code; the first chunks, which compile, "
        f"took {first:.0f} s and are not in that share. Seeds {', '.join(map(str, config.seeds))}. Finished "
        f"{made['time']}."
    )
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return (
        f"`python experiments/{runs.shown_command(made['command'])}`\n\n{head}",
        f"{versions}; commit {(made['git'] or {}).get('commit', 'none')}.",
    )


def text(
    config: Any, found: Mapping[str, Any], table: Sequence[Mapping[str, Any]], reference: Mapping[str, Any],
    compared: Sequence[Mapping[str, Any]], price: Mapping[str, float], seconds: Mapping[str, float],
    timings: Sequence[Any],
) -> str:  # fmt: skip
    """The text of summary.md.

    Args:
        config: of the study.
        found: from `exact.measure`.
        table: all rows.
        reference: from `pair.reference`.
        compared: from `pair.compare`.
        price: `kl` and `standard_error` of the exact neighbour of the networks' mixture.
        seconds: part -> what it took.
        timings: of the loops.

    Returns:
        Markdown.
    """
    head, foot = _provenance(config, seconds, timings)
    of = {part: [row for row in table if row["part"] == part] for part in dict.fromkeys(row["part"] for row in table)}
    loss, accuracy = compared[0], compared[1]
    exact_length = sequence_length(config.examples, config.symbols)
    taught_length = sequence_length(config.taught_examples, config.taught_symbols)
    percent = lambda value: tables.number(value, 1, factor=100)  # noqa: E731
    others = tables.number(loss["share_without_farthest"], 2)
    verdict = (
        f"The penalty moves the test loss by {tables.number(abs(loss['difference']), 4)} nats a sequence, "
        f"{'less' if loss['share'] < 1 else 'MORE'} than its standard deviation over seeds, "
        f"{tables.number(loss['spread'], 4)} ({tables.number(loss['share'], 2)} of it"
        f"{'' if others == '–' else f'; {others} without the farthest seed'}), and the accuracy after "
        f"{config.taught_examples} examples from {percent(accuracy['plain'])} to {percent(accuracy['penalised'])} %; "
        f"Bayes has {percent(reference['bayes'][-1])} %, the test example alone {percent(reference['known'][-1])} %."
    )
    return f"""# in_context, config {runs.config_hash(config)}

{head}

Every number is pbjax's own. p is a mixture of hidden Markov models; q_N is p but for the label after n >= N examples \
in prompt format, where its law is η p + (1 − η) r with η = {config.eta:g}. r: prior = what p says of the test \
example alone; uniform; wrong = the least probable symbol. † marks flagged rows.

## Exact neighbours

{config.mixture.concepts} concepts, {config.mixture.vocabulary_size} symbols, examples of k = {config.symbols} \
symbols, sequences of {exact_length} symbols with an entropy of {found["entropy"]:.2f} nats. **ρ = \
{found["rho"]:.5f}** bounds the probability of the delimiter given any past. {config.draws:,} sequences a KL \
(delimiters forced, weighted), as many prompts an accuracy. With {config.examples} examples p predicts \
{100 * found["p"]["value"][-1]:.2f} ± {100 * found["p"]["standard_error"][-1]:.2f} % of the labels, without any \
{100 * found["p"]["value"][0]:.2f} %; told the concept, it would predict {100 * found["p"]["oracle"][-1]:.2f} %.

The last three columns are numbers of test sequences for a sum of errors of 0.1: fewer than the first suffice for no \
test; the second for the paired losses on sequences of p, the third for mean losses on a test set each (both in normal \
approximation).

{tables.neighbour_table(of["neighbour"])}

## Sums over all strings

{config.tiny.concepts} concepts, {config.tiny.vocabulary_size} symbols, examples of k = {config.tiny_symbols}, all \
strings of {config.tiny_length} symbols. "equality": independent symbols and an r that gives what p holds impossible, \
changed after exactly N examples; "equality, all n": after all n >= N that the strings have room for.

{tables.enumerated_table(of["enumerated"])}

In-context accuracy on the tiny mixture: the sum over all prompts beside drawn prompts and the forward algorithm.

{tables.accuracy_table(of["accuracy"])}

## Trained networks

{config.taught.concepts} concepts, {config.taught.vocabulary_size} symbols, k = {config.taught_symbols}, sequences of \
{taught_length} symbols with an entropy of {reference["entropy"]:.3f} nats (standard deviation of a sequence's loss \
{reference["loss_deviation"]:.2f}). Transformers of width {config.width} and {config.layers} layers: {config.steps:,} \
steps of {config.batch_size} fresh sequences, then {config.branch_steps:,} more from the same weights and optimiser \
state, on the same batches, with a learning rate that falls to zero: without and with {config.penalty_weight:g} times \
the cross-entropy to r = {config.penalty_law} at the labels after {config.penalty_start} and more examples of prompts. \
{config.test_sequences:,} test sequences and {config.test_prompts:,} prompts, the same for all.

**{verdict}** The exact neighbour of this p with the same N and r stands at KL(p‖q) = {price["kl"]:.2g} ± \
{price["standard_error"]:.1g} nats, which is what not learning has to cost at most.

{tables.network_table(of["network"], reference)}

Mean ± standard deviation over seeds. The last two columns are mean divergences to the network's law of the label \
after all examples.

{tables.comparison_table(compared)}

Penalised less plain, paired over seeds: mean ± standard error over seeds; spread: standard deviation over seeds of \
the plain branch, and the ratio without the seed that is farthest from its median; p: two-sided sign-flip test over \
all patterns (with {loss["seeds"]} seeds at least {2 / 2 ** loss["seeds"]:.3g}).

{tables.seed_table(of["network"])}

Errors of single networks are over test sequences; those of a change are paired.

{foot}
"""


def write(
    config: Any, directory: runs.RunDirectory, problem: Problem, found: Mapping[str, Any],
    enumerated: Sequence[Mapping[str, Any]], networks: Sequence[Mapping[str, Any]], trained: Mapping[str, Any],
    branched: Mapping[str, Any], price: Mapping[str, float], seconds: Mapping[str, float],
) -> None:  # fmt: skip
    """Results, figures and summary, and a table on the terminal.

    Args:
        config: of the study.
        directory: of the run.
        problem: what the networks were tested on.
        found: from `exact.measure`.
        enumerated: rows of the sums over strings.
        networks: rows of part "network".
        trained: what maximum likelihood left.
        branched: what each branch left, by its name.
        price: `kl` and `standard_error` of the exact neighbour of the networks' mixture.
        seconds: part -> what it took.
    """
    neighbours = exact.rows(config, dict(found))
    table = [complete(dict(row)) for row in (*neighbours, *enumerated, *networks)]
    reference, compared = pair.reference(problem), pair.compare(list(networks))
    paths = history(config, trained, branched)
    directory.write_results(
        table,
        fields=FIELDS,
        sections={
            "exact": dict(found),
            "reference": reference,
            "comparison": compared,
            "price": dict(price),
            "history": paths,
        },
    )
    folder = directory.figures
    figures.neighbours(found, neighbours, folder / "neighbours.png")
    figures.sequences(neighbours, folder / "sequences.png")
    figures.pair(reference, networks, folder / "pair.png")
    figures.training(paths, reference, folder / "training.png")
    timings = [trained["timing"], *(branched[name]["timing"] for name in BRANCHES)]
    content = text(config, found, table, reference, compared, price, seconds, timings)
    write_file(directory.path / "summary.md", content.encode())
    runs.print_results(
        list(networks), columns=("branch", "seed", "kl", "loss_change", "accuracy_none", "accuracy_last"),
        title="networks",
    )  # fmt: skip
    print(f"results and figures in {directory.path}")
