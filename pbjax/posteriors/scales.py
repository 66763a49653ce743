"""A posterior around weights that are given: its scales, and the scale of the prior, trained on the bound."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pbjax._checks import check_delta, check_n
from pbjax.posteriors.estimators import Estimator
from pbjax.posteriors.gaussian import Gaussian, check_positive, check_same_structure, init, kl
from pbjax.posteriors.objectives import make_objective
from pbjax.posteriors.training import cosine

__all__ = ["ScaleFit", "fit_scales"]


class ScaleFit(NamedTuple):
    """A posterior with trained scales, and the prior that goes with it.

    Attributes:
        posterior: N(mean, sigma^2), sigma for every weight of its own.
        prior: N(centre, prior_scale^2 I).
        prior_scale: scalar, a member of the declared grid.
        kl: KL(posterior||prior) in nats.
        objective: array ``[num_records]``, the objective on minibatches, averaged over equal blocks of steps.
    """

    posterior: Gaussian
    prior: Gaussian
    prior_scale: jax.Array
    kl: jax.Array
    objective: jax.Array


def fit_scales(
    key: jax.Array,
    mean: Any,
    centre: Any,
    data: Any,
    *,
    estimator: Estimator,
    prior_scales: Sequence[float],
    n: int,
    delta: float,
    num_steps: int,
    batch_size: int,
    learning_rate: float = 0.03,
    num_records: int = 10,
) -> ScaleFit:
    r"""Scales that make the certificate of weights where they stand as small as it gets.

    $$\min_{\sigma, \sigma_p}\; kl^{-1}\Big(E_{N(m, \sigma^2)} L,\;
    \frac{KL(N(m, \sigma^2)\|N(c, \sigma_p^2 I)) + \ln(2\sqrt{n}/\delta)}{n}\Big)$$

    The mean m does not move. sigma_p is trained along with sigma and then set to the nearest member of a grid that was
    declared beforehand, which a certificate pays for with a union over its size; sigma is not trained again after that.
    The objective is `make_objective("pac_bayes_kl")`, which has a slope where the bound is vacuous; both scales start
    at the root mean square of m - c, or the end of the grid next to it.

    Args:
        key: a random key.
        mean: parameter pytree m, the weights to certify.
        centre: pytree c of the same structure, independent of the certified rows.
        data: pytree of the certified rows, leading axis n.
        estimator: ``(key, gaussian, batch) -> scalar`` in [0, 1], as from ``local_estimator``.
        prior_scales: the declared grid, positive, increasing.
        n: number of certified rows.
        delta: share of the bound itself, in (0, 1).
        num_steps: steps of Adam, cosine to zero.
        batch_size: rows a step, drawn with replacement.
        learning_rate: peak rate on the logarithms of the scales.
        num_records: entries of ``objective``; divides num_steps.

    Returns:
        ``ScaleFit``. All of it is traced, so a ``vmap`` over replicas is one program.

    Raises:
        ValueError: for a grid that is not positive and increasing, counts below 1, or trees that differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> data = jnp.zeros((100,))
        >>> sharp = lambda key, q, batch: jnp.clip(jnp.sum(jnp.exp(2 * q.log_scale)), 0.0, 1.0)
        >>> fit = fit_scales(
        ...     jax.random.key(0), jnp.ones(4), jnp.zeros(4), data, estimator=sharp, prior_scales=(0.1, 0.3, 1.0, 3.0),
        ...     n=100, delta=0.05, num_steps=200, batch_size=10,
        ... )
        >>> fit.posterior.mean.tolist(), float(fit.prior_scale) in (0.1, 0.3, 1.0, 3.0)
        ([1.0, 1.0, 1.0, 1.0], True)

    References:
        Dziugaite and Roy, "Computing nonvacuous generalization bounds", UAI 2017, for scales trained on a bound and
        the grid of prior scales; Dziugaite et al., "On the role of data in PAC-Bayes bounds", AISTATS 2021, for the
        centre.
    """
    check_n(n)
    check_delta(delta)
    for name, count in {"num_steps": num_steps, "batch_size": batch_size, "num_records": num_records}.items():
        check_n(count, name=name)
    if num_steps % num_records:
        raise ValueError(f"num_records = {num_records} must divide num_steps = {num_steps}")
    check_positive("prior_scales", jnp.asarray(prior_scales))
    if list(prior_scales) != sorted(set(prior_scales)):
        raise ValueError(f"prior_scales = {tuple(prior_scales)}: must increase")
    check_same_structure("centre", centre, mean)
    grid = jnp.log(jnp.asarray(prior_scales, jnp.float32))
    moved = [jnp.square(m - c).sum() for m, c in zip(jax.tree.leaves(mean), jax.tree.leaves(centre), strict=True)]
    size = sum(leaf.size for leaf in jax.tree.leaves(mean))
    start = jnp.clip(0.5 * jnp.log(sum(moved) / size).astype(jnp.float32), grid[0], grid[-1])
    # A scale of its own for every weight, and one number for the prior.
    trained = (jax.tree.map(lambda leaf: jnp.full(jnp.shape(leaf), start, jnp.float32), mean), start)
    optimiser = optax.adam(lambda count: learning_rate * cosine(jnp.asarray(count, jnp.float32) / num_steps))
    objective = make_objective("pac_bayes_kl", n=n, delta=delta)
    rows = jax.tree.leaves(data)[0].shape[0]

    def prior(log_scale: jax.Array) -> Gaussian:
        return init(centre, scale=jnp.exp(log_scale))

    def bound(trained: Any, key: jax.Array, batch: Any) -> jax.Array:
        posterior = Gaussian(mean, trained[0])
        risk = jnp.clip(estimator(key, posterior, batch), 0.0, 1.0)
        return objective(risk, kl(posterior, prior(trained[1])))

    def step(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        trained, state = carry
        rows_key, draw_key = jax.random.split(jax.random.fold_in(key, number))
        chosen = jax.random.randint(rows_key, (batch_size,), 0, rows)
        value, slope = jax.value_and_grad(bound)(trained, draw_key, jax.tree.map(lambda leaf: leaf[chosen], data))
        updates, state = optimiser.update(slope, state)
        stepped: Any = optax.apply_updates(trained, updates)
        # Beyond the grid there is nothing to round to.
        return ((stepped[0], jnp.clip(stepped[1], grid[0], grid[-1])), state), value

    (trained, _), values = jax.lax.scan(step, (trained, optimiser.init(trained)), jnp.arange(num_steps))
    chosen = grid[jnp.argmin(jnp.abs(grid - trained[1]))]
    posterior, final = Gaussian(mean, trained[0]), prior(chosen)
    scale = jnp.asarray(prior_scales)[jnp.argmin(jnp.abs(grid - trained[1]))]
    return ScaleFit(posterior, final, scale, kl(posterior, final), values.reshape(num_records, -1).mean(axis=1))
