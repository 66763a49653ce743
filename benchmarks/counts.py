"""Counts that cannot be noisy: gradients, traces, bytes. What a change must not make worse.

    python -m benchmarks.counts             # print them
    python -m benchmarks.counts --check     # compare with benchmarks/counts.json; exit 1, a line for each that is worse
    python -m benchmarks.counts --update    # write benchmarks/counts.json, after a change that is meant

Gradients are those that a device really computes (a callback on their result counts), not those that the code asks for;
for members that cut a batch, gradients of parts. Traces are the times that Python runs the function of the user over
several chunks of a program, compilations the entries of the program's cache afterwards: both grow if anything retraces.
Bytes are of states and outputs, from their shapes: float64 where log-densities are sums, as in the experiments. What a
draw adds must not depend on the number of weights, else somebody stores whole draws.

Peak bytes are the compiler's own figure for two fixed programs, arguments and results included. It belongs to a version
of jax, so it may be a tenth more than the stored one; all other counts are compared exactly. Time is not measured.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from benchmarks._counting import count_gradients, size_in_bytes, slope
from benchmarks._sampler_counts import of_ladder, of_memory, of_paths, of_states
from pbjax import formal, models, optim, posteriors
from pbjax.formal import languages

Counts = dict[str, dict[str, float]]
FILE = Path(__file__).with_name("counts.json")
PEAK = "peak bytes of a compiled program"
SLACK = {PEAK: 0.1}
N = 50


@dataclasses.dataclass(frozen=True)
class Options:
    """What is done with the counts."""

    check: bool = False
    """Compare with the stored counts; exit status 1 if one is worse."""
    update: bool = False
    """Store them."""
    quick: bool = False
    """Counts are the same at every size; taken so that all benchmarks take it."""


def optimisers() -> dict[str, Any]:
    """Every optimiser of `pbjax.optim`, and some of their settings."""
    return {
        "sam": optim.sam(0.1),
        "asam": optim.asam(0.1),
        "fisher_sam": optim.fisher_sam(0.1),
        "friendly_sam": optim.friendly_sam(0.1),
        "gsam": optim.gsam(0.1),
        "look_sam, every 3": optim.look_sam(0.1, every=3),
        "m_sam, 2 parts": optim.m_sam(0.1, micro_batches=2),
        "mix_sam": optim.mix_sam(0.1),
        "momentum_sam": optim.momentum_sam(0.1),
        "sparse_sam": optim.sparse_sam(0.1),
        "random_sam": optim.random_sam(0.1),
        "random_sam, 3 draws": optim.random_sam(0.1, samples=3),
        "weight_perturbation": optim.weight_perturbation(0.1),
        "mean_field": optim.mean_field(0.1, n=N),
        "mean_field, natural gradient": optim.mean_field(0.1, n=N, scale_update=optim.natural_gradient()),
        "mean_field_then_sam": optim.mean_field_then_sam(0.1, n=N),
        "variational_sam": optim.variational_sam(0.1, n=N),
        "ivon": optim.ivon(0.1, n=N),
        "bsam": optim.bsam(0.1, n=N, radius=0.1),
        "vogn, 2 parts": optim.vogn(0.1, n=N, micro_batches=2),
    }


def of_optimisers() -> Counts:
    """Gradients of a step, and bytes of state that a weight adds."""
    made = optimisers()

    def state_bytes(optimiser: Any, weights: int) -> int:
        params = {"w": jax.ShapeDtypeStruct((weights,), jnp.float32)}
        return size_in_bytes(jax.eval_shape(optimiser.init, params))

    return {
        "gradients a step": {name: count_gradients(one) for name, one in made.items()},
        "bytes of optimiser state a weight": {
            name: slope(partial(state_bytes, one), 100, 200) for name, one in made.items()
        },
    }


def of_training() -> dict[str, float]:
    """Traces of a loss by two runs of training on a bound, compilations of three chunks of language-model training."""
    traces = []

    def loss(w: jax.Array, batch: jax.Array) -> jax.Array:
        traces.append(None)
        return jnp.mean(jnp.tanh(batch @ w) ** 2)

    prior = posteriors.init(jnp.zeros(3, jnp.float32), scale=1.0)
    for seed in range(2):
        posteriors.train(
            jax.random.key(seed), loss, prior, prior, jnp.ones((20, 3), jnp.float32), objective="quadratic", n=20,
            delta=0.05, learning_rate=0.1 * (1 + seed), num_steps=4, batch_size=10, num_records=2,
        )  # fmt: skip
    language = languages.AnBn(max_length=8)
    model = models.causal_linear(language.vocabulary.size, embedding=2, max_positions=10)
    made = formal.make_training(model, optax.sgd(0.1), sequences=language.support())
    chunk = jax.jit(jax.vmap(lambda state: made.chunk(state, 2)))
    state = jax.vmap(made.init, in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 2), formal.regime("maximum_likelihood")
    )
    for _ in range(3):
        state, _ = chunk(state)
    return {
        "training on a bound, traces of the loss by two runs": len(traces),
        "language models, compilations of three chunks of two seeds": chunk._cache_size(),
    }


def count_all() -> Counts:
    """All counts by group."""
    gradients: dict[str, float] = {}
    traces: dict[str, float] = {}
    for more in (of_ladder(exchange=False), of_ladder(exchange=True), of_paths()):
        gradients |= more[0]
        traces |= more[1]
    return {
        **of_optimisers(), "gradients of a sampler": gradients, "traces and compilations": traces | of_training(),
        **of_states(), PEAK: of_memory(),
    }  # fmt: skip


def complaints(stored: Counts, found: Counts) -> list[str]:
    """A line for every count that is worse than the stored one, or that is not in both."""
    lines = []
    for group in {**stored, **found}:
        before, now = stored.get(group, {}), found.get(group, {})
        for name in {**before, **now}:
            if name not in now:
                lines.append(f"{group}: {name}: stored {before[name]:g}, not counted any more; is that meant? --update")
            elif name not in before:
                lines.append(f"{group}: {name}: {now[name]:g}, nothing stored to compare with; run --update")
            elif now[name] > before[name] * (1 + SLACK.get(group, 0.0)) + 1e-9:
                allowed = f" and a slack of {SLACK[group]:.0%}" if group in SLACK else ""
                lines.append(f"{group}: {name}: {now[name]:g}, worse than the stored {before[name]:g}{allowed}")
    return lines


def main(options: Options) -> None:
    """Counts, and prints, stores or compares."""
    jax.config.update("jax_enable_x64", True)
    found = count_all()
    if options.update:
        FILE.write_text(json.dumps({"jax": jax.__version__, "counts": found}, indent=1) + "\n")
    if not options.check:
        print(json.dumps(found, indent=1))
        return
    lines = complaints(json.loads(FILE.read_text())["counts"], found)
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        raise SystemExit(1)
    print(f"{sum(map(len, found.values()))} counts, none worse than stored")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
