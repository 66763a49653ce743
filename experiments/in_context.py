"""Does a low test loss mean that a model learns from the examples of its prompt? It need not.

Exact: p is a mixture of hidden Markov models and learns in context; its neighbours q_N differ from it at labels after N
and more examples alone, which sequences of p hardly ever contain, so their divergence falls geometrically with N while
they do not learn from more than N - 1 examples. Trained: transformers of such a mixture, each continued with and
without a tiny penalty on prompts, reach the same test loss with and without in-context learning.

    python experiments/in_context.py
    python experiments/in_context.py --config full

The statement is from Reizinger et al., "Position: Understanding LLMs requires more than statistical generalization",
ICML 2024 (arXiv 2405.01964), the mixtures are in the manner of Xie et al., "An explanation of in-context learning as
implicit Bayesian inference", ICLR 2022 (arXiv 2111.02080). Construction, bound and numbers are pbjax's own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from experiments._in_context import enumeration, exact, pair, summary
from experiments._in_context.problem import PRICE_KEY, make_mixture, make_model, make_problem, sequence_length
from experiments._in_context.training import (
    BRANCHES,
    Scores,
    branch,
    init_replicas,
    make_chunk,
    make_scores,
    make_training,
)
from pbjax import precision, runs
from pbjax.formal import hmm
from pbjax.runs.mesh import lay_out_replicas, shard_replicas
from pbjax.runs.progress import Progress

NAME = "in_context"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME


class Study:
    """One config's mixtures and networks."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.mixture, self.tiny, self.taught = (
            make_mixture(options) for options in (config.mixture, config.tiny, config.taught)
        )
        self.model = make_model(config)
        self.problem = make_problem(config, self.taught)
        self.training = make_training(config, self.taught, self.model, self.problem, penalised=False)
        self.replicas = lay_out_replicas(len(config.seeds), at_most=config.replicas_at_once)
        self.chunk = make_chunk(config, self.taught, self.model, self.problem, replicas=self.replicas)

    def exact(self) -> dict[str, Any]:
        """Neighbours of the mixture."""
        begin = time.perf_counter()
        found = exact.measure(self.config, self.mixture)
        return {"found": found, "seconds": time.perf_counter() - begin}

    def enumerate(self) -> dict[str, Any]:
        """Sums over all strings."""
        begin = time.perf_counter()
        rows = [
            *enumeration.tiny_rows(self.config, self.tiny), *enumeration.equality_rows(self.config),
            *enumeration.accuracy_rows(self.config, self.tiny),
        ]  # fmt: skip
        return {"rows": rows, "seconds": time.perf_counter() - begin}

    def train(self, phase: runs.Phase, state: Any = None, *, name: str | None = None) -> dict[str, Any]:
        """Maximum likelihood from the start, or a branch of trained states by its name."""
        begin, config = time.perf_counter(), self.config
        replicas = init_replicas(config, self.training) if name is None else branch(config, state, name)
        replicas = shard_replicas(self.replicas.mesh, replicas)
        before = 0 if name is None else config.steps

        def tell(index: int, seen: Any) -> None:
            phase.log(
                step=before + (index + 1) * config.evaluate_every, kl=seen.kl, penalty=seen.penalty,
                accuracy_last=seen.accuracy[:, -1],
            )  # fmt: skip

        steps = config.steps if name is None else config.branch_steps
        replicas, seen = phase.run_chunks(
            self.chunk, replicas, num_chunks=steps // config.evaluate_every, on_chunk=tell
        )
        return {
            "state": replicas, "seen": seen, "timing": None if phase.timing is None else phase.timing._asdict(),
            "seconds": time.perf_counter() - begin,
        }  # fmt: skip

    def score(self, branched: dict[str, Any]) -> dict[str, Any]:
        """Rows of all networks on the common test, one branch after the other."""
        begin = time.perf_counter()
        params = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves), *(branched[name]["state"].params for name in BRANCHES)
        )
        scores: Scores = jax.tree.map(np.asarray, jax.jit(make_scores(self.config, self.model, self.problem))(params))
        seconds = time.perf_counter() - begin
        return {"rows": pair.rows(self.config, self.problem, scores, seconds), "seconds": seconds}

    def price(self) -> dict[str, float]:
        """Exact: what the penalised network would pay if it differed from the mixture by the construction alone."""
        config = self.config
        neighbour = hmm.Neighbour(config.penalty_start, config.eta, config.taught_symbols, config.penalty_law)
        found = hmm.monte_carlo_kl(
            self.taught, jax.random.key(PRICE_KEY), neighbour=neighbour, count=config.draws,
            length=sequence_length(config.taught_examples, config.taught_symbols),
        )  # fmt: skip
        return {"kl": float(found.value), "standard_error": float(found.standard_error)}


def run(config: Any, out: Path) -> None:
    """The whole study in one run directory; parts that an earlier process finished are read, not computed."""
    study = Study(config)  # what cannot be trained is refused before anything is written
    with runs.RunDirectory(out, experiment=NAME, config=config) as directory:
        seeds = len(config.seeds)
        if config.log_level != "quiet":
            print(
                f"{NAME}: {len(config.laws) * len(config.starts)} neighbours; {seeds} networks of {config.steps:,} "
                f"steps, then {len(BRANCHES) * seeds} branches of {config.branch_steps:,}; results in {out}",
                flush=True,
            )
        work = {"pretraining": config.steps, "plain": config.branch_steps, "penalised": 1.3 * config.branch_steps}
        with Progress(NAME, work=work, log_level=config.log_level) as progress:
            phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds, progress=progress)
            found = phases.run("exact", lambda phase: study.exact())
            enumerated = phases.run("enumerated", lambda phase: study.enumerate())
            trained = phases.run("pretraining", study.train)
            branched = {
                name: phases.run(name, lambda phase, name=name: study.train(phase, trained["state"], name=name))
                for name in BRANCHES
            }
            scored = phases.run("scores", lambda phase: study.score(branched))
            price = phases.run("price", lambda phase: study.price())
        seconds = {
            "exact neighbours": found["seconds"], "sums over strings": enumerated["seconds"],
            "maximum likelihood": trained["seconds"],
            **{f"{name} branch": branched[name]["seconds"] for name in BRANCHES}, "scores": scored["seconds"],
        }  # fmt: skip
        summary.write(
            config, directory, study.problem, found["found"], enumerated["rows"], scored["rows"], trained, branched,
            price, seconds,
        )  # fmt: skip


@contextlib.contextmanager
def quick_compile(on: bool) -> Iterator[None]:
    """Tells XLA, which reads its flags when it first compiles, to leave machine code as it comes."""
    before = os.environ.get("XLA_FLAGS")
    if on:
        os.environ["XLA_FLAGS"] = f"{before or ''} --xla_backend_optimization_level=0".strip()
    try:
        yield
    finally:
        if on:
            os.environ.pop("XLA_FLAGS")
            os.environ.update({} if before is None else {"XLA_FLAGS": before})


def compile_and_run(config: Any, out: Path) -> None:
    """`run`, compiled as the config says."""
    with quick_compile(config.quick_compile):
        run(config, out)


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), compile_and_run, argv, default="default")


if __name__ == "__main__":
    main()
