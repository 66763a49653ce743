"""Training and decoding of the rule-extrapolation transformer against PyTorch and against no cache.

    python -m benchmarks.rule_extrapolation [--quick] [--sizes small --seeds 9 --repeats 9]

Counted in training: steps a second and seed; a step is one batch of a^n b^n, every n once, PAD included, forward and
backward with dropout, AdamW. `small` has strings up to 32 symbols and feed-forward width 128, `published` strings up to
256 and width 1,024; both five layers, ten channels and five heads. pbjax trains R seeds in one program (one at the
published size), PyTorch one seed at a time, as its users do: that is part of what is compared.

Counted in decoding: tokens a second, greedy, prompts out of distribution side by side, EOS forbidden so that every
token is made. The references without a cache decode a few prompts only, and pbjax with its cache those same prompts;
the rate for all prompts stands beside it. Without a cache pbjax passes over all positions for each token; PyTorch's
pass grows with the string, which is fairer to PyTorch. A cache of one's own in PyTorch would be faster than the line
shown; nn.TransformerEncoder has none, and the public code of the papers makes none. Without PyTorch its lines are left
out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
import optax
import tyro

from benchmarks import _torch_transformer as peer
from benchmarks._measuring import Figure, Timing, interleaved, report
from pbjax import formal, models
from pbjax.formal import languages

CLAIM = "Rule extrapolation: training and decoding"
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
    """Interleaved runs; the published size takes three at most."""
    decode: bool = True
    """Also time decoding, which takes a minute without a cache."""
    decode_size: Size = "published"
    """Size of the network that decodes."""
    prompt_length: int = 8
    """Symbols of a prompt."""
    new_tokens: int = 300
    """Tokens of a completion."""
    uncached_prompts: int = 12
    """Prompts of the references without a cache."""
    quick: bool = False
    """The small size, few seeds, runs and tokens."""


def rates(case: str, quantity: str, taken: dict[str, Timing], counts: dict[str, int], **notes: str) -> list[Figure]:
    """Rates of all; the first is pbjax."""
    first = next(iter(taken))
    ours = taken[first].median / counts[first]
    return [
        Figure(CLAIM, case, who, quantity, *timing.rate(counts[who]),
               over_pbjax=None if who == first else timing.median / counts[who] / ours,
               compile_seconds=timing.compile_seconds if who.startswith("pbjax") else None,
               note=notes.get(who.split(",")[0], ""))
        for who, timing in taken.items()
    ]  # fmt: skip


def training(options: Options, size: Size) -> list[Figure]:
    """Steps per second and seed."""
    language = languages.AnBn(max_length=LENGTHS[size])
    sequences = language.support()
    model = models.transformer(language.vocabulary.size, feed_forward=WIDTHS[size])
    made = formal.make_training(model, optax.adamw(2e-3, weight_decay=0.01), sequences=sequences)
    # A single network is not vmapped: an axis of one costs more than none.
    seeds, steps = (options.seeds, 4 if options.quick else 40) if size == "small" else (1, 1)
    keys = jax.random.split(jax.random.key(0), seeds)
    regime = formal.regime("maximum_likelihood")
    if seeds == 1:
        state = made.init(keys[0], regime)
        chunk = jax.jit(lambda state: made.chunk(state, steps))
    else:
        state = jax.vmap(made.init, in_axes=(0, None))(keys, regime)
        chunk = jax.jit(jax.vmap(lambda state: made.chunk(state, steps)))
    calls: dict[str, Callable[[], Any]] = {"pbjax": lambda: chunk(state)}
    counts = {"pbjax": seeds * steps, "PyTorch": steps}
    if peer.available():
        step = peer.make_step(np.asarray(sequences), feed_forward=WIDTHS[size])
        calls["PyTorch"] = lambda: [step() for _ in range(steps)]
    taken = interleaved(calls, options.repeats if size == "small" else min(options.repeats, 3))
    case = f"{size}, batch {sequences.shape[0]} x {sequences.shape[1] - 1}"
    together = f"{seeds} seeds in one program" if seeds > 1 else "one seed"
    return rates(case, "training steps per second and seed", taken, counts, pbjax=together, PyTorch="one seed")


def decoding(options: Options) -> list[Figure]:
    """Tokens per second."""
    language = languages.AnBn(max_length=LENGTHS[options.decode_size])
    prompts = formal.all_prompts(language, length=options.prompt_length)
    tokens = prompts.tokens[~np.asarray(prompts.in_distribution)]
    width = WIDTHS[options.decode_size]
    model = models.transformer(language.vocabulary.size, feed_forward=width)
    params = model.init(jax.random.key(0))
    params["Dense_0"]["bias"] = params["Dense_0"]["bias"].at[formal.EOS].set(-1e9)
    few = tokens[: options.uncached_prompts]
    made: dict[bool, Any] = {}

    def ours(which: Any, cached: bool) -> Any:
        made[cached] = formal.decode(model, params, which, max_new=options.new_tokens, cached=cached)
        return made[cached]

    case = f"{options.decode_size}, {tokens.shape[0]} prompts x {options.new_tokens} tokens"
    total = tokens.shape[0] * options.new_tokens
    figures = rates(
        case, "tokens per second", interleaved({"pbjax": lambda: ours(tokens, True)}, options.repeats), {"pbjax": total}
    )
    calls: dict[str, Callable[[], Any]] = {
        "pbjax": lambda: ours(few, True), "pbjax, without a cache": lambda: ours(few, False),
    }  # fmt: skip
    if peer.available():
        calls["PyTorch, without a cache"] = lambda: peer.decode(
            np.asarray(few), new_tokens=options.new_tokens, feed_forward=width
        )
    taken = interleaved(calls, 2)
    if not np.array_equal(made[True], made[False]):
        raise SystemExit(f"{np.mean(np.asarray(made[True]) != np.asarray(made[False])):.2%} of the tokens decoded with "
                         "the cache differ from those without")  # fmt: skip
    case = f"{options.decode_size}, {few.shape[0]} prompts x {options.new_tokens} tokens"
    return figures + rates(case, "tokens per second", taken, dict.fromkeys(calls, few.shape[0] * options.new_tokens))


def main(options: Options) -> None:
    """Measures and prints."""
    if options.quick:
        options = dataclasses.replace(
            options, sizes=("small",), seeds=2, repeats=2, decode_size="small", new_tokens=8, uncached_prompts=4
        )
    for size in options.sizes:
        report(training(options, size))
    if options.decode:
        report(decoding(options))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
