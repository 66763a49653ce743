"""Many seeds in one program against seeds one after another: the training chunk of the SAM-as-VI study.

    python -m benchmarks.seeds [--quick] [--models mlp --seeds 2 5 10]

R seeds vmapped, R seeds in a scan within one program, and R calls of the compiled program for one seed, on synthetic
images of 14x14; interleaved runs. Counted are the seconds of 60,000 gradients (an epoch) of one network, whatever the
gradients a step of the method takes. Fair: the R calls are compiled once and lose nothing but their calls. On CPUs many
seeds gain from wider products and lose where their weights leave the cache; an accelerator is another matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks._measuring import Figure, interleaved, report
from experiments._sam_as_vi.methods import METHODS, Hyper, Setting, gradients_per_step
from experiments._sam_as_vi.training import Plan, Problem, init_replicas, make_chunk
from pbjax import models
from pbjax.replicas import Replicas

CLAIM = "Seeds in one program"
Model = Literal["mlp", "small_cnn"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    models: tuple[Model, ...] = ("mlp", "small_cnn")
    """Networks, as in the study's configs."""
    seeds: tuple[int, ...] = (2, 5, 10)
    """Numbers of seeds; the convolutional network takes the second alone, or the only one."""
    methods: tuple[str, ...] = ("sgd", "sam", "mean_field", "ivon")
    """Methods."""
    steps: int = 100
    """Steps of a chunk, of 128 rows."""
    repeats: int = 5
    """Interleaved runs."""
    quick: bool = False
    """Few steps and runs, one network and method."""


def problem(model: Model, steps: int) -> Problem:
    """Images of noise with random labels: times do not depend on what is seen."""
    draw = np.random.default_rng(0)
    shape = (14, 14, 1) if model == "small_cnn" else (196,)
    inputs = jnp.asarray(draw.random((128 * steps, *shape), np.float32))
    labels = jnp.asarray(draw.integers(0, 10, len(inputs)), jnp.int32)
    net = models.small_cnn(10) if model == "small_cnn" else models.mlp((100, 10), activation="relu")
    rows = (inputs[:1000], labels[:1000])
    return Problem(net, "noise", inputs, labels, rows, rows, None, 10, len(inputs), 128, 0.0, 0, False, 0, 0.0, ())


def measure(options: Options, model: Model, seeds: int, method: str) -> list[Figure]:
    """The three ways of one method."""
    made = problem(model, options.steps)
    shape = Plan(options.steps, 2, 2, 1, 1)
    data = (made.inputs, made.labels, made.validation)
    setting = Setting(len(made.labels), 20_710, 0.9, 1e-4, 0.01, 1, 0.01)

    def compiled(count: int, at_once: int) -> Callable[[], Any]:
        chunk = jax.jit(make_chunk(method, setting, made, shape, replicas=Replicas(at_once=at_once), watch_rows=1))
        hyper = Hyper(*(jnp.full(count, x, jnp.float32) for x in (METHODS[method].learning_rate, 0.1, 1.0)))
        state = (jnp.zeros((), jnp.int32), init_replicas(method, hyper, np.arange(count), setting, made))
        return lambda: chunk(state, hyper, jnp.array([2, 2]), data)

    one = compiled(1, 1)
    taken = interleaved(
        {
            "pbjax, vmapped": compiled(seeds, seeds),
            "pbjax, one after another in one program": compiled(seeds, 1),
            "a call for each seed": lambda: [jax.block_until_ready(one()) for _ in range(seeds)],
        },
        options.repeats,
    )
    epochs = seeds * gradients_per_step(method, 1) * options.steps * 128 / 60_000
    ours = taken["pbjax, vmapped"].median
    case = f"{model}, {method}, {seeds} seeds, batch 128"
    return [
        Figure(CLAIM, case, who, "seconds for 60,000 gradients of one network", *timing.each(epochs), unit="s",
               over_pbjax=None if who == "pbjax, vmapped" else timing.median / ours,
               compile_seconds=timing.compile_seconds)
        for who, timing in taken.items()
    ]  # fmt: skip


def main(options: Options) -> None:
    """Measures and prints."""
    if options.quick:
        options = dataclasses.replace(options, models=("mlp",), methods=("sam",), seeds=(2,), steps=10, repeats=2)
    for model in options.models:
        for seeds in options.seeds if model == "mlp" else options.seeds[:2][-1:]:
            for method in options.methods:
                report(measure(options, model, seeds, method))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
