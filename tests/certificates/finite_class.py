"""A world in which memorising is possible and everything is known: many hypotheses, none better than chance.

Each of M hypotheses errs on each example independently with probability ``chance``; so every hypothesis, and every
posterior, has true risk ``chance``, while the best empirical risk of the M is well below it. These are shuffled labels
in their purest form. The Gibbs posterior is a softmax over the M, exact for every beta.
"""

from typing import NamedTuple

import numpy as np

from pbjax.evidence import SampleStatistics


class World(NamedTuple):
    errors: np.ndarray  # [M] empirical 0-1 error
    energy: np.ndarray  # [M] empirical surrogate, an affine function of it in [0, 1]
    true_error: float
    true_energy: float


def shuffled_labels(rng: np.random.Generator, *, n: int, hypotheses: int, chance: float) -> World:
    errors = rng.binomial(n, chance, size=hypotheses) / n
    return World(errors, 0.1 + 0.8 * errors, chance, 0.1 + 0.8 * chance)


def gibbs(world: World, beta: float) -> np.ndarray:
    weights = np.exp(-beta * (world.energy - world.energy.min()))
    return weights / weights.sum()


def sample(
    rng: np.random.Generator, world: World, *, betas: np.ndarray, chains: int, draws: int
) -> tuple[SampleStatistics, SampleStatistics]:
    """Statistics of energy and error from independent draws of every rung, as numpy arrays."""
    energies, errors = [], []
    for beta in betas:
        cumulative = np.cumsum(gibbs(world, beta))
        index = np.minimum(np.searchsorted(cumulative, rng.random((chains, draws))), world.errors.size - 1)
        energies.append(world.energy[index])
        errors.append(world.errors[index])
    return statistics(np.array(energies)), statistics(np.array(errors))


def statistics(draws: np.ndarray) -> SampleStatistics:
    total = draws.shape[1] * draws.shape[2]
    variance = draws.var(axis=(1, 2), ddof=1)
    return SampleStatistics(
        draws.mean((1, 2)), variance, np.sqrt(variance / total), draws.mean(2), np.full(draws.shape[0], total)
    )
