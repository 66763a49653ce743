"""Does the function of a network say how fast it can be fine-tuned? It does not.

Networks learn a^n b^n. Maps that leave their function as it is, on every prompt, make other parameters of them: ReLU
neurons are made larger and read more weakly, channels of attention heads are mixed and unmixed. Then all of them are
fine-tuned to a^n b^n a^n, with the learning rate tuned again for each map or held fixed, and the steps to a target loss
are counted. Permutations are the control that must change nothing.

    python experiments/fine_tuning.py
    python experiments/fine_tuning.py --config full --seeds 0 1 2 3

The study is the third case of Reizinger et al., "Position: Understanding LLMs requires more than statistical
generalization", ICML 2024 (arXiv 2405.01964), of which there is no public experiment; no number here is one of theirs.
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

from experiments._fine_tuning import summary, tuning
from experiments._fine_tuning.measuring import measure
from experiments._fine_tuning.methods import make_method
from experiments._fine_tuning.problem import divergence, make_pretraining, make_problem, transformed
from experiments._fine_tuning.rows import rows
from pbjax import formal, precision, runs
from pbjax.runs.mesh import lay_out_replicas, replicate, shard_replicas
from pbjax.runs.progress import Progress

NAME = "fine_tuning"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME
PRETRAIN_CHUNKS = 10


class Study:
    """One config's networks and methods."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.problem = make_problem(config)
        self.shape = tuning.shape_of(config)

    def pretrain(self, phase: runs.Phase) -> dict[str, Any]:
        """Networks of all seeds on a^n b^n: weights and their KL over training."""
        begin = time.perf_counter()
        training = make_pretraining(self.config, self.problem)
        keys = jax.vmap(jax.random.key)(jnp.asarray(self.config.seeds))
        state = jax.jit(jax.vmap(training.init, in_axes=(0, None)))(keys, formal.regime("maximum_likelihood"))
        steps = self.config.pretrain_steps // PRETRAIN_CHUNKS

        def one(state: formal.TrainingState) -> tuple[formal.TrainingState, jax.Array]:
            state, _ = training.chunk(state, steps)
            return state, divergence(self.problem, state.params, self.problem.before)

        def tell(index: int, seen: Any) -> None:
            phase.log(step=(index + 1) * steps, kl_per_sequence=seen)

        replicas = lay_out_replicas(len(self.config.seeds), at_most=self.config.replicas_at_once)
        state, seen = phase.run_chunks(
            lambda state: replicas.map(one, (state,)), shard_replicas(replicas.mesh, state),
            num_chunks=PRETRAIN_CHUNKS, on_chunk=tell,
        )  # fmt: skip
        return {"params": state.params, "kl": seen, "seconds": time.perf_counter() - begin}

    def measure(self, params: Any) -> dict[str, Any]:
        """Equal functions, sharpness and curvature."""
        begin = time.perf_counter()
        return {"columns": measure(self.config, self.problem, params), "seconds": time.perf_counter() - begin}

    def tune(self, name: str, params: Any, phase: runs.Phase, *, linearised: bool) -> dict[str, Any]:
        """Fine-tuning by a method: steps to the target and curves of all maps, rates and seeds."""
        begin = time.perf_counter()
        method = make_method(self.config, name)
        mesh = tuning.lay_out(self.config)[0].mesh
        params, (start, carry) = replicate(mesh, (params, tuning.init(self.config, method, params)))
        going = [self.shape.size]

        def tell(index: int, seen: Any) -> None:
            now = int(np.isfinite(seen).sum())
            if now != going[0] and now:
                going[0] = now
                phase.log(step=index * self.config.evaluate_every, replicas=now)

        carry, curve = phase.run_chunks(
            tuning.make_chunk(self.config, self.problem, method, linearised=linearised), carry,
            num_chunks=self.config.max_steps // self.config.evaluate_every, arguments=(params, start), on_chunk=tell,
        )  # fmt: skip
        timing = phase.timing
        return {
            "steps": carry.steps, "reached": carry.reached, "failed": carry.failed, "curve": curve,
            "timing": None if timing is None else timing._asdict(),
            "seconds": time.perf_counter() - begin,
        }  # fmt: skip


def run(config: Any, out: Path) -> None:
    """The whole study in one run directory; phases that an earlier process finished are read, not computed."""
    study = Study(config)
    kinds = (False, True) if config.linearised else (False,)
    with runs.RunDirectory(out, experiment=NAME, config=config) as directory:
        chunks = config.max_steps // config.evaluate_every
        work = {"pretrain": PRETRAIN_CHUNKS} | {
            f"{name}{'.linearised' if linearised else ''}": chunks for name in config.methods for linearised in kinds
        }
        if config.log_level != "quiet":
            print(
                f"{NAME}: {study.shape.arms} maps, {study.shape.rates} learning rates and {study.shape.seeds} seeds of "
                f"{len(config.methods)} methods; results in {out}",
                flush=True,
            )
        with Progress(NAME, work=work, log_level=config.log_level) as progress:
            phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds, progress=progress)
            pretrained = phases.run("pretrain", study.pretrain)
            params = transformed(config, jax.tree.map(jnp.asarray, pretrained["params"]))
            measured = phases.run("measured", lambda phase: study.measure(params))
            table: list[dict[str, Any]] = []
            found: dict[str, summary.Tuned] = {}
            for name in config.methods:
                made = {}
                for linearised in kinds:
                    raw = phases.run(
                        f"{name}{'.linearised' if linearised else ''}",
                        lambda phase, name=name, linearised=linearised: study.tune(
                            name, params, phase, linearised=linearised
                        ),
                    )
                    made[linearised] = (tuning.outcome(config, raw), raw)
                seconds = sum(float(raw["seconds"]) for _, raw in made.values())
                linear = made[True][0] if True in made else None
                timings = [raw["timing"] for _, raw in made.values()]
                found[name] = summary.Tuned(made[False][0], linear, seconds, timings)
                table.extend(rows(config, name, made[False][0], linear, measured["columns"], seconds))
        summary.write(config, directory, table, found, pretrained, measured)


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), run, argv, default="default")


if __name__ == "__main__":
    main()
