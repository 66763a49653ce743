"""Arithmetic over parameter pytrees that the family shares; everything of half precision is computed in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax.optim.noise import standard_normal

Params = Any
Mask = Any  # a pytree of bools of the structure of the params, or a function of the params that returns one


def wide(leaf: jax.Array) -> jax.Array:
    """The leaf in float32, or as it is if that is wider."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def check_params(params: Params) -> None:
    """Refuse missing, empty or integer parameters."""
    leaves = jax.tree.leaves(params)
    if params is None or not leaves:
        raise ValueError("params is missing or empty: pass update(grads, state, params, ...)")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not hasattr(leaf, "dtype"):
            raise ValueError(f"params{jax.tree_util.keystr(path)} is a {type(leaf).__name__}: it must be an array")
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has dtype {dtype}: only floating-point parameters can be "
                "perturbed; give the others to optax.masked or optax.multi_transform"
            )


def resolve_mask(mask: Mask | None, params: Params, *, allow_none: bool = False) -> Params:
    """A pytree of Python bools, True where a leaf is perturbed."""
    if mask is None:
        return jax.tree.map(lambda _: True, params)
    tree = mask(params) if callable(mask) else mask
    tree = jax.tree.map(lambda keep, part: jax.tree.map(lambda _: bool(keep), part), tree, params)
    if not allow_none and not any(jax.tree.leaves(tree)):
        raise ValueError("mask perturbs nothing: it must be True for at least one leaf of the params")
    return tree


def count(params: Params, mask: Params) -> int:
    """P, the number of scalars in the leaves that are perturbed."""
    sizes = jax.tree.map(lambda leaf, keep: jnp.size(leaf) if keep else 0, params, mask)
    return sum(jax.tree.leaves(sizes))


def dot(left: Params, right: Params) -> jax.Array:
    """Sum of products over all leaves, in float32 at least."""
    products = jax.tree.map(lambda a, b: jnp.sum(wide(a) * wide(b)), left, right)
    return jax.tree.reduce(jnp.add, products)


def norm(tree: Params) -> jax.Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(dot(tree, tree))


def scale(factor: Any, tree: Params) -> Params:
    """factor * tree, in float32 at least."""
    return jax.tree.map(lambda leaf: factor_like(factor, leaf) * wide(leaf), tree)


def factor_like(factor: Any, leaf: jax.Array) -> jax.Array:
    """A scalar in the width the leaf is computed in, so that it never promotes the leaf."""
    return jnp.asarray(factor, jnp.promote_types(leaf.dtype, jnp.float32))


def add(left: Params, right: Params) -> Params:
    """left + right, in float32 at least."""
    return jax.tree.map(lambda a, b: wide(a) + wide(b), left, right)


def unit(tree: Params) -> Params:
    """tree / ||tree||, and zero for a zero tree."""
    length = norm(tree)
    inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
    return scale(inverse, tree)


def select(mask: Params, tree: Params) -> Params:
    """The tree with the leaves that are not perturbed set to zero."""
    return jax.tree.map(lambda keep, leaf: leaf if keep else jnp.zeros_like(leaf), mask, tree)


def normals(key: jax.Array, params: Params, mask: Params, draw: Callable[..., jax.Array] = standard_normal) -> Params:
    """Standard normals where the mask is True and zeros elsewhere, float32 at least.

    A key a leaf: the draws then fuse with what uses them, and sharding follows the leaf.
    """
    leaves, structure = jax.tree.flatten(params)
    keeps = structure.flatten_up_to(mask)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        draw(k, leaf.shape, wide(leaf).dtype) if keep else jnp.zeros(leaf.shape, wide(leaf).dtype)
        for k, leaf, keep in zip(keys, leaves, keeps, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def cast_like(tree: Params, like: Params) -> Params:
    """The tree in the dtypes of another."""
    return jax.tree.map(lambda leaf, other: leaf.astype(jnp.result_type(other)), tree, like)


def all_finite(tree: Params) -> jax.Array:
    """True if no number of the tree is NaN or infinite."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def where(condition: jax.Array, yes: Params, no: Params) -> Params:
    """yes if the scalar condition holds, else no, over a whole tree of arrays (typed keys included)."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def poisoned(finite: jax.Array, tree: Params) -> Params:
    """The tree, or NaN in every leaf: half of a gradient must not look like one."""
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), tree)


def zeros(params: Params) -> Params:
    """Zeros like the params, float32 at least."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide(leaf).dtype), params)


def running_mean(decay: ArrayLike, old: Params, new: Params) -> Params:
    """decay * old + (1 - decay) * new; 1 - decay is formed before it is rounded to float32, where it matters near 1."""

    def one(o: jax.Array, n: jax.Array) -> jax.Array:
        return factor_like(decay, o) * o + factor_like(1 - decay, o) * wide(n)

    return jax.tree.map(one, old, new)


def mean(tree: Params, mask: Params) -> jax.Array:
    """Mean over the scalars of the leaves that are perturbed, float32."""
    total = jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, select(mask, tree)))
    return jnp.float32(total / count(tree, mask))


def sample_sizes(n: ArrayLike, mask: Mask | None, params: Params) -> Params:
    """n in an array of its own for every leaf, infinite where the mask leaves the leaf alone: its scale is then 0."""
    return jax.tree.map(lambda keep: jnp.array(n if keep else jnp.inf, jnp.float32), resolve_mask(mask, params))


def next_count(count: jax.Array) -> jax.Array:
    """The step count plus one, which stays at the largest integer."""
    return jnp.asarray(optax.safe_increment(count))
