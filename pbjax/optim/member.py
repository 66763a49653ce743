"""What an optax transformation of the family is made from, and how its state is found again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pbjax.optim import _trees as trees

Tree = Any
# params (and a part, for members with micro-batches) -> (loss, gradient, aux); the loss is NaN where it is not known.
Evaluate = Callable[..., tuple[jax.Array, Tree, Any]]


class Member(optax.GradientTransformationExtraArgs):
    """An optax transformation of the family, `(init, update)`, which `perturbed_value_and_grad` can also use.

    Attributes:
        init: `init(params) -> state`.
        update: `update(grads, state, params, grad_fn=..., key=...) -> (updates, state)`.
        own_loop: `own_loop(state, params, key, evaluate) -> (loss, aux, gradient, state)`, the half of `update` that
            evaluates gradients.
        state_type: the class its state is found by.
        micro_batches: in how many parts `evaluate(params, part)` wants the batch, None for one call with all of it.
    """

    own_loop: Callable[..., tuple[jax.Array, Any, Tree, Any]]
    state_type: type
    micro_batches: int | None

    @classmethod
    def of(
        cls,
        init: Callable[[Tree], Any],
        perturb: Callable[..., tuple[Tree, Any, tuple[jax.Array, Any]]],
        state_type: type,
        *,
        finish: Callable[[Tree, Any, Tree], tuple[Tree, Any]] | None = None,
        reads_clean: bool = False,
        needs_key: bool = False,
        micro_batches: int | None = None,
    ) -> "Member":
        """A member from its two halves; both ways to call it, and what they refuse, are the same for all.

        Args:
            init: `init(params) -> state`.
            perturb: `perturb(state, params, key, evaluate, clean) -> (gradient, state, (loss, aux))`; if anything is
                not finite, the gradient is to be NaN everywhere and the state what it was.
            state_type: class of the state.
            finish: `finish(gradient, state, params) -> (updates, state)` of a whole optimiser; None passes the gradient
                on to the rest of the chain.
            reads_clean: whether `perturb` reads the clean gradient.
            needs_key: whether it draws random numbers.
            micro_batches: see the class.
        """

        def checked_init(params: Tree) -> Any:
            trees.check_params(params)
            return init(params)

        def check(params: Tree, key: Any) -> None:
            trees.check_params(params)
            if needs_key and key is None:
                raise ValueError(
                    "key is missing: this member draws noise, pass key=key, a new jax.random.key every step"
                )

        def update(
            updates: Tree,
            state: Any,
            params: Tree = None,
            *,
            grad_fn: Any = None,
            value_and_grad_fn: Any = None,
            key: Any = None,
            perturbed: bool = False,
            **others: Any,
        ) -> tuple[Tree, Any]:
            gradient = updates
            if not perturbed:
                evaluate = evaluator(grad_fn, value_and_grad_fn)
                check(params, key)
                gradient, state, _ = perturb(state, params, key, evaluate, updates)
            if finish is not None:
                trees.check_params(params)
                # A gradient of NaN is how this half learns that the other one met something that is not finite.
                finite = trees.all_finite(gradient)
                moved, new = finish(gradient, state, params)
                gradient, state = trees.poisoned(finite, moved), trees.where(finite, new, state)
            return trees.cast_like(gradient, updates), state

        def own_loop(state: Any, params: Tree, key: Any, evaluate: Evaluate) -> tuple[jax.Array, Any, Tree, Any]:
            check(params, key)
            first = evaluate(params) if reads_clean else None
            gradient, state, (loss, aux) = perturb(state, params, key, evaluate, None if first is None else first[1])
            if first is not None:
                loss, aux = first[0], first[2]
            return loss, aux, trees.cast_like(gradient, params), state

        made = cls(checked_init, update)
        made.own_loop, made.state_type, made.micro_batches = own_loop, state_type, micro_batches
        return made


def evaluator(grad_fn: Any, value_and_grad_fn: Any) -> Evaluate:
    """`(params, ...) -> (loss, gradient, aux)` from whichever function was passed to `update`."""
    if value_and_grad_fn is not None:
        return lambda *args: (*_scalar(value_and_grad_fn(*args)), ())
    if grad_fn is None:
        raise ValueError(
            "grad_fn is missing: pass update(grads, state, params, grad_fn=grad_fn), with grad_fn(params) -> grads, or "
            "perturbed=True with gradients from perturbed_value_and_grad"
        )
    return lambda *args: (jnp.float32(jnp.nan), grad_fn(*args), ())


def _scalar(pair: tuple[Any, Tree]) -> tuple[Any, Tree]:
    if isinstance(pair[0], tuple) or jnp.ndim(pair[0]):
        raise ValueError("value_and_grad_fn must return (scalar, grads); for auxiliary data: perturbed_value_and_grad")
    return pair


def find_state(opt_state: Any, kind: type | tuple[type, ...]) -> list[Any]:
    """All states of a type (or several) in a nested optax state, in order."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]
