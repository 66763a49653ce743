"""Which networks a config asks for, in groups that train together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments._sam_as_vi.methods import METHODS, gradients_per_step


class Group(NamedTuple):
    """Replicas that train together as one program.

    Attributes:
        stage: what they are for.
        method: its name.
        budget: gradients or epochs.
        samples: draws a step.
        learning_rate: [R].
        radius: [R].
        kappa: [R].
        seed: [R].
    """

    stage: str
    method: str
    budget: str
    samples: int
    learning_rate: np.ndarray
    radius: np.ndarray
    kappa: np.ndarray
    seed: np.ndarray

    @property
    def name(self) -> str:
        """Of its phases."""
        return f"{self.stage}.{self.method}.{self.budget}.{self.samples}"

    @property
    def size(self) -> int:
        """Number of replicas R."""
        return len(self.seed)


def make_group(
    config: Any, stage: str, method: str, budget: str, cells: list[tuple[float, float, float]], seeds: tuple[int, ...],
    *, samples: int | None = None,
) -> Group:  # fmt: skip
    """Every cell (rate, radius, kappa) with every seed, seeds varying fastest."""
    table = np.array([(*cell, seed) for cell in cells for seed in seeds])
    rate, radius, kappa = (table[:, i].astype(np.float32) for i in range(3))
    return Group(
        stage, method, budget, config.samples if samples is None else samples, rate, radius, kappa,
        table[:, 3].astype(np.int64),
    )  # fmt: skip


def cell(config: Any, chosen: dict[str, tuple[float, float]], method: str) -> tuple[float, float, float]:
    """Rate, radius and kappa of a method: what a search chose, else the config's, else the method's own."""
    spec = METHODS[method]
    rate, radius = chosen.get(
        method, (config.learning_rates.get(method, spec.learning_rate), config.radii.get(method, spec.radius))
    )
    return rate, radius, config.kappa


def tuning_groups(config: Any) -> Iterator[Group]:
    """The grid of every method, on seeds that the study does not use."""
    if config.tune:
        for method in config.methods:
            spec = METHODS[method]
            cells = [(rate, radius, config.kappa) for rate, radius in itertools.product(spec.rates, spec.radii)]
            yield make_group(config, "tune", method, "gradients", cells, config.tune_seeds)


def study_groups(config: Any, chosen: dict[str, tuple[float, float]]) -> Iterator[Group]:
    """The study itself, then the curves."""
    for method in config.methods:
        one = gradients_per_step(method, config.samples) == 1
        for budget in config.budgets:
            # With one gradient a step both budgets are the same run; it is made once, and its row stands under both.
            if budget == config.budgets[0] or not one:
                yield make_group(config, "final", method, budget, [cell(config, chosen, method)], config.seeds)
    budget = config.budgets[0]
    for method in config.curve_methods:
        rate, _, kappa = cell(config, chosen, method)
        cells = [(rate, radius, kappa) for radius in config.curve_radii]
        yield make_group(config, "curve_radius", method, budget, cells, config.seeds)
    if config.curve_kappas:
        rate, radius, _ = cell(config, chosen, "mix_sam")
        cells = [(rate, radius, kappa) for kappa in config.curve_kappas]
        yield make_group(config, "curve_kappa", "mix_sam", budget, cells, config.seeds)
    for samples in config.curve_samples:
        for method in ("random_sam", "mean_field"):
            cells = [cell(config, chosen, method)]
            yield make_group(config, "curve_samples", method, "epochs", cells, config.seeds, samples=samples)
