"""How much tightness does a PAC-Bayes certificate lose when its posterior must be a factorised Gaussian?

The best posterior for a PAC-Bayes bound is the Gibbs posterior Q_beta, proportional to prior * exp(-beta L). This
experiment samples it by Hamiltonian Monte Carlo over a ladder of inverse temperatures, integrates KL(Q_beta||prior)
along the ladder, turns both into certificates, and puts them beside those of mean-field variational inference on the
same network, prior, energy and delta.

    python experiments/gibbs_gap.py --config digits
    python experiments/gibbs_gap.py --config mnist14 --data-dir DATA --seeds 0

The question is that of Ujvary et al., "Estimating optimal PAC-Bayes bounds with Hamiltonian Monte Carlo"
(arXiv 2310.20053). The routes from samples to certificates are pbjax's own; docs/certificates.md has their assumptions.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from experiments._gibbs_gap import mean_field, report, rosenbrock
from experiments._gibbs_gap.phases import (
    adapt,
    anneal,
    budget,
    chain_positions,
    keys,
    lay_out,
    make_walk,
    measure_gradient,
    place_ladder,
    sample,
    sample_prior,
)
from experiments._gibbs_gap.problem import make_problem
from pbjax import precision, runs
from pbjax.precision import bind
from pbjax.runs.progress import Progress, format_seconds
from pbjax.sampling import init_anneal

NAME = "gibbs_gap"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME


def run(config: Any, out: Path) -> None:
    """The whole experiment in one run directory; phases that an earlier process finished are read, not computed."""
    if hasattr(config, "curvature"):
        rosenbrock.run(config, out)
        return
    lay_out(config)  # refuses what the devices cannot hold before anything is computed
    problem = make_problem(config)
    data = {problem.dataset.name: problem.dataset.checksum}
    with runs.RunDirectory(out, experiment=NAME, config=config, data=data) as directory:
        work = budget(config)
        seconds = measure_gradient(config, problem)
        if config.log_level != "quiet":
            print(
                f"{NAME}: {problem.dataset.name}, n = {problem.n}, {problem.whitening.dimension} parameters, "
                f"{config.rungs} rungs x {config.chains} chains x {len(config.seeds)} seeds\n"
                f"{NAME}: budget {sum(work.values()):,} gradients at {1e3 * seconds:.2f} ms, about "
                f"{format_seconds(sum(work.values()) * seconds)}, and mean-field training and evaluation; "
                f"results in {out}",
                flush=True,
            )
        betas = np.geomspace(config.beta_min, config.beta_max, config.pilot_rungs)
        with Progress(NAME, work=work, log_level=config.log_level) as progress:
            phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds, progress=progress)
            prior = phases.run("prior", partial(sample_prior, config, problem))

            walk = make_walk(config, problem)

            def start(phase: runs.Phase) -> dict[str, Any]:
                dimension = problem.whitening.dimension
                state = jax.jit(
                    lambda key, z, data: init_anneal(
                        key,
                        z,
                        beta=betas[0],
                        energy=bind(problem.energy, data),
                        step_size=1.5 / dimension**0.25,
                    )
                )(
                    keys(config, "pilot_moves")[0],
                    chain_positions(config, "pilot", dimension=dimension),
                    problem.data,
                )
                return anneal(walk, problem, state, betas, phase, progress)

            up = phases.run("pilot_up", start)
            turned = jax.tree.map(jnp.asarray, up["state"])
            down = phases.run(
                "pilot_down", lambda phase: anneal(walk, problem, turned, betas[::-1].copy(), phase, progress)
            )
            ladder = place_ladder(config, prior, up, down, betas)
            adapted = phases.run("adapt", lambda phase: adapt(config, problem, ladder, phase, progress))
            sampled = phases.run(
                "sample", lambda phase: sample(config, problem, ladder, adapted["state"], phase, progress)
            )
            trained = phases.run(
                "mean_field",
                lambda phase: mean_field.train_and_evaluate(
                    config,
                    problem,
                    np.concatenate([ladder["betas"], config.mean_field_betas]),
                    keys(config, "mean_field"),
                    keys(config, "evaluation"),
                    progress,
                ),
            )
        report.write(config, problem, directory, prior, up, down, ladder, adapted, sampled, trained)


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), run, argv, default="digits")


if __name__ == "__main__":
    main()
