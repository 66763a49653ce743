"""What the ladder keeps of a scalar at every rung: the one input of all estimates and of all certificates."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class SampleStatistics(NamedTuple):
    """Statistics of one scalar of the weights (L, the 0-1 error, ...) at the K rungs of a ladder.

    Attributes:
      mean: [K] · mean over all retained draws of all chains.
      variance: [K] · variance of one draw under the rung's law (not of the mean), an estimate of Var_beta.
      standard_error: [K] · standard error of ``mean``, autocorrelation included.
      chain_means: [K, C] · mean of each chain; chain c of one rung is independent of chain c' of any rung.
      num_draws: [K] or scalar · retained draws of all chains together.
      dependent_rungs: whether the rungs of one chain depend on each other, as after replica exchange. Errors of sums
        over rungs are then added without taking roots of sums of squares, which holds under any dependence.
    """

    mean: ArrayLike
    variance: ArrayLike
    standard_error: ArrayLike
    chain_means: ArrayLike
    num_draws: ArrayLike
    dependent_rungs: bool = False


def independent_statistics(draws: ArrayLike) -> SampleStatistics:
    """Statistics of independent draws, such as exact draws from the prior.

    standard_error = sqrt(variance / (C D)), with the unbiased variance over all C D draws.

    Args:
      draws: [K, C, D] · one scalar a draw, all C·D draws of a rung independent.

    Returns:
      SampleStatistics with ``num_draws`` = C·D at every rung. For autocorrelated draws the standard error is too small;
      take it from an effective sample size instead.

    Raises:
      ValueError: if ``draws`` has another rank or fewer than two draws a rung.

    Example:
      >>> statistics = independent_statistics(np.array([[[0.0, 1.0], [0.0, 1.0]]]))
      >>> print(statistics.mean, statistics.num_draws)
      [0.5] [4]
    """
    draws = jnp.asarray(draws)
    if draws.ndim != 3:
        raise ValueError(f"draws must be [rungs, chains, draws], got shape {draws.shape}; add the missing axes")
    rungs, chains, per_chain = draws.shape
    if chains * per_chain < 2:
        raise ValueError(f"draws of shape {draws.shape} have fewer than 2 draws a rung, so no variance; draw more")
    mean = jnp.mean(draws, axis=(1, 2))
    variance = jnp.var(draws, axis=(1, 2), ddof=1)
    return SampleStatistics(
        mean=mean,
        variance=variance,
        standard_error=jnp.sqrt(variance / (chains * per_chain)),
        chain_means=jnp.mean(draws, axis=2),
        num_draws=jnp.full((rungs,), chains * per_chain),
    )


def merge_rungs(
    betas: ArrayLike, statistics: SampleStatistics, *, new_betas: ArrayLike, new_statistics: SampleStatistics
) -> tuple[np.ndarray, SampleStatistics]:
    """Put the rungs of two ladders in one, in order of beta. On the host: the size changes.

    Args:
      betas: [K] · total inverse temperatures of the first ladder.
      statistics: its statistics.
      new_betas: [J] · total inverse temperatures of the other.
      new_statistics: its statistics, with the same number of chains.

    Returns:
      betas [K+J], increasing, and the statistics in the same order; ``num_draws`` comes back as an array.

    Raises:
      ValueError: if the numbers of chains differ.

    Example:
      >>> one = independent_statistics(np.array([[[1.0, 0.5]], [[0.0, 0.25]]]))
      >>> two = independent_statistics(np.array([[[0.25, 0.75]]]))
      >>> betas, merged = merge_rungs(np.array([0.0, 8.0]), one, new_betas=np.array([2.0]), new_statistics=two)
      >>> print(betas, merged.mean)
      [0. 2. 8.] [0.75 0.5 0.125]
    """
    chains, new_chains = np.shape(statistics.chain_means)[1], np.shape(new_statistics.chain_means)[1]
    if chains != new_chains:
        raise ValueError(f"one ladder has {chains} chains a rung and the other {new_chains}; run the same number")
    both = np.concatenate([np.atleast_1d(np.asarray(betas)), np.atleast_1d(np.asarray(new_betas))])
    order = np.argsort(both)

    def join(name: str) -> np.ndarray:
        one, two = np.asarray(getattr(statistics, name)), np.asarray(getattr(new_statistics, name))
        if name == "num_draws":  # allowed to be one number for the whole ladder
            one = np.broadcast_to(one, np.shape(statistics.mean))
            two = np.broadcast_to(two, np.shape(new_statistics.mean))
        return np.concatenate([one, two])[order]

    joined = {name: join(name) for name in SampleStatistics._fields if name != "dependent_rungs"}
    return both[order], SampleStatistics(
        **joined, dependent_rungs=statistics.dependent_rungs or new_statistics.dependent_rungs
    )
