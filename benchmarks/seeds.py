"""Many seeds in one program against seeds one after another: the training chunk of the SAM-as-VI study, ratios.

    python benchmarks/seeds.py
    python benchmarks/seeds.py --model small_cnn --seeds 10

Times R seeds vmapped, R seeds in a scan within one program, and R calls of a program for one seed, on synthetic images
of 14x14; medians of interleaved runs. Ratios are to the R calls.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments._sam_as_vi.methods import METHODS, Hyper, Setting, gradients_per_step
from experiments._sam_as_vi.training import Plan, Problem, init_replicas, make_chunk
from pbjax import models


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    model: Literal["mlp", "small_cnn"] = "mlp"
    """Network, as in the study's configs."""
    seeds: int = 5
    """R."""
    methods: tuple[str, ...] = ("sgd", "sam", "mean_field", "ivon")
    """Methods."""
    steps: int = 200
    """Steps of a chunk, of 128 rows."""
    repeats: int = 7
    """Interleaved runs."""


def problem(options: Options) -> Problem:
    """Images of noise with random labels: times do not depend on what is seen."""
    draw = np.random.default_rng(0)
    shape = (14, 14, 1) if options.model == "small_cnn" else (196,)
    inputs = jnp.asarray(draw.random((128 * options.steps, *shape), np.float32))
    labels = jnp.asarray(draw.integers(0, 10, len(inputs)), jnp.int32)
    model = models.small_cnn(10) if options.model == "small_cnn" else models.mlp((100, 10), activation="relu")
    rows = (inputs[:1000], labels[:1000])
    return Problem(model, "noise", inputs, labels, rows, rows, None, 10, len(inputs), 128, 0.0, 0, False, 0, 0.0)


def main(options: Options) -> None:
    """Time and print."""
    made = problem(options)
    shape = Plan(options.steps, 2, 2, 1, 1)
    data = (made.inputs, made.labels, made.validation)
    epoch = 60_000 / 128 / options.steps
    print(
        f"{options.model}, {options.seeds} seeds, chunks of {options.steps} steps of 128 rows on "
        f"{jax.devices()[0].platform}; seconds for 60,000 gradients of one network, and ratios to separate calls"
    )
    for method in options.methods:
        setting, spec = Setting(len(made.labels), 20_710, 0.9, 1e-4, 0.01, 1, 0.01), METHODS[method]

        def start(seeds: int, method: str = method, setting: Setting = setting, spec: object = spec) -> tuple:
            hyper = Hyper(*(jnp.full(seeds, x, jnp.float32) for x in (METHODS[method].learning_rate, 0.1, 1.0)))
            return hyper, (jnp.zeros((), jnp.int32), init_replicas(method, hyper, np.arange(seeds), setting, made))

        def compiled(seeds: int, at_once: int, method: str = method, setting: Setting = setting) -> object:
            chunk = jax.jit(make_chunk(method, setting, made, shape, at_once=at_once, watch_rows=1))
            hyper, state = start(seeds)
            call = lambda: jax.block_until_ready(chunk(state, hyper, jnp.array([2, 2]), data))  # noqa: E731
            call()
            return call

        one = compiled(1, 1)
        programs = {
            "separate": lambda one=one: [one() for _ in range(options.seeds)],
            "scan": compiled(options.seeds, 1),
            "vmap": compiled(options.seeds, options.seeds),
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(options.repeats):
            for name, call in programs.items():
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
        medians = {name: float(np.median(values)) for name, values in times.items()}
        each = medians["separate"] / options.seeds * epoch / gradients_per_step(method, 1)
        print(f"{method:12s} {each:6.3f} s   scan {medians['scan'] / medians['separate']:5.2f}   "
              f"vmap {medians['vmap'] / medians['separate']:5.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
