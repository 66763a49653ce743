r"""The family: evaluate the gradient at a perturbed mean, then let the rest of the chain step with it.

    epsilon = r D q,    g' = grad L(mu + epsilon)

Direction q, metric D, radius r and scale update are independent parts (`directions`, `geometry`, `scales`), so are what
the step is made with (`combinations`) and an optional ascent from the perturbed point. SAM has q along D g; mean-field
variational inference has Gaussian q and D = sigma; both are this one transformation.

P is the number of scalars in the perturbed leaves. The user gives the Euclidean radius rho, r = rho for D = 1; with a
learned sigma the posterior's own shell, r = sqrt(P), is the default, and rho sets where sigma starts, rho / sqrt(P).
"""

from functools import partial

from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule
from pbjax.optim.combinations import Combination, perturbed_only
from pbjax.optim.directions import Direction, along_gradient
from pbjax.optim.geometry import Metric, euclidean
from pbjax.optim.member import Member
from pbjax.optim.perturbation import PerturbationState, Rule, checked, init, step
from pbjax.optim.scales import LearnedScale

Radius = Schedule


def sharpness_aware(
    radius: Radius,
    *,
    direction: Direction | None = None,
    metric: Metric | None = None,
    learned: LearnedScale | None = None,
    combination: Combination | None = None,
    in_standard_units: bool = False,
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
        Rule(
            radius, along_gradient() if direction is None else direction, euclidean() if metric is None else metric,
            learned, perturbed_only() if combination is None else combination, in_standard_units, ascent, mask, samples,
        )
    )  # fmt: skip


def from_rule(rule: Rule) -> Member:
    """The transformation of a rule."""
    rule = checked(rule)
    return Member.of(
        partial(init, rule), partial(step, rule), PerturbationState, reads_clean=rule.needs_gradient,
        needs_key=rule.direction.needs_key,
    )  # fmt: skip
