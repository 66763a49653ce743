"""The fields of the rule-extrapolation study; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pbjax.runs import RunOptions, require, require_at_least, require_positive, require_seeds

LanguageName = Literal["anbn", "anbncn", "anbm", "anbnan", "dyck", "interleaved", "even_as", "b_then_even_as"]
ModelName = Literal["transformer", "lstm", "state_space", "linear"]
Position = Literal["none", "sinusoidal", "learned", "rotary", "batch_row"]
RegimeName = Literal["maximum_likelihood", "adversarial", "oracle"]
OptimiserName = Literal["adamw", "sam", "asam", "random_sam"]
WITH_COMPLETIONS = ("anbn",)
"""Languages whose rule 1 is the balance that the completions of the regimes keep or break."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleExtrapolation(RunOptions):
    """Language models at equal test loss on prompts that the language never shows, many seeds in one program."""

    languages: tuple[LanguageName, ...] = ("anbn",)
    """Formal languages; every combination of languages, models, positions, optimisers and regimes is an arm."""
    max_length: int = 32
    """Longest string."""
    held_out: tuple[int, ...] = ()
    """Values of n that training never sees, for the languages of counted blocks."""
    data: Literal["all", "sampled", "fresh"] = "all"
    """all: every string in every batch, or as sampled where they are too many to list; sampled: batches from
    train_strings drawn once; fresh: new ones at each step."""
    train_strings: int = 512
    """Strings of sampled data."""
    test_strings: int = 512
    """Strings, drawn once, that the loss is measured on where the language has too many to list."""
    batch_size: int = 128
    """Strings a step, save where data = all lists every string: then all of them."""
    prompt_length: int = 6
    """Symbols of a prompt; all strings of this length are prompts (for brackets and b's then a's, those of a form)."""
    new_tokens: int | None = None
    """Tokens that a completion may have; by default max_length + 8."""

    models: tuple[ModelName, ...] = ("transformer",)
    """Networks."""
    positions: tuple[Position, ...] = ("none",)
    """Position encodings of the transformer; batch_row numbers the rows of a batch, as the public code does."""
    width: int = 10
    """Channels of the transformer and of the linear model's embedding."""
    heads: int = 5
    """Attention heads."""
    feed_forward: int = 128
    """Hidden channels of the transformer's layers."""
    layers: int = 5
    """Layers of the transformer."""
    dropout: float = 0.1
    """Dropout rate of the transformer."""
    norm_epsilon: float = 6e-3
    """Added to the variance in layer norms."""
    identical_layers: bool = False
    """All layers start from the same weights, as in the public code."""
    recurrent_width: int = 64
    """Hidden channels of the LSTM and of the state-space model."""
    recurrent_layers: int = 2
    """Layers of the LSTM and of the state-space model."""
    recurrent_dropout: float = 0.0
    """Dropout rate of the LSTM and of the state-space model."""

    regimes: tuple[RegimeName, ...] = ("maximum_likelihood", "adversarial", "oracle")
    """Training regimes; languages other than anbn have maximum likelihood alone."""
    completion_weight: float = 1.0
    """Weight of the loss on completions of out-of-distribution prompts, in the adversarial and oracle regimes."""
    skip_first: bool = False
    """Leave the first token after the prompt untrained, as the public code does."""
    pin: float | None = None
    """Divergence from the data law, in nats a sequence, near which all regimes are held; by default it is minimised."""
    pin_weight: float = 1.0
    """Its largest pull; that of maximum likelihood is one over the positions of a sequence."""
    pin_width: float = 0.1
    """Distance from the pin, in nats a sequence, within which the pull falls to nothing."""

    optimisers: tuple[OptimiserName, ...] = ("adamw",)
    """What steps are taken with; all end in AdamW."""
    radius: dict[str, float] = dataclasses.field(default_factory=lambda: {"sam": 0.05, "asam": 0.5, "random_sam": 0.5})
    """Radii of the sharpness-aware ones."""
    learning_rate: float = 2e-3
    """Peak rate."""
    warmup: int = 1000
    """Steps of its rise; it falls with the square root after that."""
    weight_decay: float = 0.01
    """AdamW's."""
    steps: int = 3000
    """Optimiser steps."""
    evaluate_every: int = 100
    """Steps between evaluations: a checkpoint and a point of the trajectories each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each has its own initial weights and dropout, the same in every regime."""
    completion_seeds: tuple[int, ...] | None = None
    """Seeds of the adversarial and oracle regimes, where they are not those of maximum likelihood."""
    replicas_at_once: int = 3
    """Most networks that train side by side on a device; the others follow. On CPUs it is lowered to a divisor of their
    number that leaves up to eight groups for as many devices. All of them suit an accelerator."""

    match: float = 0.5
    """Divergence in nats a sequence: networks are compared at the first evaluation that is no farther from the data."""
    bands: tuple[float, ...] = (0.7, 0.3, 0.1)
    """Divergences of the tables and histograms at matched loss, greatest first."""
    class_length: int = 8
    """Longest string of the probabilities by rule class; 0 leaves them out."""
    sharpness: bool = True
    """Measure Hessian trace, adaptive sharpness and Gaussian scale of the networks at matched loss."""
    sharpness_samples: int = 16
    """Probes and draws of each."""
    adaptive_radius: float = 0.5
    """Radius of adaptive worst-case sharpness, in units of |w| + 0.01."""
    scale_rise: float = 0.1
    """Rise of the loss, in nats a sequence, that the Gaussian scale allows."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        for field in ("languages", "models", "positions", "optimisers", "regimes"):
            values = getattr(self, field)
            require(len(values) >= 1, f"{field} is empty: give at least one")
            require(len(set(values)) == len(values), f"{field} = {values}: give each once")
        require_at_least(
            self, max_length=2, train_strings=1, test_strings=1, batch_size=1, prompt_length=1, width=1, heads=1,
            feed_forward=1, layers=1, recurrent_width=1, recurrent_layers=1, warmup=1, steps=1, evaluate_every=1,
            replicas_at_once=1, class_length=0, sharpness_samples=2, weight_decay=0, completion_weight=0, pin_weight=0,
        )  # fmt: skip
        require_positive(self, "learning_rate", "norm_epsilon", "match", "pin_width", "adaptive_radius", "scale_rise")
        require_seeds(self)
        if self.completion_seeds is not None:
            require_seeds(self, name="completion_seeds")
        for field in ("dropout", "recurrent_dropout"):
            rate = getattr(self, field)
            require(0 <= rate < 1, f"{field} = {rate}: must lie in [0, 1)")
        require(self.pin is None or self.pin > 0, f"pin = {self.pin}: must be positive, or left out")
        require(
            self.steps % self.evaluate_every == 0,
            f"steps = {self.steps}: must be a multiple of evaluate_every = {self.evaluate_every}",
        )
        require(
            self.prompt_length < self.max_length,
            f"prompt_length = {self.prompt_length}: must be below max_length = {self.max_length}",
        )
        require(self.new_tokens is None or self.new_tokens >= 1, f"new_tokens = {self.new_tokens}: must be at least 1")
        bands = self.bands
        require(len(bands) >= 1 and all(band > 0 for band in bands), f"bands = {bands}: must be positive")
        require(list(bands) == sorted(set(bands), reverse=True), f"bands = {bands}: give the greatest first, each once")
        for name in self.optimisers:
            require(name == "adamw" or self.radius.get(name, 0) > 0, f"radius: {name} needs a positive one")
        require(
            self.pin is None or self.data == "all",
            f"data = {self.data!r}: a pin holds the divergence of whole batches of every string; leave data at 'all'",
        )
        require(self.class_length <= 12, f"class_length = {self.class_length}: must be at most 12 (8,190 strings)")
        require(
            "maximum_likelihood" in self.regimes or not set(WITH_COMPLETIONS).isdisjoint(self.languages),
            f"regimes = {self.regimes}: {', '.join(self.languages)} has maximum_likelihood alone",
        )
        require(
            "rotary" not in self.positions or (self.width // self.heads) % 2 == 0,
            f"width / heads = {self.width // self.heads}: rotary positions need heads of even width",
        )
        require(self.width % self.heads == 0, f"heads = {self.heads}: must divide width = {self.width}")
