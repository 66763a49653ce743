"""The one place where ladder, step sizes and trajectory lengths are decided, before any reported chain is drawn."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pbjax import runs
from pbjax.certify import Target, cubic_schedule
from pbjax.posteriors.energy import Rows
from pbjax.runs.progress import Progress
from pbjax.sampling import (
    PilotState,
    PilotTrace,
    choose_schedule,
    init_pilot,
    pilot_chunk,
    plan_pilot,
    provisional_ladder,
    second_pass,
)

PASSES = ("pilot_first", "pilot_second")
CHUNKS = 10


def plan(config: Any) -> Any:
    """The pilot's passes, None without one."""
    if config.schedule != "pilot":
        return None
    return plan_pilot(
        config.gradients, pilot_gradients=config.pilot_gradients, num_integration_steps=config.num_integration_steps
    )


def work(config: Any, *, share: float) -> dict[str, float]:
    """Gradients of the pilot's passes, counted in gradients over all rows, of which it sees a share."""
    passes = plan(config)
    if passes is None:
        return {}
    return dict.fromkeys(PASSES, share * config.pilot_chains * passes.moves * passes.num_integration_steps)


def frozen_schedule(
    config: Any, target: Target, quick: Target, phases: runs.Phases, progress: Progress
) -> dict[str, Any]:  # fmt: skip
    """A schedule for the budget of a config, with what choosing it cost; the pilot sees the rows of `quick`.

    The pilot's key comes from `pilot_seed`, whose stream no reported chain uses, and not from the seeds: the chain of
    a seed is the same whichever others run beside it.
    """
    passes = plan(config)
    if passes is None:
        schedule = cubic_schedule(
            beta=config.beta * target.n, gradients=config.gradients, dimension=target.dimension,
            num_integration_steps=config.num_integration_steps or 8, step_size=config.step_size,
            stiffness=config.stiffness,
        )  # fmt: skip
        return {"schedule": schedule, "gradients": 0, "rows": 0, "seconds": 0.0, "report": None}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.pilot_seed), 1))
    moves = -(-passes.moves // CHUNKS)

    @jax.jit
    def begin(key: jax.Array, size: jax.Array, rows: Rows) -> PilotState:
        return init_pilot(
            key, energy=quick.on(rows), dimension=quick.dimension, chains=config.pilot_chains,
            step_size=size,
        )  # fmt: skip

    @partial(jax.jit, donate_argnums=0)
    def chunk(state: PilotState, betas: jax.Array, rows: Rows) -> tuple[PilotState, PilotTrace]:
        return pilot_chunk(
            state, betas, energy=quick.on(rows), moves=moves,
            num_integration_steps=passes.num_integration_steps, target_acceptance=config.target_acceptance,
        )  # fmt: skip

    def walk(index: int, betas: np.ndarray, size: float, phase: runs.Phase) -> dict[str, Any]:
        begun = time.perf_counter()

        def tell(number: int, trace: Any) -> None:
            last = int(np.flatnonzero(np.isfinite(trace.beta))[-1])
            row = {
                "beta": float(trace.beta[last]), "surrogate": float(trace.energy[last].mean()),
                "acceptance": float(np.nanmean(trace.acceptance)), "step_size": float(trace.step_size[last]),
            }  # fmt: skip
            phase.log(chunk=number, **row)
            progress.table([row], title=f"{phase.name}, where it stands")

        _, trace = phase.run_chunks(
            chunk, begin(keys[index], jnp.asarray(size), quick.rows), num_chunks=-(-passes.moves // moves),
            arguments=(jnp.asarray(betas), quick.rows), on_chunk=tell,
        )  # fmt: skip
        joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trace)
        return {"trace": joined._asdict(), "seconds": time.perf_counter() - begun}

    first = phases.run(
        PASSES[0],
        partial(walk, 0, provisional_ladder(config.beta * target.n, moves=passes.moves), target.dimension**-0.25),
    )
    betas, size = second_pass(PilotTrace(**first["trace"]), passes, target_acceptance=config.target_acceptance)
    second = phases.run(PASSES[1], partial(walk, 1, betas, size))
    schedule, report = choose_schedule(
        PilotTrace(**second["trace"]), gradients=config.gradients,
        num_integration_steps=config.num_integration_steps, target_acceptance=config.target_acceptance,
    )  # fmt: skip
    return {
        "schedule": schedule, "gradients": 2 * config.pilot_chains * report.gradients,
        "rows": quick.n, "seconds": first["seconds"] + second["seconds"], "report": report._asdict(),
    }  # fmt: skip
