r"""Where the perturbation points: the first of the four parts of `sharpness_aware`.

A direction is the vector q of the perturbation

    epsilon = r D q,

with the diagonal metric D and the radius r. Adversarial directions have norm 1, the Gaussian one $E\|q\|^2 = 1$. With
an adversarial direction $q = Dg / \|Dg\|$ this is $\epsilon = r D^2 g / \|Dg\|$, the best response in the ellipsoid
$\|D^{-1} \epsilon\| \le r$ to the linearised loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import check_decay
from pbjax.optim.noise import standard_normal

Tree = Any


class Direction(NamedTuple):
    """A rule for the direction of the perturbation.

    Attributes:
        init: `init(params) -> state`, a pytree that keeps its structure, () if there is nothing to remember.
        point: `point(key, gradient, whiten, params, mask, state) -> (q, state)`; `whiten` multiplies a tree by the
            metric D, `gradient` is the clean gradient or None.
        absorb: `absorb(used, state) -> state`, told the gradient that the step is made with.
        needs_gradient: whether `point` reads the clean gradient, which then costs one more.
        needs_key: whether `point` draws random numbers.
        is_gaussian: whether D q is Gaussian noise, so that there is a posterior.
        is_unit: whether q has norm exactly 1 wherever the clean gradient is not zero.
    """

    init: Callable[[Tree], Any]
    point: Callable[..., tuple[Tree, Any]]
    absorb: Callable[[Tree, Any], Any]
    needs_gradient: bool
    needs_key: bool
    is_gaussian: bool = False
    is_unit: bool = False


def _nothing(params: Tree) -> tuple[()]:
    return ()


def _keep(used: Tree, state: Any) -> Any:
    return state


def along_gradient() -> Direction:
    r"""Up the clean gradient, $q = Dg/\|Dg\|$: SAM and its metrics.

    Returns:
        A `Direction`; zero where the gradient is zero.

    Example:
        >>> along_gradient().needs_gradient
        True

    References:
        Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021, eq. 2.
    """

    def point(key: Any, gradient: Tree, whiten: Any, params: Tree, mask: Tree, state: Any) -> tuple[Tree, Any]:
        return trees.unit(whiten(gradient)), state

    return Direction(_nothing, point, _keep, needs_gradient=True, needs_key=False, is_unit=True)


def at_random(*, normalise: bool = False, draw: Callable[..., jax.Array] = standard_normal) -> Direction:
    r"""Gaussian noise, $q = z/\sqrt{P}$ with $z \sim N(0, I)$, so that $E\|q\|^2 = 1$: mean-field VI and RandomSAM.

    Args:
        normalise: put q on the unit sphere instead, uniformly.
        draw: `draw(key, shape, dtype)`; the default is `standard_normal`, which follows the implementation of the key
            that is passed. Anything else must have mean 0 and variance 1, and gives up the posterior's being Gaussian.

    Returns:
        A `Direction` that needs no clean gradient.

    Example:
        >>> at_random().needs_gradient
        False
    """

    def point(key: Any, gradient: Tree, whiten: Any, params: Tree, mask: Tree, state: Any) -> tuple[Tree, Any]:
        noise = trees.normals(key, params, mask, draw)
        if normalise:
            return trees.unit(noise), state
        return trees.scale(trees.count(params, mask) ** -0.5, noise), state

    return Direction(
        _nothing,
        point,
        _keep,
        needs_gradient=False,
        needs_key=True,
        is_gaussian=not normalise and draw in (standard_normal, jax.random.normal),
    )


def mixture(kappa: ArrayLike = 1.0) -> Direction:
    r"""Gradient and noise, $q \propto Dg/\|Dg\| + \kappa z/\sqrt{P}$ with norm 1: between SAM (0) and a random point of
    the sphere (infinity); for large P the cosine with the gradient is $1/\sqrt{1+\kappa^2}$.

    Args:
        kappa: weight of the noise, >= 0.

    Returns:
        A `Direction`.

    Raises:
        ValueError: kappa below 0 or not finite.

    Example:
        >>> mixture(0.5).needs_key
        True

    References:
        Ujvary et al., "Rethinking sharpness-aware minimization as variational inference", 2022 (MixSAM).
    """
    check_range("kappa", kappa, low=0.0, open_high=True)

    def point(key: Any, gradient: Tree, whiten: Any, params: Tree, mask: Tree, state: Any) -> tuple[Tree, Any]:
        noise = trees.normals(key, params, mask)
        weight = jnp.asarray(kappa) * trees.count(params, mask) ** -0.5
        return trees.unit(trees.add(trees.unit(whiten(gradient)), trees.scale(weight, noise))), state

    return Direction(_nothing, point, _keep, needs_gradient=True, needs_key=True)


def away_from_mean(*, decay: ArrayLike = 0.9, weight: ArrayLike = 1.0) -> Direction:
    r"""Up the part of the gradient that is this batch's own: $q = Dd/\|Dd\|$, $d = g - \text{weight}\cdot m$, with
    $m \leftarrow \text{decay}\cdot m + (1-\text{decay})\, g$ updated afterwards.

    Args:
        decay: of the running mean m of clean gradients, in [0, 1).
        weight: how much of the mean is taken off; 1 is usual, 0 is SAM.

    Returns:
        A `Direction` with a state as large as the params, in float32.

    Raises:
        ValueError: decay outside [0, 1), weight not finite.

    Example:
        >>> state = away_from_mean().init({"w": jnp.ones(3)})
        >>> state["w"].tolist()
        [0.0, 0.0, 0.0]

    References:
        Li et al., "Friendly sharpness-aware minimization", CVPR 2024.
    """
    check_decay("decay", decay)
    check_range("weight", weight, open_low=True, open_high=True)

    def point(key: Any, gradient: Tree, whiten: Any, params: Tree, mask: Tree, state: Any) -> tuple[Tree, Any]:
        own = jax.tree.map(lambda g, m: trees.wide(g) - trees.factor_like(weight, m) * m, gradient, state)
        return trees.unit(whiten(own)), trees.running_mean(decay, state, gradient)

    return Direction(trees.zeros, point, _keep, needs_gradient=True, needs_key=False)


def along_momentum(*, decay: ArrayLike = 0.9) -> Direction:
    r"""Up the running mean of the gradients used so far, $q = Dm/\|Dm\|$: one gradient a step; zero at the first step.

    Args:
        decay: of the mean, in [0, 1).

    Returns:
        A `Direction` with a state as large as the params, in float32.

    Raises:
        ValueError: decay outside [0, 1).

    Example:
        >>> along_momentum().needs_gradient
        False
    """
    check_decay("decay", decay)

    def point(key: Any, gradient: Tree, whiten: Any, params: Tree, mask: Tree, state: Any) -> tuple[Tree, Any]:
        return trees.unit(whiten(state)), state

    return Direction(
        trees.zeros,
        point,
        lambda used, state: trees.running_mean(decay, state, used),
        needs_gradient=False,
        needs_key=False,
    )
