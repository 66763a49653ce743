"""A schedule written down by hand, for where no pilot is run."""

from __future__ import annotations

import numpy as np

from pbjax import _checks
from pbjax.sampling import AnnealingSchedule, make_schedule


def cubic_schedule(
    *, beta: float | int, gradients: int, dimension: int, num_integration_steps: int = 8, step_size: float | int = 1.0,
    stiffness: float | int = 200.0,
) -> AnnealingSchedule:  # fmt: skip
    """b_k = beta (k/K)³ with steps that shrink as the rungs grow steep, spending a budget of gradients.

    step_k = step_size d^(-1/4) / sqrt(1 + b_k / stiffness)

    Whatever its numbers, a certificate holds; good ones make it tight.

    Args:
        beta: last total inverse temperature, > 0; n is usual.
        gradients: budget a chain, at least `num_integration_steps` + 1.
        dimension: number of parameters d.
        num_integration_steps: leapfrog steps a move, >= 1.
        step_size: of the prior's rung, times d^(1/4), > 0.
        stiffness: the inverse temperature at which the energy bends the density as much as the prior does, > 0.

    Returns:
        An `AnnealingSchedule` of K = (gradients - 1) // num_integration_steps moves.

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> schedule = cubic_schedule(beta=1000.0, gradients=81, dimension=16)
        >>> schedule.num_moves, schedule.num_gradients, schedule.betas.tolist()[-1]
        (10, 81, 1000.0)
    """
    for name, value in (("beta", beta), ("step_size", step_size), ("stiffness", stiffness)):
        _checks.check_range(name, value, low=0.0, open_low=True, open_high=True)
    for name, value, least in (
        ("dimension", dimension, 1), ("num_integration_steps", num_integration_steps, 1),
        ("gradients", gradients, num_integration_steps + 1),
    ):  # fmt: skip
        _checks.check_range(name, value, low=least, open_high=True, whole=True)
    moves = (gradients - 1) // num_integration_steps
    betas = beta * (np.arange(1, moves + 1) / moves) ** 3
    return make_schedule(
        betas, step_sizes=step_size * dimension**-0.25 / np.sqrt(1 + betas / stiffness),
        num_integration_steps=num_integration_steps,
    )  # fmt: skip
