"""Which matrix products may be fast, and which are exact: the one place that decides.

On an accelerator a product of float32 matrices is rounded to tensorfloat32 or bfloat16 unless it is told not to be. A
leapfrog step may use such products: any deterministic force keeps a trajectory reversible and volume preserving. What
the accept step, an integrand or a certificate reads may not. So everything is float32 (`exact`) except what is wrapped
in `fast`, and an energy that `with_fast_forces` split has exact values and a fast gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax

__all__ = [
    "EXACT",
    "SplitEnergy",
    "bind",
    "check_matmul",
    "force_of",
    "make_exact_the_default",
    "value_and_force",
    "with_fast_forces",
    "with_matmul",
]

Matmul = Literal["float32", "tensorfloat32", "bfloat16"]
"""Precision of the factors of a product of float32 matrices; sums are float32. CPUs use float32 for all three."""
EXACT: Matmul = "float32"


def make_exact_the_default() -> None:
    """Sets up a process: float64 is there where it is asked for, and matrix products are float32 unless said otherwise.

    Call it before the first array is made; every experiment does.

    Example:
        >>> make_exact_the_default()
        >>> jax.config.jax_default_matmul_precision, jax.numpy.zeros(1, float).dtype.name
        ('float32', 'float64')
    """
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", EXACT)


def check_matmul(precision: str) -> None:
    """Refuses a precision that is none of `Matmul`.

    Args:
        precision: a name.

    Raises:
        ValueError: for another name.

    Example:
        >>> check_matmul("tensorfloat32")
    """
    if precision not in get_args(Matmul):
        raise ValueError(f"matmul precision {precision!r}: choose 'float32', 'tensorfloat32' or 'bfloat16'")


def with_matmul(precision: Matmul, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its matrix products traced at a precision, whatever the default is.

    Args:
        precision: "float32", "tensorfloat32" or "bfloat16".
        function: any function of arrays.

    Returns:
        A function with the same signature; derivatives of it have the same precision.

    Raises:
        ValueError: for another name.

    Example:
        >>> product = with_matmul("float32", lambda a, b: a @ b)
        >>> "HIGHEST" in str(jax.make_jaxpr(product)(jax.numpy.eye(2), jax.numpy.eye(2)))
        True
    """
    check_matmul(precision)

    @functools.wraps(function)
    def traced(*arguments: Any, **named: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments, **named)

    return traced


@dataclasses.dataclass(frozen=True, eq=False)
class SplitEnergy:
    """An energy whose value and whose force come from two functions.

    Attributes:
        value: z [d] -> L: what accept steps, integrands and certificates see.
        force: z [d] -> a function near L; its gradient, and only that, drives leapfrog steps. However bad it is, the
            kernel is reversible for `value`; it only accepts less.
    """

    value: Callable[..., jax.Array]
    force: Callable[..., jax.Array]

    def __call__(self, z: jax.Array, *data: Any) -> jax.Array:
        """L(z)."""
        return self.value(z, *data)


def bind(energy: Callable[..., jax.Array], *data: Any) -> Callable[[jax.Array], jax.Array]:
    """An energy on some data as a function of the position alone, split if it was split.

    Args:
        energy: (z [d], *data) -> L.
        data: arrays, traced where a compiled program is not to hold a copy of them.

    Returns:
        z [d] -> L.

    Example:
        >>> bound = bind(SplitEnergy(lambda z, a: a * z @ z, lambda z, a: 0.9 * a * z @ z), 2.0)
        >>> float(bound(jax.numpy.ones(3))), round(float(force_of(bound)(jax.numpy.ones(3))), 3)
        (6.0, 5.4)
    """
    if isinstance(energy, SplitEnergy):
        return SplitEnergy(bind(energy.value, *data), bind(energy.force, *data))
    return lambda z: energy(z, *data)


def with_fast_forces(energy: Callable[..., jax.Array], precision: Matmul) -> Callable[..., jax.Array]:
    """An energy with exact values whose gradient may be fast.

    Args:
        energy: (z [d], ...) -> L.
        precision: of the matrix products behind the gradient; "float32" splits nothing.

    Returns:
        A `SplitEnergy`, or with "float32" the energy itself at that precision.

    Raises:
        ValueError: for another name.

    Example:
        >>> split = with_fast_forces(lambda z: 0.5 * z @ z, "bfloat16")
        >>> z = jax.numpy.ones(3)
        >>> float(split(z)), value_and_force(split)(z)[1].tolist()
        (1.5, [1.0, 1.0, 1.0])
    """
    exact = with_matmul(EXACT, energy)
    return exact if precision == EXACT else SplitEnergy(exact, with_matmul(precision, energy))


def force_of(energy: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """The function whose gradient drives leapfrog steps: the energy itself unless it is split.

    Args:
        energy: z [d] -> L.

    Returns:
        z [d] -> a scalar.

    Example:
        >>> energy = lambda z: 0.5 * z @ z
        >>> force_of(energy) is energy
        True
    """
    return energy.force if isinstance(energy, SplitEnergy) else energy


def value_and_force(
    energy: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """`jax.value_and_grad`, for a split energy too: the exact value, and the gradient of the force.

    Args:
        energy: z [d] -> L.

    Returns:
        z [d] -> (L, gradient [d]). A split energy costs one forward pass more.

    Example:
        >>> value, force = value_and_force(SplitEnergy(lambda z: z @ z, lambda z: 0.9 * z @ z))(jax.numpy.ones(2))
        >>> float(value), force.round(3).tolist()
        (2.0, [1.8, 1.8])
    """
    if not isinstance(energy, SplitEnergy):
        return jax.value_and_grad(energy)
    gradient = jax.grad(energy.force)
    return lambda z: (energy(z), gradient(z))
