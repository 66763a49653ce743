"""The step that the family shares: where the gradient is evaluated, and what is learned from it.

Symbols are those of `sharpness_aware`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule, at, check_schedule, check_static
from pbjax.optim.combinations import Combination, perturbed_only
from pbjax.optim.directions import Direction, along_gradient
from pbjax.optim.geometry import Metric, euclidean
from pbjax.optim.member import Evaluate, Tree
from pbjax.optim.scales import LearnedScale, prior_pull


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


def metrics_of(square: ArrayLike, mean_scale: ArrayLike, loss: ArrayLike) -> PerturbationMetrics:
    """Metrics from the mean square length, in arrays of their own: a buffer held twice could not be donated."""
    return PerturbationMetrics(
        jnp.sqrt(square).astype(jnp.float32), jnp.array(mean_scale, jnp.float32), jnp.array(loss, jnp.float32)
    )


class Rule(NamedTuple):
    """The parts of a member; `sharpness_aware` says what they are.

    Attributes:
        radius: rho, or a schedule of the count.
        direction: a `Direction`.
        metric: a `Metric`.
        learned: a `LearnedScale`, None for a fixed scale.
        combination: a `Combination`.
        in_standard_units: rho multiplies sqrt(P), so that D is a standard deviation of the noise.
        ascent: rho of a second, adversarial perturbation from the first perturbed point, or None.
        mask: leaves that are perturbed.
        samples: evaluations a step, averaged.
    """

    radius: Schedule
    direction: Direction = along_gradient()
    metric: Metric = euclidean()
    learned: LearnedScale | None = None
    combination: Combination = perturbed_only()
    in_standard_units: bool = False
    ascent: Schedule | None = None
    mask: trees.Mask | None = None
    samples: int = 1

    @property
    def needs_gradient(self) -> bool:
        """Whether the clean gradient is read: one gradient a step if not, two if so."""
        at_clean = self.learned is not None and self.learned.at_clean
        return (
            self.direction.needs_gradient or self.metric.needs_gradient or self.combination.needs_gradient or at_clean
        )


def checked(rule: Rule) -> Rule:
    """The rule, if its parts go together."""
    check_schedule("radius", rule.radius, open_low=rule.learned is not None)
    if rule.ascent is not None:
        check_schedule("ascent", rule.ascent)
    samples = check_static("samples", rule.samples)
    if samples > 1 and not rule.direction.needs_key:
        raise ValueError(f"samples = {samples}: this direction is not random, so every sample would be the same")
    if rule.learned is not None and rule.metric.diagonal is not None:
        raise ValueError("metric and learned scale exclude each other: the posterior's scale is the metric")
    if rule.learned is not None and rule.in_standard_units:
        raise ValueError("in_standard_units is not for a learned scale, which always is in standard units")
    return rule._replace(samples=samples)


def init(rule: Rule, params: Tree) -> PerturbationState:
    """The state before the first step."""
    mask = trees.resolve_mask(rule.mask, params)
    sigma = jnp.float32(at(rule.radius, jnp.int32(0)))
    if not rule.in_standard_units:
        sigma = sigma * trees.count(params, mask) ** -0.5
    log_scale: Any = _fixed_log_scale(rule, mask, sigma)
    scale_update: Any = ()
    if rule.learned is not None:
        start = at(rule.radius, jnp.int32(0))
        check_range("radius at count 0", start, low=0.0, open_low=True, remedy="sigma starts at radius/sqrt(P) > 0")
        log_scale = jax.tree.map(
            lambda keep, w: jnp.full_like(trees.wide(w), jnp.log(sigma) if keep else -jnp.inf), mask, params
        )
        scale_update = rule.learned.update.init(log_scale)
    metrics = metrics_of(0.0, sigma, jnp.nan)
    return PerturbationState(jnp.zeros((), jnp.int32), rule.direction.init(params), log_scale, scale_update, metrics)


def step(
    rule: Rule,
    state: PerturbationState,
    params: Tree,
    key: Any,
    evaluate: Evaluate,
    clean: Tree,
) -> tuple[Tree, PerturbationState, tuple[jax.Array, Any]]:
    """One evaluation at the perturbed point(s): the gradient to step with, the new state, mean loss and last aux."""
    mask = trees.resolve_mask(rule.mask, params)
    size = trees.count(params, mask)
    rho = jnp.asarray(at(rule.radius, state.count), jnp.float32)
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
            up = trees.scale(jnp.float32(at(rule.ascent, state.count)), trees.unit(trees.select(mask, first)))
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
        mean_scale = trees.mean(sigma, mask)
    else:
        mean_scale = length * size**-0.5
        log_scale = _fixed_log_scale(rule, mask, mean_scale)
    metrics = metrics_of(square, mean_scale, loss)
    new = PerturbationState(trees.next_count(state.count), direction, log_scale, scale_update, metrics)
    # A gradient that is not finite must not leave half of itself behind: nothing of it enters the state, and the
    # gradient that goes on is not finite anywhere, so that whatever watches the updates sees it.
    finite = trees.all_finite(used) & tame
    if rule.needs_gradient:  # its norm is at hand already; a metric of zeros and ones can swallow a NaN
        finite = finite & jnp.isfinite(trees.dot(clean, clean))
    return trees.poisoned(finite, used), trees.where(finite, new, state), (loss, aux)


def average_samples(sample: Callable[[Any], Any], key: Any, samples: int) -> Any:
    """Means of the first result of `sample(key) -> (parts, state, aux)` over draws in a scan; last state and aux."""
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
