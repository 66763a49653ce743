"""Training and decoding of the rule-extrapolation transformer against PyTorch and against no cache, ratios in one run.

    python benchmarks/rule_extrapolation.py
    python benchmarks/rule_extrapolation.py --sizes small --seeds 9 --repeats 9
    pip install -r benchmarks/requirements-torch.txt    # for the columns of PyTorch; without it they are left out

Work of a training step: one batch of a^n b^n, every n once, PAD included, forward and backward with dropout, AdamW.
`small` has strings up to 32 symbols and feed-forward width 128, `published` strings up to 256 and width 1,024; both
five layers, ten channels and five heads. pbjax trains R seeds in one program (`--seeds`; one at the published size),
PyTorch one seed at a time; the ratio is of seconds per step and seed. Decoding is greedy, all prompts out of
distribution at once, and forbids EOS so that every token is made. Without a cache pbjax passes over all positions for
each token; PyTorch's pass grows with the string. Prints one JSON line a size and one for decoding.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import optax
import tyro

from benchmarks import _torch_transformer as peer
from pbjax import formal, models
from pbjax.formal import languages

Size = Literal["small", "published"]
LENGTHS = {"small": 32, "published": 256}
WIDTHS = {"small": 128, "published": 1024}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    sizes: tuple[Size, ...] = ("small", "published")
    """Sizes of the training step."""
    seeds: int = 9
    """Seeds in one program at the small size."""
    repeats: int = 5
    """Interleaved runs; the median counts."""
    decode: bool = True
    """Also time decoding, which takes minutes without a cache."""
    prompt_length: int = 8
    """Symbols of a prompt."""
    new_tokens: int = 300
    """Tokens of a completion."""


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, one after the other, `repeats` times after a first that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repeat:
                taken[name].append(time.perf_counter() - begin)
    return taken


def training(options: Options, size: Size) -> dict[str, Any]:
    """Seconds per step and seed."""
    language = languages.AnBn(max_length=LENGTHS[size])
    sequences = language.support()
    model = models.transformer(language.vocabulary.size, feed_forward=WIDTHS[size])
    made = formal.make_training(model, optax.adamw(2e-3, weight_decay=0.01), sequences=sequences)
    # A single network is not vmapped: an axis of one costs more than none.
    seeds, steps = (options.seeds, 40) if size == "small" else (1, 2)
    keys = jax.random.split(jax.random.key(0), seeds)
    regime = formal.regime("maximum_likelihood")
    if seeds == 1:
        state = made.init(keys[0], regime)
        chunk = jax.jit(lambda state: made.chunk(state, steps))
    else:
        state = jax.vmap(made.init, in_axes=(0, None))(keys, regime)
        chunk = jax.jit(jax.vmap(lambda state: made.chunk(state, steps)))
    calls: dict[str, Callable[[], Any]] = {"pbjax": lambda: jax.block_until_ready(chunk(state))}
    counts = {"pbjax": seeds * steps, "torch": steps}
    if peer.available():
        step = peer.make_step(np.asarray(sequences), feed_forward=WIDTHS[size])
        calls["torch"] = lambda: [step() for _ in range(steps)]
    taken = interleaved(calls, options.repeats)
    each = {name: [t / counts[name] for t in times] for name, times in taken.items()}
    median = {name: statistics.median(times) for name, times in each.items()}
    return {
        "size": size, "batch": f"{sequences.shape[0]} x {sequences.shape[1] - 1}", "seeds_in_one_program": seeds,
        "seconds_per_step_and_seed": {name: float(f"{value:.4g}") for name, value in median.items()},
        "spread": {name: [float(f"{f(times):.4g}") for f in (min, max)] for name, times in each.items()},
        "torch_over_pbjax": round(median["torch"] / median["pbjax"], 2) if "torch" in median else None,
        "seeds_per_hour": {f"{n:,} steps": round(3600 / (n * median["pbjax"]), 2) for n in (3_000, 15_000)},
    }  # fmt: skip


def decoding(options: Options) -> dict[str, Any]:
    """Seconds for all completions at the published size."""
    language = languages.AnBn(max_length=LENGTHS["published"])
    prompts = formal.all_prompts(language, length=options.prompt_length)
    tokens = prompts.tokens[~np.asarray(prompts.in_distribution)]
    model = models.transformer(language.vocabulary.size, feed_forward=WIDTHS["published"])
    params = model.init(jax.random.key(0))
    params["Dense_0"]["bias"] = params["Dense_0"]["bias"].at[formal.EOS].set(-1e9)
    made: dict[str, Any] = {}

    def ours(cached: bool) -> None:
        made["cached" if cached else "uncached"] = jax.block_until_ready(
            formal.decode(model, params, tokens, max_new=options.new_tokens, cached=cached)
        )

    # Compiled outside the clock: both in full once would double the minutes that the slow one takes.
    cached_times = interleaved({"pbjax": lambda: ours(True)}, options.repeats)["pbjax"]
    begin = time.perf_counter()
    ours(False)
    seconds = {"cached": statistics.median(cached_times), "uncached": time.perf_counter() - begin}
    if peer.available():
        begin = time.perf_counter()
        peer.decode(np.asarray(tokens), new_tokens=options.new_tokens, feed_forward=WIDTHS["published"])
        seconds["torch_uncached"] = time.perf_counter() - begin
    agree = float(np.mean(np.asarray(made["cached"]) == np.asarray(made["uncached"])))
    return {
        "decoding": f"{tokens.shape[0]} prompts x {options.new_tokens} tokens",
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "over_cached": {
            name: round(value / seconds["cached"], 1) for name, value in seconds.items() if name != "cached"
        },
        "tokens_per_second": round(tokens.shape[0] * options.new_tokens / seconds["cached"]),
        "tokens_that_agree": agree,
    }


def main(options: Options) -> None:
    """Time and print."""
    versions = {"jax": jax.__version__, "torch": peer.version(), "device": jax.devices()[0].device_kind}
    print(json.dumps(versions), flush=True)
    for size in options.sizes:
        print(json.dumps(training(options, size)), flush=True)
    if options.decode:
        print(json.dumps(decoding(options)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
