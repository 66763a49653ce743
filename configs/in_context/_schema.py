"""The fields of the in-context study; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pbjax.runs import RunOptions, require, require_at_least, require_positive, require_seeds

Law = Literal["uniform", "prior", "wrong"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """A random mixture of hidden Markov models, `pbjax.formal.hmm.random_mixture`."""

    seed: int = 0
    """Of the mixture."""
    concepts: int = 5
    """Hidden Markov models."""
    entities: int = 3
    """Entities of a state."""
    properties: int = 4
    """Properties of a state; concepts differ in how these follow each other."""
    vocabulary_size: int = 13
    """Symbols, the delimiter among them."""
    delimiter_probability: float = 0.1
    """Largest probability of the delimiter in any state."""
    permutations: int = 3
    """Permutations of the properties that a concept mixes."""
    temperature: float = 0.1
    """Of their weights; towards 0 a concept is one permutation."""
    stickiness: float = 0.9
    """Probability that an entity stays."""
    smoothing: float = 0.02
    """Probability that the property is drawn anew."""
    noise: float = 0.05
    """Probability of a uniformly drawn symbol."""
    prior_ratio: float = 1.0
    """Prior of a concept over that of the concept before it; at 1 all are equally likely."""
    resets: bool = False
    """The delimiter comes with one probability everywhere and the chain starts anew behind it, so that prompts are
    sequences of the mixture, given that the delimiters stand where they do."""

    def rates(self) -> dict[str, int | float]:
        """What `random_mixture` takes beside the key."""
        own = ("seed", "prior_ratio", "resets")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in own}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InContext(RunOptions):
    """Models of equal test loss that learn in context or do not: exact neighbours of a mixture, trained networks."""

    mixture: MixtureOptions = dataclasses.field(default_factory=MixtureOptions)
    """p of the exact part."""
    symbols: int = 3
    """Symbols k of an example with its label, exact part."""
    examples: int = 12
    """Largest number n of examples of a prompt, exact part; sequences have (n + 1)(k + 1) - 1 symbols."""
    starts: tuple[int, ...] = tuple(range(1, 11))
    """Numbers N of examples from which on the neighbours q_N differ from p."""
    eta: float = 0.01
    """Weight of p in the changed law."""
    laws: tuple[Law, ...] = ("prior", "uniform", "wrong")
    """Laws r that the neighbours mix in; those of the first are drawn as accuracy curves."""
    draws: int = 4000
    """Sequences of each Monte-Carlo estimate, and prompts of each accuracy, exact part."""

    tiny: MixtureOptions = MixtureOptions(
        concepts=2, entities=1, properties=2, vocabulary_size=3, delimiter_probability=0.4, permutations=1,
        smoothing=0.1,
    )  # fmt: skip
    """Mixture that is small enough to go through all strings."""
    tiny_symbols: int = 2
    """Symbols of its examples."""
    tiny_length: int = 11
    """Symbols of its strings; at most 2^18 strings."""

    taught: MixtureOptions = MixtureOptions(
        seed=2, concepts=3, entities=1, properties=4, vocabulary_size=5, delimiter_probability=0.25, permutations=1,
        smoothing=0.03, noise=0.0, prior_ratio=0.7, resets=True,
    )  # fmt: skip
    """Mixture that the networks learn."""
    taught_symbols: int = 2
    """Symbols of its examples."""
    taught_examples: int = 10
    """Largest number of examples; training sequences have (n + 1)(k + 1) - 1 symbols, as a prompt with its label."""
    width: int = 32
    """Channels of the transformer."""
    heads: int = 2
    """Attention heads."""
    feed_forward: int = 64
    """Hidden channels of its layers."""
    layers: int = 2
    """Layers."""
    batch_size: int = 64
    """Fresh sequences a step."""
    learning_rate: float = 6e-3
    """Peak rate of AdamW."""
    warmup: int = 300
    """Steps of its rise; it falls with the square root after that, and to zero in the second half of a branch."""
    weight_decay: float = 0.01
    """AdamW's."""
    clip: float = 1.0
    """Norm to which longer gradients are cut."""
    steps: int = 4000
    """Steps of maximum likelihood that both branches share."""
    branch_steps: int = 2000
    """Steps of each branch."""
    evaluate_every: int = 250
    """Steps between evaluations: a checkpoint and a point of the trajectories each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each has its own initial weights and its own stream of sequences, the same in both branches."""
    replicas_at_once: int = 2
    """Most networks that train side by side on a device; the others follow. On CPUs it is lowered to a divisor of their
    number that leaves up to eight groups for as many devices. All of them suit an accelerator."""

    penalty_law: Literal["uniform", "prior"] = "prior"
    """Law r that the penalty asks for at the labels of prompts: what p says of the test example alone, or uniform."""
    penalty_start: int = 8
    """Number of examples from which on labels are penalised."""
    penalty_weight: float = 0.05
    """Weight of the penalty, nats a label, beside the loss in nats a position."""
    penalty_prompts: int = 16
    """Fresh prompts of the penalty a step."""

    test_sequences: int = 8192
    """Sequences, drawn once, that all networks are tested on; p's own loss on them is exact."""
    test_prompts: int = 2048
    """Prompts, drawn once, that in-context accuracy is measured on."""

    quick_compile: bool = False
    """Compile machine code without optimisation, for configs that compile longer than they compute."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        require_at_least(
            self, symbols=1, examples=1, draws=2, tiny_symbols=1, tiny_length=1, taught_symbols=1, taught_examples=1,
            width=1, heads=1, feed_forward=1, layers=1, batch_size=1, warmup=1, weight_decay=0, steps=1,
            branch_steps=1, evaluate_every=1, replicas_at_once=1, penalty_start=0, penalty_prompts=1,
            test_sequences=2, test_prompts=2,
        )  # fmt: skip
        require_positive(self, "learning_rate", "clip", "penalty_weight")
        require_seeds(self)
        require_seeds(self, name="starts")
        require(0 < self.eta < 1, f"eta = {self.eta}: must lie in (0, 1)")
        require(len(self.laws) >= 1, "laws is empty: give at least one")
        require(len(set(self.laws)) == len(self.laws), f"laws = {self.laws}: give each once")
        require(
            max(self.starts) <= self.examples,
            f"starts = {self.starts}: prompts have at most examples = {self.examples}, so q_N would be p",
        )
        require(
            self.penalty_start <= self.taught_examples,
            f"penalty_start = {self.penalty_start}: must be at most taught_examples = {self.taught_examples}",
        )
        require(
            self.tiny_length >= self.tiny_symbols,
            f"tiny_length = {self.tiny_length}: must be at least tiny_symbols = {self.tiny_symbols}",
        )
        require(
            self.tiny.vocabulary_size**self.tiny_length <= 2**18,
            f"tiny_length = {self.tiny_length}: {self.tiny.vocabulary_size}^{self.tiny_length} strings are too many to "
            "go through, at most 2^18 are",
        )
        for field in ("steps", "branch_steps"):
            require(
                getattr(self, field) % self.evaluate_every == 0,
                f"{field} = {getattr(self, field)}: must be a multiple of evaluate_every = {self.evaluate_every}",
            )
        require(self.width % self.heads == 0, f"heads = {self.heads}: must divide width = {self.width}")
