"""The two-dimensional picture: what a factorised Gaussian misses of a curved density that HMC follows."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pbjax import evidence, posteriors, runs
from pbjax.posteriors import Gaussian
from pbjax.runs import figures
from pbjax.runs.results import Field
from pbjax.runs.tables import print_results
from pbjax.sampling import HMCSettings, adapt_chunk, freeze, init_ladder, sample_chunk, summarise

FIELDS = {
    "method": Field("text"), "beta": Field("number"), "empirical_risk": Field("number"), "kl": Field("number"),
    "neg_log_z": Field("number", nullable=True), "gap": Field("number", nullable=True),
    "standard_error": Field("number", nullable=True), "r_hat": Field("number", nullable=True),
    "ess": Field("number", nullable=True), "seed": Field("integer", nullable=True), "seconds": Field("number"),
}  # fmt: skip
ADAPT_MOVES = 400


def risk(config: Any, x: Any, y: Any) -> Any:
    """f / (1 + f) in [0, 1] with f = (1 - x)^2 + curvature (y - x^2)^2."""
    value = (1 - x) ** 2 + config.curvature * (y - x**2) ** 2
    return value / (1 + value)


def exact(config: Any) -> tuple[float, float, float]:
    """-log Z, E[L] and KL(Q_beta || prior) by quadrature on a grid of +-6 prior deviations."""
    grid = np.linspace(-6, 6, 1601)
    x, y = np.meshgrid(grid, grid)
    prior = np.exp(-0.5 * (x**2 + y**2))
    prior /= prior.sum()
    values = risk(config, config.prior_scale * x, config.prior_scale * y)
    weights = prior * np.exp(-config.beta * values)
    neg_log_z = -np.log(weights.sum())
    mean = float((weights * values).sum() / weights.sum())
    return float(neg_log_z), mean, float(neg_log_z) - config.beta * mean


def run(config: Any, out: Path) -> None:
    """HMC and mean-field training at one beta, exact values beside them, and the figure."""
    scale = config.prior_scale

    def energy(z: jax.Array) -> jax.Array:
        w = scale * z.astype(jnp.float64)
        return risk(config, w[0], w[1])

    with runs.RunDirectory(out, experiment="gibbs_gap", config=config) as directory:
        phases = runs.Phases(directory, every_seconds=config.checkpoint_seconds)
        sampled = phases.run("sample", lambda phase: _sample(config, energy))
        trained = phases.run("mean_field", lambda phase: _train(config))
        neg_log_z, mean, kl = exact(config)
        rows = [
            {"method": "quadrature", "beta": config.beta, "empirical_risk": mean, "kl": kl, "neg_log_z": neg_log_z,
             "gap": 0.0, "standard_error": None, "r_hat": None, "ess": None, "seed": None, "seconds": 0.0}
        ]  # fmt: skip
        for index, seed in enumerate(config.seeds):
            own = sampled["draws"][:, index * config.chains : (index + 1) * config.chains]
            statistics, diagnostics = summarise(own[2][None])
            mean_risk, error = (float(np.asarray(x)[0]) for x in (statistics.mean, statistics.standard_error))
            rows.append(
                {"method": "hmc", "beta": config.beta, "empirical_risk": mean_risk,
                 "kl": neg_log_z - config.beta * mean_risk, "neg_log_z": None, "gap": None,
                 "standard_error": error, "r_hat": diagnostics.r_hat[0],
                 "ess": diagnostics.ess[0], "seed": seed, "seconds": sampled["seconds"]}
            )  # fmt: skip
            gap = evidence.gap_identity(
                trained["risk"][index], trained["kl"][index], neg_log_z=neg_log_z, beta=config.beta
            )
            rows.append(
                {"method": "mean_field", "beta": config.beta, "empirical_risk": trained["risk"][index],
                 "kl": trained["kl"][index], "neg_log_z": None, "gap": float(gap),
                 "standard_error": trained["risk_error"][index], "r_hat": None, "ess": None, "seed": seed,
                 "seconds": trained["seconds"]}
            )  # fmt: skip
        directory.write_results(rows, fields=FIELDS)
        figures.rosenbrock(
            lambda x, y: -0.5 * (x**2 + y**2) / scale**2 - config.beta * risk(config, x, y),
            sampled["draws"][:2, : config.chains].reshape(2, -1).T, mean=trained["mean"][0], scale=trained["scale"][0],
            path=directory.figures / "rosenbrock.png", limits=(-2.0, 2.5, -1.5, 4.0),
        )  # fmt: skip
        print_results(
            rows,
            columns=("method", "beta", "empirical_risk", "kl", "gap", "r_hat", "ess", "seed"),
            title="Rosenbrock: the gap is KL(Q || Q_beta) / beta",
        )
        print(f"results and figure in {directory.path}")


def _sample(config: Any, energy: Any) -> dict[str, Any]:
    """x, y and L of every draw, [3, S * C, D]."""
    begin = time.perf_counter()
    key = jax.random.key(config.seeds[0])
    positions = jnp.concatenate(
        [jax.random.normal(jax.random.key(seed), (config.chains, 2), jnp.float32) for seed in config.seeds]
    )
    betas = jnp.array([config.beta])
    state = init_ladder(
        key, positions[None], betas=betas, energy=energy, step_sizes=jnp.array([0.1]), num_functionals=3, lags=8
    )
    settings = HMCSettings(config.num_integration_steps, 0.3, 0.8)
    state, _ = jax.jit(
        partial(adapt_chunk, energy=energy, settings=settings, moves=ADAPT_MOVES, total_moves=ADAPT_MOVES)
    )(state, betas)

    def observe(z: jax.Array) -> jax.Array:
        return jnp.concatenate([config.prior_scale * z.astype(jnp.float64), energy(z)[None]])

    _, (draws, _) = jax.jit(
        partial(sample_chunk, energy=energy, observe=observe, settings=settings, draws=config.draws)
    )(freeze(state, total_moves=ADAPT_MOVES), betas)
    return {"draws": np.asarray(draws.functionals)[:, 0], "seconds": time.perf_counter() - begin}


def _train(config: Any) -> dict[str, Any]:
    """The mean-field Gaussian of every seed: means, deviations, E_Q L, KL."""
    begin = time.perf_counter()
    prior = Gaussian(jnp.zeros(2), jnp.full(2, np.log(config.prior_scale)))

    def loss(w: jax.Array, rows: jax.Array) -> jax.Array:
        return risk(config, w[0], w[1])

    start = Gaussian(jnp.array([0.5, 0.5]), jnp.log(jnp.full(2, 0.3)))

    def one(key: jax.Array) -> tuple[Any, Any, Any, Any]:
        key_train, key_draw = jax.random.split(key)
        trained, _ = posteriors.train(
            key_train, loss, start, prior, jnp.zeros((1, 1)), objective="lambda", n=1, delta=0.05, beta=config.beta,
            learning_rate=0.02, num_steps=config.mean_field_steps, num_samples=32, antithetic=True,
        )  # fmt: skip
        w = posteriors.sample(key_draw, trained, shape=(20_000,))
        values = risk(config, w[:, 0], w[:, 1])
        error = values.std() / np.sqrt(len(values))
        return trained, values.mean(), error, posteriors.kl(trained, prior)

    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds])
    trained, mean, error, divergence = jax.jit(jax.vmap(one))(keys)
    return {
        "mean": np.asarray(trained.mean), "scale": np.exp(np.asarray(trained.log_scale)), "risk": np.asarray(mean),
        "risk_error": np.asarray(error), "kl": np.asarray(divergence), "seconds": time.perf_counter() - begin,
    }  # fmt: skip
