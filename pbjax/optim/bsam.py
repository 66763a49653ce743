r"""bSAM: a natural-gradient mean-field posterior whose expected loss is replaced by its largest value nearby."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range, concrete
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule, at, check_decay, check_given, check_schedule, check_static
from pbjax.optim.member import Evaluate, Member
from pbjax.optim.perturbation import PerturbationMetrics, metrics_of

Tree = Any


class BsamState(NamedTuple):
    """State of `bsam`, three trees like the params in float32 (or wider), and scalars.

    Attributes:
        count: steps taken, int32 [].
        momentum: m, the running mean of gradients with the prior's pull in them.
        precision: s, positive; the posterior is N(params, 1/(n s)).
        increment: mean over micro-batches of sqrt(s)|g| at the last noisy points. It is kept because a step divides by
            the precision from before it, and in a loop of one's own the gradients come before the step.
        sample_size: n for every leaf, float32 []; infinite for leaves that the mask leaves alone, whose scale is 0.
        metrics: `PerturbationMetrics` of the last step: norm of the ascent rho g/s, mean posterior scale, and the loss
            at the end of the ascent.
    """

    count: jax.Array
    momentum: Tree
    precision: Tree
    increment: Tree
    sample_size: Tree
    metrics: PerturbationMetrics

    def log_scales(self, params: Tree) -> Tree:
        """ln sigma = -(ln n + ln s)/2 of the posterior, a tree like the params."""
        del params
        return jax.tree.map(
            lambda s, n: -0.5 * (jnp.log(trees.factor_like(n, s)) + jnp.log(s)), self.precision, self.sample_size
        )


class _Settings(NamedTuple):
    learning_rate: Schedule
    n: ArrayLike
    radius: Schedule
    beta1: ArrayLike
    beta2: ArrayLike
    prior_precision: ArrayLike
    damping: ArrayLike
    precision_init: ArrayLike
    micro_batches: int
    mask: trees.Mask | None

    @property
    def delta(self) -> jax.Array:
        """The prior's share of one example."""
        return jnp.asarray(self.prior_precision, jnp.float32) / jnp.asarray(self.n, jnp.float32)


def bsam(
    learning_rate: Schedule,
    *,
    n: ArrayLike | None = None,
    radius: Schedule = 0.01,
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.999,
    prior_precision: ArrayLike = 40.0,
    damping: ArrayLike = 0.1,
    precision_init: ArrayLike = 1.0,
    micro_batches: ArrayLike = 1,
    mask: trees.Mask | None = None,
) -> Member:
    r"""Bayesian SAM, a whole optimiser with posterior $N(w, 1/(n s))$. With $\delta = \text{prior\_precision}/n$,

    $$g = \nabla L(w + z/\sqrt{n s}), \qquad g' = \nabla L(w + \rho\, g/s),$$
    $$m \leftarrow \beta_1 m + (1-\beta_1)(g' + \delta w), \quad w \leftarrow w - \alpha\, m/s, \quad
    s \leftarrow \beta_2 s + (1-\beta_2)(\sqrt{s}\,|g| + \delta + \gamma).$$

    The ascent starts at the mean although g comes from the noisy point, it is not normalised, and the step divides by
    the s from before its update. There is no bias correction. s is not a Hessian: at a minimum at 0 with curvature h it
    settles at $\delta + \gamma + h \sqrt{2/(\pi n)}$.

    Cost: two gradients; the incoming one is not read, and not computed under jit if nothing else uses it. State: three
    trees of the size of the params.

    Args:
        learning_rate: alpha >= 0, or a schedule of the count.
        n: number of training examples N, times the factor by which augmentation multiplies them (4 in the published
            CIFAR runs), >= 1.
        radius: rho >= 0, or a schedule of the count; the ascent is rho g/s, so rho is no Euclidean length.
        beta1: decay of the momentum, in [0, 1).
        beta2: decay of the precision, in [0, 1).
        prior_precision: of the prior N(0, 1/prior_precision), >= 0. It *is* the weight decay, with coefficient delta:
            the loss holds the likelihood only.
        damping: gamma >= 0, a floor under the precision; not both gamma and prior_precision may be 0.
        precision_init: s before the first step, > 0.
        micro_batches: parts, each with noise and ascent of its own, over which g', and sqrt(s)|g| for s, are averaged
            (8 in the published runs). Above 1, `grad_fn(params, part)` is asked for the gradient on part 0, 1, ...,
            traced and vmapped. Static: name it in `inject_hyperparams(bsam, static_args=...)`.
        mask: leaves with noise and ascent (all by default); the others are stepped the same way from their own |g|.

    Returns:
        An optax transformation whose updates are added to the params as they are: `update(grads, state, params,
        grad_fn=..., key=...)`, or `perturbed=True` with gradients from `perturbed_value_and_grad`, which gives the
        mean loss at the ends of the ascents, and the aux of micro-batch 0 there.

    Raises:
        ValueError: a missing n, or numbers out of range; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx, params = bsam(0.1, n=1000), jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(
        ...     jnp.zeros(2), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0)
        ... )
        >>> [round(float(u), 2) for u in updates]
        [-0.03, -0.04]

    References:
        Möllenhoff and Khan, "SAM as an optimal relaxation of Bayes", ICLR 2023, algorithm 1.
    """
    n = check_given("n", n, "the number of training examples, which sets the noise and the prior's pull")
    check_n(n)
    check_schedule("learning_rate", learning_rate)
    check_schedule("radius", radius)
    check_decay("beta1", beta1)
    check_decay("beta2", beta2)
    check_range("prior_precision", prior_precision, low=0.0, open_high=True)
    check_range("damping", damping, low=0.0, open_high=True)
    check_range("precision_init", precision_init, low=0.0, open_low=True, open_high=True)
    floor = (concrete(prior_precision), concrete(damping))
    if floor[0] is not None and floor[1] is not None and not floor[0].any() and not floor[1].any():
        raise ValueError(
            "damping = 0 and prior_precision = 0: one must be positive, or s falls to 0 without a gradient"
        )
    parts = check_static("micro_batches", micro_batches)
    settings = _Settings(learning_rate, n, radius, beta1, beta2, prior_precision, damping, precision_init, parts, mask)
    return Member.of(
        partial(_init, settings), partial(_ascend, settings), BsamState, finish=partial(_finish, settings),
        needs_key=True, micro_batches=parts if parts > 1 else None,
    )  # fmt: skip


def _init(settings: _Settings, params: Tree) -> BsamState:
    precision = jax.tree.map(lambda w: jnp.full_like(trees.wide(w), settings.precision_init), params)
    scale = jax.lax.rsqrt(jnp.asarray(settings.n, jnp.float32) * jnp.asarray(settings.precision_init, jnp.float32))
    return BsamState(
        jnp.zeros((), jnp.int32), trees.zeros(params), precision, trees.zeros(params),
        trees.sample_sizes(settings.n, settings.mask, params), metrics_of(0.0, scale, jnp.nan),
    )  # fmt: skip


def _ascend(
    settings: _Settings, state: BsamState, params: Tree, key: Any, evaluate: Evaluate, clean: Tree
) -> tuple[Tree, BsamState, tuple[jax.Array, Any]]:
    """Both gradients of every micro-batch: mean g', the state with the mean of sqrt(s)|g|, mean loss and first aux."""
    mask = trees.resolve_mask(settings.mask, params)
    rho = jnp.asarray(at(settings.radius, state.count), jnp.float32)
    n = jnp.asarray(settings.n, jnp.float32)
    sigma = jax.tree.map(lambda s: jax.lax.rsqrt(trees.factor_like(n, s) * s), state.precision)

    def one(key: Any, *part: Any) -> tuple[tuple[Tree, Tree, jax.Array, jax.Array], Any]:
        noise = jax.tree.map(jnp.multiply, sigma, trees.normals(key, params, mask))
        _, noisy, _ = evaluate(trees.cast_like(trees.add(params, noise), params), *part)
        epsilon = jax.tree.map(lambda g, s: trees.factor_like(rho, s) * trees.wide(g) / s, noisy, state.precision)
        epsilon = trees.select(mask, epsilon)
        loss, ascended, aux = evaluate(trees.cast_like(trees.add(params, epsilon), params), *part)
        increment = jax.tree.map(lambda g, s: jnp.sqrt(s) * jnp.abs(trees.wide(g)), noisy, state.precision)
        return (jax.tree.map(trees.wide, ascended), increment, trees.dot(epsilon, epsilon), jnp.float32(loss)), aux

    if settings.micro_batches == 1:
        found, aux = one(key)
    else:
        parts = jnp.arange(settings.micro_batches)
        found, aux = jax.vmap(one)(jax.random.split(key, settings.micro_batches), parts)
        found = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)
        aux = jax.tree.map(lambda leaf: leaf[0], aux)
    gradient, increment, square, loss = found
    metrics = metrics_of(square, trees.mean(sigma, mask), loss)
    sizes = trees.sample_sizes(settings.n, settings.mask, params)
    new = state._replace(increment=increment, sample_size=sizes, metrics=metrics)
    # A gradient of NaN everywhere is how the step learns that one of the two was not finite.
    finite = trees.all_finite((gradient, increment))
    return trees.poisoned(finite, gradient), trees.where(finite, new, state), (loss, aux)


def _finish(settings: _Settings, gradient: Tree, state: BsamState, params: Tree) -> tuple[Tree, BsamState]:
    """Momentum with the prior's pull, a step divided by the old precision, then the new precision."""
    rate, delta = at(settings.learning_rate, state.count), settings.delta
    pulled = jax.tree.map(lambda g, w: trees.wide(g) + trees.factor_like(delta, w) * trees.wide(w), gradient, params)
    momentum = trees.running_mean(settings.beta1, state.momentum, pulled)
    moved = jax.tree.map(lambda m, s: -trees.factor_like(rate, m) * m / s, momentum, state.precision)
    floor = delta + jnp.asarray(settings.damping)
    target = jax.tree.map(lambda i: i + trees.factor_like(floor, i), state.increment)
    precision = trees.running_mean(settings.beta2, state.precision, target)
    return moved, state._replace(count=trees.next_count(state.count), momentum=momentum, precision=precision)
