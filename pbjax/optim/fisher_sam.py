r"""Fisher SAM: SAM in the ball of the (squared batch gradient's) Fisher diagonal."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.geometry import fisher
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def fisher_sam(radius: Radius = 0.05, *, eta: ArrayLike = 0.2, mask: trees.Mask | None = None) -> Member:
    r"""$g' = \nabla L(\mu + \rho\, f^{-1} g/\sqrt{g^T f^{-1} g})$ with $f = 1 + \eta g^2$.

    Cost: two gradients. State: a counter and three scalars.

    Args:
        radius: rho >= 0, or a schedule.
        eta: >= 0; 0 is SAM.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a negative radius or eta; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(fisher_sam(0.05), optax.sgd(0.1))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)

    References:
        Kim et al., "Fisher SAM: Information geometry and sharpness aware minimisation", ICML 2022.
    """
    return sharpness_aware(radius, metric=fisher(eta), mask=mask)
