r"""LookSAM: SAM every k steps, and its sharpness direction again in between."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.optim import _trees as trees
from pbjax.optim._arguments import Schedule, check_static
from pbjax.optim.combinations import rejection
from pbjax.optim.member import Evaluate, Member
from pbjax.optim.perturbation import PerturbationState, Rule, checked, init, step


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
    radius: Schedule = 0.05, *, every: int = 5, alpha: ArrayLike = 0.7, mask: trees.Mask | None = None
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
    period = check_static("every", every)
    check_range("alpha", alpha, low=0.0, open_high=True)
    rule = checked(Rule(radius, mask=mask))

    def start(params: Any) -> LookSAMState:
        return LookSAMState(jnp.zeros((), jnp.int32), trees.zeros(params), init(rule, params))

    def perturb(state: LookSAMState, params: Any, key: Any, evaluate: Evaluate, clean: Any) -> tuple[Any, ...]:
        def look() -> tuple[Any, Any, PerturbationState]:
            used, inner, _ = step(rule, state.inner, params, None, evaluate, clean)
            apart = rejection(used, clean)
            # Where g' is parallel to g, rounding is all that is left, and it must not be blown up to the length of g.
            real = trees.norm(apart) > 1e-5 * trees.norm(used)
            return used, jax.tree.map(lambda leaf: jnp.where(real, leaf, 0), apart), inner

        def remember() -> tuple[Any, Any, PerturbationState]:
            again = trees.scale(alpha * trees.norm(clean), trees.unit(state.sharpness))
            return trees.add(clean, again), state.sharpness, state.inner

        used, sharpness, inner = jax.lax.cond(state.count % period == 0, look, remember)
        finite = trees.all_finite(used)
        new = LookSAMState(trees.next_count(state.count), sharpness, inner)
        loss_and_aux = (jnp.float32(jnp.nan), ())  # those of the clean pass are used
        return trees.poisoned(finite, used), trees.where(finite, new, state), loss_and_aux

    return Member.of(start, perturb, LookSAMState, reads_clean=True)
