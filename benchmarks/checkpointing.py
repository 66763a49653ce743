"""What chunks, checkpoints and the log cost: a run's sampling phase against one bare scan of the same moves.

    python -m benchmarks.checkpointing
    python -m benchmarks.checkpointing --quick

The work is the sampling phase of `gibbs_gap`: HMC over a ladder at the sizes of the configs `digits` and `mnist14` (the
latter on a tenth of its rows, so that what is not computing weighs ten times as much as in a run). The bare scan is one
jitted program of all moves, called once. The run does the same moves in chunks through `pbjax.runs.Phases`, with a line
of metrics a chunk and checkpoints: every 30 seconds, as is the default, or after every chunk, the most there can be.
Both start from the same state and must give equal draws up to rounding, or the benchmark ends with an error. The data
are random. Compilation is left out: the run's first chunk and the scan's first call do not count.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks._measuring import Figure, Timing, interleaved, report
from pbjax import precision, runs
from pbjax.losses import smooth_bounded_cross_entropy, zero_one
from pbjax.models import mlp
from pbjax.posteriors import fan_in_prior
from pbjax.posteriors.energy import chunk_rows, energy, mean_losses
from pbjax.posteriors.gibbs import whiten
from pbjax.sampling import HMCSettings, LadderState, init_ladder, sample_chunk

CLAIM = "A checkpointed run against a bare scan"
MOVES_PER_CHUNK = 4


@dataclasses.dataclass(frozen=True)
class Size:
    """A ladder: rows, widths, rungs, chains, leapfrogs."""

    rows: int
    widths: tuple[int, ...]
    rungs: int
    chains: int
    leapfrogs: int
    chunks: int


SIZES = {
    "digits": Size(1437, (64, 16, 10), 11, 4, 10, 20),
    "mnist14, a tenth of the rows": Size(6000, (196, 50, 10), 11, 4, 12, 6),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    repeats: int = 5
    """Interleaved runs."""
    quick: bool = False
    """The small ladder, five chunks, two repeats."""


def make(size: Size) -> tuple[Any, LadderState, tuple[Any, ...]]:
    """The chunk (state, betas, data) -> (state, draws) for a number of draws, its state and its other arguments."""
    generator = np.random.default_rng(0)
    inputs = generator.random((size.rows, size.widths[0]), np.float32)
    model = mlp(size.widths[1:])
    assert model.columns is not None
    prepare, apply = model.columns
    prior = fan_in_prior(model.init(jax.random.key(0), jnp.asarray(inputs[:1])), scale=2.0)
    whitening = whiten(prior.mean, prior.log_scale)
    labels = generator.integers(0, size.widths[-1], size.rows)
    data = chunk_rows(inputs, labels, rows_per_chunk=2000, columns=True)
    surrogate = partial(smooth_bounded_cross_entropy, ceiling=4.0)
    function = energy(apply, surrogate, columns=True, prepare=prepare)
    losses = {"energy": surrogate, "zero_one": zero_one}

    def observe(z: jax.Array, data: Any) -> jax.Array:
        means = mean_losses(apply, losses, prepare(whitening.to_params(z)), rows=data, columns=True)
        return jnp.stack([means["energy"], means["zero_one"]])

    def chunk(draws: int, state: LadderState, betas: jax.Array, data: Any) -> tuple[LadderState, Any]:
        state, (seen, _) = sample_chunk(
            state, betas, energy=lambda z: function(whitening.to_params(z), rows=data),
            observe=lambda z: observe(z, data), settings=HMCSettings(size.leapfrogs), draws=draws,
        )  # fmt: skip
        return state, seen

    betas = jnp.geomspace(50.0, 1e4, size.rungs)
    z = jax.random.normal(jax.random.key(1), (size.rungs, size.chains, whitening.dimension), jnp.float32)
    state = init_ladder(
        jax.random.key(2), z, betas=betas, energy=lambda z: function(whitening.to_params(z), rows=data),
        step_sizes=jnp.full(size.rungs, 0.02), num_functionals=2,
    )  # fmt: skip
    return chunk, state, (betas, data)


def in_a_run(
    chunk: Any, state: LadderState, arguments: tuple[Any, ...], chunks: int, every_seconds: float
) -> tuple[float, Any]:
    """Seconds of a whole phase but its first chunk, with everything that a run does beside it; and its draws."""
    timings: list[Any] = []

    def sample(phase: runs.Phase) -> dict[str, Any]:
        def tell(index: int, draws: Any) -> None:
            phase.log(chunk=index, acceptance=draws.acceptance.mean(), energy=draws.functionals[0].mean(axis=(1, 2)))

        _, draws = phase.run_chunks(chunk, state, num_chunks=chunks + 1, arguments=arguments, on_chunk=tell)
        timings.append(phase.timing)
        return {"functionals": np.concatenate(list(draws.functionals), axis=-1)}

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with runs.RunDirectory(out, experiment="benchmark", config=Size(1, (1,), 1, 1, 1, 1)) as directory:
            result = runs.Phases(directory, every_seconds=every_seconds).run("sample", sample)
    return timings[0].total, result["functionals"]


def measure(name: str, size: Size, repeats: int) -> list[Figure]:
    """Figures of one ladder."""
    chunk, state, arguments = make(size)
    # Donation would delete the state that every repeat starts from; run_chunks copies it beforehand.
    small = jax.jit(partial(chunk, MOVES_PER_CHUNK), donate_argnums=0)
    # The run's clock leaves its first chunk out, so the scan begins after that chunk and is as long as the rest.
    begun, first = jax.jit(partial(chunk, MOVES_PER_CHUNK))(state, *arguments)
    whole = jax.jit(partial(chunk, MOVES_PER_CHUNK * size.chunks))
    seconds: dict[str, list[float]] = {"chunks, saved every 30 s": [], "chunks, each saved": []}
    bare: list[float] = []
    compiled = 0.0
    for repeat in range(repeats + 1):
        timing = interleaved({"bare": lambda: whole(begun, *arguments)}, 1)["bare"]
        compiled = max(compiled, timing.compile_seconds)
        for label, every in zip(seconds, (30.0, 0.0), strict=True):
            taken, draws = in_a_run(small, state, arguments, size.chunks, every)
            if repeat:
                seconds[label].append(taken)
        if repeat:
            bare.extend(timing.seconds)
    expected = np.concatenate([first.functionals, whole(begun, *arguments)[1].functionals], axis=-1)
    if not np.allclose(draws, expected, atol=1e-3):
        raise SystemExit(f"{name}: the run's draws are not those of the bare scan")
    case = f"{name}: {size.rungs * size.chains} replicas, {size.chunks} chunks of {MOVES_PER_CHUNK} moves"
    base = Timing(tuple(bare), compiled)
    figures = [Figure(CLAIM, case, "bare scan", "seconds", *base.each(), "s", None, compiled)]
    for label, values in seconds.items():
        timing = Timing(tuple(values), 0.0)
        ratio = float(np.median(np.array(values) / np.array(bare)))
        figures.append(Figure(CLAIM, case, f"pbjax, {label}", "seconds", *timing.each(), "s"))
        figures.append(Figure(CLAIM, case, f"pbjax, {label}", "over the bare scan", ratio,
                              min(np.array(values) / bare), max(np.array(values) / bare)))  # fmt: skip
    return figures


def main(options: Options) -> None:
    """Time and print."""
    precision.make_exact_the_default()
    jax.config.update("jax_enable_x64", True)
    for name, size in SIZES.items():
        if options.quick:
            size = dataclasses.replace(size, rows=200, chunks=5)
        report(measure(name, size, 2 if options.quick else options.repeats))
        if options.quick:
            return


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
