"""How time grows with what a user makes larger: each doubled five times, exponents with intervals.

    python -m benchmarks.growth
    python -m benchmarks.growth --quick

The ladder's move of Hamiltonian Monte Carlo against rows, parameters, rungs and chains, and a training step against
seeds. An exponent is the slope of log seconds on log size over the six sizes, fitted once a round, with a 95 % interval
over rounds; sizes are timed in turn, so drift of the machine is noise and not slope. Proportional work has exponent 1;
above it, something grows that should not: memory outgrows a cache, or work is done that nobody asked for.

A fit over all sizes flatters where the smallest are bound by fixed costs, so the exponent of the last doubling stands
beside it. Compilation is apart: every size is a program of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import _measuring as measuring
from benchmarks.leapfrog import make_energy
from benchmarks.seeds import problem
from experiments._sam_as_vi.methods import METHODS, Hyper, Setting
from experiments._sam_as_vi.training import Plan, init_replicas, make_chunk
from pbjax import precision
from pbjax.replicas import TOGETHER
from pbjax.sampling import hmc

CLAIM = "Growth of time with what a user makes larger"
CHUNK = 2000


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    repeats: int = 7
    """Rounds."""
    doublings: int = 5
    """Of each size."""
    leapfrogs: int = 4
    """Leapfrog steps of a move."""
    steps: int = 50
    """Training steps of 128 rows."""
    quick: bool = False
    """Three rounds of three sizes with fewer rows and steps: whether it runs, not how time grows."""


def move_call(*, rows: int, hidden: int, rungs: int, chains: int, leapfrogs: int) -> Callable[[], Any]:
    """One move of rungs times chains replicas of 196-hidden-10."""
    replicas = rungs * chains
    dimension, energy, data = make_energy((196, hidden, 10), rows, CHUNK)
    betas, sizes = jnp.repeat(jnp.geomspace(10.0, 60_000.0, rungs), chains), jnp.full((replicas,), 1e-3)
    z = jax.random.normal(jax.random.key(1), (replicas, dimension), jnp.float32)
    state = hmc.init(z, betas, partial(energy, data=data))

    @jax.jit
    def move(key: jax.Array, state: Any, data: Any) -> Any:
        return hmc.step(
            key, state, betas=betas, step_sizes=sizes, num_integration_steps=leapfrogs,
            energy=partial(energy, data=data),
        )[0]  # fmt: skip

    return lambda: move(jax.random.key(2), state, data)


def training_call(seeds: int, *, method: str, steps: int) -> Callable[[], Any]:
    """A chunk of training steps of 196-100-10 on noise, all seeds in one program, as the SAM-as-VI study runs it."""
    made = problem("mlp", steps)
    setting = Setting(len(made.labels), 20_710, 0.9, 1e-4, 0.01, 1, 0.01)
    hyper = Hyper(*(jnp.full(seeds, x, jnp.float32) for x in (METHODS[method].learning_rate, 0.1, 1.0)))
    chunk = jax.jit(make_chunk(method, setting, made, Plan(steps, 2, 2, 1, 1), replicas=TOGETHER, watch_rows=1))
    state = (jnp.zeros((), jnp.int32), init_replicas(method, hyper, np.arange(seeds), setting, made))
    return lambda: chunk(state, hyper, jnp.array([2, 2]), (made.inputs, made.labels, made.validation))


def grow(what: str, case: str, sizes: Sequence[int], calls: Sequence[Callable[[], Any]], repeats: int) -> None:
    """Times all sizes in turn and prints the exponents."""
    named = {str(size): call for size, call in zip(sizes, calls, strict=True)}
    timings = list(measuring.interleaved(named, repeats).values())
    case = f"{case}; {what} {sizes[0]:,} to {sizes[-1]:,}"
    note = "95 % interval over rounds; at most 1.1 is the aim where growth is not in the parameters"
    seconds = f"{timings[0].median:.3g} s at the least size and {timings[-1].median:.3g} s at the largest"
    measuring.report([
        measuring.Figure(CLAIM, case, "pbjax", f"exponent in {what}", *measuring.exponent(sizes, timings), note=note),
        measuring.Figure(CLAIM, case, "pbjax", f"exponent in {what}, last doubling",
                         *measuring.exponent(sizes[-2:], timings[-2:]), note=seconds),
    ])  # fmt: skip


def main(options: Options) -> None:
    """Every growth in turn."""
    precision.make_exact_the_default()
    if options.quick:
        options = dataclasses.replace(options, repeats=3, doublings=2, leapfrogs=1, steps=options.steps // 10)
    least = 2000 if options.quick else 10_000
    factors = [2**doubling for doubling in range(options.doublings + 1)]
    plain = {"rows": least, "hidden": 50, "rungs": 1, "chains": 1, "leapfrogs": options.leapfrogs}
    told = f"{options.leapfrogs} leapfrog steps"
    for what, case, start, changed in (
        ("rows", f"196-50-10, 4 rungs of 2 chains, {told}", 2000, {"rungs": 4, "chains": 2}),
        ("hidden units", f"196-h-10, {least:,} rows, 2 rungs of 2 chains, {told}", 16, {"rungs": 2, "chains": 2}),
        ("rungs", f"196-50-10, {least:,} rows, 2 chains a rung, {told}", 1, {"chains": 2}),
        ("chains", f"196-50-10, {least:,} rows, 2 rungs, {told}", 1, {"rungs": 2}),
    ):
        sizes = [start * factor for factor in factors]
        name = "hidden" if what == "hidden units" else what
        grow(what, case, sizes, [move_call(**{**plain, **changed, name: size}) for size in sizes], options.repeats)
    for method in ("sgd", "mean_field"):
        case = f"{method.replace('_', '-')} training, 196-100-10, {options.steps} steps of 128 rows"
        calls = [training_call(seeds, method=method, steps=options.steps) for seeds in factors]
        grow("seeds", case, factors, calls, options.repeats)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
