"""What is counted of the samplers: gradients, traces, bytes of chains and of what they report, peak bytes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks._counting import Tally, counted_energy, size_in_bytes, slope
from pbjax import losses, models
from pbjax.posteriors.energy import chunk_rows, energy
from pbjax.sampling import (
    HMCSettings,
    adapt_chunk,
    freeze,
    hmc,
    init_ladder,
    init_paths,
    make_schedule,
    path_chunk,
    sample_chunk,
)  # fmt: skip

LEAPFROGS, DRAWS, RUNGS, CHAINS, DIMENSION = 4, 3, 2, 2, 5


def _ladder(function: Any, dimension: int, *, exchange: bool = False) -> Any:
    """State of a small ladder."""
    return init_ladder(
        jax.random.key(0), jnp.zeros((RUNGS, CHAINS, dimension), jnp.float32), betas=jnp.asarray([1.0, 2.0]),
        energy=function, step_sizes=jnp.full(RUNGS, 0.1), num_functionals=1, exchange=exchange,
    )  # fmt: skip


def _quadratic(z: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(z))


def of_ladder(*, exchange: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Gradients a move and replica, traces and compilations of two chunks of adaptation and three of sampling."""
    tally = Tally()
    function = counted_energy(_quadratic, tally)
    settings, betas = HMCSettings(LEAPFROGS), jnp.asarray([1.0, 2.0])
    adapt = jax.jit(partial(adapt_chunk, energy=function, settings=settings, moves=DRAWS, total_moves=2 * DRAWS))
    sample = jax.jit(
        partial(sample_chunk, energy=function, observe=lambda z: _quadratic(z)[None], settings=settings, draws=DRAWS)
    )
    state = jax.block_until_ready(_ladder(function, DIMENSION, exchange=exchange))
    replicas = RUNGS * CHAINS
    to_start, traced = tally.gradients, tally.traces
    for _ in range(2):
        state, _ = adapt(state, betas)
    state = freeze(state, total_moves=2 * DRAWS)
    for _ in range(3):
        state, _ = sample(state, betas)
    jax.block_until_ready(state)
    jax.effects_barrier()
    name = "ladder with exchange" if exchange else "ladder"
    gradients = {
        f"{name}, to start": to_start / replicas,
        f"{name}, a leapfrog step": (tally.gradients - to_start) / (5 * DRAWS * replicas * LEAPFROGS),
    }
    traces = {
        f"{name}, traces of the energy": tally.traces - traced,
        f"{name}, compilations of both chunks": adapt._cache_size() + sample._cache_size(),
    }
    return gradients, traces


def of_paths() -> tuple[dict[str, float], dict[str, float]]:
    """The same of annealed chains: three chunks of a schedule."""
    tally = Tally()
    function = counted_energy(_quadratic, tally)
    schedule = make_schedule(np.linspace(0.5, 3.0, 6), step_sizes=0.1, num_integration_steps=LEAPFROGS)
    state = jax.block_until_ready(
        init_paths(jax.random.key(0), chains=CHAINS, dimension=DIMENSION, energy=function).gradient
    )
    to_start, traced = tally.gradients, tally.traces
    state = init_paths(jax.random.key(0), chains=CHAINS, dimension=DIMENSION, energy=_quadratic)
    step = jax.jit(partial(path_chunk, energy=function, moves=2))
    for _ in range(3):
        state, _ = step(state, schedule)
    jax.block_until_ready(state.position)
    leapfrogs = int(np.sum(np.asarray(schedule.num_integration_steps)))
    return (
        {
            "annealed chain, to start": to_start / CHAINS,
            "annealed chain, a leapfrog step": (tally.gradients - to_start) / (CHAINS * leapfrogs),
        },
        {
            "annealed chains, traces of the energy": tally.traces - traced,
            "annealed chains, compilations of the chunk": step._cache_size(),
        },
    )


def of_states() -> dict[str, dict[str, float]]:
    """Bytes of chains and of what they report, from shapes alone."""
    settings, betas = HMCSettings(LEAPFROGS), jnp.asarray([1.0, 2.0])

    def reported(draws: int, dimension: int = DIMENSION) -> int:
        state = jax.eval_shape(lambda: _ladder(_quadratic, dimension))
        sample = partial(
            sample_chunk, energy=_quadratic, observe=lambda z: _quadratic(z)[None], settings=settings, draws=draws
        )
        return size_in_bytes(jax.eval_shape(sample, state, betas))

    def ladder(dimension: int, *, exchange: bool = False) -> int:
        return size_in_bytes(jax.eval_shape(lambda: _ladder(_quadratic, dimension, exchange=exchange)))

    def paths(chains: int, dimension: int) -> int:
        start = partial(init_paths, chains=chains, dimension=dimension, energy=_quadratic)
        return size_in_bytes(jax.eval_shape(start, jax.random.key(0)))

    def walked(moves: int, dimension: int = DIMENSION) -> int:
        schedule = make_schedule(np.linspace(0.5, 3.0, 20), step_sizes=0.1, num_integration_steps=LEAPFROGS)
        state = jax.eval_shape(
            partial(init_paths, chains=CHAINS, dimension=dimension, energy=_quadratic), jax.random.key(0)
        )
        return size_in_bytes(jax.eval_shape(partial(path_chunk, energy=_quadratic, moves=moves), state, schedule))

    replicas = RUNGS * CHAINS
    wide = partial(reported, dimension=100)
    return {
        "bytes kept": {
            "ladder, a weight and replica": slope(ladder, 100, 200) / replicas,
            "ladder with exchange, a weight and replica": slope(partial(ladder, exchange=True), 100, 200) / replicas,
            "ladder, a replica beside its weights": ladder(1) / replicas - slope(ladder, 100, 200) / replicas,
            "annealed chain, a weight": slope(partial(paths, CHAINS), 100, 200) / CHAINS,
            "annealed chain, a chain beside its weights": slope(lambda c: paths(c, 1), 2, 4) - slope(
                partial(paths, CHAINS), 100, 200) / CHAINS,
        },
        "bytes that a draw adds": {
            "ladder, a replica": slope(reported, 2, 4) / replicas,
            "ladder, a replica and weight": (slope(wide, 2, 4) - slope(reported, 2, 4)) / replicas,
            "annealed chain, a move": slope(walked, 2, 4) / CHAINS,
            "annealed chain, a move and weight": (
                slope(partial(walked, dimension=100), 2, 4) - slope(walked, 2, 4)
            ) / CHAINS,
        },
    }  # fmt: skip


def of_memory() -> dict[str, float]:
    """Peak bytes of a gradient and of an HMC move of 196-50-10 on 1,000 rows in chunks of 250, four replicas."""
    rng = np.random.default_rng(0)
    inputs = rng.random((1000, 196), np.float32)
    model = models.mlp((50, 10))
    assert model.columns is not None
    rows = chunk_rows(inputs, rng.integers(0, 10, 1000), rows_per_chunk=250, columns=True)
    function = energy(
        model.columns.apply, partial(losses.smooth_bounded_cross_entropy, ceiling=4.0), columns=True,
        prepare=model.columns.prepare,
    )  # fmt: skip
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(inputs[:1])))
    flat = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), params))
    value = lambda z, rows: function(flat[1](z), rows=rows)  # noqa: E731
    betas = jnp.full(4, 100.0)
    z = jax.ShapeDtypeStruct((4, flat[0].size), jnp.float32)

    def move(key: jax.Array, state: Any, rows: Any) -> Any:
        return hmc.step(
            key, state, betas=betas, step_sizes=jnp.full(4, 0.01), num_integration_steps=LEAPFROGS,
            energy=partial(value, rows=rows),
        )  # fmt: skip

    state = jax.eval_shape(lambda z, rows: hmc.init(z, betas, partial(value, rows=rows)), z, rows)
    programs = {
        "gradient": jax.jit(jax.vmap(jax.grad(value), (0, None))).lower(z, rows),
        "HMC move": jax.jit(move).lower(jax.random.key(0), state, rows),
    }
    peaks = {}
    for name, lowered in programs.items():
        used = lowered.compile().memory_analysis()
        assert used is not None
        peaks[f"{name}, 196-50-10, 4 replicas"] = (
            used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
        )
    return peaks
