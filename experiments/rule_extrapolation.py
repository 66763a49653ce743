"""Do language models of equal test loss behave alike on prompts that their language never shows? They need not.

Networks learn a^n b^n (or another formal language, by maximum likelihood alone), or learn it with a completion loss on
prompts of probability zero that teaches them to keep rule 1 there (oracle) or to break it (adversarial); all these
agree with the same law of the data. Loss and rules are followed over training, and networks compared at matched loss.

    python experiments/rule_extrapolation.py --config small
    python experiments/rule_extrapolation.py --config positions --seeds 0 1 2 3

The study is that of Reizinger et al., "Position: Understanding LLMs requires more than statistical generalization",
ICML 2024 (arXiv 2405.01964), and Meszaros et al., "Rule extrapolation in language models", NeurIPS 2024 (arXiv
2409.13728).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from experiments._rule_extrapolation import summary
from experiments._rule_extrapolation.groups import Group, groups
from experiments._rule_extrapolation.measuring import make_measure
from experiments._rule_extrapolation.problem import Problem, make_model, make_problem
from experiments._rule_extrapolation.results import history, rows
from experiments._rule_extrapolation.training import init_replicas, make_chunk, make_training
from pbjax import precision, runs
from pbjax.runs.mesh import lay_out_replicas, shard_replicas
from pbjax.runs.progress import Progress

NAME = "rule_extrapolation"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME


class Study:
    """One config's languages and networks."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.problems: dict[str, Problem] = {name: make_problem(config, name) for name in config.languages}

    def model(self, group: Group) -> Any:
        """The network of a group."""
        arm = group.arms[0]
        return make_model(self.config, arm.model, arm.position, self.problems[arm.language].language.vocabulary.size)

    def train(self, group: Group, phase: runs.Phase) -> dict[str, Any]:
        """Train a group: the weights at matched loss and what was seen on the way."""
        begin = time.perf_counter()
        problem, model = self.problems[group.arms[0].language], self.model(group)
        training = make_training(self.config, problem, model, group)
        replicas = lay_out_replicas(group.size, at_most=self.config.replicas_at_once)
        carry = shard_replicas(replicas.mesh, init_replicas(self.config, training, group))

        def tell(index: int, seen: Any) -> None:
            phase.log(
                step=(index + 1) * self.config.evaluate_every, kl_per_sequence=seen.kl, loss=seen.loss,
                ood_r1=seen.outside.r1, ood_r1_unconditional=seen.outside.r1_unconditional,
                finished=seen.outside.finished,
            )  # fmt: skip

        (_, snapshot), seen = phase.run_chunks(
            make_chunk(self.config, problem, model, training, replicas=replicas), carry,
            num_chunks=self.config.steps // self.config.evaluate_every, on_chunk=tell,
        )  # fmt: skip
        timing = phase.timing
        return {
            "snapshot": {"params": snapshot.params, "reached": snapshot.reached},
            "seen": seen,
            "timing": None if timing is None else timing._asdict(),
            "seconds": time.perf_counter() - begin,
        }

    def measure(self, group: Group, trained: dict[str, Any]) -> dict[str, Any]:
        """Columns [R] of the networks at matched loss, NaN for those that never came so near, and `seconds`."""
        begin = time.perf_counter()
        problem = self.problems[group.arms[0].language]
        replicas = lay_out_replicas(
            group.size, at_most=self.config.replicas_at_once, devices=jax.local_devices()[:1]
        )  # fmt: skip
        measure = jax.jit(make_measure(self.config, problem, self.model(group), replicas=replicas))
        keys = jax.vmap(jax.random.key)(jnp.asarray(np.tile(group.seeds, len(group.arms))))
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 1)
        params = jax.tree.map(jnp.asarray, trained["snapshot"]["params"])
        reached = np.asarray(trained["snapshot"]["reached"])
        made = measure(params, keys)
        columns = {name: np.where(reached, np.asarray(value, np.float64), np.nan) for name, value in made.items()}
        return {"columns": columns, "seconds": time.perf_counter() - begin}


def run(config: Any, out: Path) -> None:
    """The whole study in one run directory; groups that an earlier process finished are read, not computed."""
    study = Study(config)
    planned = list(groups(config))
    for group in planned:  # what cannot be trained is refused before anything is written
        make_training(config, study.problems[group.arms[0].language], study.model(group), group)
    with runs.RunDirectory(out, experiment=NAME, config=config) as directory:
        work = {group.name: config.steps // config.evaluate_every * group.size for group in planned}
        if config.log_level != "quiet":
            print(
                f"{NAME}: {len(planned)} groups, {sum(group.size for group in planned)} networks, {config.steps:,} "
                f"steps each; results in {out}",
                flush=True,
            )
        table: list[dict[str, Any]] = []
        finished: list[summary.Finished] = []
        with Progress(NAME, work=work, log_level=config.log_level) as progress:
            phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds, progress=progress)
            for group in planned:
                trained = phases.run(group.name, lambda phase, group=group: study.train(group, phase))
                measured = phases.run(
                    f"{group.name}.measured",
                    lambda phase, group=group, trained=trained: study.measure(group, trained),
                )
                problem = study.problems[group.arms[0].language]
                table.extend(rows(config, problem, group, trained, measured["columns"]))
                paths = history(config, problem, group, trained)
                finished.append(summary.Finished(group, trained, float(measured["seconds"]), paths))
        summary.write(config, directory, table, finished, study.problems)


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), run, argv, default="small")


if __name__ == "__main__":
    main()
