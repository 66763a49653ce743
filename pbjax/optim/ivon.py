r"""IVON: a natural-gradient mean-field posterior at the price of Adam, a whole optimiser.

Symbols: mu the params, m the momentum, h the running Hessian diagonal of the loss per example (which may be negative),
delta the weight decay, n the effective sample size. The posterior is N(mu, 1/(n (h + delta))), so the prior is
N(0, sigma_p^2) with delta = 1/(n sigma_p^2).

A step has two halves, so that a gradient may be clipped, averaged or logged between them: noise, gradient and h come
first, with the gradient as it was measured; momentum and mean come second, with the gradient that arrives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule, at, check_decay, check_given, check_schedule, check_static
from pbjax.optim.member import Evaluate, Member
from pbjax.optim.noise import standard_normal
from pbjax.optim.perturbation import PerturbationMetrics, average_samples, metrics_of

Tree = Any
ESTIMATORS = ("reparametrised", "squared_gradient")


class IvonState(NamedTuple):
    """State of `ivon`: two trees like the params in float32 (or wider), and scalars.

    Attributes:
        count: steps taken, int32 []; it is all that the bias correction of the momentum needs.
        momentum: m, running mean of the gradients, without the weight decay.
        hessian: h, greater than -weight_decay; it stays at its start in leaves that the mask leaves alone.
        sample_size: n for every leaf, float32 []; infinite for leaves that the mask leaves alone, whose scale is 0.
        weight_decay: delta, float32 [].
        metrics: `PerturbationMetrics` of the last step; the mean scale is that of the noise that was drawn.
    """

    count: jax.Array
    momentum: Tree
    hessian: Tree
    sample_size: Tree
    weight_decay: jax.Array
    metrics: PerturbationMetrics

    def log_scales(self, params: Tree) -> Tree:
        """ln sigma = -ln(n (h + delta))/2 of the posterior, a tree like the params."""
        del params
        return jax.tree.map(
            lambda h, n: -0.5 * jnp.log(trees.factor_like(n, h) * (h + trees.factor_like(self.weight_decay, h))),
            self.hessian, self.sample_size,
        )  # fmt: skip


class _Settings(NamedTuple):
    learning_rate: Schedule
    n: ArrayLike
    hess_init: ArrayLike
    beta1: ArrayLike
    beta2: ArrayLike
    weight_decay: ArrayLike
    clip_radius: ArrayLike
    rescale_lr: bool
    samples: int
    squared: bool
    mask: trees.Mask | None
    draw: Callable[..., jax.Array]


def ivon(
    learning_rate: Schedule,
    *,
    n: ArrayLike | None = None,
    hess_init: ArrayLike = 1.0,
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.99999,
    weight_decay: ArrayLike = 1e-4,
    clip_radius: ArrayLike = float("inf"),
    rescale_lr: bool = True,
    samples: int | jax.Array = 1,
    hessian_estimator: str = "reparametrised",
    mask: trees.Mask | None = None,
    draw: Callable[..., jax.Array] | None = None,
) -> Member:
    r"""Improved variational online Newton, a whole optimiser with posterior $N(\mu, 1/(n(h+\delta)))$.

    $$\nu = z/\sqrt{n(h+\delta)}, \quad g = \nabla L(\mu+\nu), \quad f = n(h+\delta)\,\nu g \;\text{ or }\; n g^2,$$
    $$h' = \beta_2 h + (1-\beta_2) f + \tfrac12 (1-\beta_2)^2 (h-f)^2/(h+\delta),$$
    $$m' = \beta_1 m + (1-\beta_1) g,$$
    $$\mu' = \mu - \alpha\,(h_0+\delta)\,\text{clip}\big((m'/(1-\beta_1^t) + \delta\mu)/(h'+\delta), \pm\xi\big).$$

    The last term of h' keeps h > -delta. On a quadratic with curvature h per example and minimum at a, h settles at
    $h(1 + (1-\beta_2) h/(h+\delta))$ and the mean at $h a/(h+\delta)$.

    Cost: one gradient a sample; the incoming one is not read, and not computed under jit if nothing else uses it.
    State: two trees of the size of the params.

    Args:
        learning_rate: alpha >= 0, or a schedule of the count.
        n: effective sample size (`ess`): number of training examples, times the factor by which augmentation multiplies
            them, divided by the temperature; > 0.
        hess_init: h_0 > 0. If h hardly leaves it, lower it or beta2.
        beta1: decay of the momentum, in [0, 1).
        beta2: decay of h, in [0, 1]; 1 holds the scale fixed. `inject_hyperparams` rounds it to the dtype of the
            params, and 0.99999 is 1 in bfloat16: pass its `hyperparam_dtype=jnp.float32` there.
        weight_decay: delta = 1/(n sigma_p^2) >= 0. It *is* the prior: the loss holds the likelihood only, and no other
            weight decay should act.
        clip_radius: xi > 0, bound of every entry of the preconditioned step.
        rescale_lr: multiply the learning rate by h_0 + delta, which makes it one for SGD at the start.
        samples: draws a step, whose gradients and curvatures are averaged, >= 1. Static, as are the estimator and mask:
            name `samples` in `inject_hyperparams(ivon, static_args=...)`.
        hessian_estimator: "reparametrised" (f = n(h+delta) nu g) or "squared_gradient" (f = n g^2, never negative).
        mask: leaves with noise and a learned h (all by default); the others are stepped in the same way with h held at
            h_0, which with `rescale_lr` is plain momentum with weight decay at the same learning rate.
        draw: `draw(key, shape, dtype)` of mean 0 and variance 1 in place of `standard_normal`.

    Returns:
        An optax transformation whose updates are added to the params as they are: `update(grads, state, params,
        grad_fn=..., key=...)`, or `perturbed=True` with gradients from `perturbed_value_and_grad`, which has then
        already moved h, so that clipping in between acts on momentum and mean only. `posterior` reads the scales.

    Raises:
        ValueError: a missing n, or numbers out of range; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx, params = ivon(0.1, n=10_000), jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(
        ...     jnp.zeros(2), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0)
        ... )
        >>> [round(float(u), 1) for u in updates]
        [-0.3, -0.4]

    References:
        Shen et al., "Variational learning is effective for large deep networks", ICML 2024, algorithm 1;
        positivity: Lin, Schmidt, Khan, "Handling the positive-definite constraint in the Bayesian learning rule", 2020.
    """
    n = check_given("n", n, "the effective sample size, as a rule the number of training examples; it sets the noise")
    check_range("n", n, low=0.0, open_low=True, open_high=True)
    check_schedule("learning_rate", learning_rate)
    check_range("hess_init", hess_init, low=0.0, open_low=True, open_high=True)
    check_decay("beta1", beta1)
    check_range("beta2", beta2, low=0.0, high=1.0)
    check_range("weight_decay", weight_decay, low=0.0, open_high=True)
    check_range("clip_radius", clip_radius, low=0.0, open_low=True)
    if hessian_estimator not in ESTIMATORS:
        raise ValueError(f"hessian_estimator = {hessian_estimator!r}: it must be one of {', '.join(ESTIMATORS)}")
    settings = _Settings(
        learning_rate, n, hess_init, beta1, beta2, weight_decay, clip_radius, bool(rescale_lr),
        check_static("samples", samples),
        hessian_estimator == "squared_gradient", mask, standard_normal if draw is None else draw,
    )  # fmt: skip

    return Member.of(
        partial(_init, settings), partial(_perturb, settings), IvonState, finish=partial(_finish, settings),
        needs_key=True,
    )  # fmt: skip


def _init(settings: _Settings, params: Tree) -> IvonState:
    momentum = trees.zeros(params)
    hessian = jax.tree.map(lambda w: jnp.full(w.shape, settings.hess_init, trees.wide(w).dtype), params)
    precision = jnp.float32(settings.n) * (jnp.float32(settings.hess_init) + jnp.float32(settings.weight_decay))
    metrics = metrics_of(0.0, jax.lax.rsqrt(precision), jnp.nan)
    return IvonState(
        jnp.zeros((), jnp.int32), momentum, hessian, trees.sample_sizes(settings.n, settings.mask, params),
        jnp.array(settings.weight_decay, jnp.float32), metrics,
    )  # fmt: skip


def _perturb(
    settings: _Settings, state: IvonState, params: Tree, key: Any, evaluate: Evaluate, clean: Tree
) -> tuple[Tree, IvonState, tuple[jax.Array, Any]]:
    """First half: mean gradient at the noisy points, the state with its new h, mean loss and last aux."""
    mask = trees.resolve_mask(settings.mask, params)

    def precision(h: jax.Array) -> jax.Array:
        return trees.factor_like(settings.n, h) * (h + trees.factor_like(settings.weight_decay, h))

    sigma = jax.tree.map(lambda h: jax.lax.rsqrt(precision(h)), state.hessian)

    def sample(key: Any) -> tuple[tuple[Tree, Tree, jax.Array, jax.Array], Any, Any]:
        noise = jax.tree.map(jnp.multiply, sigma, trees.normals(key, params, mask, settings.draw))
        loss, gradient, aux = evaluate(trees.cast_like(trees.add(params, noise), params))
        gradient = jax.tree.map(trees.wide, gradient)
        curvature = jax.tree.map(jnp.multiply, gradient if settings.squared else noise, gradient)
        return (gradient, curvature, trees.dot(noise, noise), jnp.float32(loss)), (), aux

    (gradient, curvature, square, loss), _, aux = average_samples(sample, key, settings.samples)

    def learn(keep: bool, h: jax.Array, c: jax.Array) -> jax.Array:
        if not keep:
            return h
        estimate = c * (trees.factor_like(settings.n, h) if settings.squared else precision(h))
        return _new_hessian(settings, h, estimate)

    hessian = jax.tree.map(learn, mask, state.hessian, curvature)
    metrics = metrics_of(square, trees.mean(sigma, mask), loss)
    new = state._replace(
        hessian=hessian, sample_size=trees.sample_sizes(settings.n, settings.mask, params),
        weight_decay=jnp.asarray(settings.weight_decay, jnp.float32), metrics=metrics,
    )  # fmt: skip
    # A large but finite gradient can overflow in f^2; the second half learns of either from a gradient of NaN.
    finite = trees.all_finite((gradient, hessian))
    return trees.poisoned(finite, gradient), trees.where(finite, new, state), (loss, aux)


def _new_hessian(settings: _Settings, h: jax.Array, estimate: jax.Array) -> jax.Array:
    """beta2 h + (1-beta2) f + (1-beta2)^2 (h-f)^2 / (2 (h+delta)), as h plus a change.

    1 - beta2 is taken before it is rounded to float32, where 1 - 0.99999 is wrong by 0.1 %, and beta2 h is not formed:
    its rounding is a drift of the same size as a step.
    """
    delta, rate = trees.factor_like(settings.weight_decay, h), trees.factor_like(1 - settings.beta2, h)
    total = h + delta
    change = rate * (estimate - h) / total
    new = h + total * change * (1 + 0.5 * change)
    # Exactly, h + delta never falls by more than half; a floor far below keeps rounding from making it 0.
    return jnp.maximum(new, jnp.finfo(h.dtype).tiny - delta * (1 - 2.0**-20))


def _finish(settings: _Settings, gradient: Tree, state: IvonState, params: Tree) -> tuple[Tree, IvonState]:
    """Second half: momentum from the gradient that came in, and the move of the mean with the new h."""
    rate, count = at(settings.learning_rate, state.count), trees.next_count(state.count)

    def move(m: jax.Array, h: jax.Array, w: jax.Array) -> jax.Array:
        delta, radius = trees.factor_like(settings.weight_decay, h), trees.factor_like(settings.clip_radius, h)
        alpha = trees.factor_like(rate, h)
        if settings.rescale_lr:
            alpha = alpha * (trees.factor_like(settings.hess_init, h) + delta)
        corrected = m / (1 - trees.factor_like(settings.beta1, m) ** count)
        return -alpha * jnp.clip((corrected + delta * trees.wide(w)) / (h + delta), -radius, radius)

    momentum = trees.running_mean(settings.beta1, state.momentum, gradient)
    moved = jax.tree.map(move, momentum, state.hessian, params)
    return moved, state._replace(count=count, momentum=momentum)
