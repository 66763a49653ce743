"""What is measured on a trained network: predictions, calibration, sharpness, and a certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._sam_as_vi.training import ROWS, Problem, logits
from pbjax import calibration, certificates, losses, sharpness
from pbjax.posteriors import (
    MEAN_FIELD,
    Gaussian,
    direct_estimator,
    fit_scales,
    fresh_weights_risk,
    local_estimator,
    sample,
)
from pbjax.replicas import Replicas

Measured = Literal["validation", "predictions", "flatness"]


class Trained(NamedTuple):
    """What a trained network leaves behind.

    Attributes:
        params: weights, the mean.
        log_scale: ln sigma of the method's own Gaussian, a tree like the weights, or () where it has none.
        centre: weights at the end of the first stage.
        key: of the seed.
    """

    params: Any
    log_scale: Any
    centre: Any
    key: jax.Array


def predictions(problem: Problem, params: Any) -> dict[str, jax.Array]:
    """Probabilities [rows, k] on the test set and on the other data set."""
    rows = {"test": problem.test[0]} | ({} if problem.other is None else {"other": problem.other})
    return {name: jax.nn.softmax(logits(problem, params, part, rows=ROWS)) for name, part in rows.items()}


def averaged(problem: Problem, key: jax.Array, gaussian: Gaussian, *, samples: int) -> dict[str, jax.Array]:
    """Mean probabilities over draws from a Gaussian around the weights, one draw at a time."""

    def add(total: Any, key: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda t, p: t + p / samples, total, predictions(problem, sample(key, gaussian))), None

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: predictions(problem, gaussian.mean)))
    return jax.lax.scan(add, zeros, jax.random.split(key, samples))[0]


def scores(problem: Problem, probabilities: dict[str, jax.Array], *, bins: int) -> dict[str, Any]:
    """Accuracy, NLL, calibration and out-of-distribution detection of predictions."""
    test, labels = probabilities["test"], problem.test[1]
    result = {
        "accuracy": calibration.accuracy(test, labels),
        "nll": calibration.negative_log_likelihood(test, labels),
        "ece": calibration.expected_calibration_error(test, labels, bins=bins),
        "brier": calibration.brier(test, labels),
        "bins": calibration.reliability(test, labels, bins=bins),
    }
    if "other" in probabilities:
        result["ood_auroc"] = calibration.auroc(
            calibration.max_probability(test), calibration.max_probability(probabilities["other"])
        )
    return result


def sharpnesses(config: Any, problem: Problem, params: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Five measures of the cross-entropy around the weights, on the first training rows."""
    batch = (problem.inputs[: config.sharpness_rows], problem.labels[: config.sharpness_rows])

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return losses.cross_entropy(problem.model.apply(params, batch[0]), batch[1], reduction="mean")

    noise, probes, start = jax.random.split(key, 3)
    options = {"m": config.sharpness_micro_batch, "steps": config.sharpness_ascent_steps}
    average = sharpness.average_case(
        noise, loss, params, batch, radius=config.average_radius, samples=config.sharpness_samples
    )
    return {
        "worst": sharpness.worst_case(loss, params, batch, radius=config.worst_radius, **options),
        "adaptive": sharpness.worst_case(
            loss, params, batch, radius=config.adaptive_radius, metric="adaptive", **options
        ),
        "average": average.value,
        "trace": sharpness.hutchinson_trace(probes, loss, params, batch, probes=config.hutchinson_probes).value,
        "top_eigenvalue": sharpness.top_eigenvalue(
            start, loss, params, batch, iterations=config.lanczos_iterations
        ).value,
    }  # fmt: skip


def prior_scales(config: Any) -> tuple[float, ...]:
    """The declared grid of prior scales, geometric."""
    low, high = config.prior_scale_range
    return tuple(float(s) for s in np.geomspace(low, high, config.prior_scale_count))


def certified(config: Any, problem: Problem, trained: Trained, key: jax.Array) -> dict[str, jax.Array]:
    """The numbers of a certificate: posterior around the weights with trained scales, prior around `centre`."""
    rows = (problem.inputs[problem.prior_rows :], problem.labels[problem.prior_rows :])
    n = problem.n - problem.prior_rows
    activation = config.activation if config.model == "mlp" else None

    def surrogate(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.smooth_bounded_cross_entropy(logits, labels, ceiling=config.ceiling)

    if activation is None:
        estimator = direct_estimator(
            lambda params, batch: surrogate(problem.model.apply(params, batch[0]), batch[1]).mean(), family=MEAN_FIELD
        )
    else:
        estimator = local_estimator(surrogate, activation=activation)
    fit_key, risk_key = jax.random.split(key)
    fit = fit_scales(
        fit_key, trained.params, trained.centre, rows, estimator=estimator, prior_scales=prior_scales(config), n=n,
        delta=config.delta / 2, num_steps=config.certificate_steps, batch_size=min(256, n),
    )  # fmt: skip
    risk = fresh_weights_risk(
        risk_key, fit.posterior, losses.zero_one, *rows, apply=problem.model.apply, activation=activation,
        repeats=config.certificate_repeats, rows_per_chunk=1000 if activation else config.certificate_rows_at_once,
    )  # fmt: skip
    sizes = [scale.size for scale in jax.tree.leaves(fit.posterior.log_scale)]
    total = jnp.stack([jnp.exp(scale).sum() for scale in jax.tree.leaves(fit.posterior.log_scale)]).sum()
    return {
        "risk": risk.mean, "risk_error": risk.standard_error, "kl": fit.kl, "prior_scale": fit.prior_scale,
        "posterior_scale": total / sum(sizes),
    }  # fmt: skip


def _keys(trained: Trained) -> jax.Array:
    """Of the averaged predictions, of sharpness, of the certificate."""
    return jax.random.split(jax.random.fold_in(trained.key, 3), 3)


def make_evaluate(
    config: Any, problem: Problem, *, measured: Measured, replicas: Replicas
) -> Callable[[Trained], dict[str, Any]]:
    """`evaluate(trained [R]) -> nested dict of arrays [R, ...]`.

    Three programs: `validation` for a search, `predictions` adds the test set, and `flatness` is sharpness and the
    certificate, which know nothing of a method's own Gaussian and so serve all methods with one compilation.
    """

    def flatness(trained: Trained) -> dict[str, Any]:
        _, sharp, certify = _keys(trained)
        result = {}
        if "sharpness" in config.measures:
            result["sharpness"] = sharpnesses(config, problem, trained.params, sharp)
        if "certificate" in config.measures:
            result["certificate"] = certified(config, problem, trained, certify)
        return result

    def predicted(trained: Trained) -> dict[str, Any]:
        validated = logits(problem, trained.params, problem.validation[0], rows=ROWS)
        seen = logits(problem, trained.params, problem.inputs[: config.sharpness_rows], rows=ROWS)
        result: dict[str, Any] = {
            "validation_nll": losses.cross_entropy(validated, problem.validation[1], reduction="mean"),
            "validation_accuracy": 1 - losses.zero_one(validated, problem.validation[1], reduction="mean"),
            "train_loss": losses.cross_entropy(seen, problem.labels[: config.sharpness_rows], reduction="mean"),
        }
        if measured == "validation":
            return result
        result["mean"] = scores(problem, predictions(problem, trained.params), bins=config.bins)
        if jax.tree.leaves(trained.log_scale):
            gaussian = Gaussian(trained.params, trained.log_scale)
            drawn = averaged(problem, _keys(trained)[0], gaussian, samples=config.posterior_samples)
            result["averaged"] = scores(problem, drawn, bins=config.bins)
        return result

    one = flatness if measured == "flatness" else predicted
    return lambda trained: replicas.map(one, (trained,))


def certificate(config: Any, problem: Problem, numbers: dict[str, Any]) -> certificates.Certificate:
    """The certificate of one network from its numbers."""
    n = problem.n - problem.prior_rows
    return certificates.mean_field(
        numbers["risk"], n * config.certificate_repeats, numbers["kl"], n=n, delta=config.delta, loss="zero_one",
        union=config.prior_scale_count, draw_standard_error=numbers["risk_error"],
        prior_data=f"the other {problem.prior_rows:,} training rows and the validation rows",
    )  # fmt: skip
