r"""GSAM: SAM that also narrows the gap between the perturbed and the clean loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees
from pbjax.optim.combinations import surrogate_gap
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def gsam(radius: Radius = 0.05, *, alpha: ArrayLike = 0.4, mask: trees.Mask | None = None) -> Member:
    r"""Steps with $g' - \alpha g_\perp$, $g_\perp$ the part of the clean gradient orthogonal to g' at SAM's point.

    Cost: two gradients. State: a counter and three scalars.

    Args:
        radius: rho >= 0, or a schedule, such as `radius_after_learning_rate`.
        alpha: >= 0; 0 is SAM.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a negative radius or alpha; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(gsam(0.05), optax.sgd(0.1))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)

    References:
        Zhuang et al., "Surrogate gap minimization improves sharpness-aware training", ICLR 2022, algorithm 1.
    """
    return sharpness_aware(radius, combination=surrogate_gap(alpha), mask=mask)


def radius_after_learning_rate(
    learning_rate: Callable[[ArrayLike], ArrayLike],
    *,
    lr_min: ArrayLike,
    lr_max: ArrayLike,
    radius_min: ArrayLike,
    radius_max: ArrayLike,
) -> Callable[[ArrayLike], jax.Array]:
    """A radius schedule that follows the learning rate linearly between two radii, as GSAM's does.

    Args:
        learning_rate: schedule, count -> learning rate.
        lr_min: learning rate at which the radius is radius_min.
        lr_max: learning rate at which it is radius_max, above lr_min.
        radius_min: >= 0.
        radius_max: >= 0.

    Returns:
        A schedule for `radius=`; outside [lr_min, lr_max] it stays at the nearer end.

    Raises:
        ValueError: radii below 0, or lr_max not above lr_min.

    Example:
        >>> import optax
        >>> schedule = radius_after_learning_rate(
        ...     optax.linear_schedule(0.1, 0.0, 100), lr_min=0.0, lr_max=0.1, radius_min=0.02, radius_max=0.06
        ... )
        >>> [round(float(schedule(step)), 3) for step in (0, 50, 100)]
        [0.06, 0.04, 0.02]
    """
    check_range("radius_min", radius_min, low=0.0, open_high=True)
    check_range("radius_max", radius_max, low=0.0, open_high=True)
    check_range("lr_max - lr_min", jnp.asarray(lr_max) - lr_min, low=0.0, open_low=True)

    def schedule(count: ArrayLike) -> jax.Array:
        share = (jnp.asarray(learning_rate(count)) - lr_min) / (jnp.asarray(lr_max) - lr_min)
        low, high = jnp.asarray(radius_min), jnp.asarray(radius_max)
        return low + jnp.clip(share, 0, 1) * (high - low)

    return schedule
