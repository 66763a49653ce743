r"""Random weight perturbation: noise in proportion to each filter, averaged with the clean gradient."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim._arguments import check_schedule
from pbjax.optim.combinations import weighted
from pbjax.optim.directions import at_random
from pbjax.optim.geometry import filter_norm
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def weight_perturbation(
    gamma: Radius = 0.01, *, weight: ArrayLike = 0.5, samples: int = 1, mask: trees.Mask | None = None
) -> Member:
    r"""Steps with weight * g' + (1 - weight) * g, g' at $\mu + \gamma\,\|\text{filter}\|\, z$.

    The two gradients do not wait for each other: unlike SAM's they can run side by side.

    Cost: two gradients (one more for every further sample). State: a counter and three scalars.

    Args:
        gamma: standard deviation of a weight's noise over the norm of its filter, >= 0, or a schedule.
        weight: of the perturbed gradient; 0 is the base optimiser.
        samples: draws averaged in a step, >= 1.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: numbers out of range; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx, params = weight_perturbation(0.01), jnp.ones((4, 2))
        >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> used, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0))

    References:
        Li et al., "Efficient generalization improvement guided by random weight perturbation", arXiv 2211.11489.
    """
    check_schedule("gamma", gamma)
    return sharpness_aware(
        gamma, direction=at_random(), metric=filter_norm(), combination=weighted(weight), in_standard_units=True,
        samples=samples, mask=mask,
    )  # fmt: skip
