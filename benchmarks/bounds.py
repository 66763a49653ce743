"""The kl inverse and the PAC-Bayes-kl bound against bisection: values per second, and how many are no bounds at all.

    python -m benchmarks.bounds [--quick] [--count 100000]

Peers, written from their definition: bisection of one value after another in Python's floats that stops at a relative
width of 1e-5 and returns the last midpoint (the rule of the PBB code, which pacbb and others took over), and the
bisection of a whole array in numpy that halves until nothing changes and returns the upper end. pbjax is called under
jit on the whole array, and one value a call without jit, as in a notebook.

"Below the truth" is decided exactly: an upper bound v >= q is below sup{p : kl(q||p) <= c} if and only if
kl(q||v) < c, evaluated with 50 digits at the numbers as given. For the PAC-Bayes bound c = (KL + ln(2 sqrt(n)/delta))/n
has 50 digits too, so that rounding in c counts. Risks and c are log-uniform over [1e-4, 1/2] and [1e-5, 1]. Fair: all
get the same numbers, already in memory. Unfair to pbjax: it takes steps for the last digits that the first peer leaves
out. Unfair to Python's bisection: nobody would call it for an array; its rate is for one value after another.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import tyro

from benchmarks._measuring import Figure, Timing, interleaved, report
from pbjax import bounds

CLAIM = "kl inverse and PAC-Bayes-kl bound"
N, DELTA = 60_000, 0.05
ALONE = 2000  # values of the calls that take one at a time


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    count: int = 100_000
    """Values of an array."""
    checked: int = 5000
    """Values compared with the truth."""
    repeats: int = 9
    """Interleaved runs."""
    quick: bool = False
    """Few values and runs."""


def divergence(q: Any, p: Any, log: Callable[[Any], Any]) -> Any:
    """kl(q||p) by its textbook form, for q and p inside (0, 1)."""
    return q * log(q / p) + (1 - q) * log((1 - q) / (1 - p))


def bisect_one(q: float, c: float) -> float:
    """PBB's rule: halve [q, 1 - 1e-10] until its relative width is below 1e-5; the last midpoint."""
    low, high = q, 1 - 1e-10
    middle = q
    while (high - low) / high >= 1e-5:
        middle = 0.5 * (low + high)
        if divergence(q, middle, math.log) > c:
            high = middle
        else:
            low = middle
    return middle


def bisect_array(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Halves [q, 1) in the arrays' own precision until it is used up; the upper end."""
    low, high = q, np.full_like(q, 1 - np.finfo(q.dtype).eps)
    for _ in range(np.finfo(q.dtype).nmant + 4):
        middle = (low + high) / 2
        above = divergence(q, middle, np.log) > c
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high


def below(values: np.ndarray, q: np.ndarray, c: list[mpmath.mpf]) -> tuple[float, float]:
    """Share of values below the truth, and the largest relative distance from it (to first order)."""
    short, distance = 0, 0.0
    with mpmath.workdps(50):
        for value, risk, budget in zip(values.tolist(), q.tolist(), c, strict=True):
            v, r = mpmath.mpf(value), mpmath.mpf(risk)
            excess = divergence(r, v, mpmath.log) - budget if v < 1 else mpmath.mpf(0)
            short += excess < 0
            if v > r and v < 1:
                distance = max(distance, float(abs(excess) * (1 - v) / (v - r)))
    return short / len(c), distance


def numbers(count: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Risks and c."""
    rng = np.random.default_rng(0)
    draw = lambda low, high: np.exp(rng.uniform(np.log(low), np.log(high), count)).astype(dtype)  # noqa: E731
    return draw(1e-4, 0.5), draw(1e-5, 1.0)


def figures_of(name: str, count: int, dtype: Any, calls: dict[str, tuple[Callable[[], Any], int]], q: np.ndarray,
               truth: list[mpmath.mpf], repeats: int) -> list[Figure]:  # fmt: skip
    """Rates of all calls, and what their values are worth."""
    taken = interleaved({who: call for who, (call, _) in calls.items()}, repeats)
    ours = taken["pbjax, jit"].median / calls["pbjax, jit"][1]
    figures = []
    case = f"{name}, {count:,} values, {np.dtype(dtype).name}"
    for who, (call, made) in calls.items():
        timing: Timing = taken[who]
        figures.append(
            Figure(
                CLAIM, case, who, "values per second", *timing.rate(made),
                over_pbjax=None if who == "pbjax, jit" else statistics.median(timing.seconds) / made / ours,
                compile_seconds=timing.compile_seconds if who == "pbjax, jit" else None,
                note=f"rate from {made:,} values, one a call" if made != count else "",
            )
        )  # fmt: skip
        checked = min(made, len(truth))
        share, distance = below(np.asarray(call())[:checked], q[:checked], truth[:checked])
        figures.append(Figure(CLAIM, case, who, "share below the truth", share, share, share))
        figures.append(
            Figure(CLAIM, case, who, "largest relative distance from the truth", distance, distance, distance)
        )
    return figures


def measure(options: Options, dtype: Any) -> list[Figure]:
    """Both functions in one precision."""
    count, checked, repeats = options.count, options.checked, options.repeats
    if options.quick:
        count, checked, repeats = 2000, 200, 2
    alone = min(ALONE if not options.quick else 100, count)
    q, c = numbers(count, dtype)
    kl = (c * N).astype(dtype)
    spent = math.log(2 * math.sqrt(N) / DELTA)
    risks, nats, kls = jnp.asarray(q), jnp.asarray(c), jnp.asarray(kl)
    inverse = jax.jit(bounds.kl_inverse)
    bound = jax.jit(lambda risk, kl: bounds.pac_bayes_kl(risk, kl, n=N, delta=DELTA))
    one_by_one = {
        "kl inverse": lambda: [float(bounds.kl_inverse(q[i], c[i])) for i in range(alone)],
        "PAC-Bayes-kl bound": lambda: [
            float(bounds.pac_bayes_kl(q[i], kl[i], n=N, delta=DELTA)) for i in range(alone)
        ],
    }  # fmt: skip
    figures = []
    with mpmath.workdps(50):
        exact = [mpmath.mpf(x) for x in c[:checked].tolist()]
        budget = [
            (mpmath.mpf(x) + mpmath.log(2 * mpmath.sqrt(N) / mpmath.mpf(DELTA))) / N for x in kl[:checked].tolist()
        ]
    for name, ours, theirs, truth in (
        ("kl inverse", lambda: inverse(risks, nats), lambda: c, exact),
        ("PAC-Bayes-kl bound", lambda: bound(risks, kls), lambda: (kl + dtype(spent)) / dtype(N), budget),
    ):
        calls: dict[str, tuple[Callable[[], Any], int]] = {
            "pbjax, jit": (ours, count),
            "pbjax, one value a call": (one_by_one[name], alone),
            "bisection of an array (numpy)": (lambda theirs=theirs: bisect_array(q, theirs()), count),
        }
        if dtype is np.float64:
            pairs = lambda theirs=theirs: zip(q[:alone].tolist(), theirs()[:alone].tolist(), strict=True)  # noqa: E731
            calls["bisection as in PBB (Python)"] = (
                lambda pairs=pairs: [bisect_one(risk, nats) for risk, nats in pairs()], alone,
            )  # fmt: skip
        figures += figures_of(name, count, dtype, calls, q, truth, repeats)
    return figures


def main(options: Options) -> None:
    """Measures and prints; ends with an error if a value of pbjax is below the truth."""
    jax.config.update("jax_enable_x64", True)
    for dtype in (np.float64, np.float32):
        figures = measure(options, dtype)
        report(figures)
        for figure in figures:
            if figure.who.startswith("pbjax") and figure.quantity.startswith("share") and figure.median > 0:
                raise SystemExit(f"{figure.case}, {figure.who}: {figure.median:.2%} of the values are below the truth")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
