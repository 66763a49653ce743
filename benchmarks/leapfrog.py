"""What one leapfrog step costs: against a value-and-gradient, and against a matrix product's rate.

    python benchmarks/leapfrog.py [--rows 60000] [--replicas 44] [--repeats 7]

Both ratios are taken within one run, the timings interleaved, each the median of the repeats. The data are random: only
shapes matter. FLOPs of a gradient are counted from the shapes, products only: forward and backward of every layer but
the product that would give the gradient in the inputs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from pbjax import precision
from pbjax.losses import smooth_bounded_cross_entropy
from pbjax.models import mlp
from pbjax.posteriors import fan_in_prior
from pbjax.posteriors.energy import chunk_rows, energy
from pbjax.posteriors.gibbs import log_density, whiten
from pbjax.sampling import hmc


def flops(widths: tuple[int, ...], rows: int) -> int:
    """Multiplications and additions of the matrix products in one gradient."""
    layers = list(itertools.pairwise(widths))
    forward = sum(2 * rows * a * b for a, b in layers)
    return 2 * forward + sum(2 * rows * a * b for a, b in layers[1:])


def measure(
    widths: tuple[int, ...], rows: int, replicas: int, *, rows_per_chunk: int, leapfrogs: int, repeats: int
) -> dict[str, Any]:
    """Median seconds of a value-and-gradient, a leapfrog step and a 2048^3 product, and their ratios."""
    generator = np.random.default_rng(0)
    inputs = generator.random((rows, widths[0]), np.float32)
    labels = generator.integers(0, widths[-1], rows)
    model = mlp(widths[1:])
    prior = fan_in_prior(model.init(jax.random.key(0), jnp.asarray(inputs[:1])), scale=2.0)
    whitening = whiten(prior.mean, prior.log_scale)
    data = chunk_rows(inputs, labels, rows_per_chunk=rows_per_chunk, columns=True)
    assert model.columns is not None
    function = energy(
        model.columns.apply, partial(smooth_bounded_cross_entropy, ceiling=4.0), columns=True,
        prepare=model.columns.prepare,
    )  # fmt: skip
    betas = jnp.full((replicas,), 1000.0)

    def target(z: jax.Array, beta: jax.Array, data: Any) -> jax.Array:
        return log_density(z, beta, lambda x: function(whitening.to_params(x), rows=data))

    gradient = jax.jit(lambda z, data: jax.vmap(jax.value_and_grad(partial(target, data=data)))(z, betas))

    @jax.jit
    def move(key: jax.Array, state: Any, data: Any) -> Any:
        return hmc.step(
            key, state, betas=betas, step_sizes=jnp.full((replicas,), 0.01), num_integration_steps=leapfrogs,
            energy=lambda x: function(whitening.to_params(x), rows=data),
        )[0]  # fmt: skip

    square = jnp.asarray(generator.random((2048, 2048), np.float32))
    product = jax.jit(lambda a: a @ a)
    z = jax.random.normal(jax.random.key(1), (replicas, whitening.dimension), jnp.float32)
    state = hmc.init(z, betas, lambda x: function(whitening.to_params(x), rows=data))

    def timed(call: Any) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - begin

    calls = {
        "gradient": lambda: gradient(z, data),
        "move": lambda: move(jax.random.key(2), state, data),
        "product": lambda: product(square),
    }
    for call in calls.values():
        timed(call)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(min(timed(call) for _ in range(5 if name == "product" else 1)))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rate = flops(widths, rows) * replicas / median["gradient"]
    peak = 2 * 2048**3 / median["product"]
    return {
        "net": "-".join(map(str, widths)), "rows": rows, "replicas": replicas, "rows_per_chunk": rows_per_chunk,
        "gradient_ms_per_replica": 1e3 * median["gradient"] / replicas,
        "leapfrog_over_gradient": median["move"] / leapfrogs / median["gradient"],
        "gradient_gflops": rate / 1e9, "product_gflops": peak / 1e9, "share_of_product_rate": rate / peak,
        "spread": {name: (min(values), max(values)) for name, values in seconds.items()},
    }  # fmt: skip


def main() -> None:
    """Command line; one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--replicas", type=int, default=44)
    parser.add_argument("--rows-per-chunk", type=int, nargs="+", default=[2000, 3000])
    parser.add_argument("--leapfrogs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="+", default=[196, 50, 10])
    arguments = parser.parse_args()
    precision.make_exact_the_default()
    print(
        json.dumps({"jax": jax.__version__, "device": jax.devices()[0].device_kind, "machine": platform.machine()}),
        flush=True,
    )
    for chunk in arguments.rows_per_chunk:
        result = measure(
            tuple(arguments.widths), arguments.rows, arguments.replicas, rows_per_chunk=chunk,
            leapfrogs=arguments.leapfrogs, repeats=arguments.repeats,
        )  # fmt: skip
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
