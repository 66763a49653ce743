"""Gibbs posteriors of one weight, exact to quadrature error: the reference of these tests."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WELL_CENTRE, WELL_WIDTH = 2.0, 0.3


def well(w: np.ndarray) -> np.ndarray:
    """The toy loss of the reference note, 1 − exp(−(w − 2)²/(2·0.3²)), under the prior N(0, 1)."""
    return 1 - np.exp(-((w - WELL_CENTRE) ** 2) / (2 * WELL_WIDTH**2))


class Exact(NamedTuple):
    mean: np.ndarray
    variance: np.ndarray
    neg_log_z: np.ndarray
    kl: np.ndarray


class Quadrature:
    """Prior N(0, 1) on a fine grid (or any weights on any points) and a loss on it."""

    def __init__(self, loss: Callable[[np.ndarray], np.ndarray], *, points: int = 8001, reach: float = 9.0):
        self.w = np.linspace(-reach, reach, points)
        prior = np.exp(-(self.w**2) / 2)
        self.log_prior = np.log(prior / prior.sum())
        self.loss = loss(self.w)

    def log_weights(self, beta: float) -> np.ndarray:
        return self.log_prior - beta * self.loss

    def probabilities(self, beta: float) -> np.ndarray:
        log_weights = self.log_weights(beta)
        weights = np.exp(log_weights - log_weights.max())
        return weights / weights.sum()

    def exact(self, betas: np.ndarray) -> Exact:
        rows = []
        for beta in betas:
            log_weights = self.log_weights(beta)
            top = log_weights.max()
            neg_log_z = -(top + np.log(np.exp(log_weights - top).sum()))
            p = self.probabilities(beta)
            mean = p @ self.loss
            rows.append((mean, p @ (self.loss - mean) ** 2, neg_log_z, neg_log_z - beta * mean))
        return Exact(*np.array(rows).T)

    def draw(self, rng: np.random.Generator, betas: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Losses of independent draws, [K, *shape]."""
        draws = []
        for beta in betas:
            cumulative = np.cumsum(self.probabilities(beta))
            index = np.minimum(np.searchsorted(cumulative, rng.random(shape)), self.loss.size - 1)
            draws.append(self.loss[index])
        return np.array(draws)


def geometric_ladder(beta_max: float, rungs: int, first: float = 0.1) -> np.ndarray:
    """0 and rungs − 1 geometric points from ``first`` to ``beta_max``."""
    return np.concatenate([[0.0], np.geomspace(first, beta_max, rungs - 1)])
