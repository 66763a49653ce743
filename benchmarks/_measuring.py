"""What every benchmark measures with: interleaved timings, ratios within one run, a matrix product's rate.

A machine that other work shares, or that warms up, drifts by more than what is to be seen. So whatever is compared is
timed in turn, round by round, and a ratio is the median over rounds of the ratios within a round: `interleaved` and
`ratio` within one process, `Child` and `rounds` for what needs processes of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of the table: `who` does the work of `case`, measured as `quantity`."""

    claim: str
    """Heading in the table, the same for all figures of one benchmark."""
    case: str
    """The work: net, rows, batch, replicas. Figures of one case are comparable."""
    who: str
    """`pbjax`, or the peer."""
    quantity: str
    """What the number is, as `leapfrogs per second and chain`."""
    median: float
    """Median of the repeats."""
    low: float
    """Least of the repeats."""
    high: float
    """Greatest of the repeats."""
    unit: str = ""
    """Unit of the three; empty for a pure number."""
    over_pbjax: float | None = None
    """Seconds of this divided by those of pbjax on the same case, within one run: above 1, pbjax is faster."""
    compile_seconds: float | None = None
    """First call less a later one."""
    note: str = ""
    """What a reader must know to compare fairly."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, repeat by repeat, and what the first call took longer."""

    seconds: tuple[float, ...]
    """One a repeat, the first call left out."""
    compile_seconds: float
    """First call less the median."""

    @property
    def median(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.seconds)

    def rate(self, count: float) -> tuple[float, float, float]:
        """Median, least and greatest of `count` a second."""
        return count / self.median, count / max(self.seconds), count / min(self.seconds)

    def each(self, count: float = 1.0) -> tuple[float, float, float]:
        """Median, least and greatest seconds of one of `count`."""
        return self.median / count, min(self.seconds) / count, max(self.seconds) / count


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Times every call in turn, `repeats` rounds after a first that compiles; waits for JAX's results.

    Within one round all calls meet the same machine, so that ratios between them mean something even where its speed
    drifts. The order is reversed in every other round.
    """
    first: dict[str, float] = {}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        begin = time.perf_counter()
        jax.block_until_ready(call())
        first[name] = time.perf_counter() - begin
    names = list(calls)
    for repeat in range(repeats):
        for name in names if repeat % 2 else names[::-1]:
            begin = time.perf_counter()
            jax.block_until_ready(calls[name]())
            taken[name].append(time.perf_counter() - begin)
    return {
        name: Timing(tuple(times), max(first[name] - statistics.median(times), 0.0)) for name, times in taken.items()
    }


def compiled(jitted: Any, *arguments: Any) -> tuple[Callable[..., Any], float]:
    """A jitted function compiled for arguments, and the seconds that took: what a first call less a later one hides.

    Args:
      jitted: what `jax.jit` returned.
      arguments: arrays of the shapes it will be called with.
    """
    begin = time.perf_counter()
    made = jitted.lower(*arguments).compile()
    return made, time.perf_counter() - begin


def ratio(over: Timing, under: Timing, scale: float = 1.0) -> tuple[float, float, float]:
    """Median, least and greatest over the rounds of scale * seconds of `over` / seconds of `under` in one round."""
    each = [scale * a / b for a, b in zip(over.seconds, under.seconds, strict=True)]
    return statistics.median(each), min(each), max(each)


def product_call(size: int = 2048, times: int = 1) -> tuple[Callable[[], Any], int]:
    """A float32 matrix product of this machine, to be timed among the calls of a benchmark, and its FLOPs.

    With `times` above 1 that many, each of the last one's result, so that the call is no short moment beside others.
    """
    square = jnp.asarray(np.random.default_rng(0).random((size, size), np.float32)) * (2 / size)

    @jax.jit
    def product(a: jax.Array) -> jax.Array:
        one = lambda _, x: jax.lax.dot(x, a, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
        return jax.lax.fori_loop(0, times, one, a)

    return lambda: product(square), times * 2 * size**3


def exponent(sizes: Sequence[float], timings: Sequence[Timing]) -> tuple[float, float, float]:
    """Growth exponent of time in size: slope of log seconds on log size, with a 95 % interval.

    The slope is fitted once a repeat, so the interval is that of the mean of independent fits.

    Returns:
      Mean slope, lower and upper end.
    """
    x = np.log(np.asarray(sizes, float))
    x = x - x.mean()
    repeats = min(len(timing.seconds) for timing in timings)
    logs = np.log([[timing.seconds[r] for timing in timings] for r in range(repeats)])
    slopes = logs @ x / (x @ x)
    from scipy import stats

    half = float(stats.t.ppf(0.975, repeats - 1) * slopes.std(ddof=1) / np.sqrt(repeats)) if repeats > 1 else np.inf
    return float(slopes.mean()), float(slopes.mean() - half), float(slopes.mean() + half)


def report(figures: Sequence[Figure]) -> None:
    """Prints figures, one JSON line each: what `python -m benchmarks` reads."""
    for figure in figures:
        plain = {name: value for name, value in dataclasses.asdict(figure).items() if value not in (None, "")}
        print(json.dumps(plain), flush=True)


def in_child(module: str, *arguments: str) -> dict[str, Any]:
    """Runs a module of this package in a process of its own and returns the JSON object it prints last.

    For what must not share a process: peak memory, or a peer whose thread pool disturbs JAX's.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Child:
    """A module of this package in a process of its own, which does its work once whenever it is told to.

    The other side of the pipe is `serve`. Several at once can be timed in turn, `rounds`, each with the libraries,
    thread pool and peak memory of its own.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        """Starts the process; it prepares itself at the first `ready`."""
        # On an accelerator JAX would take most of the memory for the first process.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.module = " ".join((module, *arguments))
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, word: str) -> dict[str, Any]:
        """Sends a word and waits for the JSON object that answers it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(word, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError(f"{self.module} ended with {self.process.wait()}") from None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.module} ended with {self.process.wait()}")

    def end(self) -> None:
        """Closes the pipe, at which the process ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(make: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """In a child: answers `ready` with what `make` tells of itself, `go` with seconds, `peak` with bytes.

    Args:
      make: returns the work and what the parent checks before it is timed.
    """
    from pbjax.runs.memory import host_bytes_in_use, host_peak_bytes

    before, call = host_bytes_in_use(), None
    for line in sys.stdin:
        word = line.strip()
        if word == "ready":
            call, told = make()
            print(json.dumps(told), flush=True)
        elif word == "peak":
            print(json.dumps({"peak": host_peak_bytes(), "before": before}), flush=True)
        else:
            assert call is not None
            begin = time.perf_counter()
            result = jax.block_until_ready(call())
            told = {"seconds": time.perf_counter() - begin}
            if np.size(result) == 1:
                told["value"] = float(result)
            print(json.dumps(told), flush=True)


def rounds(children: Mapping[str, Child], repeats: int) -> tuple[dict[str, Timing], dict[str, list[float]]]:
    """`interleaved` over processes that are ready, and the scalars that their calls returned, the first call's too."""
    taken: dict[str, list[float]] = {name: [] for name in children}
    values: dict[str, list[float]] = {name: [] for name in children}
    for repeat in range(repeats + 1):
        for name in list(children)[:: -1 if repeat % 2 else 1]:
            told = children[name].ask("go")
            taken[name].append(told["seconds"])
            values[name] += [told["value"]] if "value" in told else []
    timings = {name: Timing(tuple(t), max(f - statistics.median(t), 0.0)) for name, (f, *t) in taken.items()}
    return timings, values
