r"""SAM: the gradient at the worst point of a Euclidean ball, to first order."""

from pbjax.optim import _trees as trees
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def sam(radius: Radius = 0.05, *, mask: trees.Mask | None = None) -> Member:
    r"""Sharpness-aware minimisation, $g' = \nabla L(\mu + \rho\, g/\|g\|)$.

    Cost: two gradients, the incoming one included. State: a counter and three scalars.

    Args:
        radius: rho >= 0, or a schedule of the count.
        mask: leaves that are perturbed; the norm is taken over them.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a negative radius; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(sam(0.1), optax.sgd(1.0))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> [round(float(u), 3) for u in updates]
        [-3.06, -4.08]

    References:
        Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021, eq. 2 and 3.
    """
    return sharpness_aware(radius, mask=mask)
