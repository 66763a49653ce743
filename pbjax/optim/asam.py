r"""ASAM: SAM in the ball of |w| + eta, which rescaling a layer does not change."""

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.geometry import adaptive
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def asam(
    radius: Radius = 0.5, *, eta: ArrayLike = 0.01, scaled: trees.Mask | None = None, mask: trees.Mask | None = None
) -> Member:
    r"""Adaptive SAM, $g' = \nabla L(\mu + \rho\, T^2 g/\|T g\|)$ with $T = |\mu| + \eta$.

    Cost: two gradients. State: a counter and three scalars.

    Args:
        radius: rho >= 0 in the metric of T, or a schedule; about ten times SAM's (0.5 for CIFAR-10, 1 for CIFAR-100).
        eta: >= 0.
        scaled: leaves measured by T, those with two or more axes by default; the others keep T = 1.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: a negative radius or eta; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx, params = asam(0.1, eta=0.0), jnp.array([[1.0, 2.0]])
        >>> grad_fn = jax.grad(lambda w: jnp.sum(w))
        >>> _, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> round(float(state.metrics.perturbation_norm), 4)
        0.1844

    References:
        Kwon et al., "ASAM: Adaptive sharpness-aware minimization for scale-invariant learning", ICML 2021, algorithm 1.
    """
    return sharpness_aware(radius, metric=adaptive(eta, scaled=scaled), mask=mask)
