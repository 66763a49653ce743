"""A function over replicas, side by side in groups whose size does not depend on the number of devices.

Compilers choose kernels by shapes: a batch of 44 matrix products is summed in another order than one of 11. So replicas
go through one compiled program in groups of a fixed size, and a device with more of them runs it more often. The
results of a replica are then the same bits on any number of devices, as far as the compiler treats programs of one
device and of many alike (`pbjax._inlining`).

R replicas, D devices, G replicas in a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pbjax._inlining import write_out

__all__ = ["TOGETHER", "Replicas"]

_KEY = jax.dtypes.prng_key


def _not_constant(count: int, tree: Any) -> jax.Array:
    """`count` as a scalar that the compiler does not know: it would unroll a loop of one turn into what is around it.

    No word of 32 bits has more than 32 ones, which XLA's simplifications do not use.
    """
    leaf = jax.tree.leaves(tree)[0]
    if jnp.issubdtype(leaf.dtype, _KEY):
        leaf = jax.random.key_data(leaf)
    first = leaf.reshape(-1)[0]
    if jnp.issubdtype(first.dtype, jnp.inexact):
        first = jax.lax.bitcast_convert_type(first.astype(jnp.float32), jnp.int32)
    ones = jax.lax.population_count(first.astype(jnp.int32))
    return jnp.int32(count) + (ones > 32).astype(jnp.int32)


def _side_by_side(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    """The function of `size` replicas."""

    def alone(*arguments: Any) -> Any:
        # Not vmapped: its branches stay branches, and it takes three quarters of the time.
        made = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], made)

    return alone if size == 1 else jax.vmap(function)


def _in_groups(group_of: Callable[..., Any], shared: list[jax.Array], arguments: tuple[Any, ...], *, size: int) -> Any:
    """A function of `size` replicas for one group after the other, in one loop even if there is one group only."""
    groups = jax.tree.leaves(arguments)[0].shape[0] // size
    split = jax.tree.map(lambda leaf: leaf.reshape(groups, size, *leaf.shape[1:]), arguments)
    kinds: dict[int, Any] = {}  # results that are typed keys: which leaf, of what kind

    def group(index: jax.Array) -> Any:
        given = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), split)
        leaves, structure = jax.tree.flatten(group_of(shared, *given))
        for place, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, _KEY):
                kinds[place] = jax.random.key_impl(leaf)
                leaves[place] = jax.random.key_data(leaf)
        return jax.tree.unflatten(structure, leaves)

    shapes = jax.eval_shape(group, jax.ShapeDtypeStruct((), jnp.int32))
    made = jax.tree.map(lambda of: jnp.zeros((groups, *of.shape), of.dtype), shapes)

    def turn(index: jax.Array, made: Any) -> Any:
        return jax.tree.map(
            lambda all_groups, one: jax.lax.dynamic_update_index_in_dim(all_groups, one, index, 0), made, group(index)
        )

    made = jax.lax.fori_loop(jnp.int32(0), _not_constant(groups, arguments), turn, made)
    made = jax.tree.map(lambda leaf: leaf.reshape(groups * size, *leaf.shape[2:]), made)
    leaves, structure = jax.tree.flatten(made)
    for place, kind in kinds.items():
        leaves[place] = jax.random.wrap_key_data(leaves[place], impl=kind)
    return jax.tree.unflatten(structure, leaves)


class Replicas(NamedTuple):
    """How the replicas of a program are laid out; static under jit. `pbjax.runs.lay_out_replicas` makes one.

    Attributes:
        mesh: devices, with an axis "replica" over which the leading axis of arrays is spread; None for one device.
        at_once: G, replicas that go side by side. Results have the same bits on any number of devices. Where groups
            are not full, or fewer than the devices have turns, copies of the last replica fill them up. None lets all
            that a device holds go together, with results that depend on their number by rounding.
    """

    mesh: Mesh | None = None
    at_once: int | None = None

    def map(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The function of every replica.

        out[r] = function(*(argument[r] for argument in arguments))

        Args:
            function: pure function of one replica's arguments; it may close over arrays that all replicas share. With
                `at_once` given, differentiate inside it, not through `map`.
            arguments: trees of arrays and typed keys [R, ...].

        Returns:
            The tree of results [R, ...], spread over the devices where their number divides R, else on all of them.

        Raises:
            ValueError: at_once below 1.

        Example:
            >>> Replicas(at_once=2).map(lambda x: 2 * x, (jnp.arange(4),)).tolist()
            [0, 2, 4, 6]
        """
        count, devices = jax.tree.leaves(arguments)[0].shape[0], 1 if self.mesh is None else self.mesh.shape["replica"]
        size = -(-count // devices) if self.at_once is None else self.at_once
        if size < 1:
            raise ValueError(f"at_once = {size}: must be at least 1")
        if self.at_once is None and count % devices == 0:
            return _side_by_side(function, count)(*arguments)
        group_of = _side_by_side(function, size)
        if size == count and devices == 1:
            return group_of(*arguments)
        slots = -(-count // (size * devices)) * size * devices  # all devices take as many turns
        if slots > count:
            last = jnp.minimum(jnp.arange(slots), count - 1)
            arguments = jax.tree.map(lambda leaf: leaf[last], arguments)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), arguments)
        group_of, shared = write_out(group_of, *shapes)
        spread, turns = PartitionSpec("replica"), functools.partial(_in_groups, group_of, size=size)
        if self.mesh is not None:
            turns = jax.shard_map(
                turns, mesh=self.mesh, in_specs=(PartitionSpec(), spread), out_specs=spread, check_vma=False
            )
        made = turns(shared, arguments)
        if slots == count:
            return made
        made = jax.tree.map(lambda leaf: leaf[:count], made)
        if self.mesh is None:
            return made
        where = NamedSharding(self.mesh, spread if devices > 1 and count % devices == 0 else PartitionSpec())
        return jax.lax.with_sharding_constraint(made, where)

    def gather(self, tree: Any) -> Any:
        """Copies to every device, for what is computed from all replicas: a sum over them then has one order.

        Args:
            tree: arrays, spread or not.

        Returns:
            The same values.

        Example:
            >>> Replicas().gather(jnp.arange(2)).tolist()
            [0, 1]
        """
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))


TOGETHER = Replicas()
"""All replicas side by side in one `vmap`."""
