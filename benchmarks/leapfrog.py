"""What one leapfrog step costs: against a value-and-gradient, and against the machine's matrix-product rate.

    python -m benchmarks.leapfrog
    python -m benchmarks.leapfrog --quick

A leapfrog step of Hamiltonian Monte Carlo is one gradient of the empirical risk over all rows and a few passes over the
position. Two questions: does a move cost more than its gradients, and how near are those to the rate that the machine
does one large matrix product at, timed in the same rounds?

FLOPs are counted from the shapes, matrix products only: forward and backward of every layer without the product that
would give the gradient in the inputs. Exponentials, activations, losses and sums over rows count as time but not as
work, so a share of 1 is out of reach, the more so the narrower the layers. Data are random: only shapes matter.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import _measuring as measuring
from pbjax import precision
from pbjax.losses import smooth_bounded_cross_entropy
from pbjax.models import mlp
from pbjax.posteriors import fan_in_prior
from pbjax.posteriors.energy import chunk_rows, energy
from pbjax.posteriors.gibbs import log_density, whiten
from pbjax.sampling import hmc

CLAIM = "A leapfrog step against the machine's matrix-product rate"
PRODUCTS = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    rows: int = 60_000
    """Rows of the data set."""
    rows_per_chunk: int = 2000
    """Rows whose activations are in memory at once, the default of the experiments."""
    repeats: int = 7
    """Interleaved rounds."""
    quick: bool = False
    """A twentieth of the rows, two rounds."""


@dataclasses.dataclass(frozen=True)
class Net:
    """A network and how many of it run side by side."""

    widths: tuple[int, ...]
    replicas: int
    leapfrogs: int

    @property
    def name(self) -> str:
        """As 196-50-10."""
        return "-".join(map(str, self.widths))


NETS = (Net((196, 50, 10), 16, 8), Net((784, 600, 600, 10), 4, 2))


def flops(widths: tuple[int, ...], rows: int) -> int:
    """Multiplications and additions of the matrix products in one gradient."""
    layers = list(itertools.pairwise(widths))
    forward = sum(2 * rows * a * b for a, b in layers)
    return 2 * forward + sum(2 * rows * a * b for a, b in layers[1:])


def make_energy(widths: tuple[int, ...], rows: int, rows_per_chunk: int) -> tuple[int, Any, Any]:
    """Parameters, `energy(z, rows) -> L` and its rows, on random data: whitened as the experiments have it."""
    generator = np.random.default_rng(0)
    inputs = generator.random((rows, widths[0]), np.float32)
    labels = generator.integers(0, widths[-1], rows)
    model = mlp(widths[1:])
    prior = fan_in_prior(model.init(jax.random.key(0), jnp.asarray(inputs[:1])), scale=1.0)
    whitening = whiten(prior.mean, prior.log_scale)
    assert model.columns is not None
    loss = partial(smooth_bounded_cross_entropy, ceiling=4.0)
    function = energy(model.columns.apply, loss, columns=True, prepare=model.columns.prepare)
    data = chunk_rows(inputs, labels, rows_per_chunk=rows_per_chunk, columns=True)
    return whitening.dimension, lambda z, data: function(whitening.to_params(z), rows=data), data


def measure(net: Net, options: Options) -> None:
    """Prints the figures of one network."""
    dimension, energy_of, data = make_energy(net.widths, options.rows, options.rows_per_chunk)
    betas, sizes = jnp.full((net.replicas,), 1000.0), jnp.full((net.replicas,), 1e-3)
    z = jax.random.normal(jax.random.key(1), (net.replicas, dimension), jnp.float32)

    @jax.jit
    def gradient(z: jax.Array, data: Any) -> Any:
        return jax.vmap(jax.value_and_grad(partial(log_density, energy=partial(energy_of, data=data))))(z, betas)

    @jax.jit
    def move(key: jax.Array, state: Any, data: Any) -> Any:
        return hmc.step(
            key, state, betas=betas, step_sizes=sizes, num_integration_steps=net.leapfrogs,
            energy=partial(energy_of, data=data),
        )[0]  # fmt: skip

    state = hmc.init(z, betas, partial(energy_of, data=data))
    gradient_of, gradient_seconds = measuring.compiled(gradient, z, data)
    moved, move_seconds = measuring.compiled(move, jax.random.key(2), state, data)
    product, product_flops = measuring.product_call(times=PRODUCTS)
    times = measuring.interleaved(
        {
            "gradient": lambda: gradient_of(z, data),
            "move": lambda: moved(jax.random.key(2), state, data),
            "product": product,
        },
        options.repeats,
    )
    work = flops(net.widths, options.rows) * net.replicas
    case = f"{net.name}, {options.rows:,} rows, {net.replicas} replicas, chunks of {options.rows_per_chunk:,}"
    counted = "FLOPs of the matrix products, counted from the shapes; activations and losses are time without work"
    figure = partial(measuring.Figure, CLAIM, case)
    share = measuring.ratio(times["product"], times["gradient"], work / product_flops)
    rate = tuple(value / 1e9 for value in times["gradient"].rate(work))
    of_move = measuring.ratio(times["product"], times["move"], work * net.leapfrogs / product_flops)
    measuring.report([
        figure("pbjax", "gradient, share of the product rate", *share, note=counted,
               compile_seconds=gradient_seconds),
        figure("pbjax", "leapfrog steps, share of the product rate", *of_move, note=counted,
               compile_seconds=move_seconds),
        figure("pbjax", "leapfrog step over a value and gradient",
               *measuring.ratio(times["move"], times["gradient"], 1 / net.leapfrogs),
               note="a move draws momenta and accepts or refuses as well, once in its leapfrog steps"),
        figure("pbjax", "leapfrog step of one replica",
               *times["move"].each(net.replicas * net.leapfrogs / 1e3), unit="ms"),
        figure("pbjax", "gradient", *rate, unit="GFLOP/s", note=counted),
        figure("matrix product, 2048 square", "product",
               *(value / 1e9 for value in times["product"].rate(product_flops)), unit="GFLOP/s",
               note="float32, of all cores, timed in the same rounds"),
    ])  # fmt: skip


def main(options: Options) -> None:
    """Times every network."""
    precision.make_exact_the_default()
    if options.quick:
        options = dataclasses.replace(options, rows=options.rows // 20, repeats=2)
    for net in NETS:
        measure(net, options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
