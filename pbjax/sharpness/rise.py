"""Rise of the loss when the weights are moved: as far up as it goes, or at random."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.sharpness.rows import mean_over_rows, micro_batches

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
    rows_per_chunk: int | None = None,
) -> jax.Array:
    r"""m-sharpness: mean over micro-batches of the greatest rise of the loss within a ball.

    $$\frac{1}{M}\sum_{B}\; \max_{\|T^{-1}\epsilon\|_2 \le \rho} L_B(w + \epsilon) - L_B(w), \qquad
    T = 1 \text{ or } |w| + \eta$$

    The maximum is searched by normalised gradient ascent: every step goes 2.5 radius/steps up the gradient in the
    metric (the radius itself if there is one step, which is SAM's), and back onto the ball if it left it; the best
    point counts. So the value is a lower bound of the sharpness, and never negative. With the adaptive metric and
    eta = 0 it does not change when a ReLU network's layers are rescaled against each other.

    Cost: `steps` gradients and one value of every row.

    Args:
        loss: `loss(params, batch) -> scalar`, the mean over rows.
        params: parameter pytree.
        batch: pytree of arrays with n rows on the leading axis.
        radius: rho >= 0.
        m: rows of a micro-batch, a divisor of n; all rows if left out.
        steps: ascent steps, >= 1.
        metric: "euclidean", or "adaptive" for balls in units of |w| + eta.
        eta: added to |w| in the adaptive metric, >= 0.
        rows_per_chunk: rows evaluated at once, >= 1. Below m it splits every micro-batch; from 2m on, that many whole
            micro-batches are perturbed side by side, which helps where one is too small to fill the device. None
            takes one micro-batch at a time.

    Returns:
        Scalar >= 0, in the unit of the loss; inf if the loss is not finite where the ascent went, NaN if it is not
        finite at w.

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
    check_range("steps", steps, low=1, open_high=True, whole=True)
    centre, unravel, scale, radius = _geometry(params, radius, metric, eta)
    parts = micro_batches(batch, m)
    size = jax.tree.leaves(parts)[0].shape[1]
    length = radius if steps == 1 else 2.5 * radius / steps

    def rise(part: Any) -> jax.Array:
        def value(flat: jax.Array) -> jax.Array:
            return mean_over_rows(lambda rows: loss(unravel(flat), rows), part, rows_per_chunk)

        def value_and_gradient(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
            one = jax.value_and_grad(lambda flat, rows: loss(unravel(flat), rows))
            return mean_over_rows(lambda rows: one(flat, rows), part, rows_per_chunk)

        def ascend(moved: jax.Array, slope: jax.Array) -> jax.Array:
            # In units of the metric, u = epsilon / T, whose gradient is T g.
            moved = moved + length * _unit(scale * slope)
            norm = jnp.linalg.norm(moved)
            return moved * jnp.minimum(1.0, radius / jnp.where(norm > 0, norm, 1.0))

        def better(best: jax.Array, value: jax.Array) -> jax.Array:
            # A loss that is not finite at the perturbed point is as sharp as can be.
            return jnp.maximum(best, jnp.where(jnp.isnan(value), jnp.inf, value))

        def step(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> tuple[Any, None]:
            moved, slope, best = carry
            moved = ascend(moved, slope)
            value, slope = value_and_gradient(centre + scale * moved)
            return (moved, slope, better(best, value)), None

        clean, slope = value_and_gradient(centre)
        start = (jnp.zeros_like(centre), slope, clean)
        (moved, slope, best), _ = jax.lax.scan(step, start, length=steps - 1)
        # Behind the last step nobody asks for a gradient.
        return better(best, value(centre + scale * ascend(moved, slope))) - clean

    together = 1 if rows_per_chunk is None else max(1, rows_per_chunk // size)
    return jax.lax.map(rise, parts, batch_size=together if together > 1 else None).mean()


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
    antithetic: bool = True,
    rows_per_chunk: int | None = None,
) -> Estimate:
    r"""Mean rise of the loss under Gaussian noise, drawn in mirrored pairs.

    $$E_z\, L(w + \sigma T z) - L(w), \qquad \sigma = \rho/\sqrt{P}, \quad E\|\sigma z\|^2 = \rho^2$$

    To second order it is $\rho^2\, tr(T H T)/(2P)$; the pairs (z, -z) cancel the first order exactly. A rise far below
    the loss is a difference of near numbers: float32 keeps about 1e-7 of the loss.

    Cost: 2 samples + 1 values of every row, half of it without the pairs; a value is about a third of a gradient.

    Args:
        key: typed PRNG key.
        loss: `loss(params, batch) -> scalar`.
        params: parameter pytree of P scalars.
        batch: what the loss takes.
        radius: rho >= 0.
        samples: draws of z, >= 2.
        metric: as for `worst_case`.
        eta: as for `worst_case`.
        antithetic: whether every draw is taken with its mirror image.
        rows_per_chunk: rows evaluated at once, >= 1; None takes all.

    Returns:
        `Estimate`, in the unit of the loss; its error is over pairs where there are pairs.

    Raises:
        ValueError: numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> quadratic = lambda w, batch: 0.5 * jnp.sum(w**2)
        >>> made = average_case(jax.random.key(0), quadratic, jnp.ones(50), None, radius=1.0, samples=100)
        >>> bool(abs(made.value - 0.5) < 5 * made.standard_error)
        True
    """
    check_range("samples", samples, low=2, open_high=True, whole=True)
    centre, unravel, scale, radius = _geometry(params, radius, metric, eta)
    sigma = radius / centre.size**0.5

    def value(flat: jax.Array) -> jax.Array:
        return mean_over_rows(lambda rows: loss(unravel(flat), rows), batch, rows_per_chunk)

    clean = value(centre)

    def rise(key: jax.Array) -> jax.Array:
        noise = sigma * scale * jax.random.normal(key, centre.shape, centre.dtype)
        if not antithetic:
            return value(centre + noise) - clean
        return (value(centre + noise) + value(centre - noise)) / 2 - clean

    return mean_of(jax.lax.map(rise, jax.random.split(key, samples)))


def gaussian_scale(
    key: jax.Array,
    loss: Loss,
    params: Any,
    batch: Any,
    *,
    rise: ArrayLike,
    samples: int,
    smallest: float = 1e-5,
    largest: float = 10.0,
    iterations: int = 20,
    rows_per_chunk: int | None = None,
) -> jax.Array:
    r"""Largest scale of Gaussian noise on the weights that raises the loss by a given amount on average.

    $$\sigma: \quad E_z\, L(w + \sigma z) - L(w) = \tau, \qquad z \sim N(0, I)$$

    $1/\sigma^2$ is then the precision of the widest isotropic posterior around the weights that costs $\tau$, on which
    PAC-Bayes measures of flatness rest. Found by bisection of $\ln\sigma$ with the same mirrored draws at every
    step, so that nothing but $\sigma$ changes; where the rise is not monotone, a crossing.

    Cost: iterations x (2 samples + 1) values of every row.

    Args:
        key: typed PRNG key.
        loss: `loss(params, batch) -> scalar`.
        params: parameter pytree.
        batch: what the loss takes.
        rise: tau > 0, in the unit of the loss.
        samples: pairs of draws, >= 2.
        smallest: lower end of the search, > 0; returned where even that costs more.
        largest: upper end, > smallest; returned where even that costs less.
        iterations: halvings, >= 1; 20 leave 1e-5 of the logarithm of the range.
        rows_per_chunk: rows evaluated at once, >= 1; None takes all.

    Returns:
        sigma, scalar, in the unit of the weights.

    Raises:
        ValueError: numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> quadratic = lambda w, batch: 0.5 * jnp.sum(w**2)  # a rise of 50 sigma^2 / 2 on average
        >>> sigma = gaussian_scale(jax.random.key(0), quadratic, jnp.zeros(50), None, rise=0.25, samples=400)
        >>> bool(abs(sigma - 0.1) < 0.003)
        True

    References:
        Jiang et al., "Fantastic generalization measures and where to find them", ICLR 2020 (the sigma of the PAC-Bayes
        measures, there with a tolerance on the error rate).
    """
    check_range("rise", rise, low=0.0, open_low=True, open_high=True)
    check_range("smallest", smallest, low=0.0, open_low=True, open_high=True)
    check_range("largest", largest, low=smallest, open_low=True, open_high=True)
    check_range("iterations", iterations, low=1, open_high=True, whole=True)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        made = average_case(
            key, loss, params, batch, radius=jnp.exp(middle) * size**0.5, samples=samples, rows_per_chunk=rows_per_chunk
        )
        # Written so that a rise that overflowed to NaN counts as too much.
        less = made.value <= rise
        return jnp.where(less, middle, low), jnp.where(less, high, middle)

    low, high = jax.lax.fori_loop(0, iterations, halve, (jnp.log(jnp.float32(smallest)), jnp.log(jnp.float32(largest))))
    return jnp.exp((low + high) / 2)


def mean_of(values: jax.Array) -> Estimate:
    """Mean of independent draws and its standard error."""
    return Estimate(values.mean(), values.std(ddof=1) / values.shape[0] ** 0.5)


def _geometry(
    params: Any, radius: ArrayLike, metric: Metric, eta: ArrayLike
) -> tuple[jax.Array, Callable[[jax.Array], Any], jax.Array, jax.Array]:
    """The weights as a vector, the way back, the diagonal T of the metric, and the radius in their dtype."""
    check_range("radius", radius, low=0.0, open_high=True)
    check_range("eta", eta, low=0.0, open_high=True)
    if metric not in ("euclidean", "adaptive"):
        raise ValueError(f"metric = {metric!r}: choose 'euclidean' or 'adaptive'")
    centre, unravel = ravel_pytree(params)
    scale = jnp.abs(centre) + jnp.asarray(eta, centre.dtype) if metric == "adaptive" else jnp.ones_like(centre)
    return centre, unravel, scale, jnp.asarray(radius, centre.dtype)


def _unit(direction: jax.Array) -> jax.Array:
    """The direction with norm 1, or zero where there is none."""
    largest = jnp.max(jnp.abs(direction))
    # Divided by the largest entry first: squares of tiny gradients would vanish.
    scaled = direction / jnp.where(largest > 0, largest, 1.0)
    norm = jnp.linalg.norm(scaled)
    return scaled / jnp.where(norm > 0, norm, 1.0)
