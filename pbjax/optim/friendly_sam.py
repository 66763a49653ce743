r"""Friendly SAM: up the batch's own part of the gradient only."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.directions import away_from_mean
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def friendly_sam(
    radius: Radius = 0.05, *, decay: ArrayLike = 0.9, weight: ArrayLike = 1.0, mask: trees.Mask | None = None
) -> Member:
    r"""$\epsilon = \rho\, d/\|d\|$ with d the batch's own part of the gradient, $d = g - \text{weight}\cdot m$.

    The mean $m \leftarrow \text{decay}\cdot m + (1 - \text{decay})\, g$ is of clean gradients; d takes off the mean
    before this step's.

    Cost: two gradients. State: m, float32, as large as the params.

    Args:
        radius: rho >= 0, or a schedule.
        decay: of the mean, in [0, 1).
        weight: how much of the mean is taken off; 0 is SAM.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: numbers out of range; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(friendly_sam(0.05), optax.sgd(0.1))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)

    References:
        Li et al., "Friendly sharpness-aware minimization", CVPR 2024 (arXiv 2403.12350), algorithm 1.
    """
    return sharpness_aware(radius, direction=away_from_mean(decay=decay, weight=weight), mask=mask)
