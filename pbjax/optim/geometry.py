r"""The metric: the second part of `sharpness_aware`, a diagonal D that says how far each weight may go.

The perturbation is $\epsilon = r D q$, so the ball of radius r is $\|D^{-1}\epsilon\| \le r$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees

Tree = Any


class Metric(NamedTuple):
    """A rule for the diagonal metric D.

    Attributes:
        diagonal: `diagonal(params, gradient, mask) -> D`, a tree of the structure of the params whose leaves broadcast
            against theirs (what the mask hides is ignored); None stands for the identity.
        needs_gradient: whether it reads the clean gradient.
    """

    diagonal: Callable[[Tree, Tree, Tree], Tree] | None
    needs_gradient: bool = False


def euclidean() -> Metric:
    """D = 1, the ball of SAM.

    Returns:
        A `Metric`.

    Example:
        >>> euclidean().needs_gradient
        False
    """
    return Metric(None)


def _matrices(params: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def adaptive(eta: ArrayLike = 0.01, *, scaled: trees.Mask | None = None) -> Metric:
    r"""D = |w| + eta, the ball of ASAM, which does not change when a layer is rescaled against the next one.

    Args:
        eta: added to the magnitude of a weight, >= 0.
        scaled: pytree of bools, or a function of the params that gives one: leaves that are measured this way; the
            others keep D = 1. By default those with two or more axes: kernels, not biases or norm scales.

    Returns:
        A `Metric`.

    Raises:
        ValueError: eta below 0 or not finite.

    Example:
        >>> adaptive(0.5).diagonal({"w": jnp.full((1, 2), -2.0)}, None, None)["w"].tolist()
        [[2.5, 2.5]]

    References:
        Kwon et al., "ASAM: Adaptive sharpness-aware minimization", ICML 2021, algorithm 1.
    """
    check_range("eta", eta, low=0.0, open_high=True)

    def diagonal(params: Tree, gradient: Tree, mask: Tree) -> Tree:
        keep = trees.resolve_mask(_matrices if scaled is None else scaled, params, allow_none=True)

        def one(k: bool, leaf: jax.Array) -> jax.Array:
            return jnp.abs(trees.wide(leaf)) + trees.factor_like(eta, leaf) if k else jnp.ones_like(trees.wide(leaf))

        return jax.tree.map(one, keep, params)

    return Metric(diagonal)


def fisher(eta: ArrayLike = 0.2) -> Metric:
    r"""$D = (1 + \eta g^2)^{-1/2}$, the ball of Fisher SAM with the squared batch gradient for the Fisher diagonal.

    Args:
        eta: weight of the squared gradient, >= 0.

    Returns:
        A `Metric` that reads the clean gradient.

    Raises:
        ValueError: eta below 0 or not finite.

    Example:
        >>> fisher(3.0).diagonal(None, {"w": jnp.ones(1)}, None)["w"].tolist()
        [0.5]

    References:
        Kim et al., "Fisher SAM: Information geometry and sharpness aware minimisation", ICML 2022, eq. 9.
    """
    check_range("eta", eta, low=0.0, open_high=True)

    def diagonal(params: Tree, gradient: Tree, mask: Tree) -> Tree:
        return jax.tree.map(
            lambda g: jax.lax.rsqrt(1 + trees.factor_like(eta, g) * jnp.square(trees.wide(g))), gradient
        )

    return Metric(diagonal, needs_gradient=True)


def sparse(density: ArrayLike = 0.5) -> Metric:
    """D = 1 for the share of the perturbed weights with the largest squared gradient and 0 for the others.

    Args:
        density: that share, in (0, 1].

    Returns:
        A `Metric` that reads the clean gradient; ties are all kept.

    Raises:
        ValueError: a density outside (0, 1].

    Example:
        >>> sparse(0.5).diagonal(None, {"w": jnp.array([1.0, -3.0])}, {"w": True})["w"].tolist()
        [0.0, 1.0]

    References:
        Mi et al., "Make sharpness-aware minimization stronger: A sparsified perturbation approach", NeurIPS 2022.
    """
    check_range("density", density, low=0.0, high=1.0, open_low=True)

    def diagonal(params: Tree, gradient: Tree, mask: Tree) -> Tree:
        sizes = jax.tree.map(lambda g: jnp.abs(trees.wide(g)), gradient)
        ranked = jax.tree.map(lambda keep, s: jnp.ravel(s) if keep else s.ravel()[:0], mask, sizes)
        every = jnp.sort(jnp.concatenate(jax.tree.leaves(ranked)))
        kept = jnp.ceil(jnp.asarray(density, jnp.float32) * every.size).astype(jnp.int32)
        least = every[every.size - jnp.clip(kept, 1, every.size)]
        return jax.tree.map(lambda s: (s >= least.astype(s.dtype)).astype(s.dtype), sizes)

    return Metric(diagonal, needs_gradient=True)


def filter_norm() -> Metric:
    r"""D = the norm of a weight's filter: noise in proportion to the filter, as random weight perturbation takes it.

    A filter is everything that feeds one output: all axes but the last of a leaf with two or more axes; a leaf with
    fewer axes counts as one filter.

    Returns:
        A `Metric` whose leaves keep the filtered axes with length 1.

    Example:
        >>> filter_norm().diagonal({"w": jnp.full((4, 1), 3.0)}, None, None)["w"].tolist()
        [[6.0]]

    References:
        Li et al., "Efficient generalization improvement guided by random weight perturbation", arXiv 2211.11489.
    """

    def diagonal(params: Tree, gradient: Tree, mask: Tree) -> Tree:
        def one(leaf: jax.Array) -> jax.Array:
            axes = tuple(range(leaf.ndim - 1)) if leaf.ndim >= 2 else tuple(range(leaf.ndim))
            return jnp.sqrt(jnp.sum(jnp.square(trees.wide(leaf)), axis=axes, keepdims=True))

        return jax.tree.map(one, params)

    return Metric(diagonal)
