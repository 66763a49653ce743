"""The fields of the fine-tuning study; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from pbjax.runs import RunOptions, require, require_at_least, require_positive, require_seeds

Method = Literal[
    "sgd", "momentum", "adamw", "squared_weights", "muon", "shampoo", "lora_1", "lora_2", "lora_3", "lora_4"
]  # fmt: skip
Symmetry = Literal["rescaling", "mixing"]


def _highest_rates() -> dict[str, float]:
    return {
        "sgd": 0.5, "momentum": 0.125, "adamw": 0.025, "squared_weights": 16.0, "muon": 0.125, "shampoo": 1.0,
        "lora": 0.25,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning(RunOptions):
    """Networks of one function and different parameters, fine-tuned from a^n b^n to a^n b^n a^n."""

    max_length: int = 24
    """Longest string of both languages."""
    width: int = 16
    """Channels of the transformer."""
    heads: int = 4
    """Attention heads."""
    feed_forward: int = 32
    """Hidden channels of its layers."""
    layers: int = 2
    """Its layers."""
    norm_epsilon: float = 6e-3
    """Added to the variance in layer norms."""
    pretrain_steps: int = 4000
    """Steps of maximum likelihood on a^n b^n."""
    pretrain_rate: float = 4e-3
    """Peak of its learning rate, which rises for a tenth of the steps and then falls with the square root."""
    weight_decay: float = 0.01
    """Of AdamW, in both trainings."""

    symmetries: tuple[Symmetry, ...] = ("rescaling",)
    """Maps that change the parameters and not the function; permutations always stand beside them as a control."""
    strengths: tuple[int, ...] = (2, 4)
    """c, powers of two above 1: scales of neurons lie in [1/c, c], singular values of the mixing matrices likewise."""
    methods: tuple[Method, ...] = ("sgd", "adamw")
    """What fine-tunes."""
    trained: Literal["all", "feed_forward"] = "all"
    """What fine-tuning moves: all parameters, or the two layers around the neurons that a rescaling changes."""
    highest_rate: dict[str, float] = dataclasses.field(default_factory=_highest_rates)
    """Greatest learning rate that is tried, by method (all LoRA ranks share one)."""
    precision: Literal["float32", "float64"] = "float64"
    """Of fine-tuning: unstable steps blow up rounding, and a permuted network is to stay with the original one."""
    rates: int = 9
    """Learning rates that are tried, each half of the one before it."""
    target: float = 3.0
    """Divergence from a^n b^n a^n, in nats a sequence, that ends a run."""
    cap_factor: float = 64.0
    """Runs are cut off at so many times the steps of the network that was not transformed."""
    max_steps: int = 12_000
    """And at so many steps."""
    linearised: bool = True
    """Also fine-tune the networks made linear in their parameters: what the tangent kernel alone predicts."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Seeds of pre-trained networks."""
    evaluate_every: int = 10
    """Steps between two looks at which runs go on: a checkpoint and a point of the curves each."""
    replicas_at_once: int = 16
    """Most networks that train side by side on a device; the others follow. On CPUs it is lowered to a divisor of their
    number that leaves up to eight groups for as many devices. All of them suit an accelerator."""
    sharpness_samples: int = 128
    """Probes of the Hessian trace."""
    power_iterations: int = 100
    """Of the curvature."""
    radius: float = 0.05
    """Radius of worst-case sharpness; of the adaptive one, in units of |w|."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        for field in ("symmetries", "methods", "strengths"):
            values = getattr(self, field)
            require(len(values) >= 1, f"{field} is empty: give at least one")
            require(len(set(values)) == len(values), f"{field} = {values}: give each once")
        require_at_least(
            self, max_length=3, width=1, heads=1, feed_forward=1, layers=1, pretrain_steps=1, weight_decay=0, rates=1,
            max_steps=1, evaluate_every=1, replicas_at_once=1, sharpness_samples=2,
            power_iterations=1,
        )  # fmt: skip
        require_positive(self, "norm_epsilon", "pretrain_rate", "target", "radius")
        require_seeds(self)
        require(self.width % self.heads == 0, f"heads = {self.heads}: must divide width = {self.width}")
        require(self.cap_factor >= 1, f"cap_factor = {self.cap_factor}: must be at least 1")
        for strength in self.strengths:
            require(
                strength > 1 and math.log2(strength).is_integer(),
                f"strengths = {self.strengths}: give powers of two above 1, such as 2 4 8",
            )
        require(
            "mixing" not in self.symmetries or self.width > self.heads,
            f"heads = {self.heads}: heads of one channel cannot be mixed; widen the network or leave mixing out",
        )
        require(
            self.trained == "all" or not any(method.startswith("lora") for method in self.methods),
            f"trained = {self.trained!r}: LoRA adapts the matrices of all layers; leave its methods out",
        )
        require(self.pretrain_steps % 10 == 0, f"pretrain_steps = {self.pretrain_steps}: must be a multiple of 10")
        for method in self.methods:
            name = method.split("_")[0] if method.startswith("lora") else method
            require(self.highest_rate.get(name, 0) > 0, f"highest_rate: {name} needs a positive one")
        require(
            self.max_steps % self.evaluate_every == 0,
            f"max_steps = {self.max_steps}: must be a multiple of evaluate_every = {self.evaluate_every}",
        )
