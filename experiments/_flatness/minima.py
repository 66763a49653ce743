"""Where the surfaces have their minima: found on the grid, refined off it, named after the basins of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import optimize

from experiments._flatness.surfaces import Surface, axes, loss, smallest_on_circle

RESTARTS = 20
SAME = 0.5  # refined points closer than this are one minimum


class Point(NamedTuple):
    """A critical point of the loss or a minimum of a surface.

    Attributes:
        basin: "sharp", "flat" or "saddle", or of the nearest of them.
        place: (theta_0, theta_1).
        value: of the surface, for a jump the infimum beside it.
        curvatures: eigenvalues of the Hessian of the loss at its own critical points, ascending.
        attained: False at a jump of the surface.
    """

    basin: str
    place: np.ndarray
    value: float
    curvatures: tuple[float, float] | None = None
    attained: bool = True


def _grid_minima(values: np.ndarray) -> list[tuple[int, int]]:
    """Inner grid points that no neighbour undercuts."""
    inner = values[1:-1, 1:-1]
    shifted = [
        values[1 + i : values.shape[0] - 1 + i, 1 + j : values.shape[1] - 1 + j]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    least = np.isfinite(inner) & np.all([inner <= other for other in shifted], axis=0)
    return [(int(i) + 1, int(j) + 1) for i, j in np.argwhere(least)]


def critical_points(values: np.ndarray) -> list[Point]:
    """The critical points of the loss, by Newton's method from the cells where its slope is least on the grid.

    Args:
        values: the loss on the grid, [G, H].

    Returns:
        Two minima, named by their largest curvature, and the saddle.

    Raises:
        ValueError: the grid shows anything else than two minima and a saddle.
    """
    x, y = axes((values.shape[0], values.shape[1]))
    gradient = jax.jit(jax.grad(lambda theta: loss(theta[0], theta[1])))
    hessian = jax.jit(jax.hessian(lambda theta: loss(theta[0], theta[1])))
    slopes = np.hypot(*np.gradient(np.where(np.isfinite(values), values, np.nan), x, y))
    found: list[Point] = []
    for i, j in _grid_minima(slopes):
        solved = optimize.root(lambda t: np.asarray(gradient(t)), (x[i], y[j]), jac=lambda t: np.asarray(hessian(t)))
        near = np.hypot(*(solved.x - (x[i], y[j]))) < 3 * np.hypot(x[1] - x[0], y[1] - y[0])
        known = any(np.hypot(*(solved.x - other.place)) < SAME for other in found)
        if solved.success and near and not known:
            low, high = np.linalg.eigvalsh(np.asarray(hessian(solved.x)))
            basin = "saddle" if low < 0 else "minimum"
            found.append(Point(basin, solved.x, float(loss(*solved.x)), (float(low), float(high))))
    found.sort(key=lambda point: (point.basin == "saddle", -max(point.curvatures or (0.0,))))
    if [point.basin for point in found] != ["minimum", "minimum", "saddle"]:
        raise ValueError(
            f"the grid shows {len(found)} critical points of the loss, not two minima and a saddle: refine it"
        )
    return [point._replace(basin=basin) for point, basin in zip(found, ("sharp", "flat", "saddle"), strict=True)]


def _descend(surface: Callable[[np.ndarray], jax.Array], start: np.ndarray, step: float) -> tuple[np.ndarray, float]:
    """Nelder and Mead's simplex, begun anew until it gains nothing: the largest value on a disc has kinks."""
    place, value = start, np.inf
    for _ in range(RESTARTS):
        simplex = place + step * np.array([[0.0, 0.0], [1.0, 0.0], [0.3, 1.0]])
        options = {"xatol": 1e-8, "fatol": 1e-13, "maxiter": 2000, "initial_simplex": simplex}
        done = optimize.minimize(lambda theta: float(surface(theta)), place, method="Nelder-Mead", options=options)
        gain, place, value = value - done.fun, done.x, float(done.fun)
        if gain < 1e-11:
            break
    return place, value


def minima(
    surface: Surface, values: np.ndarray, critical: list[Point], *, jumps_with: float | None = None
) -> list[Point]:
    """The minima of a surface inside the window, least first.

    Args:
        surface: the function.
        values: the same on the grid, [G, H].
        critical: the critical points of the loss, after which they are named.
        jumps_with: for one-step SAM its radius. The surface jumps at the critical points of the loss, so a descent
            that ends at one of them is given the infimum beside it.

    Returns:
        Refined minima without duplicates. Those that run out to the border of the window are left out.
    """
    x, y = axes((values.shape[0], values.shape[1]))
    cell = np.array([x[1] - x[0], y[1] - y[0]])
    compiled = jax.jit(lambda theta: surface(theta[0], theta[1]))
    found: list[Point] = []
    for i, j in _grid_minima(values):
        place, value = _descend(compiled, np.array([x[i], y[j]]), float(np.max(cell)))
        basin = min(critical[:2], key=lambda point: np.hypot(*(place - point.place))).basin
        candidate = Point(basin, place, value)
        if jumps_with is not None:
            nearest = min(critical, key=lambda point: np.hypot(*(place - point.place)))
            limit = float(smallest_on_circle(loss, jumps_with)(*nearest.place))
            if np.hypot(*(place - nearest.place)) < 0.25 * jumps_with and limit < value:
                candidate = Point(nearest.basin, nearest.place, limit, attained=False)
        at_border = np.any(candidate.place < [x[0] + cell[0], y[0] + cell[1]]) or np.any(
            candidate.place > [x[-1] - cell[0], y[-1] - cell[1]]
        )
        if at_border:
            continue
        same = [k for k, other in enumerate(found) if np.hypot(*(candidate.place - other.place)) < SAME]
        if not same:
            found.append(candidate)
        elif candidate.value < found[same[0]].value:
            found[same[0]] = candidate
    return sorted(found, key=lambda point: point.value)
