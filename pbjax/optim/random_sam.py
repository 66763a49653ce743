r"""RandomSAM: SAM with a random in place of an adversarial direction; mean-field VI with a frozen scale."""

from pbjax.optim import _trees as trees
from pbjax.optim.directions import at_random
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def random_sam(radius: Radius = 0.05, *, samples: int = 1, mask: trees.Mask | None = None) -> Member:
    r"""$g' = \nabla L(\mu + \sigma z)$, $z \sim N(0, I)$, with $\sigma = \rho/\sqrt P$: $E\|\epsilon\|^2 = \rho^2$.

    Cost: one gradient a sample; the incoming one is not read, so under jit it is not computed. State: a counter, three
    scalars and one scalar a leaf. The posterior is N(mu, sigma^2 I).

    Args:
        radius: rho >= 0, or a schedule.
        samples: draws averaged in a step, >= 1.
        mask: leaves that are perturbed; P counts these only.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a negative radius; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(random_sam(0.1), optax.sgd(1.0))
        >>> params, grad_fn = jnp.ones(4), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0)
        ... )
        >>> round(float(state[0].metrics.mean_scale), 3)
        0.05

    References:
        Ujvary et al., "Rethinking sharpness-aware minimization as variational inference", OPT 2022.
    """
    return sharpness_aware(radius, direction=at_random(), samples=samples, mask=mask)
