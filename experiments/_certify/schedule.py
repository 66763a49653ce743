"""The one place where ladder, step sizes and trajectory lengths are decided, before any reported chain is drawn."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from pbjax import runs
from pbjax.certify import Target, cubic_schedule


def choose_schedule(config: Any, target: Target, phase: runs.Phase) -> dict[str, Any]:
    """A frozen schedule for the budget of a config, saved with the run."""
    begun = time.perf_counter()
    schedule = cubic_schedule(
        beta=config.beta * target.n, gradients=config.gradients, dimension=target.dimension,
        num_integration_steps=config.num_integration_steps, step_size=config.step_size, stiffness=config.stiffness,
    )  # fmt: skip
    phase.log(moves=schedule.num_moves, gradients=schedule.num_gradients)
    return {
        "schedule": jax.tree.map(np.asarray, schedule), "gradients": 0, "seconds": time.perf_counter() - begun,
    }  # fmt: skip
