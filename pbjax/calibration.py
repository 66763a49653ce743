"""How good probabilities are: accuracy, likelihood, calibration, and whether strange inputs are recognised.

Everything starts from probabilities, not logits, as predictions averaged over a posterior are probabilities. An example
with a NaN among its probabilities counts as wrong, with the largest loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range, concrete

__all__ = [
    "ReliabilityBins",
    "accuracy",
    "auroc",
    "brier",
    "entropy",
    "expected_calibration_error",
    "max_probability",
    "negative_log_likelihood",
    "reliability",
]


class ReliabilityBins(NamedTuple):
    """Examples sorted into bins by their confidence.

    Attributes:
        count: float array [B], examples in each bin.
        confidence: [B], their mean largest probability; 0 in an empty bin.
        accuracy: [B], share of them that is right; 0 in an empty bin.
    """

    count: jax.Array
    confidence: jax.Array
    accuracy: jax.Array


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Share of examples whose most probable class is the label; ties go to the lower class.

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: shapes that do not belong together, or probabilities outside [0, 1].

    Example:
        >>> float(accuracy(jnp.array([[0.9, 0.1], [0.4, 0.6]]), jnp.array([0, 0])))
        0.5
    """
    probabilities, labels = _door(probabilities, labels)
    return _hits(probabilities, labels).mean()


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Mean of $-\ln p_y$ in nats.

    Probabilities are floored at the smallest normal number of their dtype (87 nats in float32), so that a probability
    that was rounded to zero costs much but not everything.

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: as for `accuracy`.

    Example:
        >>> round(float(negative_log_likelihood(jnp.array([[0.5, 0.5]]), jnp.array([1]))), 4)
        0.6931
    """
    probabilities, labels = _door(probabilities, labels)
    label = _of_label(probabilities, labels)
    floor = jnp.finfo(probabilities.dtype).tiny
    # A comparison with NaN is false, which sends NaN to the floor.
    return -jnp.log(jnp.where(label > floor, label, floor)).mean()


def brier(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Mean of $\sum_j (p_j - 1[j = y])^2$, in [0, 2]; some texts divide it by k, or by 2 for two classes.

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: as for `accuracy`.

    Example:
        >>> float(brier(jnp.array([[0.5, 0.5]]), jnp.array([1])))
        0.5

    References:
        Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950.
    """
    probabilities, labels = _door(probabilities, labels)
    squares = jnp.square(probabilities - jax.nn.one_hot(labels, probabilities.shape[-1], dtype=probabilities.dtype))
    per_example = squares.sum(axis=-1)
    return jnp.where(jnp.isnan(per_example), 2.0, per_example).mean().astype(probabilities.dtype)


def max_probability(probabilities: ArrayLike) -> jax.Array:
    """Largest probability of every example, the usual score of familiarity.

    Args:
        probabilities: [..., k].

    Returns:
        [...], in [1/k, 1]; 0 for an example with a NaN.

    Example:
        >>> max_probability(jnp.array([[0.75, 0.25]])).tolist()
        [0.75]

    References:
        Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples", ICLR 2017.
    """
    probabilities = jnp.asarray(probabilities)
    largest = probabilities.max(axis=-1)
    return jnp.where(jnp.isnan(largest), 0.0, largest).astype(probabilities.dtype)


def entropy(probabilities: ArrayLike) -> jax.Array:
    r"""$-\sum_j p_j \ln p_j$ in nats, of every example; large where the network does not know.

    Args:
        probabilities: [..., k].

    Returns:
        [...], in [0, ln k].

    Example:
        >>> round(float(entropy(jnp.array([0.5, 0.5]))), 4)
        0.6931
    """
    return jax.scipy.special.entr(jnp.asarray(probabilities)).sum(axis=-1)


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> ReliabilityBins:
    r"""Examples in bins of equal width by confidence: bin b holds the confidences in ((b-1)/B, b/B].

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).
        bins: B, >= 1.

    Returns:
        `ReliabilityBins`; bins of several calls with equal counts of examples can be added up by count.

    Raises:
        ValueError: as for `accuracy`, or bins below 1.

    Example:
        >>> made = reliability(jnp.array([[0.9, 0.1], [0.4, 0.6]]), jnp.array([0, 0]), bins=2)
        >>> made.count.tolist(), made.accuracy.tolist()
        ([0.0, 2.0], [0.0, 0.5])

    References:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    probabilities, labels = _door(probabilities, labels)
    check_n(bins, name="bins")
    confidence, hits = max_probability(probabilities), _hits(probabilities, labels)
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    inside = jax.nn.one_hot(place, bins, dtype=probabilities.dtype)
    count = inside.sum(axis=0)
    safe = jnp.maximum(count, 1)
    return ReliabilityBins(count, confidence @ inside / safe, hits @ inside / safe)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> jax.Array:
    r"""$\sum_b \frac{n_b}{n} |\text{accuracy}_b - \text{confidence}_b|$ over bins of equal width.

    It is biased upwards: even perfect probabilities give about $\sum_b \sqrt{2 n_b c_b (1-c_b)/\pi}/n$, c_b the
    confidence of bin b.

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).
        bins: B, >= 1.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: as for `reliability`.

    Example:
        >>> round(float(expected_calibration_error(jnp.array([[0.9, 0.1], [0.4, 0.6]]), jnp.array([0, 0]))), 3)
        0.35

    References:
        Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; Guo et al., 2017.
    """
    made = reliability(probabilities, labels, bins=bins)
    return (made.count * jnp.abs(made.accuracy - made.confidence)).sum() / made.count.sum()


def auroc(familiar: ArrayLike, strange: ArrayLike) -> jax.Array:
    r"""Area under the ROC curve: the chance that a familiar example scores above a strange one, ties counting half.

    $$\frac{1}{nm} \sum_{i,j} 1[f_i > s_j] + \tfrac12 1[f_i = s_j]$$

    Exact, in O((n + m) log m). A NaN among the familiar scores counts as lowest, among the strange ones as highest.

    Args:
        familiar: scores [n] that should be large.
        strange: scores [m] that should be small.

    Returns:
        Scalar in [0, 1]; 1/2 for scores that say nothing.

    Raises:
        ValueError: scores that are not vectors, or empty.

    Example:
        >>> float(auroc(jnp.array([0.9, 0.8]), jnp.array([0.1, 0.8])))
        0.875

    References:
        Mann and Whitney, "On a test of whether one of two random variables is stochastically larger", 1947.
    """
    familiar, strange = jnp.asarray(familiar), jnp.asarray(strange)
    for name, given in (("familiar", familiar), ("strange", strange)):
        if given.ndim != 1 or given.size == 0:
            raise ValueError(f"{name} has shape {given.shape}: give a vector of at least one score")
    high = jnp.sort(jnp.where(jnp.isnan(strange), jnp.inf, strange))
    low = jnp.where(jnp.isnan(familiar), -jnp.inf, familiar)
    below = jnp.searchsorted(high, low, side="left") + jnp.searchsorted(high, low, side="right")
    wide = jnp.promote_types(familiar.dtype, jnp.float32)
    return (below.astype(wide) / (2 * strange.size)).mean()


def _door(probabilities: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    probabilities, labels = jnp.asarray(probabilities), jnp.asarray(labels)
    if probabilities.ndim != 2 or probabilities.shape[0] == 0 or not jnp.issubdtype(probabilities.dtype, jnp.floating):
        raise ValueError(
            f"probabilities has shape {probabilities.shape} and dtype {probabilities.dtype}: it must be floats [n, k]"
        )
    if labels.shape != probabilities.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels has shape {labels.shape} and dtype {labels.dtype}: it must be integers {probabilities.shape[:1]}"
        )
    check_range("labels", labels, low=0, high=probabilities.shape[1] - 1)
    known = concrete(probabilities)
    if known is not None:
        # Rounding may put a softmax an ulp outside; logits are further off.
        check_range(
            "probabilities", known, low=-1e-3, high=1 + 1e-3, allow_nan=True, remedy="must lie in [0, 1]; apply softmax"
        )
    return probabilities, labels


def _of_label(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    label = jnp.take_along_axis(probabilities, labels[:, None], axis=1, mode="clip")[:, 0]
    return jnp.where(jnp.isnan(probabilities).any(axis=1), jnp.nan, label)


def _hits(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    right = (jnp.argmax(probabilities, axis=1) == labels) & ~jnp.isnan(probabilities).any(axis=1)
    return right.astype(probabilities.dtype)
