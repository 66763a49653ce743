r"""VOGN: a mean-field posterior whose precision is a running mean of squared per-example gradients.

Symbols: mu the params, m the momentum, s the running precision per example (curvature, prior and damping together), n
the number of training examples, delta = prior_precision / n, gamma the damping, tau the temperature. The posterior is
N(mu, 1/(n s)). What stands for the curvature is the square of one example's gradient, not that of the batch's mean: its
mean is the Gauss-Newton diagonal of the likelihood where the model fits, whatever the batch size.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule, at, check_decay, check_given, check_schedule, check_static
from pbjax.optim.member import Evaluate, Member
from pbjax.optim.perturbation import PerturbationMetrics, average_samples, metrics_of

Tree = Any


class VognState(NamedTuple):
    """State of `vogn`: two trees like the params in float32 (or wider), and scalars.

    Attributes:
        count: steps taken, int32 [].
        momentum: m, running mean of the gradients with the prior's pull in them.
        precision: s > 0; it stays at its start in leaves that the mask leaves alone.
        sample_size: n for every leaf, float32 []; infinite for leaves that the mask leaves alone, whose scale is 0.
        metrics: `PerturbationMetrics` of the last step; the mean scale is that of the noise that was drawn.
    """

    count: jax.Array
    momentum: Tree
    precision: Tree
    sample_size: Tree
    metrics: PerturbationMetrics

    def log_scales(self, params: Tree) -> Tree:
        """ln sigma = -ln(n s)/2 of the posterior, a tree like the params."""
        del params
        return jax.tree.map(
            lambda s, n: -0.5 * (jnp.log(trees.factor_like(n, s)) + jnp.log(s)), self.precision, self.sample_size
        )


class _Settings(NamedTuple):
    learning_rate: Schedule
    n: ArrayLike
    prior_precision: ArrayLike
    damping: ArrayLike
    beta1: ArrayLike
    beta2: ArrayLike
    temperature: ArrayLike
    precision_init: ArrayLike
    micro_batches: int
    at_once: int
    samples: int
    mask: trees.Mask | None


def vogn(
    learning_rate: Schedule,
    *,
    n: ArrayLike | None = None,
    micro_batches: int | jax.Array | None = None,
    prior_precision: ArrayLike = 1.0,
    damping: ArrayLike = 0.0,
    beta1: ArrayLike = 0.9,
    beta2: ArrayLike = 0.999,
    temperature: ArrayLike = 1.0,
    precision_init: ArrayLike = 1.0,
    samples: int | jax.Array = 1,
    at_once: int | jax.Array | None = None,
    mask: trees.Mask | None = None,
) -> Member:
    r"""Variational online Gauss-Newton, a whole optimiser with posterior $N(\mu, 1/(n s))$.

    With $g_i$ the gradient of example i at $\mu + z/\sqrt{n s}$, $g$ and $\overline{g^2}$ the means of $g_i$ and of
    $g_i^2$ over the batch, and $\delta = \text{prior\_precision}/n$,

    $$s' = s\,(1 + (1-\beta_2) f), \quad f = (\delta + \gamma + \overline{g^2})/s - \tau,$$
    $$m' = \beta_1 m + (1-\beta_1)(g + \delta\mu), \qquad \mu' = \mu - \alpha\, m'/s'.$$

    The first line is the published step of ln sigma, and no more than a running mean: s settles at
    $(\delta + \gamma + E\,\overline{g^2})/\tau$, and mu where $E g + \delta\mu = 0$. The step divides by the s after
    its update, as published; the code of the IVON experiments divides by the one before. There is no bias correction.

    Cost: the per-example gradients of the batch, for every sample; the incoming gradient is not read, and not computed
    under jit if nothing else uses it. Memory: `at_once` gradients. State: two trees of the size of the params.

    Args:
        learning_rate: alpha >= 0, or a schedule of the count.
        n: number of training examples, >= 1.
        micro_batches: the batch size, so that a part is one example. Fewer parts square means of several examples,
            which makes s too small by up to the number of examples in a part. Static, as are `samples` and `at_once`:
            name them in `inject_hyperparams(vogn, static_args=...)`.
        prior_precision: of the prior N(0, 1/prior_precision), > 0. It *is* the weight decay, with coefficient delta:
            the loss holds the likelihood only.
        damping: gamma >= 0, added to the curvature.
        beta1: decay of the momentum, in [0, 1).
        beta2: decay of s, in [0, 1).
        temperature: tau > 0, which multiplies the variance; 1 is Bayes, below 1 a cold posterior;
            (1 - beta2) tau <= 1.
        precision_init: s before the first step, > 0.
        samples: draws a step, whose gradients and squares are averaged, >= 1.
        at_once: examples that are differentiated in one `vmap`, a divisor of micro_batches; all by default. The parts
            are taken one after another in a scan.
        mask: leaves with noise and a learned s (all by default); the others are stepped in the same way with s held at
            precision_init: plain momentum with the prior's pull as weight decay.

    Returns:
        An optax transformation whose updates are added to the params as they are: `update(grads, state, params,
        grad_fn=..., key=...)`. Its `grad_fn(params, part)` takes the traced index of an example beside the params and
        returns the gradient of that example's loss; it is vmapped over the index. `perturbed_value_and_grad` cuts the
        loss's arguments into rows itself and moves s; value is the mean loss and aux has a leading axis of examples.
        Follow it with `update(grads, state, params, perturbed=True)`. `posterior` reads the scales.

    Raises:
        ValueError: a missing n or micro_batches, or numbers out of range; a missing grad_fn or key at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> inputs, targets = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, -1.0])
        >>> grad_fn = lambda w, part: jax.grad(lambda w: 0.5 * (inputs[part] @ w - targets[part]) ** 2)(w)
        >>> tx, params = vogn(0.1, n=2, micro_batches=2, beta2=0.9), jnp.zeros(2)
        >>> updates, state = tx.update(
        ...     jnp.zeros(2), tx.init(params), params, grad_fn=grad_fn, key=jax.random.key(0)
        ... )
        >>> bool(jnp.all(state.precision >= 0.9 + 0.1 * 1.0 / 2))
        True

    References:
        Khan et al., "Fast and scalable Bayesian deep learning by weight-perturbation in Adam", ICML 2018 (VOGN);
        Osawa et al., "Practical deep learning with Bayesian principles", NeurIPS 2019.
    """
    n = check_given("n", n, "the number of training examples, which sets the noise and the prior's pull")
    check_given("micro_batches", micro_batches, "the batch size: every example is a part whose gradient is squared")
    check_n(n)
    check_schedule("learning_rate", learning_rate)
    check_range("prior_precision", prior_precision, low=0.0, open_low=True, open_high=True)
    check_range("damping", damping, low=0.0, open_high=True)
    check_decay("beta1", beta1)
    check_decay("beta2", beta2)
    check_range("temperature", temperature, low=0.0, open_low=True, open_high=True)
    remedy = "above 1 a step could make the precision negative: raise beta2 or lower the temperature"
    check_range("(1 - beta2) * temperature", (1 - beta2) * temperature, high=1.0, remedy=remedy)
    check_range("precision_init", precision_init, low=0.0, open_low=True, open_high=True)
    parts = check_static("micro_batches", micro_batches)
    together = parts if at_once is None else check_static("at_once", at_once)
    if parts % together:
        raise ValueError(f"at_once = {at_once}: it must divide micro_batches = {micro_batches}")
    settings = _Settings(
        learning_rate, n, prior_precision, damping, beta1, beta2, temperature, precision_init, parts, together,
        check_static("samples", samples), mask,
    )  # fmt: skip

    return Member.of(
        partial(_init, settings), partial(_perturb, settings), VognState, finish=partial(_finish, settings),
        needs_key=True, micro_batches=parts,
    )  # fmt: skip


def _init(settings: _Settings, params: Tree) -> VognState:
    momentum = trees.zeros(params)
    precision = jax.tree.map(lambda w: jnp.full(w.shape, settings.precision_init, trees.wide(w).dtype), params)
    scale = jax.lax.rsqrt(jnp.asarray(settings.n, jnp.float32) * jnp.asarray(settings.precision_init, jnp.float32))
    metrics = metrics_of(0.0, scale, jnp.nan)
    sizes = trees.sample_sizes(settings.n, settings.mask, params)
    return VognState(jnp.zeros((), jnp.int32), momentum, precision, sizes, metrics)


def _perturb(
    settings: _Settings, state: VognState, params: Tree, key: Any, evaluate: Evaluate, clean: Tree
) -> tuple[Tree, VognState, tuple[jax.Array, Any]]:
    """First half: mean gradient at the noisy points, the state with its new s, mean loss and the last sample's aux."""
    mask = trees.resolve_mask(settings.mask, params)
    sigma = jax.tree.map(lambda s: jax.lax.rsqrt(trees.factor_like(settings.n, s) * s), state.precision)

    def sample(key: Any) -> tuple[tuple[Tree, Tree, jax.Array, jax.Array], Any, Any]:
        noise = jax.tree.map(jnp.multiply, sigma, trees.normals(key, params, mask))
        point = trees.cast_like(trees.add(params, noise), params)
        (gradient, square, loss), aux = _moments(settings, point, evaluate)
        return (gradient, square, trees.dot(noise, noise), loss), (), aux

    (gradient, square, norm, loss), _, aux = average_samples(sample, key, settings.samples)

    def learn(keep: bool, s: jax.Array, squared: jax.Array) -> jax.Array:
        if not keep:
            return s
        # 1 - beta2 and delta are formed before they are rounded to float32.
        rate, tau = trees.factor_like(1 - settings.beta2, s), trees.factor_like(settings.temperature, s)
        floor = trees.factor_like(settings.prior_precision / settings.n + settings.damping, s)
        return s + rate * (floor + squared - tau * s)

    precision = jax.tree.map(learn, mask, state.precision, square)
    metrics = metrics_of(norm, trees.mean(sigma, mask), loss)
    sizes = trees.sample_sizes(settings.n, settings.mask, params)
    new = state._replace(precision=precision, sample_size=sizes, metrics=metrics)
    # A large but finite gradient can overflow in its square; the second half learns of either from a gradient of NaN.
    finite = trees.all_finite((gradient, precision))
    return trees.poisoned(finite, gradient), trees.where(finite, new, state), (loss, aux)


def _moments(settings: _Settings, point: Tree, evaluate: Evaluate) -> tuple[tuple[Tree, Tree, jax.Array], Any]:
    """Means of g_i, g_i^2 and the loss over the examples, and every example's aux."""

    def one(part: jax.Array) -> tuple[Tree, jax.Array, Any]:
        loss, gradient, aux = evaluate(point, part)
        return jax.tree.map(trees.wide, gradient), jnp.float32(loss), aux

    def several(parts: jax.Array) -> tuple[tuple[Tree, Tree, jax.Array], Any]:
        gradients, losses, aux = jax.vmap(one)(parts)
        mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
        square = jax.tree.map(lambda g: jnp.mean(jnp.square(g), axis=0), gradients)
        return (mean, square, jnp.mean(losses)), aux

    parts = jnp.arange(settings.micro_batches)
    if settings.at_once == settings.micro_batches:
        return several(parts)
    rows = parts.reshape(-1, settings.at_once)

    def body(total: Any, parts: jax.Array) -> tuple[Any, Any]:
        found, aux = several(parts)
        return jax.tree.map(lambda t, f: t + f / rows.shape[0], total, found), aux

    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(several, rows[0])[0])
    found, aux = jax.lax.scan(body, start, rows)
    return found, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), aux)


def _finish(settings: _Settings, gradient: Tree, state: VognState, params: Tree) -> tuple[Tree, VognState]:
    """Second half: momentum from the gradient that came in and the prior's pull, and the move of the mean."""
    rate = at(settings.learning_rate, state.count)
    delta = settings.prior_precision / settings.n
    pulled = jax.tree.map(lambda g, w: trees.wide(g) + trees.factor_like(delta, w) * trees.wide(w), gradient, params)
    momentum = trees.running_mean(settings.beta1, state.momentum, pulled)
    moved = jax.tree.map(lambda m, s: -trees.factor_like(rate, m) * m / s, momentum, state.precision)
    return moved, state._replace(count=trees.next_count(state.count), momentum=momentum)
