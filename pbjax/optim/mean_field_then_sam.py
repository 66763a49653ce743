r"""A draw from a mean-field posterior, then SAM's step from there: flat where the posterior is."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim._arguments import check_schedule
from pbjax.optim.directions import at_random
from pbjax.optim.member import Member
from pbjax.optim.scales import ScaleUpdate, learned_scale
from pbjax.optim.sharpness_aware import Radius, sharpness_aware
from pbjax.posteriors import Gaussian


def mean_field_then_sam(
    radius: Radius = 0.05,
    *,
    n: ArrayLike | None,
    prior: Gaussian | ArrayLike = 1.0,
    initial_radius: Radius | None = None,
    scale_update: ScaleUpdate | None = None,
    kl_weight: ArrayLike = 1.0,
    samples: int = 1,
    mask: trees.Mask | None = None,
) -> Member:
    r"""$g' = \nabla L(\theta + \rho\, g_\theta/\|g_\theta\|)$ at the draw $\theta = \mu + \sigma z$.

    The mean steps with g' and the prior's pull, ln sigma with $g' \sigma z$: the ascent is held constant.

    Cost: two gradients a sample, neither of them the incoming one. State: as `mean_field`.

    Args:
        radius: rho >= 0 of the ascent from the draw, or a schedule; 0, with an initial_radius, is
            `mean_field`.
        n: number of training examples.
        prior: standard deviation of N(0, prior^2 I), > 0, or a `Gaussian`.
        initial_radius: sigma starts at initial_radius/sqrt(P), > 0; the radius by default.
        scale_update: `reparametrised(optimizer)` (default) or `natural_gradient(rate)`.
        kl_weight: > 0.
        samples: draws averaged in a step, >= 1.
        mask: leaves that are perturbed and have a posterior.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a missing n, numbers out of range; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(mean_field_then_sam(0.05, n=100), optax.sgd(0.1))
        >>> params, grad_fn = jnp.ones(4), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0)
        ... )

    References:
        Nguyen et al., "Flat seeking Bayesian neural networks", NeurIPS 2023 (arXiv 2302.02713), for the idea.
    """
    check_schedule("radius", radius)
    learned = learned_scale(n=n, prior=prior, update=scale_update, kl_weight=kl_weight)
    start = radius if initial_radius is None else initial_radius
    return sharpness_aware(start, direction=at_random(), learned=learned, ascent=radius, samples=samples, mask=mask)
