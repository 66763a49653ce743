r"""Four surfaces over $(\theta_0, \theta_1)$: a loss, and what three notions of flatness make of it.

The loss mixes the fits of two Gaussians: with $E_i = \mathrm{KL}(N(\theta_0, \theta_1^2) \| N(m_i, s_i^2)) + 1/2$,

    L = -ln( a_1 exp(-E_1/b_1^2) + a_2 exp(-E_2/b_2^2) ),

    E_i = ((theta_0 - m_i)^2 + theta_1^2) / (2 s_i^2) + ln s_i - ln|theta_1|.

It has a sharp basin with its least value, a flat one, and a saddle between them; at theta_1 = 0 it is infinite.

A surface is a function of two scalars, so that `on_grid` works out once a row what depends on theta_0 alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Surface = Callable[[jax.Array, jax.Array], jax.Array]

# (m, s, a, b) of the two parts.
PARTS = ((20.0, 30.0, 0.7, 1.8), (-20.0, 10.0, 0.3, 1.2))
WINDOW = ((-30.0, 40.0), (0.0, 45.0))
REACH = 9.0  # standard deviations of noise that the quadrature covers
ANGLES = 128  # directions tried on a circle before the best is refined
REFINEMENTS = 8
ROWS_PER_CHUNK = 8  # 8 rows of 400 points with 128 directions are 3 MB an array


def loss(theta_0: jax.Array, theta_1: jax.Array) -> jax.Array:
    """Panel A, L at a point: scalars in, scalar out; infinite at theta_1 = 0."""
    square = jnp.square(theta_1)
    log_width = 0.5 * jnp.log(square)
    terms = [
        jnp.log(a) - ((jnp.square(theta_0 - m) + square) / (2 * s**2) + jnp.log(s) - log_width) / b**2
        for m, s, a, b in PARTS
    ]
    return -jnp.logaddexp(*terms)


def mean_field(radius: float, *, nodes: int = 400) -> Surface:
    r"""Panel B, $E\, L(\theta + \sigma z)$ with $\sigma = \rho/\sqrt{2}$ and z standard normal, by quadrature.

    The integral runs over the place and not over the noise, so that the nodes are the same for every theta: L is taken
    once at nodes x nodes places, and the surface is $k_0(\theta_0)^T L\, k_1(\theta_1)$ with Gaussian weights k. L is
    even in theta_1, which folds that axis to t > 0, and Gauss-Legendre nodes in $v = \sqrt{t/T}$ crowd where L has its
    logarithmic singularity.

    Args:
        radius: rho > 0, so that the mean square of the noise is rho^2.
        nodes: on either axis.

    Returns:
        The surface, for points in the window.
    """
    sigma = radius / np.sqrt(2.0)
    places = np.linspace(WINDOW[0][0] - REACH * sigma, WINDOW[0][1] + REACH * sigma, nodes)
    place_weight = places[1] - places[0]
    roots, weights = np.polynomial.legendre.leggauss(nodes)
    end, v = WINDOW[1][1] + REACH * sigma, 0.5 * (roots + 1)
    widths, width_weights = end * v**2, end * v * weights
    values = jax.vmap(jax.vmap(loss, (None, 0)), (0, None))(jnp.asarray(places), jnp.asarray(widths))

    def density(x: jax.Array) -> jax.Array:
        return jnp.exp(-0.5 * jnp.square(x / sigma)) / (sigma * np.sqrt(2 * np.pi))

    def surface(theta_0: jax.Array, theta_1: jax.Array) -> jax.Array:
        along_0 = place_weight * density(places - theta_0)
        along_1 = width_weights * (density(widths - theta_1) + density(widths + theta_1))
        return (along_0 @ values) @ along_1

    return surface


def largest_on_circle(surface: Surface, radius: float) -> Surface:
    """The largest value on the circle about a point; `smallest_on_circle` is its counterpart.

    The best of 128 directions is refined by Newton steps in the angle, kept between its two neighbours.
    """
    angles = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)

    def extreme(theta_0: jax.Array, theta_1: jax.Array) -> jax.Array:
        def at(angle: ArrayLike) -> jax.Array:
            return surface(theta_0 + radius * jnp.cos(angle), theta_1 + radius * jnp.sin(angle))

        coarse = jax.vmap(at)(jnp.asarray(angles))
        start = jnp.asarray(angles)[jnp.argmax(coarse)]

        def refine(_: int, angle: jax.Array) -> jax.Array:
            slope, bend = jax.grad(at)(angle), jax.grad(jax.grad(at))(angle)
            return jnp.clip(angle - slope / jnp.minimum(bend, -1e-12), start - angles[1], start + angles[1])

        return jnp.maximum(jnp.max(coarse), at(jax.lax.fori_loop(0, REFINEMENTS, refine, start)))

    return extreme


def smallest_on_circle(surface: Surface, radius: float) -> Surface:
    """The smallest value on the circle about a point."""
    extreme = largest_on_circle(lambda theta_0, theta_1: -surface(theta_0, theta_1), radius)
    return lambda theta_0, theta_1: -extreme(theta_0, theta_1)


def exact_sam(radius: float) -> Surface:
    """Panel C, the largest L on the disc of radius rho; infinite where the disc reaches theta_1 = 0.

    L has two minima and a saddle and no maximum in the window, so the largest value lies on the edge of the disc.
    """
    edge = largest_on_circle(loss, radius)

    def surface(theta_0: jax.Array, theta_1: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(theta_1) <= radius, jnp.inf, edge(theta_0, theta_1))

    return surface


def one_step_sam(radius: float) -> Surface:
    r"""Panel D, $L(\theta + \rho\, \nabla L/\|\nabla L\|)$.

    At a critical point of L the direction is undefined, and nearby it turns through all directions: the surface jumps
    there, and its infimum nearby is `smallest_on_circle(loss, radius)` at the critical point itself.
    """

    def surface(theta_0: jax.Array, theta_1: jax.Array) -> jax.Array:
        up_0, up_1 = jax.grad(loss, argnums=(0, 1))(theta_0, theta_1)
        length = jnp.hypot(up_0, up_1)
        value = loss(theta_0 + radius * up_0 / length, theta_1 + radius * up_1 / length)
        return jnp.where(theta_1 == 0, jnp.inf, value)

    return surface


def axes(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the grid along theta_0 [G] and theta_1 [H]."""
    return np.linspace(*WINDOW[0], grid[0]), np.linspace(*WINDOW[1], grid[1])


def on_grid(surface: Surface, grid: tuple[int, int]) -> np.ndarray:
    """Values [G, H], theta_0 first; a few rows at a time, so that memory does not grow with the grid."""
    x, y = axes(grid)
    rows = jax.jit(
        lambda x, y: jax.lax.map(
            lambda place: jax.vmap(surface, (None, 0))(place, y), x, batch_size=min(ROWS_PER_CHUNK, grid[0])
        )
    )
    return np.asarray(rows(jnp.asarray(x), jnp.asarray(y)))
