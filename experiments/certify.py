"""A network and a certificate of its risk, with no row held out and no convergence assumed.

Chains start at exact draws from the prior and are annealed to n times the empirical risk. What each gives off on the
way, its heat, takes the place of the KL divergence in a PAC-Bayes bound, for the one network that came out, however
badly the chain mixes (docs/heat.md).

    python experiments/certify.py
    python experiments/certify.py --config mnist_cnn --data-dir DATA --seeds 0 --gradients 3000

It leaves the network (orbax), certificates of every route with their assumptions, the held-out bound for comparison,
and figures of the run. The same functions certify a model of your own: docs/certify.md.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from experiments._certify import report
from experiments._certify.problem import Problem, make_parts, make_problem, train_centre
from experiments._certify.schedule import frozen_schedule, work
from pbjax import precision, runs
from pbjax.certify import Stop, Target, advance, begin, pilot_rows
from pbjax.posteriors.energy import Rows
from pbjax.precision import force_of
from pbjax.replicas import Replicas
from pbjax.runs.mesh import lay_out_replicas, replicate, shard_data, shard_replicas
from pbjax.runs.progress import Progress, format_seconds
from pbjax.sampling import AnnealingSchedule, PathState

NAME = "certify"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME


def chain_keys(config: Any) -> jax.Array:
    """The key of every chain, [S]: a seed's chain depends on nothing but its seed, the config and the schedule."""
    return jnp.stack([jax.random.fold_in(jax.random.key(seed), 0) for seed in config.seeds])


def measure_gradient(config: Any, target: Target, *, at_least: float = 1.0) -> float:
    """Seconds of one gradient of all chains together, by itself: in a loop, like the chains' own."""

    def loop(z: jax.Array, rows: Rows, repeats: jax.Array) -> jax.Array:
        gradient = jax.vmap(jax.grad(force_of(target.on(rows))))
        return jax.lax.fori_loop(0, repeats, lambda _, z: z - 1e-3 * gradient(z), z)

    z = jax.random.normal(jax.random.key(0), (len(config.seeds), target.dimension), jnp.float32)
    compiled = jax.jit(loop)
    jax.block_until_ready(compiled(z, target.rows, jnp.asarray(1)))
    repeats, seconds = 1, 0.0
    while seconds < at_least:
        begun = time.perf_counter()
        jax.block_until_ready(compiled(z, target.rows, jnp.asarray(repeats)))
        seconds, done = time.perf_counter() - begun, repeats
        repeats = min(10 * done, 1 + round(1.2 * at_least * done / max(seconds, 1e-9)))
    return seconds / done


def lay_out(config: Any) -> Replicas:
    """The chains on the devices there are."""
    return lay_out_replicas(len(config.seeds), at_once=config.replicas_at_once, data_shards=config.data_shards)


def place_on_mesh(
    config: Any, state: PathState, data: tuple[Rows, Rows], *, columns: bool
) -> tuple[Replicas, PathState, Any]:
    """Chains over the devices, the data on all of them or its rows over `data_shards`; scalars are common to all."""
    replicas = lay_out(config)
    mesh = replicas.mesh
    assert mesh is not None
    state = jax.tree.map(lambda leaf: shard_replicas(mesh, leaf) if leaf.ndim else replicate(mesh, leaf), state)
    return replicas, state, shard_data(mesh, data, axis=-1 if columns else 1)


def run_chains(
    config: Any, problem: Problem, target: Target, test: Rows, schedule: AnnealingSchedule, phase: runs.Phase,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """All moves of all chains: where each chunk left them, the networks, and where the time went."""
    begun = time.perf_counter()
    moves = -(-schedule.num_moves // config.chunks)

    start = jax.jit(lambda keys, rows: begin(keys, target, rows))(chain_keys(config), target.rows)
    replicas, start, data = place_on_mesh(
        config, start, (target.rows, test), columns=problem.model.columns is not None
    )  # fmt: skip

    def chunk(
        state: PathState, schedule: AnnealingSchedule, rows: Rows, test: Rows
    ) -> tuple[PathState, Stop]:  # fmt: skip
        return advance(
            state, schedule, rows, test, target=target, moves=moves, jitter=config.jitter, replicas=replicas
        )  # fmt: skip

    def tell(index: int, stop: Stop) -> None:
        row = {
            "beta": float(stop.beta), "heat_per_row": float(stop.heat.mean()) / target.n,
            "surrogate": float(stop.risks["surrogate"].mean()), "zero_one": float(stop.risks["zero_one"].mean()),
            "test_zero_one": float(stop.held_out["zero_one"].mean()), "acceptance": float(stop.acceptance.mean()),
        }  # fmt: skip
        phase.log(chunk=index, **row)
        progress.table([row], title="where the chains stand, mean over seeds")

    _, stops = phase.run_chunks(
        chunk, start, num_chunks=-(-schedule.num_moves // moves), arguments=(schedule, *data), on_chunk=tell
    )
    timing = phase.timing
    # Of all the places where the chains stood, the end and the best stop of each are worth keeping.
    best = report.best_stops(config, stops._asdict(), n=target.n)
    params = jax.jit(jax.vmap(target.to_params))
    networks = {
        "end": params(jnp.asarray(stops.position[-1])),
        "best": params(jnp.asarray(stops.position[best, np.arange(len(best))])),
    }
    return {
        "stops": {name: value for name, value in stops._asdict().items() if name != "position"},
        "best": best,
        "networks": jax.tree.map(np.asarray, networks),
        "moves_per_chunk": moves,
        "timing": None if timing is None else timing._asdict(),
        "seconds": time.perf_counter() - begun,
    }


def run(config: Any, out: Path) -> None:
    """The whole experiment in one run directory; phases that an earlier process finished are read, not computed."""
    lay_out(config)  # refuses what the devices cannot hold before anything is computed
    problem = make_problem(config)
    data = {problem.dataset.name: problem.dataset.checksum}
    with runs.RunDirectory(out, experiment=NAME, config=config, data=data) as directory:
        count = len(problem.certified)
        share = len(pilot_rows(count, config.pilot_rows)) / count
        shares = {**work(config, share=share), "chains": float(config.gradients * len(config.seeds))}
        with Progress(NAME, work=shares, log_level=config.log_level) as progress:
            phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds, progress=progress)
            centre = None
            if len(problem.prior_rows):
                centre = phases.run("centre", partial(train_centre, config, problem))["centre"]
            target, quick, test = make_parts(config, problem, centre)
            measured = phases.run("gradient", lambda phase: {"seconds": measure_gradient(config, target)})
            if config.log_level != "quiet":
                one = measured["seconds"] / len(config.seeds)
                print(
                    f"{NAME}: {problem.dataset.name}, n = {target.n:,}, {target.dimension:,} parameters, "
                    f"{len(config.seeds)} chains\n"
                    f"{NAME}: {sum(shares.values()):,.0f} gradients, all chains and the pilot together, at "
                    f"{1e3 * one:.1f} ms, about {format_seconds(sum(shares.values()) * one)}; results in {out}",
                    flush=True,
                )
            chosen = frozen_schedule(config, target, quick, phases, progress)
            schedule = chosen["schedule"]
            made = phases.run(
                "chains", lambda phase: run_chains(config, problem, target, test, schedule, phase, progress)
            )  # fmt: skip
        report.write(config, problem, directory, target, chosen, measured["seconds"], made)


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), run, argv, default="digits")


if __name__ == "__main__":
    main()
