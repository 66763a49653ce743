r"""MixSAM: between SAM's direction and a random one, at one radius."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.directions import mixture
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def mix_sam(
    radius: Radius = 0.05, *, kappa: ArrayLike = 1.0, samples: int = 1, mask: trees.Mask | None = None
) -> Member:
    r"""$\epsilon = \rho\, u/\|u\|$ with $u = g/\|g\| + \kappa z/\sqrt P$, $z \sim N(0, I)$; norm rho for every kappa.

    Cost: two gradients (one more for every further sample). State: a counter and three scalars.

    Args:
        radius: rho >= 0, or a schedule.
        kappa: weight of the noise >= 0: 0 is SAM, large is a random point of the sphere; for large P the cosine with
            the gradient is 1/sqrt(1 + kappa^2).
        samples: draws averaged in a step, >= 1.
        mask: leaves that are perturbed; P counts these only.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a negative radius or kappa; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx, params = mix_sam(0.1, kappa=3.0), jnp.ones(4)
        >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> _, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0))
        >>> round(float(state.metrics.perturbation_norm), 5)
        0.1

    References:
        Ujvary et al., "Rethinking sharpness-aware minimization as variational inference", OPT 2022.
    """
    return sharpness_aware(radius, direction=mixture(kappa), samples=samples, mask=mask)
