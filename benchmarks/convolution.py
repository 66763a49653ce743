"""Convolutions as products over patches against XLA's own: the gradient that annealed chains take, ratios in one run.

    python benchmarks/convolution.py
    python benchmarks/convolution.py --replicas 5

The energy of the small network of `certify --config mnist_cnn` on synthetic images of 14x14, in chunks of rows, for one
network or several side by side; medians of interleaved runs. Both programs have the same parameters, and the benchmark
ends with an error if their gradients differ by more than rounding.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from pbjax import precision
from pbjax.losses import smooth_bounded_cross_entropy
from pbjax.models import small_cnn
from pbjax.posteriors.energy import chunk_rows, energy


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    rows: int = 6000
    """Images."""
    rows_per_chunk: int = 250
    """Images in memory at once with their activations."""
    replicas: int = 1
    """Networks side by side."""
    repeats: int = 5
    """Interleaved runs of each program."""


def with_xla(params: dict, inputs: jax.Array) -> jax.Array:
    """The network of `small_cnn(10, activation="swish")` with XLA's convolutions."""
    maps = inputs
    for layer in ("Conv_0", "Conv_1"):
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        maps = jax.lax.conv_general_dilated(maps, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        maps = jax.nn.swish(maps + bias[None, None, None, :])
    last = params["Dense_0"]
    return maps.reshape(maps.shape[0], -1) @ last["kernel"] + last["bias"][None]


def main(options: Options) -> None:
    """Prints seconds and the ratio."""
    precision.make_exact_the_default()
    rng = np.random.default_rng(0)
    inputs = rng.random((options.rows, 14, 14, 1), np.float32)
    rows = chunk_rows(inputs, rng.integers(0, 10, options.rows), rows_per_chunk=options.rows_per_chunk, columns=False)
    model = small_cnn(10, activation="swish")
    keys = jax.random.split(jax.random.key(0), options.replicas)
    params = jax.vmap(lambda key: model.init(key, jnp.asarray(inputs[:1])))(keys)
    loss = partial(smooth_bounded_cross_entropy, ceiling=4.0)
    programs = {}
    for name, apply in (("patches", model.apply), ("XLA", with_xla)):
        function = energy(apply, loss)
        gradient = jax.grad(lambda p, rows, function=function: function(p, rows=rows))
        programs[name] = jax.jit(jax.vmap(gradient, (0, None)))
    made = {name: jax.block_until_ready(program(params, rows)) for name, program in programs.items()}
    for ours, theirs in zip(jax.tree.leaves(made["patches"]), jax.tree.leaves(made["XLA"]), strict=True):
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-6):
            raise SystemExit("the two programs do not compute the same gradient")
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.repeats):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(params, rows))
            times[name].append(time.perf_counter() - begin)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    print(
        f"{options.rows:,} images, {options.replicas} networks, chunks of {options.rows_per_chunk} on "
        f"{jax.devices()[0].platform}: patches {1e3 * medians['patches']:.1f} ms a gradient, XLA's convolutions "
        f"{1e3 * medians['XLA']:.1f} ms, {medians['XLA'] / medians['patches']:.1f} times as long"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
