r"""The family: evaluate the gradient at a perturbed mean, then let the rest of the chain step with it.

    epsilon = r D q,    g' = grad L(mu + epsilon)

Direction q, metric D, radius r and scale update are independent parts (`directions`, `geometry`, `scales`), so are what
the step is made with (`combinations`) and an optional ascent from the perturbed point. SAM has q along D g; mean-field
variational inference has Gaussian q and D = sigma; both are this one transformation.

P is the number of scalars in the perturbed leaves. The user gives the Euclidean radius rho, r = rho for D = 1; with a
learned sigma the posterior's own shell, r = sqrt(P), is the default, and rho sets where sigma starts, rho / sqrt(P).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range, concrete
from pbjax.optim import _trees as trees
from pbjax.optim.combinations import Combination, perturbed_only
from pbjax.optim.directions import Direction, along_gradient
from pbjax.optim.geometry import Metric, euclidean
from pbjax.optim.own_loop import Evaluate, Member, evaluator
from pbjax.optim.scales import LearnedScale, prior_pull

Tree = Any
Radius = ArrayLike | Callable[..., ArrayLike]


class PerturbationMetrics(NamedTuple):
    """What the last step did, for logging.

    Attributes:
        perturbation_norm: Euclidean norm of epsilon, root mean square over samples, float32 [].
        mean_scale: mean of sigma over the perturbed weights (rho / sqrt(P) where nothing is learned), float32 [].
        perturbed_loss: loss at the perturbed point, mean over samples; NaN where only gradients were given.
    """

    perturbation_norm: jax.Array
    mean_scale: jax.Array
    perturbed_loss: jax.Array


class PerturbationState(NamedTuple):
    """State of a member of the family; its structure never changes.

    Attributes:
        count: steps taken, int32 [].
        direction: what the direction remembers, () if nothing.
        log_scale: ln sigma: a tree like the params (learned), one scalar a leaf (fixed noise, -inf where masked), or ()
            where the perturbation is adversarial and there is no posterior.
        scale_update: state of the scale's own optimiser, () if there is none.
        metrics: `PerturbationMetrics` of the last step.
    """

    count: jax.Array
    direction: Any
    log_scale: Any
    scale_update: Any
    metrics: PerturbationMetrics


class Rule(NamedTuple):
    """The parts of a member, as `sharpness_aware` put them together.

    Attributes:
        radius: rho, or a schedule of the count.
        direction, metric, learned, combination: the parts; `learned` is None for a fixed scale.
        in_standard_units: rho multiplies sqrt(P), so that D is a standard deviation of the noise.
        ascent: rho of a second, adversarial perturbation from the first perturbed point, or None.
        mask: leaves that are perturbed.
        samples: evaluations a step, averaged.
    """

    radius: Radius
    direction: Direction
    metric: Metric
    learned: LearnedScale | None
    combination: Combination
    in_standard_units: bool
    ascent: Radius | None
    mask: trees.Mask | None
    samples: int

    @property
    def needs_gradient(self) -> bool:
        """Whether the clean gradient is read: one gradient a step if not, two if so."""
        at_clean = self.learned is not None and self.learned.at_clean
        return (
            self.direction.needs_gradient or self.metric.needs_gradient or self.combination.needs_gradient or at_clean
        )


def sharpness_aware(
    radius: Radius,
    *,
    direction: Direction | None = None,
    metric: Metric | None = None,
    learned: LearnedScale | None = None,
    combination: Combination | None = None,
    in_standard_units: bool | None = None,
    ascent: Radius | None = None,
    mask: trees.Mask | None = None,
    samples: int = 1,
) -> Member:
    r"""Replace the incoming gradient by the one at a perturbed point, $g' = \nabla L(\mu + r D q)$.

    Cost: one gradient for every sample, one more for the clean gradient where a part reads it (the one that comes in),
    one more for every sample with an `ascent`. State: two counters and scalars, plus what the parts keep.

    Args:
        radius: Euclidean rho >= 0, or a schedule `count -> rho`; with `learned`, where sigma starts: rho / sqrt(P).
        direction: `along_gradient()` (default), `at_random()`, `mixture(kappa)`, `away_from_mean()` or
            `along_momentum()`.
        metric: `euclidean()` (default), `adaptive(eta)`, `fisher(eta)`, `filter_norm()`; not with `learned`.
        learned: `learned_scale(...)`; D is then sigma and r = sqrt(P), and the prior's pull is added to the gradient.
        combination: `perturbed_only()` (default), `weighted(weight)`, `surrogate_gap(alpha)`.
        in_standard_units: let rho count standard deviations a weight, r = rho sqrt(P), rather than a Euclidean length;
            not with `learned`, which does so always.
        ascent: rho of one more step up the gradient from the perturbed point, which the scale's gradient ignores.
        mask: pytree of bools or function of the params: the leaves that are perturbed (all by default).
        samples: evaluations averaged in one step; needs a random direction if above 1.

    Returns:
        An optax transformation: `update(grads, state, params, grad_fn=..., key=...)`. It asks for `grad_fn(params) ->
        grads` or `value_and_grad_fn(params) -> (loss, grads)`, and for a typed `key` if the direction is random.
        Pass `perturbed=True` instead where the gradients come from `perturbed_value_and_grad`. It stands in
        `optax.chain` before the first preconditioner; whatever it does not know is ignored and goes on.

    Raises:
        ValueError: at construction for numbers out of range; at `update` for what is missing.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(sharpness_aware(radius=0.1), optax.sgd(1.0))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> [round(float(u), 3) for u in updates]
        [-3.06, -4.08]

    References:
        Foret et al., ICLR 2021; Ujvary et al., "Rethinking sharpness-aware minimization as variational inference", OPT
        2022.
    """
    return from_rule(
        rule_of(
            radius, direction=direction, metric=metric, learned=learned, combination=combination,
            in_standard_units=in_standard_units, ascent=ascent, mask=mask, samples=samples,
        )
    )  # fmt: skip


def rule_of(
    radius: Radius,
    *,
    direction: Direction | None = None,
    metric: Metric | None = None,
    learned: LearnedScale | None = None,
    combination: Combination | None = None,
    in_standard_units: bool | None = None,
    ascent: Radius | None = None,
    mask: trees.Mask | None = None,
    samples: int = 1,
) -> Rule:
    """The parts put together, with the defaults of `sharpness_aware`, after their checks."""
    _check_radius("radius", radius)
    if ascent is not None:
        _check_radius("ascent", ascent)
    if concrete(samples) is None:
        raise ValueError("samples is traced: it sets shapes, name it in inject_hyperparams(..., static_args=...)")
    check_n(samples, name="samples")
    if learned is not None and metric is not None and metric.diagonal is not None:
        raise ValueError("metric and learned scale exclude each other: the posterior's scale is the metric")
    direction = along_gradient() if direction is None else direction
    if samples > 1 and not direction.needs_key:
        raise ValueError(f"samples = {samples}: this direction is not random, so every sample would be the same")
    if learned is not None:
        if in_standard_units is not None:
            raise ValueError("in_standard_units is not for a learned scale, which always is in standard units")
        if not callable(radius):
            check_range("radius", radius, low=0.0, open_low=True, remedy="a learned scale starts at radius/sqrt(P) > 0")
    return Rule(
        radius, direction, euclidean() if metric is None else metric, learned,
        perturbed_only() if combination is None else combination, bool(in_standard_units), ascent, mask, int(samples),
    )  # fmt: skip


def from_rule(rule: Rule) -> Member:
    """The transformation of a rule."""

    def update(
        updates: Tree,
        state: PerturbationState,
        params: Tree = None,
        *,
        grad_fn: Any = None,
        value_and_grad_fn: Any = None,
        key: Any = None,
        perturbed: bool = False,
        **others: Any,
    ) -> tuple[Tree, PerturbationState]:
        if perturbed:
            return updates, state
        evaluate = evaluator(grad_fn, value_and_grad_fn)
        used, state, _ = step(rule, state, params, key, evaluate, clean=updates)
        return trees.cast_like(used, updates), state

    def own_loop(state: PerturbationState, params: Tree, key: Any, evaluate: Evaluate) -> Any:
        first = evaluate(params) if rule.needs_gradient else None
        used, state, only = step(rule, state, params, key, evaluate, clean=None if first is None else first[1])
        loss, aux = only if first is None else (first[0], first[2])
        return loss, aux, trees.cast_like(used, params), state

    return Member.of(lambda params: init(rule, params), update, own_loop, PerturbationState)


def init(rule: Rule, params: Tree) -> PerturbationState:
    """The state before the first step."""
    trees.check_params(params)
    mask = trees.resolve_mask(rule.mask, params)
    sigma = jnp.float32(_at(rule.radius, jnp.int32(0)))
    if not rule.in_standard_units:
        sigma = sigma * trees.count(params, mask) ** -0.5
    log_scale: Any = _fixed_log_scale(rule, mask, sigma)
    scale_update: Any = ()
    if rule.learned is not None:
        start = _at(rule.radius, jnp.int32(0))
        check_range("radius at count 0", start, low=0.0, open_low=True, remedy="sigma starts at radius/sqrt(P) > 0")
        log_scale = jax.tree.map(
            lambda keep, w: jnp.full_like(trees.wide(w), jnp.log(sigma) if keep else -jnp.inf), mask, params
        )
        scale_update = rule.learned.update.init(log_scale)
    # Arrays of their own: a buffer that a state holds twice cannot be donated.
    metrics = PerturbationMetrics(jnp.zeros((), jnp.float32), sigma, jnp.full((), jnp.nan, jnp.float32))
    return PerturbationState(jnp.zeros((), jnp.int32), rule.direction.init(params), log_scale, scale_update, metrics)


def step(
    rule: Rule,
    state: PerturbationState,
    params: Tree,
    key: Any,
    evaluate: Evaluate,
    *,
    clean: Tree,
) -> tuple[Tree, PerturbationState, tuple[jax.Array, Any]]:
    """One evaluation at the perturbed point(s): the gradient to step with, the new state, mean loss and last aux."""
    trees.check_params(params)
    if rule.direction.needs_key and key is None:
        raise ValueError(
            "key is missing: the direction is random, pass update(..., key=key), a new jax.random.key a step"
        )
    mask = trees.resolve_mask(rule.mask, params)
    size = trees.count(params, mask)
    rho = jnp.asarray(_at(rule.radius, state.count), jnp.float32)
    sigma = None if rule.learned is None else jax.tree.map(jnp.exp, state.log_scale)
    if rule.learned is not None:
        length = jnp.float32(size**0.5)
    else:
        length = rho * size**0.5 if rule.in_standard_units else rho
    diagonal = None if rule.metric.diagonal is None else rule.metric.diagonal(params, clean, mask)

    def whiten(tree: Tree) -> Tree:
        for factor in (diagonal, sigma):
            if factor is not None:
                tree = jax.tree.map(lambda t, d: trees.wide(t) * d, tree, factor)
        return trees.select(mask, tree)

    def sample(key: Any) -> tuple[tuple[Tree, Tree, jax.Array, jax.Array], Any, Any]:
        q, direction = rule.direction.point(key, clean, whiten, params, mask, state.direction)
        epsilon = trees.scale(length, whiten(q))
        point = trees.add(params, epsilon)
        total = epsilon
        if rule.ascent is not None:
            _, first, _ = evaluate(trees.cast_like(point, params))
            up = trees.scale(jnp.float32(_at(rule.ascent, state.count)), trees.unit(trees.select(mask, first)))
            total, point = trees.add(epsilon, up), trees.add(point, up)
        loss, gradient, aux = evaluate(trees.cast_like(point, params))
        reference = clean if rule.learned is not None and rule.learned.at_clean else gradient
        slope = () if rule.learned is None else jax.tree.map(lambda g, e: trees.wide(g) * e, reference, epsilon)
        # SAM's own case: the length is known, and measuring it would be one more pass over the params.
        plain = rule.direction.is_unit and diagonal is None and sigma is None and rule.ascent is None
        if plain:
            seen = trees.select(mask, clean)
            square = jnp.square(length) * (trees.dot(seen, seen) > 0)
        else:
            square = trees.dot(total, total)
        return (jax.tree.map(trees.wide, gradient), slope, square, jnp.float32(loss)), direction, aux

    (gradient, slope, square, loss), direction, aux = average_samples(sample, key, rule.samples)
    used = rule.combination.combine(clean, gradient)
    direction = rule.direction.absorb(used, direction)
    log_scale, scale_update = state.log_scale, state.scale_update
    tame = jnp.bool_(True)
    if rule.learned is not None and sigma is not None:
        pull, shrink = prior_pull(rule.learned, params, sigma, mask)
        weight = jnp.asarray(rule.learned.n, jnp.float32) / rule.learned.kl_weight
        used = jax.tree.map(lambda g, k: trees.wide(g) + k / trees.factor_like(weight, k), used, pull)
        # A gradient can be finite and its square not: it would freeze Adam's average or make the precision infinite.
        steep = trees.scale(weight, slope)
        tame = jnp.isfinite(trees.dot(steep, steep))
        moved, scale_update = rule.learned.update.step(log_scale, slope, shrink, scale_update, n=weight)
        log_scale = jax.tree.map(lambda keep, new, old: new if keep else old, mask, moved, log_scale)
        total = jax.tree.reduce(jnp.add, jax.tree.map(lambda k, s: jnp.sum(s) if k else jnp.float32(0), mask, sigma))
        mean_scale = jnp.float32(total / size)
    else:
        mean_scale = length * size**-0.5
        log_scale = _fixed_log_scale(rule, mask, mean_scale)
    metrics = PerturbationMetrics(jnp.sqrt(square).astype(jnp.float32), mean_scale, loss)
    new = PerturbationState(_next(state.count), direction, log_scale, scale_update, metrics)
    # A gradient that is not finite must not leave half of itself behind: nothing of it enters the state, and the
    # gradient that goes on is not finite anywhere, so that whatever watches the updates sees it.
    finite = trees.all_finite(used) & tame
    if rule.needs_gradient:  # its norm is at hand already; a metric of zeros and ones can swallow a NaN
        finite = finite & jnp.isfinite(trees.dot(clean, clean))
    used = jax.tree.map(lambda g: jnp.where(finite, g, jnp.nan), used)
    return used, trees.where(finite, new, state), (loss, aux)


def average_samples(sample: Callable[[Any], Any], key: Any, samples: int) -> Any:
    if samples == 1:
        return sample(key)

    def body(total: Any, key: Any) -> tuple[Any, Any]:
        parts, direction, aux = sample(key)
        return jax.tree.map(lambda t, p: t + p / samples, total, parts), (direction, aux)

    keys = jax.random.split(key, samples)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sample, keys[0])[0])
    parts, rest = jax.lax.scan(body, start, keys)
    direction, aux = jax.tree.map(lambda leaf: leaf[-1], rest)
    return parts, direction, aux


def _fixed_log_scale(rule: Rule, mask: Tree, sigma: jax.Array) -> Any:
    if not rule.direction.is_gaussian or rule.metric.diagonal is not None or rule.ascent is not None:
        return ()
    return jax.tree.map(lambda keep: jnp.log(sigma) if keep else jnp.float32(-jnp.inf), mask)


def _next(count: jax.Array) -> jax.Array:
    return jnp.asarray(optax.safe_increment(count))


def _at(radius: Radius, count: jax.Array) -> ArrayLike:
    return radius(count) if callable(radius) else radius


def _check_radius(name: str, radius: Radius) -> None:
    if not callable(radius):
        check_range(name, radius, low=0.0, open_high=True, remedy="a radius is a length, 0 or more")
