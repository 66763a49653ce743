"""The frozen schedule of an annealed chain: which rung, step size and trajectory length each of its K moves uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax import _checks

Numbers = ArrayLike | Sequence[Any]


class AnnealingSchedule(NamedTuple):
    """What every move of an annealed chain uses; the same for all chains, fixed before the first is drawn.

    Attributes:
        betas: total inverse temperature of each move, [K], > 0, never falling; float64 under x64. The rung before the
            first move is the prior, beta = 0, and is no move.
        step_sizes: leapfrog steps, [K], > 0, in units of the prior's standard deviation.
        num_integration_steps: leapfrog steps of each move, int32 [K], >= 1.
        inverse_mass: diagonal of the inverse mass matrix, float32, [d] for all moves or [K, d]; None for the identity.
    """

    betas: jax.Array
    step_sizes: jax.Array
    num_integration_steps: jax.Array
    inverse_mass: jax.Array | None

    @property
    def num_moves(self) -> int:
        """K."""
        return self.betas.shape[0]

    @property
    def num_gradients(self) -> int:
        """Gradients that one chain costs: one to start and one a leapfrog step."""
        return 1 + int(np.sum(np.asarray(self.num_integration_steps)))


def make_schedule(
    betas: Numbers,
    *,
    step_sizes: Numbers,
    num_integration_steps: Numbers,
    inverse_mass: Numbers | None = None,
    moves_per_rung: int = 1,
) -> AnnealingSchedule:
    """A schedule from numbers chosen beforehand, for instance by a pilot run with a key of its own.

    Args:
        betas: rungs, [G], > 0 and never falling; the prior's beta = 0 is left out.
        step_sizes: leapfrog steps, scalar or [G], > 0.
        num_integration_steps: leapfrog steps a move, scalar or [G], whole, >= 1.
        inverse_mass: diagonal of the inverse mass matrix, [d] or [G, d], > 0; None for the identity.
        moves_per_rung: moves made at each rung, >= 1.

    Returns:
        An `AnnealingSchedule` of K = G * moves_per_rung moves.

    Raises:
        ValueError: for a ladder that is empty, falls or does not stay above 0, another shape, or a step size, mass or
            count out of range.

    Example:
        >>> schedule = make_schedule([1.0, 8.0], step_sizes=[0.3, 0.2], num_integration_steps=5, moves_per_rung=2)
        >>> schedule.betas.tolist(), schedule.num_gradients
        ([1.0, 1.0, 8.0, 8.0], 21)
    """
    ladder = np.asarray(betas, np.float64)
    if ladder.ndim != 1 or ladder.size == 0:
        raise ValueError(f"betas has shape {ladder.shape}: give the rungs above the prior as one vector")
    _checks.check_range(
        "betas", ladder, low=0.0, open_low=True, open_high=True,
        remedy="rungs are finite and above 0; the prior's rung, beta = 0, is where every chain starts and is no move",
    )  # fmt: skip
    if np.any(np.diff(ladder) < 0):
        raise ValueError(f"betas must never fall, got {ladder.tolist()}; sort them")
    _checks.check_range("moves_per_rung", moves_per_rung, low=1.0, open_high=True, whole=True)
    repeats = int(moves_per_rung)

    def per_move(name: str, values: Numbers, dtype: jnp.dtype | type) -> jax.Array:
        given = np.asarray(values)
        if given.shape not in ((), ladder.shape):
            raise ValueError(f"{name} has shape {given.shape}: give one number, or one for each of {ladder.size} rungs")
        return jnp.asarray(np.repeat(np.broadcast_to(given, ladder.shape), repeats), dtype)

    _checks.check_range("step_sizes", step_sizes, low=0.0, open_low=True, open_high=True)
    _checks.check_range("num_integration_steps", num_integration_steps, low=1.0, open_high=True, whole=True)
    mass = None
    if inverse_mass is not None:
        given = np.asarray(inverse_mass, np.float32)
        _checks.check_range("inverse_mass", given, low=0.0, open_low=True, open_high=True)
        if given.ndim not in (1, 2) or (given.ndim == 2 and given.shape[0] != ladder.size):
            raise ValueError(f"inverse_mass has shape {given.shape}: give [d], or [{ladder.size}, d]")
        mass = jnp.asarray(given if given.ndim == 1 else np.repeat(given, repeats, axis=0))
    wide = jax.dtypes.canonicalize_dtype(jnp.float64)
    return AnnealingSchedule(
        per_move("betas", ladder, wide),
        per_move("step_sizes", step_sizes, wide),
        per_move("num_integration_steps", num_integration_steps, jnp.int32),
        mass,
    )
