r"""LookSAM: SAM every k steps, and its sharpness direction again in between."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range
from pbjax.optim import _trees as trees
from pbjax.optim.combinations import rejection
from pbjax.optim.own_loop import Evaluate, Member, evaluator
from pbjax.optim.sharpness_aware import PerturbationState, Radius, init, rule_of, step


class LookSAMState(NamedTuple):
    """State of `look_sam`.

    Attributes:
        count: steps taken, int32 [].
        sharpness: the part of the last perturbed gradient orthogonal to its clean one, float32, like the params.
        inner: `PerturbationState` of the SAM steps.
    """

    count: jax.Array
    sharpness: Any
    inner: PerturbationState


def look_sam(
    radius: Radius = 0.05, *, every: int = 5, alpha: ArrayLike = 0.7, mask: trees.Mask | None = None
) -> Member:
    r"""Every k-th step SAM, keeping $g_v$, the part of g' orthogonal to g; else $g + \alpha\, (\|g\|/\|g_v\|)\, g_v$.

    Cost: 1 + 1/k gradients, the incoming one included. Under `vmap` over replicas whose counters differ both branches
    run, two gradients a step. State: $g_v$ in float32, as large as the params.

    Args:
        radius: rho >= 0, or a schedule of the number of SAM steps.
        every: k >= 1; 1 is SAM.
        alpha: weight of the remembered part, >= 0.
        mask: leaves that are perturbed.

    Returns:
        An optax transformation: `update(grads, state, params, grad_fn=...)`. With `perturbed_value_and_grad` value and
        aux are those of the clean pass.

    Raises:
        ValueError: numbers out of range; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx = optax.chain(look_sam(0.05, every=5), optax.sgd(0.1))
        >>> params, grad_fn = jnp.array([3.0, 4.0]), jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)

    References:
        Liu et al., "Towards efficient and scalable sharpness-aware minimization", CVPR 2022, algorithm 1.
    """
    check_n(every, name="every")
    check_range("alpha", alpha, low=0.0, open_high=True)
    rule = rule_of(radius, mask=mask)

    def start(params: Any) -> LookSAMState:
        inner = init(rule, params)
        zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, trees.wide(w).dtype), params)
        return LookSAMState(jnp.zeros((), jnp.int32), zeros, inner)

    def advance(state: LookSAMState, params: Any, clean: Any, evaluate: Evaluate) -> tuple[Any, LookSAMState]:
        trees.check_params(params)

        def look() -> tuple[Any, Any, PerturbationState]:
            used, inner, _ = step(rule, state.inner, params, None, evaluate, clean=clean)
            wide = jax.tree.map(trees.wide, used)
            return wide, rejection(used, clean), inner

        def remember() -> tuple[Any, Any, PerturbationState]:
            length = trees.scale(alpha * trees.norm(clean), trees.unit(state.sharpness))
            return trees.add(clean, length), state.sharpness, state.inner

        used, sharpness, inner = jax.lax.cond(state.count % every == 0, look, remember)
        finite = trees.all_finite(used)
        used = jax.tree.map(lambda g: jnp.where(finite, g, jnp.nan), used)
        new = LookSAMState(jnp.asarray(optax.safe_increment(state.count)), sharpness, inner)
        return used, trees.where(finite, new, state)

    def update(
        updates: Any, state: LookSAMState, params: Any = None, *, grad_fn: Any = None, value_and_grad_fn: Any = None,
        perturbed: bool = False, **others: Any,
    ) -> tuple[Any, LookSAMState]:  # fmt: skip
        if perturbed:
            return updates, state
        used, state = advance(state, params, updates, evaluator(grad_fn, value_and_grad_fn))
        return trees.cast_like(used, updates), state

    def own_loop(state: LookSAMState, params: Any, key: Any, evaluate: Evaluate) -> tuple[Any, ...]:
        loss, clean, aux = evaluate(params)
        used, state = advance(state, params, clean, evaluate)
        return loss, aux, trees.cast_like(used, params), state

    return Member.of(start, update, own_loop, LookSAMState)
