r"""m-SAM: every micro-batch perturbs for itself."""

from typing import Any

import jax
import jax.numpy as jnp

from pbjax._checks import check_n, concrete
from pbjax.optim import _trees as trees
from pbjax.optim.geometry import Metric
from pbjax.optim.own_loop import Evaluate, Member, evaluator
from pbjax.optim.sharpness_aware import PerturbationState, Radius, init, rule_of, step


def m_sam(
    radius: Radius = 0.05, *, micro_batches: int, metric: Metric | None = None, mask: trees.Mask | None = None
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
    if concrete(micro_batches) is None:
        raise ValueError("micro_batches is traced: it sets shapes, name it in inject_hyperparams(..., static_args=...)")
    check_n(micro_batches, name="micro_batches")
    rule = rule_of(radius, metric=metric, mask=mask)

    def all_parts(state: PerturbationState, params: Any, evaluate: Evaluate) -> tuple[Any, ...]:
        def one(part: jax.Array) -> tuple[Any, ...]:
            loss, clean, aux = evaluate(params, part)
            used, new, _ = step(rule, state, params, None, lambda point: evaluate(point, part), clean=clean)
            return used, new, jnp.float32(loss), aux

        used, new, loss, aux = jax.vmap(one)(jnp.arange(micro_batches))
        # The mean of a NaN is NaN: one bad part spoils the whole gradient, and the state then stays what it was.
        used = jax.tree.map(lambda g: g.mean(axis=0), used)
        finite = trees.all_finite(used)
        metrics = jax.tree.map(lambda m: m.mean(axis=0), new.metrics)
        new = jax.tree.map(lambda leaf: leaf[0], new)._replace(metrics=metrics)
        used = jax.tree.map(lambda g: jnp.where(finite, g, jnp.nan), used)
        return used, trees.where(finite, new, state), loss.mean(), jax.tree.map(lambda leaf: leaf[0], aux)

    def update(
        updates: Any, state: PerturbationState, params: Any = None, *, grad_fn: Any = None,
        value_and_grad_fn: Any = None, perturbed: bool = False, **others: Any,
    ) -> tuple[Any, PerturbationState]:  # fmt: skip
        if perturbed:
            return updates, state
        used, state, _, _ = all_parts(state, params, evaluator(grad_fn, value_and_grad_fn))
        return trees.cast_like(used, updates), state

    def own_loop(state: PerturbationState, params: Any, key: Any, evaluate: Evaluate) -> tuple[Any, ...]:
        used, state, loss, aux = all_parts(state, params, evaluate)
        return loss, aux, trees.cast_like(used, params), state

    return Member.of(
        lambda params: init(rule, params), update, own_loop, PerturbationState, micro_batches=int(micro_batches)
    )
