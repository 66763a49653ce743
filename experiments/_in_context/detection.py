r"""How many test sequences it takes to tell a mixture p from its neighbour q_N.

Three answers, from the least that any test needs to what a comparison of mean losses needs:

* No test. Sequences of p and of q_N can be coupled to be equal until an affected label, so
  $\mathrm{TV}(p, q) \le \delta_N$, and m of each have $\mathrm{TV}(p^m, q^m) \le 1 - (1 - \delta_N)^m$; by Pinsker also
  $\mathrm{TV}(p^m, q^m) \le \sqrt{m\,\mathrm{KL}(p \| q) / 2}$. The two errors of any test sum to at least 1 - TV.
* The paired comparison: losses of p and q_N on the same sequences of p. Their difference has mean KL(p || q_N) and a
  deviation $\sigma$, so a one-sided test of level 5 % has power 95 % at $m = (2 \times 1.645\,\sigma / \mathrm{KL})^2$
  (normal approximation: rough where fewer than tens of affected sequences are among the m).
* Mean test losses on a test set each: the same with $\sqrt 2$ times the deviation of the loss itself.
"""

from __future__ import annotations

import math

QUANTILE = 1.6448536269514722
"""Of the standard normal law, at 95 %."""
ERRORS = 0.1
"""Sum of the two errors that a test may have."""


def any_test(reached: float, kl: float, *, errors: float = ERRORS) -> float:
    r"""A number of sequences below which no test has a sum of errors of at most `errors`.

    $$m \ge \max\Bigl\{\frac{\log \epsilon}{\log(1 - \delta)},\; \frac{2 (1 - \epsilon)^2}{\mathrm{KL}}\Bigr\}$$

    Args:
        reached: $\delta$, probability that a sequence has an affected label, in [0, 1].
        kl: KL(p || q_N), nats, >= 0.
        errors: $\epsilon$, in (0, 1).

    Returns:
        A number of sequences; infinite where p and q_N are one law.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> any_test(1e-3, 1e-3)
        2301.4...
        >>> any_test(0.5, 1.0)
        3.32...
    """
    if not 0 <= reached <= 1 or not kl >= 0 or not 0 < errors < 1:
        raise ValueError(f"reached = {reached}, kl = {kl}, errors = {errors}: in [0, 1], at least 0 and in (0, 1)")
    if reached == 0 or kl == 0:
        return math.inf
    by_coupling = 0.0 if reached == 1 else math.log(errors) / math.log1p(-reached)
    return max(by_coupling, 2 * (1 - errors) ** 2 / kl)


def mean_test(kl: float, deviation: float) -> float:
    r"""Sequences for a one-sided test of level 5 % to find a mean of `kl` with power 95 %: $(2 z \sigma / KL)^2$.

    Args:
        kl: the mean, nats, >= 0.
        deviation: $\sigma$ of one sequence, nats, >= 0.

    Returns:
        A number of sequences, infinite for a mean of 0.

    Raises:
        ValueError: a negative number.

    Example:
        >>> mean_test(0.01, 0.1)
        1082.2...
    """
    if not kl >= 0 or not deviation >= 0:
        raise ValueError(f"kl = {kl}, deviation = {deviation}: neither may be negative")
    return math.inf if kl == 0 else (2 * QUANTILE * deviation / kl) ** 2
