"""Certificates of the Gibbs posterior Q_b ∝ prior · exp(−b·L): a plug-in value and three routes.

All start from the PAC-Bayes-kl event: with probability 1 − d over the n examples, for every posterior Q at once, so for
every b of any ladder, kl(E_Q L‖E_Q R) ≤ (KL(Q‖prior) + log(2 sqrt(n)/d))/n. They differ in how the unknown means
under Q_b are bounded, that is, in what is assumed of the sampler; the Monte-Carlo part is conditional on the examples
and pays for every rung looked at. The three routes are pbjax's own.

Which KL: KL(Q_b‖prior) = Λ(b) − b m(b), with Λ at most the left sum. So a high KL needs upper limits on the means of
the rungs before k and a *lower* limit on the mean at k, while the certified risk at k needs an upper one. For the
surrogate L itself the two pull against each other, and the certificate is the worst case over m(b) inside its limits.

The ladder may come from a pilot with its own randomness. If rungs are added or left out by looking at the draws that
are certified, the number of limits is no longer fixed in advance and the ledger is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from jax.typing import ArrayLike

from pbjax.certificates.assembly import Flags, certify
from pbjax.certificates.certificate import Certificate
from pbjax.certificates.limits import asymptotic_limits, unit_limits
from pbjax.evidence import SampleStatistics


def gibbs_plugin(
    betas: ArrayLike,
    energy: SampleStatistics,
    *,
    risk: SampleStatistics | None = None,
    n: int,
    delta: float,
    loss: str,
    rungs_inspected: Sequence[int] | None = None,
    union: int = 1,
    flags: Flags = None,
) -> list[Certificate]:
    """The plug-in value: all estimates taken as exact, KL by the trapezium. A reference, not a guarantee.

    kl⁻¹(risk_k, (KL_trapezium + log(2 sqrt(n)/delta))/n).

    Args:
      betas: [K] · total inverse temperature · increasing from 0, the prior rung.
      energy: SampleStatistics of L [K] · in [0,1].
      risk: SampleStatistics of the certified loss from the same draws; None certifies L itself.
      n: number of examples that L is the average over.
      delta: failure probability of the PAC-Bayes-kl event · in (0,1).
      loss: name of the certified loss.
      rungs_inspected: rungs k ≥ 1 looked at; None for all. The others come back as 1.0.
      union: size of a declared grid (of prior scales, say) of which this is one member; delta is divided by it.
      flags: [K] · text or bool a rung, empty or False when fine; a certificate bears those of all rungs up to its own.

    Returns:
      One Certificate for each rung k = 1..K-1, in order.

    Raises:
      ValueError: for a delta outside (0,1), n or union below 1, means outside [0,1], shapes that differ, or a ladder
        that does not start at 0 and increase. A NaN gives 1.0 instead.

    Example:
      >>> import numpy as np
      >>> energy = SampleStatistics(
      ...     mean=np.array([0.5, 0.1]), variance=np.full(2, 0.01), standard_error=np.full(2, 0.001),
      ...     chain_means=np.array([[0.5], [0.1]]), num_draws=10_000)
      >>> [certificate] = gibbs_plugin(np.array([0.0, 100.0]), energy, n=1000, delta=0.05, loss="zero_one")
      >>> print(f"{certificate.value:.4f} at KL {certificate.kl:.1f}")
      0.1839 at KL 20.0

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.3, route F.
    """
    return certify(
        betas,
        energy,
        risk=risk,
        n=n,
        delta=delta,
        loss=loss,
        route="gibbs_plugin",
        assumption="estimates taken as exact and the trapezium as the integral; no guarantee",
        rungs_inspected=rungs_inspected,
        union=union,
        flags=flags,
        monte_carlo_share=0.0,
        limit=None,
    )


def gibbs_iid(
    betas: ArrayLike,
    energy: SampleStatistics,
    *,
    risk: SampleStatistics | None = None,
    n: int,
    delta: float,
    loss: str,
    rungs_inspected: Sequence[int] | None = None,
    union: int = 1,
    flags: Flags = None,
    monte_carlo_share: float = 0.5,
) -> list[Certificate]:
    """Route (i): the retained draws of a rung are independent and exact.

    m_j ≤ kl⁻¹(mean_j, log(1/d)/draws_j) and its lower twin, with d the Monte-Carlo budget over the number of one-sided
    limits that the inspected rungs need: 2K − 1 for the surrogate, 3(K − 1) for another loss, if all are inspected.

    Args:
      betas: [K] · total inverse temperature · increasing from 0, the prior rung.
      energy: SampleStatistics of L [K] · in [0,1]; uses ``mean`` and ``num_draws``.
      risk: SampleStatistics of the certified loss from the same draws; None certifies L itself.
      n: number of examples that L is the average over.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      rungs_inspected: rungs k ≥ 1 looked at, fixed in advance; None for all. The others come back as 1.0.
      union: size of a declared grid (of prior scales, say) of which this is one member; delta is divided by it.
      flags: [K] · text or bool a rung, empty or False when fine; a certificate bears those of all rungs up to its own.
      monte_carlo_share: fraction of delta/union for the Monte-Carlo limits · in (0,1).

    Returns:
      One Certificate for each rung k = 1..K-1, in order.

    Raises:
      ValueError: as ``gibbs_plugin``.

    Example:
      >>> import numpy as np
      >>> energy = SampleStatistics(
      ...     mean=np.array([0.5, 0.1]), variance=np.full(2, 0.01), standard_error=np.full(2, 0.001),
      ...     chain_means=np.array([[0.5], [0.1]]), num_draws=10_000)
      >>> [certificate] = gibbs_iid(np.array([0.0, 100.0]), energy, n=1000, delta=0.05, loss="zero_one")
      >>> print(sorted(certificate.delta_ledger))
      ['energy_lower', 'energy_upper', 'pac_bayes_kl']

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.3, route A.
    """
    return certify(
        betas,
        energy,
        risk=risk,
        n=n,
        delta=delta,
        loss=loss,
        route="gibbs_iid",
        assumption="the retained draws of every rung are independent and exact draws from its Gibbs posterior",
        rungs_inspected=rungs_inspected,
        union=union,
        flags=flags,
        monte_carlo_share=monte_carlo_share,
        limit=partial(unit_limits, by_chain=False),
        reads=("num_draws",),
        risk_reads=("num_draws",),
    )


def gibbs_asymptotic(
    betas: ArrayLike,
    energy: SampleStatistics,
    *,
    risk: SampleStatistics | None = None,
    n: int,
    delta: float,
    loss: str,
    rungs_inspected: Sequence[int] | None = None,
    union: int = 1,
    flags: Flags = None,
    monte_carlo_share: float = 0.5,
    between_chains: bool = False,
) -> list[Certificate]:
    """Route (ii): converged chains, Markov-chain central limit theorem, delta method through the left sum.

    KL ≤ KL_left + t · sqrt(Σ_j d_{j+1}² se_j² + b_k² se_k²), risk ≤ risk_k + t · se; t has the least ESS of the rungs
    involved minus one degrees of freedom. Where the statistics say ``dependent_rungs`` (replica exchange) the errors
    are added instead, which holds under any dependence. With ``between_chains`` the standard errors are those of the
    sums over C chains, with C − 1 degrees of freedom: this also covers rungs that are dependent along a chain, but with
    4 chains the quantile is about four times the normal one.

    Args:
      betas: [K] · total inverse temperature · increasing from 0, the prior rung.
      energy: SampleStatistics of L [K] · in [0,1]; its ``standard_error`` has to include the autocorrelation.
      risk: SampleStatistics of the certified loss from the same draws; None certifies L itself.
      n: number of examples that L is the average over.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      rungs_inspected: rungs k ≥ 1 looked at, fixed in advance; None for all. The others come back as 1.0.
      union: size of a declared grid (of prior scales, say) of which this is one member; delta is divided by it.
      flags: [K] · text or bool a rung, empty or False when fine; a certificate bears those of all rungs up to its own.
      monte_carlo_share: fraction of delta/union for the Monte-Carlo limits · in (0,1).
      between_chains: take the variances from the spread between chains.

    Returns:
      One Certificate for each rung k = 1..K-1, in order. A standard error of exactly zero never counts as certainty.

    Raises:
      ValueError: as ``gibbs_plugin``.

    Example:
      >>> import numpy as np
      >>> energy = SampleStatistics(
      ...     mean=np.array([0.5, 0.1]), variance=np.full(2, 0.01), standard_error=np.full(2, 0.001),
      ...     chain_means=np.array([[0.5], [0.1]]), num_draws=10_000)
      >>> settings = dict(n=1000, delta=0.05, loss="zero_one")
      >>> [estimate] = gibbs_plugin(np.array([0.0, 100.0]), energy, **settings)
      >>> [certificate] = gibbs_asymptotic(np.array([0.0, 100.0]), energy, **settings)
      >>> estimate.value < certificate.value < 1
      True

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.3, route B.
    """
    rungs = "dependent in any way" if energy.dependent_rungs else "independent"
    chain_means = ("chain_means",) if between_chains else ()
    source = "the spread between chains" if between_chains else f"effective sample sizes, rungs {rungs}"
    return certify(
        betas,
        energy,
        risk=risk,
        n=n,
        delta=delta,
        loss=loss,
        route="gibbs_asymptotic",
        assumption=f"chains converged and a Markov-chain central limit theorem holds; variances from {source}",
        rungs_inspected=rungs_inspected,
        union=union,
        flags=flags,
        monte_carlo_share=monte_carlo_share,
        limit=partial(asymptotic_limits, by_chain=between_chains, dependent_rungs=bool(energy.dependent_rungs)),
        reads=("variance", "num_draws", *chain_means),
        risk_reads=chain_means or ("variance", "num_draws"),
    )


def gibbs_chains(
    betas: ArrayLike,
    energy: SampleStatistics,
    *,
    risk: SampleStatistics | None = None,
    n: int,
    delta: float,
    loss: str,
    rungs_inspected: Sequence[int] | None = None,
    union: int = 1,
    flags: Flags = None,
    monte_carlo_share: float = 0.5,
) -> list[Certificate]:
    """Route (iii): independent chains as units; nothing is assumed on the autocorrelation inside a chain.

    m_j ≤ kl⁻¹(mean of C chain means, log(1/d)/C) and its lower twin, with d as in ``gibbs_iid``. It takes of the order
    of 100 chains; with a few the certificate is honestly 1.0.

    Args:
      betas: [K] · total inverse temperature · increasing from 0, the prior rung.
      energy: SampleStatistics of L [K] · in [0,1]; uses ``chain_means``.
      risk: SampleStatistics of the certified loss from the same draws; None certifies L itself.
      n: number of examples that L is the average over.
      delta: the whole budget · in (0,1).
      loss: name of the certified loss.
      rungs_inspected: rungs k ≥ 1 looked at, fixed in advance; None for all. The others come back as 1.0.
      union: size of a declared grid (of prior scales, say) of which this is one member; delta is divided by it.
      flags: [K] · text or bool a rung, empty or False when fine; a certificate bears those of all rungs up to its own.
      monte_carlo_share: fraction of delta/union for the Monte-Carlo limits · in (0,1).

    Returns:
      One Certificate for each rung k = 1..K-1, in order.

    Raises:
      ValueError: as ``gibbs_plugin``.

    Example:
      >>> import numpy as np
      >>> energy = SampleStatistics(
      ...     mean=np.array([0.5, 0.1]), variance=np.full(2, 0.01), standard_error=np.full(2, 0.001),
      ...     chain_means=np.repeat([[0.5], [0.1]], 4, axis=1), num_draws=10_000)
      >>> [certificate] = gibbs_chains(np.array([0.0, 1000.0]), energy, n=1000, delta=0.05, loss="zero_one")
      >>> round(certificate.value, 1)
      1.0

    References:
      pbjax reference note, PAC-Bayes certificates of the Gibbs posterior, section 2.3, route C.
    """
    return certify(
        betas,
        energy,
        risk=risk,
        n=n,
        delta=delta,
        loss=loss,
        route="gibbs_chains",
        assumption="chains are independent; the distance of their law from the Gibbs posterior is neglected",
        rungs_inspected=rungs_inspected,
        union=union,
        flags=flags,
        monte_carlo_share=monte_carlo_share,
        limit=partial(unit_limits, by_chain=True),
        reads=("chain_means",),
        risk_reads=("chain_means",),
    )
