r"""A learned posterior scale sigma: the third and fourth part of `sharpness_aware` for the variational members.

The objective per example is, with $\lambda = \text{kl\_weight}/n$,

    E_q L(w) + lambda KL(N(mu, sigma^2) || N(mu_0, sigma_p^2)),

L the mean loss per example in nats. Both halves of the KL act, and consistently: $\lambda (\mu - \mu_0)/\sigma_p^2$ is
added to the gradient that the mean steps with, after the noise has been multiplied on for the scale, and the log-scale
gets $\lambda(\sigma^2/\sigma_p^2 - 1)$ beside the data's $g' \epsilon$. Weight decay with coefficient
$\lambda/\sigma_p^2$ *is* the first half: with a learned scale use no other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import check_given
from pbjax.posteriors import Gaussian

Tree = Any


class ScaleUpdate(NamedTuple):
    """How the log-scale is moved.

    Attributes:
        init: `init(log_scale) -> state`.
        step: `step(log_scale, slope, shrink, state, *, n) -> (log_scale, state)`; `slope` is the derivative of the mean
            loss in the log-scale and `shrink` that of the KL times kl_weight, sigma^2/sigma_p^2 - 1.
    """

    init: Callable[[Tree], Any]
    step: Callable[..., tuple[Tree, Any]]


class LearnedScale(NamedTuple):
    """The scale, its prior and how it is learned; see `learned_scale`.

    Attributes:
        n: number of training examples.
        prior: `Gaussian` over the params, or the standard deviation of an isotropic one centred at 0.
        update: a `ScaleUpdate`.
        kl_weight: multiplies the KL; 1 is Bayes, below 1 a cold posterior.
        at_clean: take the data half of the log-scale's gradient from the clean gradient.
    """

    n: ArrayLike
    prior: Gaussian | ArrayLike
    update: ScaleUpdate
    kl_weight: ArrayLike
    at_clean: bool


def learned_scale(
    *,
    n: ArrayLike | None,
    prior: Gaussian | ArrayLike = 1.0,
    update: ScaleUpdate | None = None,
    kl_weight: ArrayLike = 1.0,
    at_clean: bool = False,
) -> LearnedScale:
    """A posterior scale of every weight, learned beside the mean.

    Args:
        n: number of training examples, >= 1; lambda is kl_weight / n, and guessing it would change the method.
        prior: standard deviation of N(0, prior^2 I), > 0, or a `Gaussian` of the structure of the params, which makes
            the certificate of a data-dependent prior the thing that is trained.
        update: `reparametrised()` (default) or `natural_gradient()`.
        kl_weight: > 0.
        at_clean: use the clean gradient for the scale, as the released Variational SAM does.

    Returns:
        A `LearnedScale`.

    Raises:
        ValueError: a missing n, or numbers out of range.

    Example:
        >>> float(learned_scale(n=100, prior=0.5).prior)
        0.5
    """
    n = check_given("n", n, "the number of training examples, which sets the weight of the KL, 1/n")
    check_n(n)
    check_range("kl_weight", kl_weight, low=0.0, open_low=True, open_high=True)
    if not isinstance(prior, Gaussian):
        check_range("prior", prior, low=0.0, open_low=True, open_high=True)
    return LearnedScale(n, prior, reparametrised() if update is None else update, kl_weight, at_clean)


def reparametrised(optimizer: optax.GradientTransformation | None = None) -> ScaleUpdate:
    r"""Gradient descent on ln sigma with $\partial/\partial\ln\sigma = g'\epsilon + \lambda(\sigma^2/\sigma_p^2 - 1)$.

    Args:
        optimizer: any optax optimiser, with a learning rate of its own; Adam at 0.01 by default, because the gradients
            are of order sigma and an update of ln sigma should not be.

    Returns:
        A `ScaleUpdate`.

    Example:
        >>> import optax
        >>> update = reparametrised(optax.sgd(0.1))
    """
    chosen = optax.adam(1e-2) if optimizer is None else optimizer

    def step(log_scale: Tree, slope: Tree, shrink: Tree, state: Any, *, n: Tree) -> tuple[Tree, Any]:
        gradient = jax.tree.map(lambda g, k, s: g + k / trees.factor_like(n, s), slope, shrink, log_scale)
        updates, state = chosen.update(gradient, state, log_scale)
        return optax.apply_updates(log_scale, updates), state

    return ScaleUpdate(chosen.init, step)


def natural_gradient(rate: ArrayLike = 1e-3) -> ScaleUpdate:
    r"""A natural-gradient step on the precision that cannot leave the positive numbers.

    With $f = n\, g'\epsilon + \sigma^2/\sigma_p^2 - 1$, the relative error of the precision, whose mean is zero exactly
    at $1/\sigma^2 = n\bar h + 1/\sigma_p^2$,

        1/sigma^2 <- (1/sigma^2) (1 + rate f + (rate f)^2 / 2).

    Args:
        rate: in (0, 1); 1 - beta_2 of the relatives that keep a running curvature.

    Returns:
        A `ScaleUpdate` without state.

    Raises:
        ValueError: rate outside (0, 1).

    Example:
        >>> update = natural_gradient(0.1)
        >>> step, _ = update.step(jnp.zeros(1), jnp.zeros(1), jnp.ones(1), (), n=10.0)
        >>> round(float(jnp.exp(-2 * step)[0]), 4)
        1.105

    References:
        Lin, Schmidt, Khan, "Handling the positive-definite constraint in the Bayesian learning rule", ICML 2020.
    """
    check_range("rate", rate, low=0.0, high=1.0, open_low=True, open_high=True)

    def step(log_scale: Tree, slope: Tree, shrink: Tree, state: Any, *, n: Tree) -> tuple[Tree, Any]:
        def one(s: jax.Array, g: jax.Array, k: jax.Array) -> jax.Array:
            x = trees.factor_like(rate, s) * (trees.factor_like(n, s) * g + k)
            return s - 0.5 * jnp.log1p(x + 0.5 * x * x)

        return jax.tree.map(one, log_scale, slope, shrink), state

    return ScaleUpdate(lambda log_scale: (), step)


def prior_pull(scale: LearnedScale, params: Tree, sigma: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """Derivatives of KL(N(params, sigma^2) || prior) in the mean and in ln sigma, zero where masked."""
    if isinstance(scale.prior, Gaussian):
        centre, prior_log_scale = scale.prior
    else:
        centre = jax.tree.map(lambda s: jnp.zeros((), s.dtype), sigma)
        prior_log_scale = jax.tree.map(lambda s: jnp.log(trees.factor_like(scale.prior, s)), sigma)

    def by_mean(keep: bool, w: jax.Array, c: jax.Array, p: jax.Array) -> jax.Array:
        return (trees.wide(w) - trees.wide(c)) * jnp.exp(-2 * trees.wide(p)) if keep else jnp.zeros_like(trees.wide(w))

    def by_scale(keep: bool, s: jax.Array, p: jax.Array) -> jax.Array:
        return jnp.square(s) * jnp.exp(-2 * trees.wide(p)) - 1 if keep else jnp.zeros_like(s)

    return (
        jax.tree.map(by_mean, mask, params, centre, prior_log_scale),
        jax.tree.map(by_scale, mask, sigma, prior_log_scale),
    )
