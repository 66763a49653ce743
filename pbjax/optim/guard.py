"""A step is taken whole or not at all."""

from typing import Any

import optax

from pbjax.optim import _trees as trees


def skip_nonfinite(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Leave params and every state as they are in a step whose update is not finite.

    `optax.apply_if_finite` looks at the gradient that comes in; a perturbed gradient can overflow where the clean one
    did not. This looks at what comes out, so put the whole chain into it.

    Args:
        inner: the transformation, usually a chain with a member of the family in it.

    Returns:
        An optax transformation with the state of `inner`: zeros for updates in a step that is skipped.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = skip_nonfinite(optax.sgd(0.1, momentum=0.9))
        >>> params = jnp.ones(2)
        >>> updates, _ = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(params), params)
        >>> updates.tolist()
        [0.0, 0.0]
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        new_updates, new_state = inner.update(updates, state, params, **extra_args)
        finite = trees.all_finite(new_updates)
        zeros = optax.tree.zeros_like(new_updates)
        return trees.where(finite, new_updates, zeros), trees.where(finite, new_state, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)
