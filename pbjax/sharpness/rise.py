"""Rise of the loss when the weights are moved: as far up as it goes, or at random."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range

__all__ = ["Estimate", "average_case", "worst_case"]

Loss = Callable[[Any, Any], jax.Array]
Metric = Literal["euclidean", "adaptive"]


class Estimate(NamedTuple):
    """A Monte-Carlo mean.

    Attributes:
        value: scalar.
        standard_error: scalar, of the value over draws.
    """

    value: jax.Array
    standard_error: jax.Array


def worst_case(
    loss: Loss,
    params: Any,
    batch: Any,
    *,
    radius: ArrayLike,
    m: int | None = None,
    steps: int = 1,
    metric: Metric = "euclidean",
    eta: ArrayLike = 0.01,
) -> jax.Array:
    r"""m-sharpness: mean over micro-batches of the greatest rise of the loss within a ball.

    $$\frac{1}{M}\sum_{B}\; \max_{\|T^{-1}\epsilon\|_2 \le \rho} L_B(w + \epsilon) - L_B(w), \qquad
    T = 1 \text{ or } |w| + \eta$$

    The maximum is searched by normalised gradient ascent: every step goes 2.5 radius/steps up the gradient in the
    metric (the radius itself if there is one step, which is SAM's), and back onto the ball if it left it; the best
    point counts. So the value is a lower bound of the sharpness, and never negative. With the adaptive metric and
    eta = 0 it does not change when a ReLU network's layers are rescaled against each other.

    Cost: 2 steps + 1 passes over the batch for the gradients and values.

    Args:
        loss: `loss(params, batch) -> scalar`, the mean over rows.
        params: parameter pytree.
        batch: pytree of arrays with n rows on the leading axis.
        radius: rho >= 0.
        m: rows of a micro-batch, a divisor of n; all rows if left out.
        steps: ascent steps, >= 1.
        metric: "euclidean", or "adaptive" for balls in units of |w| + eta.
        eta: added to |w| in the adaptive metric, >= 0.

    Returns:
        Scalar >= 0, in the unit of the loss.

    Raises:
        ValueError: numbers out of range, or m that does not divide n.

    Example:
        >>> import jax.numpy as jnp
        >>> quadratic = lambda w, batch: 0.5 * jnp.sum(w**2) * jnp.mean(batch)
        >>> w = jnp.array([3.0, 4.0])
        >>> round(float(worst_case(quadratic, w, jnp.ones(6), radius=1.0, m=2)), 4)  # 36/2 - 25/2
        5.5

    References:
        Foret et al., "Sharpness-aware minimization", ICLR 2021 (m-sharpness); Kwon et al., "ASAM", ICML 2021;
        Andriushchenko et al., "A modern look at the relationship between sharpness and generalization", ICML 2023.
    """
    check_range("radius", radius, low=0.0, open_high=True)
    check_range("eta", eta, low=0.0, open_high=True)
    check_n(steps, name="steps")
    if metric not in ("euclidean", "adaptive"):
        raise ValueError(f"metric = {metric!r}: choose euclidean or adaptive")
    parts = _micro_batches(batch, m)
    centre, unravel = ravel_pytree(params)
    scale = jnp.abs(centre) + jnp.asarray(eta, centre.dtype) if metric == "adaptive" else jnp.ones_like(centre)
    radius = jnp.asarray(radius, centre.dtype)
    length = radius if steps == 1 else 2.5 * radius / steps

    def rise(part: Any) -> jax.Array:
        value_and_gradient = jax.value_and_grad(lambda flat: loss(unravel(flat), part))
        clean, slope = value_and_gradient(centre)

        def ascend(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> tuple[Any, None]:
            # In units of the metric, u = epsilon / T, whose gradient is T g.
            moved, slope, best = carry
            moved = moved + length * _unit(scale * slope)
            norm = jnp.linalg.norm(moved)
            moved = moved * jnp.minimum(1.0, radius / jnp.where(norm > 0, norm, 1.0))
            value, slope = value_and_gradient(centre + scale * moved)
            # A loss that is not finite at the perturbed point is as sharp as can be.
            value = jnp.where(jnp.isnan(value), jnp.inf, value)
            return (moved, slope, jnp.maximum(best, value)), None

        (_, _, best), _ = jax.lax.scan(ascend, (jnp.zeros_like(centre), slope, clean), None, length=steps)
        return best - clean

    return jax.lax.map(rise, parts).mean()


def average_case(
    key: jax.Array,
    loss: Loss,
    params: Any,
    batch: Any,
    *,
    radius: ArrayLike,
    samples: int,
    metric: Metric = "euclidean",
    eta: ArrayLike = 0.01,
) -> Estimate:
    r"""Mean rise of the loss under Gaussian noise, drawn in mirrored pairs.

    $$E_z\, L(w + \sigma T z) - L(w), \qquad \sigma = \rho/\sqrt{P}, \quad E\|\sigma z\|^2 = \rho^2$$

    To second order it is $\rho^2\, tr(T H T)/(2P)$; the pairs (z, -z) cancel the first order exactly.

    Cost: 2 samples + 1 passes over the batch for the values.

    Args:
        key: typed PRNG key.
        loss: `loss(params, batch) -> scalar`.
        params: parameter pytree of P scalars.
        batch: what the loss takes.
        radius: rho >= 0.
        samples: pairs, >= 2.
        metric: as for `worst_case`.
        eta: as for `worst_case`.

    Returns:
        `Estimate`, in the unit of the loss; its error is over pairs.

    Raises:
        ValueError: numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> quadratic = lambda w, batch: 0.5 * jnp.sum(w**2)
        >>> made = average_case(jax.random.key(0), quadratic, jnp.ones(50), None, radius=1.0, samples=100)
        >>> bool(abs(made.value - 0.5) < 5 * made.standard_error)
        True
    """
    check_range("radius", radius, low=0.0, open_high=True)
    check_range("eta", eta, low=0.0, open_high=True)
    check_n(samples, name="samples")
    if samples < 2:
        raise ValueError(f"samples = {samples}: need at least 2 for a standard error")
    if metric not in ("euclidean", "adaptive"):
        raise ValueError(f"metric = {metric!r}: choose euclidean or adaptive")
    centre, unravel = ravel_pytree(params)
    scale = jnp.abs(centre) + jnp.asarray(eta, centre.dtype) if metric == "adaptive" else jnp.ones_like(centre)
    sigma = jnp.asarray(radius, centre.dtype) / centre.size**0.5
    clean = loss(params, batch)

    def rise(key: jax.Array) -> jax.Array:
        noise = sigma * scale * jax.random.normal(key, centre.shape, centre.dtype)
        return (loss(unravel(centre + noise), batch) + loss(unravel(centre - noise), batch)) / 2 - clean

    return mean_of(jax.lax.map(rise, jax.random.split(key, samples)))


def mean_of(values: jax.Array) -> Estimate:
    """Mean of independent draws and its standard error."""
    return Estimate(values.mean(), values.std(ddof=1) / values.shape[0] ** 0.5)


def _unit(direction: jax.Array) -> jax.Array:
    """The direction with norm 1, or zero where there is none."""
    largest = jnp.max(jnp.abs(direction))
    # Divided by the largest entry first: squares of tiny gradients would vanish.
    scaled = direction / jnp.where(largest > 0, largest, 1.0)
    norm = jnp.linalg.norm(scaled)
    return scaled / jnp.where(norm > 0, norm, 1.0)


def _micro_batches(batch: Any, m: int | None) -> Any:
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(rows) != 1:
        raise ValueError(f"the arrays of the batch have {sorted(rows)} rows: give all the same number")
    (n,) = rows
    size = n if m is None else m
    check_n(size, name="m")
    if n % size:
        raise ValueError(f"m = {m} does not divide the {n} rows of the batch: choose a divisor or leave rows out")
    return jax.tree.map(lambda leaf: leaf.reshape(n // size, size, *leaf.shape[1:]), batch)
