r"""What the step is made with: the perturbed gradient alone, or a combination with the clean one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees

Tree = Any


class Combination(NamedTuple):
    """A rule for the gradient that the step is made with.

    Attributes:
        combine: `combine(clean, perturbed) -> used`, trees.
        needs_gradient: whether it reads the clean gradient.
    """

    combine: Callable[[Tree, Tree], Tree]
    needs_gradient: bool


def perturbed_only() -> Combination:
    """The gradient at the perturbed point, as SAM and variational inference have it.

    Returns:
        A `Combination`.

    Example:
        >>> perturbed_only().combine({"w": 1.0}, {"w": 2.0})
        {'w': 2.0}
    """
    return Combination(lambda clean, perturbed: perturbed, needs_gradient=False)


def weighted(weight: ArrayLike = 0.5) -> Combination:
    """weight * perturbed + (1 - weight) * clean; beyond 1 it extrapolates, as WSAM does with gamma/(1 - gamma).

    Args:
        weight: of the perturbed gradient, finite.

    Returns:
        A `Combination`.

    Raises:
        ValueError: a weight that is not finite.

    Example:
        >>> weighted(0.25).combine({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)})["w"].item()
        1.5

    References:
        Li et al., arXiv 2211.11489; Yue et al., "Sharpness-aware minimization revisited", KDD 2023.
    """
    check_range("weight", weight, open_low=True, open_high=True)

    def combine(clean: Tree, perturbed: Tree) -> Tree:
        def mix(c: jax.Array, p: jax.Array) -> jax.Array:
            w = trees.factor_like(weight, p)
            return w * trees.wide(p) + (1 - w) * trees.wide(c)

        return jax.tree.map(mix, clean, perturbed)

    return Combination(combine, needs_gradient=True)


def surrogate_gap(alpha: ArrayLike = 0.4) -> Combination:
    r"""$g' - \alpha g_\perp$, with $g_\perp$ the part of the clean gradient orthogonal to g': GSAM.

    Going up along $g_\perp$ leaves the perturbed loss as it is to first order and narrows the gap to the clean one.

    Args:
        alpha: >= 0; 0 is SAM.

    Returns:
        A `Combination`.

    Raises:
        ValueError: alpha below 0 or not finite.

    Example:
        >>> used = surrogate_gap(0.5).combine({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 0.0])})
        >>> used["w"].tolist()
        [3.0, -1.0]

    References:
        Zhuang et al., "Surrogate gap minimization improves sharpness-aware training", ICLR 2022, algorithm 1.
    """
    check_range("alpha", alpha, low=0.0, open_high=True)

    def combine(clean: Tree, perturbed: Tree) -> Tree:
        orthogonal = rejection(clean, perturbed)
        return jax.tree.map(lambda p, o: trees.wide(p) - trees.factor_like(alpha, p) * o, perturbed, orthogonal)

    return Combination(combine, needs_gradient=True)


def rejection(tree: Tree, axis: Tree) -> Tree:
    """The part of one tree orthogonal to another; the whole of it if the other is zero."""
    square = trees.dot(axis, axis)
    share = jnp.where(square > 0, trees.dot(tree, axis) / jnp.where(square > 0, square, 1), 0)
    return jax.tree.map(lambda t, a: trees.wide(t) - trees.factor_like(share, a) * trees.wide(a), tree, axis)
