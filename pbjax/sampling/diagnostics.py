"""Convergence diagnostics of scalar functionals, on the host: blackjax's R-hat and effective sample size."""

from __future__ import annotations

from typing import NamedTuple

import blackjax.diagnostics
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from pbjax.evidence import SampleStatistics


class Diagnostics(NamedTuple):
    """Convergence of one functional on every rung.

    Attributes:
        r_hat: rank-normalised split R-hat, [K]; 1 for a functional that does not vary.
        ess: effective sample size per chain, [K].
    """

    r_hat: np.ndarray
    ess: np.ndarray


@jax.jit
def _diagnose(draws: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(lambda x: (blackjax.diagnostics.rhat(x), blackjax.diagnostics.effective_sample_size(x)))(draws)


def summarise(draws: ArrayLike, *, dependent_rungs: bool = False) -> tuple[SampleStatistics, Diagnostics]:
    """Statistics and diagnostics of one functional from its draws.

    The standard error is sqrt(variance / effective sample size) with blackjax's many-chain effective sample size, which
    falls when chains disagree. It is never taken larger than the number of draws: antithetic chains may be better than
    independent ones, but an interval should not rest on it.

    Args:
        draws: [K, C, D], rungs x chains x draws, C >= 2 and D >= 4.
        dependent_rungs: whether a chain's rungs exchanged their states; kept in the statistics.

    Returns:
        `SampleStatistics` with fields [K] (and chain_means [K, C]), and `Diagnostics`.

    Raises:
        ValueError: another shape, too few chains or draws, or draws that are not finite.

    Example:
        >>> import numpy as np
        >>> statistics, diagnostics = summarise(np.random.default_rng(0).normal(size=(1, 4, 500)))
        >>> bool(diagnostics.r_hat[0] < 1.02), bool(300 < diagnostics.ess[0] <= 500)
        (True, True)

    References:
        Vehtari et al. (2021), "Rank-normalization, folding, and localization: an improved R-hat", section 4.
    """
    draws = np.asarray(draws, np.float64)
    if draws.ndim != 3 or draws.shape[1] < 2 or draws.shape[2] < 4:
        raise ValueError(f"draws must be [rungs, chains >= 2, draws >= 4]; got shape {draws.shape}")
    if not np.isfinite(draws).all():
        raise ValueError("draws hold values that are not finite; a divergent chain must be stopped, not averaged")
    rungs, chains, per_chain = draws.shape
    total = chains * per_chain
    # Ranks are invariant under an affine map, and float32 (x64 off) then resolves the spread.
    spread = np.ptp(draws, axis=(1, 2), keepdims=True)
    scaled = (draws - draws.mean(axis=(1, 2), keepdims=True)) / np.where(spread > 0, spread, 1.0)
    r_hat, ess = (np.asarray(x, np.float64) for x in _diagnose(jnp.asarray(scaled)))
    # A chain that never moves has no within-chain variance: R-hat is infinite or NaN there, which must read as failed.
    # A functional that is the same number in all draws of all chains has nothing to converge.
    constant = spread[:, 0, 0] == 0
    r_hat = np.where(constant, 1.0, np.where(np.isfinite(r_hat), r_hat, np.inf))
    ess = np.where(constant, total, np.clip(np.nan_to_num(ess, nan=1.0), 1.0, total))
    stuck = (np.ptp(draws, axis=2) == 0).any(axis=1) & ~constant
    ess = np.where(stuck, 1.0, ess)
    variance = draws.var(axis=(1, 2), ddof=1)
    statistics = SampleStatistics(
        mean=draws.mean(axis=(1, 2)),
        variance=variance,
        standard_error=np.sqrt(variance / ess),
        chain_means=draws.mean(axis=2),
        num_draws=np.full(rungs, total),
        dependent_rungs=dependent_rungs,
    )
    return statistics, Diagnostics(r_hat, ess / chains)


def flag_rungs(
    diagnostics: dict[str, Diagnostics],
    *,
    max_r_hat: float,
    min_ess: float,
    divergences: ArrayLike,
    names: tuple[str, ...] | None = None,
) -> list[str]:
    """A short text for every rung whose diagnostics fail, "" for the others.

    Args:
        diagnostics: by functional.
        max_r_hat: R-hat at or above it fails.
        min_ess: effective draws per chain below it fail.
        divergences: number of divergent moves on every rung, [K].
        names: functionals that may raise a flag; all of them by default.

    Returns:
        K texts.

    Example:
        >>> import numpy as np
        >>> fine = Diagnostics(np.array([1.01, 1.2]), np.array([200.0, 12.0]))
        >>> flag_rungs({"L": fine}, max_r_hat=1.05, min_ess=50.0, divergences=[0, 3])
        ['', 'R-hat 1.200, ESS 12, 3 divergences']
    """
    counts = np.asarray(divergences)
    texts = []
    for rung in range(counts.shape[0]):
        chosen = [diagnostics[name] for name in names or tuple(diagnostics)]
        worst_r_hat, worst_ess = max(d.r_hat[rung] for d in chosen), min(d.ess[rung] for d in chosen)
        reasons = []
        if not worst_r_hat < max_r_hat:
            reasons.append(f"R-hat {worst_r_hat:.3f}")
        if not worst_ess >= min_ess:
            reasons.append(f"ESS {worst_ess:.0f}")
        if counts[rung]:
            reasons.append(f"{int(counts[rung])} divergences")
        texts.append(", ".join(reasons))
    return texts
