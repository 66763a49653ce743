r"""SAM at the price of one gradient: up the mean of the gradients used before."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.directions import along_momentum
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def momentum_sam(radius: Radius = 0.05, *, decay: ArrayLike = 0.9, mask: trees.Mask | None = None) -> Member:
    r"""$\epsilon = \rho\, m/\|m\|$ with m the running mean of the gradients stepped with: uphill, not with the step.

    Cost: one gradient; the incoming one is not read. State: m, float32, as large as the params.

    Args:
        radius: rho >= 0, or a schedule.
        decay: of the mean, in [0, 1).
        mask: leaves that are perturbed.

    Returns:
        An optax transformation, see `sharpness_aware`. The first step is not perturbed.

    Raises:
        ValueError: numbers out of range; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(momentum_sam(0.05), optax.sgd(0.1))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)

    References:
        Becker et al., "Momentum-SAM: Sharpness aware minimization without computational overhead", 2024.
    """
    return sharpness_aware(radius, direction=along_momentum(decay=decay), mask=mask)
