"""For those who write their own loop: the perturbed gradient first, `update` afterwards; and masked parts of a tree.

The members' state is found by its type wherever it stands in a nested optax state: inside a chain, injected
hyper-parameters, or anything else that keeps its inner state in its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pbjax.optim.member import Member, Tree, find_state


def perturbed_value_and_grad(
    loss: Callable[..., Any],
    opt_state: Any,
    params: Tree,
    key: jax.Array | None = None,
    *args: Any,
    member: optax.GradientTransformation,
    has_aux: bool = False,
) -> tuple[Any, Tree, Any]:
    """Loss and gradient as a member wants them, with the member's own state brought up to date.

    Follow it with `update(grads, opt_state, params, perturbed=True)`; what else the loop does between the two
    (clipping, logging, averaging over devices) is its own affair.

    Args:
        loss: `loss(params, *args) -> scalar`, or `-> (scalar, aux)` with `has_aux`.
        opt_state: optax state that holds the member's, anywhere.
        params: parameter pytree.
        key: typed PRNG key, a new one a step; may be None for members without noise.
        *args: what else the loss takes. For a member with micro-batches, every array is cut along its first axis: let
            the loss close over what is no batch (keys, batch-norm statistics).
        member: the transformation whose state it is, as it was built (`sam(0.05)`, ...); the settings are read off it,
            so injected hyper-parameters do not act here.
        has_aux: whether the loss also returns auxiliary data (batch-norm statistics, metrics).

    Returns:
        `(value, grads, opt_state)`, or `((value, aux), grads, opt_state)` with `has_aux`. Value and aux are those of
        the clean pass where the method makes one, else of the only (or last) perturbed pass: never of two passes.

    Raises:
        ValueError: no state or several states of the member's type in `opt_state`, or a missing key.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pbjax.optim import sam
        >>> ascent, params = sam(0.1), jnp.array([3.0, 4.0])
        >>> tx = optax.chain(optax.clip_by_global_norm(9.0), ascent, optax.sgd(1.0))
        >>> value, grads, state = perturbed_value_and_grad(
        ...     lambda w: 0.5 * jnp.sum(w**2), tx.init(params), params, member=ascent
        ... )
        >>> updates, state = tx.update(grads, state, params, perturbed=True)
        >>> float(value), [round(float(u), 3) for u in updates]
        (12.5, [-3.06, -4.08])
    """
    if not isinstance(member, Member):
        raise ValueError(
            "member is not one: pass what sam(...), mean_field(...) and so on return, not the chain around it"
        )
    for hidden in find_state(opt_state, optax.MaskedState):
        if find_state(hidden, member.state_type):
            raise ValueError(
                "the member stands inside optax.masked or multi_transform, which hide leaves from it: give it its own "
                "mask=, or call update(..., grad_fn=complete_grad_fn(grad_fn, params))"
            )
    found = find_state(opt_state, member.state_type)
    if len(found) != 1:
        raise ValueError(
            f"opt_state holds {len(found)} states of type {member.state_type.__name__}: it must hold one, "
            "from an init of a transformation with this member in it"
        )
    gradient = jax.value_and_grad(loss, has_aux=has_aux)

    def evaluate(point: Tree, part: jax.Array | None = None) -> tuple[jax.Array, Tree, Any]:
        given = args if part is None else jax.tree.map(lambda leaf: _part(leaf, part, member.micro_batches), args)
        value, grads = gradient(point, *given)
        return (value[0], grads, value[1]) if has_aux else (value, grads, ())

    value, aux, grads, state = member.own_loop(found[0], params, key, evaluate)

    def is_state(node: Any) -> bool:
        return isinstance(node, member.state_type)

    opt_state = jax.tree.map(lambda node: state if is_state(node) else node, opt_state, is_leaf=is_state)
    return ((value, aux) if has_aux else value), grads, opt_state


def _part(leaf: Any, part: jax.Array, parts: int | None) -> jax.Array:
    if parts is None or not jnp.ndim(leaf):
        raise ValueError("every array in *args is cut into micro-batches: let the loss close over what is no batch")
    if leaf.shape[0] % parts:
        raise ValueError(f"a batch of {leaf.shape[0]} rows cannot be cut into {parts} equal micro-batches")
    return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])[part]


def complete_grad_fn(grad_fn: Callable[[Tree], Tree], params: Tree) -> Callable[[Tree], Tree]:
    """A `grad_fn` for a member inside `optax.masked` or `optax.multi_transform`, which sees a part of the params only.

    Args:
        grad_fn: `grad_fn(params) -> grads` over the whole tree.
        params: the whole tree; leaves that the mask hides are taken from here.

    Returns:
        A function of the partial tree that fills in what is hidden, differentiates, and hides it again.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pbjax.optim import sam
        >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
        >>> grad_fn = jax.grad(lambda p: jnp.sum(p["kernel"] ** 2 * p["bias"]))
        >>> tx = optax.masked(sam(0.1), {"kernel": True, "bias": False})
        >>> updates, _ = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=complete_grad_fn(grad_fn, params)
        ... )
        >>> [round(float(updates[name][0]), 3) for name in ("kernel", "bias")]
        [2.141, 1.0]
    """

    def hidden(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    def partial_grad_fn(partial: Tree, *args: Any) -> Tree:
        whole = jax.tree.map(lambda part, full: full if hidden(part) else part, partial, params, is_leaf=hidden)
        grads = grad_fn(whole, *args)
        return jax.tree.map(lambda part, grad: part if hidden(part) else grad, partial, grads, is_leaf=hidden)

    return partial_grad_fn
