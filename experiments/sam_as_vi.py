"""Can SAM-like updates stand in for the reparametrisation trick, and do flat minima certify, calibrate and generalise?

Sharpness-aware and variational optimisers train the same network on the same batches from the same start, under equal
budgets of gradients and of epochs; every trained network is scored (accuracy, likelihood, calibration, detection of
strange inputs, at the mean and averaged over its own Gaussian), its sharpness measured in five ways, and certified.

    python experiments/sam_as_vi.py --config mnist_mlp
    python experiments/sam_as_vi.py --config fashion_cnn --data-dir DATA --seeds 0 1 2

The comparison is that of Ujvary et al., "Rethinking sharpness-aware minimization as variational inference", OPT 2022
(arXiv 2210.10452); its tables are not at hand, and no number here is one of theirs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from experiments._sam_as_vi import summary
from experiments._sam_as_vi.evaluation import Measured, Trained, certificate, make_evaluate
from experiments._sam_as_vi.groups import Group, study_groups, tuning_groups
from experiments._sam_as_vi.methods import METHODS, Hyper, Setting, gradients_per_step
from experiments._sam_as_vi.problem import data_options, make_problem, model_options
from experiments._sam_as_vi.training import ARRAYS, Plan, Problem, init_replicas, make_chunk, plan
from pbjax import optim, precision, runs
from pbjax.replicas import Replicas
from pbjax.runs.mesh import lay_out_replicas, replicate, shard_replicas
from pbjax.runs.progress import Progress

NAME = "sam_as_vi"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME


class Study:
    """One config's problem, with the compiled programs that its groups share."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.problem: Problem = make_problem(config)
        shapes = jax.eval_shape(self.problem.model.init, jax.random.key(0), self.problem.inputs[:1])
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        self._chunks: dict[Any, Any] = {}
        self._evaluations: dict[Measured, Any] = {}

    def setting(self, group: Group) -> Setting:
        """What a group's replicas share."""
        c = self.config
        decay = c.weight_decays.get(group.method, c.weight_decay)
        return Setting(
            self.problem.n, self.parameters, c.momentum, decay, c.decoupled_weight_decay, group.samples, c.scale_rate
        )

    def plan(self, group: Group) -> Plan:
        """Steps and chunks of a group; a search sees the prior's rows only."""
        cost = gradients_per_step(group.method, group.samples)
        made = plan(
            self.problem, epochs=self.config.epochs, prior_share=self.config.prior_share,
            per_step=cost if group.budget == "gradients" else 1, chunks_per_pass=self.config.chunks_per_pass,
        )  # fmt: skip
        return made._replace(prior_chunks=made.chunks) if group.stage == "tune" else made

    def layout(self, count: int, devices: Any = None) -> Replicas:
        """Of `count` networks."""
        return lay_out_replicas(count, at_most=self.config.replicas_at_once, devices=devices)

    def chunk(self, group: Group) -> Any:
        """The jitted chunk, one for all groups of a method, number of draws and number of replicas."""
        shape = self.plan(group)._replace(prior_chunks=0, chunks=0)
        place = (group.method, group.samples, group.size, shape)
        if place not in self._chunks:
            made = make_chunk(
                group.method, self.setting(group), self.problem, shape, replicas=self.layout(group.size),
                watch_rows=min(self.config.sharpness_rows, len(self.problem.validation[1])),
            )  # fmt: skip
            self._chunks[place] = jax.jit(made, donate_argnums=0)
        return self._chunks[place]

    def train(self, group: Group, phase: runs.Phase) -> dict[str, Any]:
        """Train a group; see `Trained` for what is kept."""
        begin = time.perf_counter()
        shape = self.plan(group)
        hyper = Hyper(*(jnp.asarray(x) for x in (group.learning_rate, group.radius, group.kappa)))
        replicas = init_replicas(group.method, hyper, group.seed, self.setting(group), self.problem)
        data = (self.problem.inputs, self.problem.labels, self.problem.validation)
        layout = self.layout(group.size)
        replicas, hyper = shard_replicas(layout.mesh, replicas), shard_replicas(layout.mesh, hyper)
        data = replicate(layout.mesh, data)

        def tell(index: int, watched: Any) -> None:
            phase.log(
                chunk=index, train_loss=watched.train_loss, validation_loss=watched.validation_loss,
                validation_accuracy=watched.validation_accuracy,
            )  # fmt: skip

        (_, last), watched = phase.run_chunks(
            self.chunk(group), (jnp.zeros((), jnp.int32), replicas), num_chunks=shape.chunks,
            arguments=(hyper, jnp.array([shape.prior_chunks, shape.chunks]), data), on_chunk=tell,
        )  # fmt: skip
        log_scale: Any = ()
        if METHODS[group.method].gaussian:

            def scales(state: Any, params: Any) -> Any:
                return optim.posterior(state, params).log_scale

            log_scale = jax.jit(lambda *given: layout.map(scales, given))(last.opt_state, last.params)
        trained = Trained(last.params, log_scale, last.centre, last.key)
        timing = phase.timing
        return {
            "trained": trained._asdict(),
            "watched": {name: value.T for name, value in watched._asdict().items()},
            "epochs": shape.steps * np.arange(1, shape.chunks + 1) / (self.problem.n // self.problem.batch_size),
            "steps": shape.steps * shape.chunks,
            "timing": None if timing is None else timing._asdict(),
            "seconds": time.perf_counter() - begin,
        }

    def evaluate(self, group: Group, trained: dict[str, Any]) -> dict[str, Any]:
        """Measure a group; what for depends on its stage."""
        begin = time.perf_counter()
        tree = jax.tree.map(jnp.asarray, Trained(**trained["trained"]))
        if group.stage == "tune":
            outcome = self._measure("validation", tree)
        else:
            outcome = self._measure("predictions", tree)
            if group.stage == "final" and self.config.measures:
                outcome |= self._measure("flatness", tree._replace(log_scale=()))
        outcome["seconds"] = time.perf_counter() - begin
        return outcome

    def _measure(self, measured: Measured, tree: Trained) -> dict[str, Any]:
        """One of the three programs, jitted once; jit itself tells trees with a Gaussian from those without."""
        rows = {name: getattr(self.problem, name) for name in ARRAYS}
        if measured not in self._evaluations:

            def evaluate(trained: Trained, rows: dict[str, Any]) -> dict[str, Any]:
                # Images are arguments: as constants they would be compiled in, a copy for each program.
                problem, layout = self.problem._replace(**rows), self.layout(len(trained.key), jax.local_devices()[:1])
                return make_evaluate(self.config, problem, measured=measured, replicas=layout)(trained)

            self._evaluations[measured] = jax.jit(evaluate)
        return jax.tree.map(np.asarray, self._evaluations[measured](tree, rows))


def choose(study: Study, group: Group, outcome: dict[str, Any]) -> tuple[float, float]:
    """Rate and radius of the cell whose validation NLL is least on average over the search's seeds."""
    loss = outcome["validation_nll"].reshape(-1, len(study.config.tune_seeds)).mean(axis=1)
    best = int(np.argmin(np.where(np.isfinite(loss), loss, np.inf))) * len(study.config.tune_seeds)
    return float(group.learning_rate[best]), float(group.radius[best])


def rows(study: Study, group: Group, trained: dict[str, Any], outcome: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a network."""
    spec, problem, config = METHODS[group.method], study.problem, study.config
    batch_passes = trained["steps"] * gradients_per_step(group.method, group.samples)
    per_epoch = problem.n // problem.batch_size
    watched = trained["watched"]
    for r in range(group.size):
        at = lambda tree, r=r: jax.tree.map(lambda leaf: leaf[r], tree)  # noqa: E731
        mean, validation = at(outcome.get("mean", {})), float(outcome["validation_accuracy"][r])
        loss = float(outcome["train_loss"][r])
        near_chance = "near chance" if validation < 1.5 / problem.num_classes else None
        row = {
            "stage": group.stage, "method": group.method, "dataset": problem.name, "model": config.model,
            "budget": group.budget, "seed": int(group.seed[r]), "learning_rate": float(group.learning_rate[r]),
            "radius": float(group.radius[r]) if spec.has_radius else None,
            "effective_radius": float(watched["radius"][r, -1]),
            "kappa": float(group.kappa[r]) if group.method == "mix_sam" else None, "samples": group.samples,
            "mean_scale": float(watched["mean_scale"][r, -1]) if spec.gaussian else None,
            "test_accuracy": mean.get("accuracy"), "test_nll": mean.get("nll"), "ece": mean.get("ece"),
            "brier": mean.get("brier"), "ood_auroc": mean.get("ood_auroc"), "validation_accuracy": validation,
            "validation_nll": float(outcome["validation_nll"][r]), "train_loss": loss,
            "gradients": int(batch_passes), "epochs": trained["steps"] / per_epoch,
            "seconds": trained["seconds"] / group.size, "evaluation_seconds": outcome["seconds"] / group.size,
            "flag": near_chance if np.isfinite(loss) else "diverged",
        }  # fmt: skip
        averaged = at(outcome["averaged"]) if "averaged" in outcome else {}
        for name in ("accuracy", "nll", "ece", "brier", "ood_auroc"):
            row[f"averaged_{name}"] = averaged.get(name)
        sharp = at(outcome["sharpness"]) if "sharpness" in outcome else {}
        for name in ("worst", "adaptive", "average", "trace", "top_eigenvalue"):
            row[f"sharpness_{name}"] = sharp.get(name)
        numbers = at(outcome["certificate"]) if "certificate" in outcome else None
        made = None if numbers is None else certificate(config, problem, numbers)
        row |= {
            "certificate": None if made is None else made.value,
            "certificate_risk": None if made is None else made.empirical_risk,
            "certificate_kl": None if made is None else made.kl, "certificate_n": None if made is None else made.n,
            "certificate_prior_scale": None if numbers is None else float(numbers["prior_scale"]),
            "certificate_scale": None if numbers is None else float(numbers["posterior_scale"]),
            "delta": None if made is None else made.delta,
            "assumption": None if made is None else made.assumption,
            "delta_ledger": None if made is None else made.delta_ledger,
            "record": None if made is None else made.record(),
        }  # fmt: skip
        row = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        yield row
        if group.stage == "final" and gradients_per_step(group.method, group.samples) == 1:
            yield from (row | {"budget": budget} for budget in config.budgets if budget != group.budget)


def keep_networks(
    study: Study, directory: runs.RunDirectory, table: list[dict[str, Any]], finished: list[summary.Finished]
) -> None:
    """The weights of the final stage by method and budget; certificates are of Gaussians around them."""
    config, final = study.config, [made for made in finished if made.group.stage == "final"]
    names = {f"{made.group.method}, {made.group.budget}": made for made in final}

    def about(row: Mapping[str, Any], name: str) -> bool:
        group = names[name].group
        both = gradients_per_step(group.method, group.samples) == 1  # its row stands under every budget
        return (row["stage"], row["method"]) == ("final", group.method) and (both or row["budget"] == group.budget)

    if names:
        runs.keep_networks(
            directory, {name: made.trained["trained"]["params"] for name, made in names.items()},
            model=model_options(config, study.problem.num_classes), seeds=config.seeds, rows=table, about=about,
            inputs={
                "shape": study.problem.inputs.shape[1:],
                "data": {"name": config.dataset, "limit": config.limit, **data_options(config)},
            },
        )  # fmt: skip


def run(config: Any, out: Path) -> None:
    """The whole study in one run directory; groups that an earlier process finished are read, not computed."""
    begin = time.perf_counter()
    study = Study(config)
    data = dict(study.problem.checksums)
    with runs.RunDirectory(out, experiment=NAME, config=config, data=data) as directory:
        searches = list(tuning_groups(config))
        planned = list(study_groups(config, {}))
        # Epochs of gradients, all replicas counted.
        work = {
            group.name: study.plan(group).chunks * study.plan(group).steps * group.size
            * gradients_per_step(group.method, group.samples)
            for group in (*searches, *planned)
        }  # fmt: skip
        if config.log_level != "quiet":
            print(
                f"{NAME}: {study.problem.name}, n = {study.problem.n}, {config.model} with {study.parameters} weights, "
                f"{sum(group.size for group in (*searches, *planned))} networks, {sum(work.values()):,} batch "
                f"gradients of {config.batch_size} rows; results in {out}",
                flush=True,
            )
        table: list[dict[str, Any]] = []
        finished: list[summary.Finished] = []
        with Progress(NAME, work=work, log_level=config.log_level) as progress:
            phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds, progress=progress)

            def complete(group: Group) -> dict[str, Any]:
                trained = phases.run(group.name, lambda phase: study.train(group, phase))
                outcome = phases.run(f"{group.name}.measured", lambda phase: study.evaluate(group, trained))
                table.extend(rows(study, group, trained, outcome))
                finished.append(summary.Finished(group, trained, outcome))
                return outcome

            chosen = {group.method: choose(study, group, complete(group)) for group in searches}
            for group in study_groups(config, chosen):
                complete(group)
        keep_networks(study, directory, table, finished)
        summary.write(
            config, directory, table, finished, parameters=study.parameters, n=study.problem.n,
            seconds=time.perf_counter() - begin,
        )  # fmt: skip


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), run, argv, default="mnist_mlp")


if __name__ == "__main__":
    main()
