"""Which networks a config asks for, in groups that train together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from configs.rule_extrapolation._schema import WITH_COMPLETIONS


class Arm(NamedTuple):
    """What differs between networks beside the seed.

    Attributes:
        language: its name in the config.
        model: likewise.
        position: of the transformer, "none" for the others.
        optimiser: likewise.
        regime: likewise.
    """

    language: str
    model: str
    position: str
    optimiser: str
    regime: str


class Group(NamedTuple):
    """Replicas that train together as one program: some regimes of one arm, each with every seed.

    Attributes:
        arms: one or more that differ in the regime only.
        seeds: [S].
    """

    arms: tuple[Arm, ...]
    seeds: np.ndarray

    @property
    def name(self) -> str:
        """Of its phases."""
        first = self.arms[0]
        return ".".join((*first[:4], "_and_".join(arm.regime for arm in self.arms)))

    @property
    def size(self) -> int:
        """Number of replicas, seeds varying fastest."""
        return len(self.arms) * len(self.seeds)


def groups(config: Any) -> Iterator[Group]:
    """All groups; regimes with completions share a program, and maximum likelihood pays for none."""
    seeds = np.array(config.seeds)
    other_seeds = seeds if config.completion_seeds is None else np.array(config.completion_seeds)
    for language, model, optimiser in itertools.product(config.languages, config.models, config.optimisers):
        positions = config.positions if model == "transformer" else ("none",)
        for position in positions:
            own = [
                regime for regime in config.regimes if regime == "maximum_likelihood" or language in WITH_COMPLETIONS
            ]
            plain = [regime for regime in own if regime == "maximum_likelihood"]
            others = [regime for regime in own if regime != "maximum_likelihood"]
            for chosen, used in ((plain, seeds), (others, other_seeds)):
                if chosen:
                    yield Group(tuple(Arm(language, model, position, optimiser, regime) for regime in chosen), used)
