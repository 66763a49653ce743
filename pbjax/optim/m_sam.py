r"""m-SAM: every micro-batch perturbs for itself."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule, check_static
from pbjax.optim.geometry import Metric, euclidean
from pbjax.optim.member import Evaluate, Member
from pbjax.optim.perturbation import PerturbationState, Rule, checked, init, step


def m_sam(
    radius: Schedule = 0.05, *, micro_batches: int, metric: Metric | None = None, mask: trees.Mask | None = None
) -> Member:
    r"""The mean over parts j of $\nabla L_j(\mu + \rho\, g_j/\|g_j\|)$, $g_j = \nabla L_j(\mu)$, in one `vmap`.

    Cost: two gradients of the whole batch; the incoming one is not read. Memory: `micro_batches` gradients at once.
    State: a counter and three scalars.

    Args:
        radius: rho >= 0, or a schedule.
        micro_batches: number of equal parts; a batch of b rows has m = b / micro_batches in each.
        metric: as in `sharpness_aware`.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation. Its `grad_fn(params, part)` takes the traced index of a part beside the params;
        `perturbed_value_and_grad` cuts the loss's arguments itself.

    Raises:
        ValueError: micro_batches below 1, a negative radius; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> grad_fn = lambda params, part: jax.grad(lambda w: jnp.sum(batch[part] * w**2))(params)
        >>> tx, params = m_sam(0.1, micro_batches=2), jnp.ones(2)
        >>> used, _ = tx.update(params, tx.init(params), params, grad_fn=grad_fn)
        >>> [round(float(u), 3) for u in used]
        [1.1, 1.1]

    References:
        Foret et al., ICLR 2021, section 4.1; Andriushchenko, Flammarion, "Towards understanding sharpness-aware
        minimization", ICML 2022.
    """
    parts = check_static("micro_batches", micro_batches)
    rule = checked(Rule(radius, metric=euclidean() if metric is None else metric, mask=mask))

    def perturb(state: PerturbationState, params: Any, key: Any, evaluate: Evaluate, clean: Any) -> tuple[Any, ...]:
        def one(part: jax.Array) -> tuple[Any, ...]:
            loss, own, aux = evaluate(params, part)
            used, new, _ = step(rule, state, params, None, lambda point: evaluate(point, part), own)
            return used, new, jnp.float32(loss), aux

        used, new, loss, aux = jax.vmap(one)(jnp.arange(parts))
        # The mean of a NaN is NaN: one bad part spoils the whole gradient, and the state then stays what it was.
        used = jax.tree.map(lambda g: g.mean(axis=0), used)
        finite = trees.all_finite(used)
        metrics = jax.tree.map(lambda m: m.mean(axis=0), new.metrics)
        new, aux = jax.tree.map(lambda leaf: leaf[0], (new, aux))
        new = new._replace(metrics=metrics)
        return trees.poisoned(finite, used), trees.where(finite, new, state), (loss.mean(), aux)

    return Member.of(partial(init, rule), perturb, PerturbationState, micro_batches=parts)
