"""What can be counted without a clock: gradients that are really computed, traces, and bytes of states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


@dataclasses.dataclass
class Tally:
    """Counts of one function."""

    traces: int = 0
    """Times that Python ran it."""
    gradients: int = 0
    """Gradients that a device computed."""


def count_gradients(optimiser: Any, steps: int = 3) -> float:
    """How many gradients a jitted step really computes: a callback whose result nobody reads is not called."""
    calls = []

    def counted(params: Any, *part: Any) -> Any:
        def tally(grads: Any) -> Any:
            calls.append(1)
            return jax.tree.map(np.asarray, grads)

        # A part of a batch must be in the gradient, or a vmap over parts would make one call of many.
        weight = 0.5 + 0.0 * sum(jnp.asarray(number, float) for number in part)
        grads = jax.grad(lambda p: weight * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)))(params)
        shapes = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), grads)
        return jax.pure_callback(tally, shapes, grads, vmap_method="sequential")

    tx = optax.chain(optimiser, optax.sgd(0.1))
    step = jax.jit(lambda s, p, k: tx.update(counted(p), s, p, grad_fn=counted, key=k))
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for key in jax.random.split(jax.random.key(0), steps):
        updates, state = step(state, params, key)
        jax.block_until_ready(updates)
    return len(calls) / steps


def counted_energy(energy: Callable[[jax.Array], jax.Array], tally: Tally) -> Callable[[jax.Array], jax.Array]:
    """`energy` whose gradient reports every evaluation that is really computed, one call a chain."""

    @jax.custom_vjp
    def function(z: jax.Array) -> jax.Array:
        tally.traces += 1
        return energy(z)

    def forward(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        tally.traces += 1
        return energy(z), z

    def backward(z: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
        gradient = jax.grad(energy)(z)

        def note(x: Any) -> Any:
            tally.gradients += 1
            return np.asarray(x)

        gradient = jax.pure_callback(
            note, jax.ShapeDtypeStruct(gradient.shape, gradient.dtype), gradient, vmap_method="sequential"
        )
        return ((cotangent * gradient).astype(z.dtype),)

    function.defvjp(forward, backward)
    return function


def size_in_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of the shapes that `jax.eval_shape` gives."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum(int(np.prod(leaf.shape)) * _item(leaf.dtype) for leaf in leaves)


def _item(dtype: Any) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def slope(measure: Callable[[int], int], low: int, high: int) -> float:
    """What one more of something adds: `(measure(high) - measure(low)) / (high - low)`."""
    return (measure(high) - measure(low)) / (high - low)
