"""Convolutions as products over patches against XLA's own: the gradient that annealed chains take.

    python -m benchmarks.convolution [--quick] [--replicas 1 5]

The energy of the small network of `certify --config mnist_cnn` on synthetic images of 14x14, in chunks of rows, for one
network or several side by side; milliseconds of one gradient of all of them, interleaved runs. Fair: both programs have
the same parameters, rows and chunks, and the benchmark ends with an error if their gradients differ by more than
rounding. Unfair to XLA: one shape of network, with strides of 2, on which its convolutions for CPUs are slow.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks._measuring import Figure, interleaved, report
from pbjax import precision
from pbjax.losses import smooth_bounded_cross_entropy
from pbjax.models import small_cnn
from pbjax.posteriors.energy import chunk_rows, energy

CLAIM = "Gradient of a small convolutional network"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    rows: int = 6000
    """Images."""
    rows_per_chunk: int = 250
    """Images in memory at once with their activations."""
    replicas: tuple[int, ...] = (1, 5)
    """Networks side by side."""
    repeats: int = 5
    """Interleaved runs of each program."""
    quick: bool = False
    """Few rows and runs."""


def with_xla(params: dict, inputs: jax.Array) -> jax.Array:
    """The network of `small_cnn(10, activation="swish")` with XLA's convolutions."""
    maps = inputs
    for layer in ("Conv_0", "Conv_1"):
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        maps = jax.lax.conv_general_dilated(maps, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        maps = jax.nn.swish(maps + bias[None, None, None, :])
    last = params["Dense_0"]
    return maps.reshape(maps.shape[0], -1) @ last["kernel"] + last["bias"][None]


def measure(options: Options, replicas: int) -> list[Figure]:
    """Both programs, so many networks side by side."""
    rng = np.random.default_rng(0)
    inputs = rng.random((options.rows, 14, 14, 1), np.float32)
    rows = chunk_rows(inputs, rng.integers(0, 10, options.rows), rows_per_chunk=options.rows_per_chunk, columns=False)
    model = small_cnn(10, activation="swish")
    keys = jax.random.split(jax.random.key(0), replicas)
    params = jax.vmap(lambda key: model.init(key, jnp.asarray(inputs[:1])))(keys)
    loss = partial(smooth_bounded_cross_entropy, ceiling=4.0)
    programs = {}
    for name, apply in (("pbjax, products over patches", model.apply), ("XLA's convolutions", with_xla)):
        function = energy(apply, loss)
        gradient = jax.grad(lambda p, rows, function=function: function(p, rows=rows))
        programs[name] = jax.jit(jax.vmap(gradient, (0, None)))
    made = [jax.tree.leaves(program(params, rows)) for program in programs.values()]
    for ours, theirs in zip(*made, strict=True):
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-6):
            raise SystemExit("the two programs do not compute the same gradient")
    calls = {name: lambda program=program: program(params, rows) for name, program in programs.items()}
    taken = interleaved(calls, options.repeats)
    ours = taken["pbjax, products over patches"].median
    case = f"{options.rows:,} images, chunks of {options.rows_per_chunk}, networks side by side: {replicas}"
    return [
        Figure(CLAIM, case, who, "milliseconds a gradient", *timing.each(1e-3), unit="ms",
               over_pbjax=None if who.startswith("pbjax") else timing.median / ours)
        for who, timing in taken.items()
    ]  # fmt: skip


def main(options: Options) -> None:
    """Measures and prints."""
    precision.make_exact_the_default()
    if options.quick:
        options = dataclasses.replace(options, rows=500, repeats=2)
    for replicas in options.replicas:
        report(measure(options, replicas))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
