r"""Variational SAM: the worst point of the posterior's own ellipsoid, whose axes are learned."""

from typing import Literal

from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.member import Member
from pbjax.optim.scales import ScaleUpdate, learned_scale
from pbjax.optim.sharpness_aware import Radius, sharpness_aware
from pbjax.posteriors import Gaussian


def variational_sam(
    radius: Radius = 0.05,
    *,
    n: ArrayLike | None,
    prior: Gaussian | ArrayLike = 1.0,
    form: Literal["a", "b"] = "a",
    scale_update: ScaleUpdate | None = None,
    kl_weight: ArrayLike = 1.0,
    mask: trees.Mask | None = None,
) -> Member:
    r"""$\epsilon = \sqrt P\, \sigma^2 g/\|\sigma g\|$: SAM's step in place of the reparametrisation trick.

    The objective is the loss at the worst point of $\{\epsilon: \epsilon^T\Sigma^{-1}\epsilon \le P\}$, where epsilon
    lies, plus $\lambda KL$, $\lambda$ = kl_weight / n. sqrt(P) is where the mass of the posterior lies: mean-field VI
    draws a random point of the shell on which this picks the worst. With a constant sigma it is SAM.

    Form "a" trains ln sigma on $g' \epsilon$, with the gradient at the perturbed point. Form "b" trains it on the
    clean $g \epsilon$, the derivative of $\sqrt P \|\sigma g\|$, as the authors' released code does; that code uses
    one number for the Euclidean and the ellipsoid radius, divides the trace by the prior's standard deviation and lets
    weight decay act on the scale. Here the ellipsoid radius is sqrt(P), the KL is exact, and nothing else reaches
    sigma.

    Cost: two gradients. State: ln sigma and the state of its optimiser.

    Args:
        radius: sigma starts at radius/sqrt(P), which makes the first step SAM's; > 0.
        n: number of training examples. The prior's pull replaces weight decay.
        prior: standard deviation of N(0, prior^2 I), > 0, or a `Gaussian`.
        form: "a" or "b".
        scale_update: `reparametrised(optimizer)` (default) or `natural_gradient(rate)`.
        kl_weight: > 0.
        mask: leaves that are perturbed and have a posterior.

    Returns:
        An optax transformation, see `sharpness_aware`; `posterior(opt_state, params)` reads N(mu, sigma^2).

    Raises:
        ValueError: an unknown form, a missing n, numbers out of range; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(variational_sam(0.1, n=100), optax.sgd(1.0))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> round(float(state[0].metrics.perturbation_norm), 4)
        0.1

    References:
        Ujvary et al., "Rethinking sharpness-aware minimization as variational inference", OPT 2022.
    """
    if form not in ("a", "b"):
        raise ValueError(f"form = {form!r}: it must be 'a' (perturbed gradient for the scale) or 'b' (clean gradient)")
    learned = learned_scale(n=n, prior=prior, update=scale_update, kl_weight=kl_weight, at_clean=form == "b")
    return sharpness_aware(radius, learned=learned, mask=mask)
