"""A function with its inner calls written out and what is computed twice computed once.

XLA does both, but at another place for programs of one device and of many, and what it fuses depends on that; so do the
last bits of the results. A program that has nothing left to write out is compiled alike for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import NamedSharding

_CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], known: dict[Any, Any]) -> list[Any]:
    """The results of a jaxpr; `known` maps equations to their results and keeps what their keys refer to alive."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, [read(atom) for atom in equation.invars]
        if name in _CALLS:
            inner = equation.params["jaxpr" if name == "jit" else "call_jaxpr"]
            made = _evaluate(inner.jaxpr, inner.consts, given, known)
        else:
            names = tuple(
                (repr(atom.val), str(atom.aval)) if isinstance(atom, Literal) else id(value)
                for atom, value in zip(equation.invars, given, strict=True)
            )
            # Inner programs compare by identity: they may hold different constants.
            key = (name, names, tuple(sorted(equation.params.items(), key=lambda item: item[0])))
            try:
                made = None if equation.effects else known.get(key, (None,))[0]
            except TypeError:  # a parameter that cannot be compared
                key, made = object(), None
            if made is None:
                params = {field: _written_out(part) for field, part in equation.params.items()}
                if name != "sharding_constraint":  # the mesh of its tracing; inside `shard_map` there is another
                    params |= {field: None for field, part in params.items() if isinstance(part, NamedSharding)}
                made = equation.primitive.bind(*given, **equation.primitive.get_bind_params(params))
                made = made if equation.primitive.multiple_results else [made]
                known[key] = (made, given)
        values.update(zip(equation.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _written_out(value: Any) -> Any:
    """Parameters of loops and branches: their bodies are programs too."""
    if isinstance(value, tuple):
        return tuple(map(_written_out, value)) if any(isinstance(part, ClosedJaxpr) for part in value) else value
    if not isinstance(value, ClosedJaxpr):
        return value
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in value.in_avals]
    return jax.make_jaxpr(lambda *given: _evaluate(value.jaxpr, value.consts, given, {}))(*shapes)


def write_out(function: Callable[..., Any], *shapes: Any) -> tuple[Callable[..., Any], list[jax.Array]]:
    """The same function without inner calls and repeated computations, what it closes over as its first argument.

    Args:
        function: pure function of trees of arrays, traceable by `jax.jit`.
        shapes: its arguments, arrays or `jax.ShapeDtypeStruct`.

    Returns:
        (shared, *arguments) -> the same results, and `shared`: the traced arrays that the function closes over. Rules
        of custom derivatives are lost in it: differentiate first.

    Example:
        >>> import jax.numpy as jnp
        >>> twice = jax.jit(lambda x: jnp.sin(x) + 1)
        >>> written, shared = write_out(lambda x: twice(x) * twice(x), 1.0)
        >>> [equation.primitive.name for equation in jax.make_jaxpr(written)(shared, 1.0).eqns]
        ['sin', 'add', 'mul']
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*shapes)
    traced = [isinstance(constant, Tracer) for constant in closed.consts]

    def written(shared: Sequence[jax.Array], *given: Any) -> Any:
        left = iter(shared)
        constants = [next(left) if is_traced else value for is_traced, value in zip(traced, closed.consts, strict=True)]
        made = _evaluate(closed.jaxpr, constants, jax.tree.leaves(given), {})
        return jax.tree.unflatten(jax.tree.structure(shape), made)

    return written, [value for is_traced, value in zip(traced, closed.consts, strict=True) if is_traced]
