"""The mean-field side: trained on HMC's own energy at every rung's beta, searched over rates and scales, evaluated."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._gibbs_gap.problem import Problem
from pbjax.certificates import mean_field as certify
from pbjax.posteriors import (
    Gaussian,
    fan_in_prior,
    full_covariance,
    local_estimator,
    posterior_risk,
    sample,
    train,
    train_grid,
)
from pbjax.runs.progress import Progress


def _logits(problem: Problem, params: Any, inputs: jax.Array) -> tuple[jax.Array, int]:
    columns = problem.model.columns
    if columns is not None:
        return columns.apply(columns.prepare(params), inputs.T), 0
    return problem.model.apply(params, inputs), -1


def surrogate(problem: Problem) -> Any:
    """The energy on a batch of rows, `(params, (inputs, labels)) -> scalar`."""

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits, axis = _logits(problem, params, batch[0])
        return problem.surrogate(logits, batch[1], axis=axis).mean()

    return loss


def _start(config: Any, problem: Problem, keys: jax.Array) -> Gaussian:
    """Where training starts, for every seed: a random network of scale 1, the prior's scales. Leaves [S, ...]."""
    random = fan_in_prior(problem.prior.mean, scale=1.0, centre=problem.prior.mean)
    means = jax.vmap(lambda key: sample(key, random))(keys)
    return jax.vmap(lambda mean: Gaussian(mean, problem.prior.log_scale))(means)


def _estimator(config: Any, problem: Problem) -> Any:
    """The local reparametrisation trick: the same E_Q L with a fraction of the gradient's variance."""
    return local_estimator(
        lambda logits, labels: problem.surrogate(logits, labels, axis=-1), activation=config.activation,
        num_samples=config.mean_field_samples,
    )  # fmt: skip


def _risks(
    config: Any, problem: Problem, posteriors: Any, keys: jax.Array, *, draws: int, test: bool, family: Any = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean losses and their standard errors for posteriors on a leading axis [G], all in one program."""
    data = problem.dataset
    inputs, labels = (data.test_inputs, data.test_labels) if test else (data.train_inputs, data.train_labels)

    def losses(params: Any, rows: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        logits, axis = _logits(problem, params, rows)
        return {name: loss(logits, labels, axis=axis) for name, loss in problem.losses.items()}

    count = keys.shape[0]
    options = {} if family is None else {"family": family}

    def one(key: jax.Array, posterior: Any, inputs: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        risk = posterior_risk(
            key, posterior, losses, inputs, labels, num_draws=draws, draws_per_chunk=max(1, 16 // count),
            rows_per_chunk=min(config.rows_per_chunk, 1000), **options,
        )  # fmt: skip
        return risk.mean, risk.standard_error

    mean, error = jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))(
        keys, posteriors, jnp.asarray(inputs), jnp.asarray(labels)
    )
    return jax.tree.map(np.asarray, mean), jax.tree.map(np.asarray, error)


def _flat(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def best_rungs(config: Any, problem: Problem, risk: np.ndarray, kl: np.ndarray, *, loss: str) -> int:
    """Rung whose two-stage certificate is least, for one seed: risk and kl [K]. Free: the bound holds for all Q."""
    values = [
        certify(
            r, config.mean_field_rung_draws, k, n=problem.n, delta=config.delta / 2, loss=loss,
            union=len(config.prior_scale_grid),
        ).value
        for r, k in zip(risk, kl, strict=True)
    ]  # fmt: skip
    return int(np.argmin(values))


def train_and_evaluate(
    config: Any, problem: Problem, betas: np.ndarray, keys: jax.Array, evaluation_keys: jax.Array, progress: Progress
) -> dict[str, Any]:
    """Train at all rungs and seeds in one program; evaluate all of them, and the best with the full number of draws.

    Returns:
        betas [K]; kl, objective, learning_rate, initial_scale [S, K]; risk, risk_error, test_risk: name -> [S, K];
        best: per loss the chosen rung [S] and its risk over `mean_field_draws` fresh draws [S]; seconds.
    """
    begin = time.perf_counter()
    progress.phase("mean_field", 3 + config.full_covariance)
    rows = (jnp.asarray(problem.dataset.train_inputs), jnp.asarray(problem.dataset.train_labels))
    loss = surrogate(problem)
    options: dict[str, Any] = {
        "objective": "lambda", "n": problem.n, "delta": config.delta / 2, "learning_rates": config.learning_rates,
        "initial_scales": config.initial_scales, "num_steps": config.mean_field_steps,
        "batch_size": min(config.batch_size or problem.n, problem.n),
        "evaluation_draws": config.mean_field_evaluation_draws,
    }  # fmt: skip
    estimator = _estimator(config, problem)
    trained = jax.jit(
        lambda keys, start, rows: jax.vmap(
            lambda key, q0: train_grid(
                key, loss, q0, problem.prior, rows, beta=jnp.asarray(betas), estimator=estimator, **options
            )
        )(keys, start)
    )(keys, _start(config, problem, keys), rows)
    jax.block_until_ready(trained.kl)
    progress.advance()
    seeds, rungs = trained.kl.shape
    split = jax.vmap(lambda key: jax.random.split(key, rungs + 3))(evaluation_keys)
    flat = _flat(trained.posterior)
    flat_keys = split[:, :rungs].reshape(-1)
    shape = (seeds, rungs)
    mean, error = _risks(config, problem, flat, flat_keys, draws=config.mean_field_rung_draws, test=False)
    test, _ = _risks(config, problem, flat, flat_keys, draws=min(200, config.mean_field_rung_draws), test=True)
    progress.advance()
    result: dict[str, Any] = {
        "betas": np.asarray(betas),
        "kl": np.asarray(trained.kl),
        "objective": np.asarray(trained.objective),
        "learning_rate": np.asarray(trained.learning_rate),
        "initial_scale": np.asarray(trained.initial_scale),
        "risk": {name: x.reshape(shape) for name, x in mean.items()},
        "risk_error": {name: x.reshape(shape) for name, x in error.items()},
        "test_risk": {name: x.reshape(shape) for name, x in test.items()},
        "best": {},
    }
    for place, name in enumerate(problem.losses):
        rung = np.array(
            [best_rungs(config, problem, result["risk"][name][s], result["kl"][s], loss=name) for s in range(seeds)]
        )
        chosen = jax.tree.map(lambda x, rung=rung: x[np.arange(seeds), rung], trained.posterior)
        mean, error = _risks(
            config, problem, chosen, split[:, rungs + place], draws=config.mean_field_draws, test=False
        )
        result["best"][name] = {"rung": rung, "risk": mean[name], "risk_error": error[name]}
    progress.advance()
    if config.full_covariance:
        rung = result["best"][config.surrogate]["rung"]
        result["full_covariance"] = _full(config, problem, betas, trained, rung, rows, keys, split[:, -1])
        progress.advance()
    result["seconds"] = time.perf_counter() - begin
    return result


def _full(
    config: Any,
    problem: Problem,
    betas: np.ndarray,
    trained: Any,
    rung: np.ndarray,
    rows: Any,
    keys: jax.Array,
    evaluation_keys: jax.Array,
) -> dict[str, Any]:
    """A full-covariance Gaussian at each seed's best rung for the surrogate, from its mean-field optimum.

    Its scale matrix wants small, quiet steps: a hundredth of the mean-field rate and mirrored draws.
    """
    family = full_covariance.family(problem.prior.mean)
    best = jax.tree.map(lambda x: x[np.arange(len(rung)), rung], trained.posterior)
    loss = surrogate(problem)

    def one(key: jax.Array, q0: Any, beta: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
        start = full_covariance.from_diagonal(q0)
        posterior, _ = train(
            key,
            loss,
            start,
            problem.prior,
            rows,
            objective="lambda",
            n=problem.n,
            delta=config.delta / 2,
            beta=beta,
            learning_rate=0.01,
            scale_rate=0.03,
            num_steps=config.full_covariance_steps,
            batch_size=min(config.batch_size or problem.n, problem.n),
            num_samples=8,
            antithetic=True,
            family=family,
        )
        return posterior, family.kl(posterior, problem.prior)

    posterior, divergence = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))(keys, best, jnp.asarray(betas[rung]), rows)
    mean, error = _risks(
        config, problem, posterior, evaluation_keys, draws=config.mean_field_draws, test=False, family=family
    )
    return {"rung": rung, "kl": np.asarray(divergence), "risk": mean, "risk_error": error}
