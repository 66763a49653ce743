r"""Mean-field variational inference as a transformation: random perturbations whose scale is learned."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.directions import at_random
from pbjax.optim.member import Member
from pbjax.optim.scales import ScaleUpdate, learned_scale
from pbjax.optim.sharpness_aware import Radius, sharpness_aware
from pbjax.posteriors import Gaussian


def mean_field(
    radius: Radius = 0.05,
    *,
    n: ArrayLike | None,
    prior: Gaussian | ArrayLike = 1.0,
    scale_update: ScaleUpdate | None = None,
    kl_weight: ArrayLike = 1.0,
    samples: int = 1,
    mask: trees.Mask | None = None,
) -> Member:
    r"""$\min\; E_{z} L(\mu + \sigma z) + \lambda\, KL(N(\mu, \sigma^2)\|N(0, \sigma_p^2))$, $\lambda$ = kl_weight / n.

    On a quadratic with curvature h per example it settles at $1/\sigma^2 = n h + 1/\sigma_p^2$ (kl_weight 1).

    Cost: one gradient a sample; the incoming one is not read. State: ln sigma (float32, as large as the params) and
    the state of its own optimiser (two more of that size for Adam, none for `natural_gradient`).

    Args:
        radius: sigma starts at radius/sqrt(P) everywhere, the scale at which E||epsilon||^2 is SAM's rho^2; > 0.
        n: number of training examples. The prior's pull replaces weight decay: use no other.
        prior: standard deviation of N(0, prior^2 I), > 0, or a `Gaussian`.
        scale_update: `reparametrised(optimizer)` (default: Adam at 0.01) or `natural_gradient(rate)`.
        kl_weight: > 0; below 1 a cold posterior.
        samples: draws averaged in a step, >= 1.
        mask: leaves that have a posterior; the others are point estimates without a prior.

    Returns:
        An optax transformation, see `sharpness_aware`; `posterior(opt_state, params)` reads q.

    Raises:
        ValueError: a missing n, numbers out of range; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(mean_field(0.1, n=100, prior=0.5), optax.sgd(0.1))
        >>> params, grad_fn = jnp.ones(4), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0)
        ... )

    References:
        Blundell et al., "Weight uncertainty in neural networks", ICML 2015; Ujvary et al., OPT 2022.
    """
    learned = learned_scale(n=n, prior=prior, update=scale_update, kl_weight=kl_weight)
    return sharpness_aware(radius, direction=at_random(), learned=learned, samples=samples, mask=mask)
