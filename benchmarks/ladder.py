"""Hamiltonian Monte Carlo over a ladder of inverse temperatures: pbjax against what people would use instead.

    python -m benchmarks.ladder
    python -m benchmarks.ladder --quick

One move of every replica, rungs times chains of an MLP on 14x14 images (random ones: times do not depend on what is
seen), with the same rows, float32 network, loss, prior, step size and number of leapfrog steps. Every program runs in a
process of its own, for its libraries, threads and peak memory, and the processes take turns: a ratio is that of seconds
within a round. Their moves start at the same positions.

What is fair: before anything is timed all of them must give the same potential and gradient at these positions, and
while it is they must accept alike; otherwise the benchmark ends with an error. Each peer keeps its state from call to
call, so none pays for a gradient that a longer run would not have. Compilation is apart.

What is not: the peers evaluate the network as one writes it, examples in rows and the whole data set at once, while
pbjax cuts it into blocks and lays it out for the products; that is what is measured, and "energy of pbjax" tells how
much of the difference it is. pbjax sums losses in float64, the peers do not. PyTorch is eager, with the same blocks.
hamiltorch is on no package index, so a leapfrog written from the definition stands for it.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import tyro

from benchmarks import _measuring as measuring
from benchmarks._ladder_peers import PEERS
from benchmarks._ladder_work import Work
from benchmarks.leapfrog import flops

CLAIM = "HMC over a ladder of temperatures, MLP on 14x14 images"
NOTES = {
    "numpyro, a run for each rung": "beta an argument of one jitted kernel, without the loop of MCMC.run around it",
    "numpyro, all rungs as chains": "numpyro has no temperatures; beta as a coordinate that its mass holds still",
    "blackjax, a run for each chain": "a jitted kernel a rung, which all of its chains call in turn",
    "PyTorch, all replicas batched": "written from the definition; hamiltorch is on no package index",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    rows: int = 60_000
    """Rows of the data set."""
    rungs: int = 5
    """Inverse temperatures."""
    chains: int = 4
    """Chains a rung."""
    leapfrogs: int = 8
    """Leapfrog steps of a move."""
    repeats: int = 5
    """Rounds."""
    quick: bool = False
    """Small: a thirtieth of the rows, two rounds."""


def agree(told: dict[str, dict]) -> None:
    """Ends the benchmark unless all potentials and gradients are those of pbjax.

    Potentials in float32 carry 1e-6 of beta times the risk; gradients in float32 over 60,000 rows about 1e-5 of their
    norm, and a projection on a standard normal direction is of the size of that.
    """
    ours = told["pbjax"]
    for who, theirs in told.items():
        norm = np.asarray(ours["norm"])
        apart = {
            "potential": np.abs(np.subtract(theirs["potential"], ours["potential"])) / np.asarray(ours["potential"]),
            "gradient's norm": np.abs(theirs["norm"] - norm) / norm,
            "gradient": np.abs(np.subtract(theirs["projections"], ours["projections"])).max(1) / norm,
        }
        for what, error in apart.items():
            if not error.max() < 1e-3:
                raise SystemExit(f"{who} does other work than pbjax: its {what} is off by {error.max():.1e}")


def accept_alike(values: dict[str, list[float]], replicas: int) -> None:
    """Ends the benchmark unless mean acceptances differ by less than four standard errors of a fraction."""
    count = replicas * len(values["pbjax"])
    for who, theirs in values.items():
        if who != "product" and abs(np.mean(theirs) - np.mean(values["pbjax"])) > 4 * np.sqrt(2 * 0.25 / count):
            raise SystemExit(f"{who} accepts {np.mean(theirs):.2f} of its moves, pbjax {np.mean(values['pbjax']):.2f}")


def main(options: Options) -> None:
    """Starts all, compares, times, prints."""
    if options.quick:
        options = dataclasses.replace(options, rows=options.rows // 30, rungs=2, chains=2, leapfrogs=3, repeats=2)
    work = Work(rows=options.rows, rungs=options.rungs, chains=options.chains, leapfrogs=options.leapfrogs)
    arguments = [
        f"--{name}={getattr(work, name)}" for name in ("rows", "rungs", "chains", "leapfrogs")
    ]  # fmt: skip
    children = {
        who: measuring.Child("benchmarks._ladder_peers", f"--who={who}", *arguments) for who in (*PEERS, "product")
    }
    try:
        told = {who: child.ask("ready") for who, child in children.items()}
        product_flops = told.pop("product")["flops"]
        agree(told)
        times, values = measuring.rounds(children, options.repeats)
        memory = {who: child.ask("peak") for who, child in children.items()}
    finally:
        for child in children.values():
            child.end()
    accept_alike(values, work.replicas)
    case = (f"{'-'.join(map(str, work.widths))}, {work.rows:,} rows, {work.rungs} rungs of {work.chains} chains, "
            f"{work.leapfrogs} leapfrog steps")  # fmt: skip
    done = flops(work.widths, work.rows) * work.replicas * work.leapfrogs
    for who in PEERS:
        figure, note = partial(measuring.Figure, CLAIM, case, who), NOTES.get(who, "")
        over = measuring.ratio(times[who], times["pbjax"])[0] if who != "pbjax" else None
        peak = (memory[who]["peak"] - memory[who]["before"]) / 2**20
        measuring.report([
            figure("leapfrog steps per second and chain", *times[who].rate(work.leapfrogs), over_pbjax=over,
                   compile_seconds=None if who.startswith("PyTorch") else times[who].compile_seconds, note=note),
            figure("share of the product rate", *measuring.ratio(times["product"], times[who], done / product_flops)),
            figure("peak memory beyond what libraries take", peak, peak, peak, unit="MiB"),
        ])  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
