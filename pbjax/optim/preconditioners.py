r"""Preconditioners that optax lacks: one that rescaling of neurons cannot fool, and Shampoo's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_range

__all__ = ["ShampooState", "scale_by_shampoo", "scale_by_squared_weights"]


def scale_by_squared_weights(*, epsilon: ArrayLike = 0.0) -> optax.GradientTransformation:
    r"""Multiplies each number of a gradient by the square of its weight, $g_i \mapsto (w_i^2 + \epsilon)\, g_i$.

    Under a rescaling that leaves a ReLU network's function as it is, $w_i \mapsto d_i w_i$, gradients go to $g_i / d_i$
    and, at $\epsilon = 0$, these updates to $d_i$ times themselves: the rescaled network moves as the other one does,
    at the same learning rate. It is gradient descent on $\log |w_i|$, to first order, so weights keep their signs at
    small rates and a weight of exactly 0 never moves. It is not invariant to mixing of channels.

    Args:
        epsilon: $\epsilon \ge 0$, in squared units of the weights; above 0 it moves weights at 0 and breaks the
            invariance.

    Returns:
        An optax transformation without state; put it in front of `optax.scale_by_learning_rate`.

    Raises:
        ValueError: a negative epsilon; no `params` given to `update`.

    Example:
        >>> transform = scale_by_squared_weights()
        >>> updates, _ = transform.update(jnp.array([1.0, 1.0]), transform.init(None), jnp.array([2.0, -3.0]))
        >>> updates.tolist()
        [4.0, 9.0]

    References:
        Neyshabur et al., "Path-SGD: path-normalized optimization in deep neural networks", NeurIPS 2015 (why updates
        should not depend on the scale of neurons); Kwon et al., "ASAM", ICML 2021 (the same metric for a radius).
    """
    check_range("epsilon", epsilon, low=0.0, open_high=True)

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params = None: the update is scaled by the weights, so pass them to `update`")
        return jax.tree.map(lambda g, w: (g * (jnp.square(w) + epsilon)).astype(g.dtype), updates, params), state

    return optax.GradientTransformation(init, update)


class ShampooState(NamedTuple):
    """Sums that Shampoo preconditions with.

    Attributes:
        left: for each matrix [m, n] of the parameters a matrix [m, m]; for any other leaf its own shape.
        right: for each matrix a matrix [n, n]; for any other leaf a scalar that nothing reads.
    """

    left: Any
    right: Any


def scale_by_shampoo(*, epsilon: ArrayLike = 1e-4) -> optax.GradientTransformation:
    r"""Shampoo: matrices of the gradient between inverse fourth roots of the sums of their Gram matrices.

    $$G \mapsto L^{-1/4} G R^{-1/4}, \qquad
    L = \epsilon + \sum_s G_s G_s^\top, \quad R = \epsilon + \sum_s G_s^\top G_s$$

    Leaves that are no matrices get the diagonal sum instead, as in Adagrad: $g / \sqrt{\epsilon + \sum_s g_s^2}$. The
    sums never forget, so steps get shorter like $1/\sqrt{s}$. Roots are taken anew at every step, by two symmetric
    eigenvalue problems a matrix: for matrices of up to some hundred rows.

    Args:
        epsilon: what the sums start from, > 0, in squared units of the gradient.

    Returns:
        An optax transformation; put it in front of `optax.scale_by_learning_rate`.

    Raises:
        ValueError: epsilon that is not positive.

    Example:
        >>> transform = scale_by_shampoo(epsilon=1e-12)
        >>> gradient = jnp.diag(jnp.array([4.0, 9.0]))
        >>> updates, _ = transform.update(gradient, transform.init(gradient))
        >>> updates.round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    References:
        Gupta, Koren, Singer, "Shampoo: preconditioned stochastic tensor optimization", ICML 2018, algorithm 1.
    """
    check_range("epsilon", epsilon, low=0.0, open_low=True, open_high=True)

    def init(params: Any) -> ShampooState:
        def left(leaf: Any) -> Any:
            return epsilon * (jnp.eye(leaf.shape[0], dtype=leaf.dtype) if leaf.ndim == 2 else jnp.ones_like(leaf))

        def right(leaf: Any) -> Any:
            return epsilon * jnp.eye(leaf.shape[1], dtype=leaf.dtype) if leaf.ndim == 2 else jnp.zeros((), leaf.dtype)

        return ShampooState(jax.tree.map(left, params), jax.tree.map(right, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ShampooState]:
        del params
        left = jax.tree.map(lambda g, sums: sums + (g @ g.T if g.ndim == 2 else g**2), updates, state.left)
        right = jax.tree.map(lambda g, sums: sums + g.T @ g if g.ndim == 2 else sums, updates, state.right)

        def scaled(g: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
            if g.ndim != 2:
                return g * jax.lax.rsqrt(rows)
            return _inverse_fourth_root(rows, epsilon) @ g @ _inverse_fourth_root(columns, epsilon)

        return jax.tree.map(scaled, updates, left, right), ShampooState(left, right)

    return optax.GradientTransformation(init, update)


def _inverse_fourth_root(matrix: jax.Array, least: ArrayLike) -> jax.Array:
    values, vectors = jnp.linalg.eigh(matrix)
    # No eigenvalue is below epsilon, but rounding of large ones may say so.
    roots = jnp.maximum(values, least) ** -0.25
    return (vectors * roots[None, :]) @ vectors.T
