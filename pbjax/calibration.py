"""How good probabilities are: accuracy, likelihood, calibration, and whether strange inputs are recognised.

Everything starts from probabilities, not logits, as predictions averaged over a posterior are probabilities. An example
with a NaN or an infinity among its probabilities counts as wrong, with the largest loss: a diverged network never looks
good.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range

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


Binning = Literal["equal_width", "equal_mass"]


class ReliabilityBins(NamedTuple):
    """Examples sorted into bins by their confidence; one without finite probabilities is in none of them.

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
    that was rounded to zero costs much but not everything: where that happens, this is less than the exact value, and
    `losses.cross_entropy` of the logits keeps the digits. A row without finite probabilities costs the floor too.

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
    label = jnp.where(_is_label(probabilities, labels), probabilities, 0).sum(axis=1)
    floor = jnp.finfo(probabilities.dtype).tiny
    # Rounding may put a probability an ulp above 1, where the loss would be negative.
    return -jnp.log(jnp.where(_finite(probabilities), jnp.clip(label, floor, 1), floor)).mean()


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
    per_example = jnp.square(probabilities - _is_label(probabilities, labels)).sum(axis=1)
    return jnp.where(_finite(probabilities), per_example, 2).mean()


def max_probability(probabilities: ArrayLike) -> jax.Array:
    """Largest probability of every example, the usual score of familiarity.

    Args:
        probabilities: [..., k].

    Returns:
        [...], in [1/k, 1]; NaN for an example with a NaN, which `auroc` counts against the network on either side.

    Example:
        >>> max_probability(jnp.array([[0.75, 0.25]])).tolist()
        [0.75]

    References:
        Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples", ICLR 2017.
    """
    return jnp.asarray(probabilities).max(axis=-1)


def entropy(probabilities: ArrayLike) -> jax.Array:
    r"""$-\sum_j p_j \ln p_j$ in nats, of every example; large where the network does not know.

    Args:
        probabilities: [..., k].

    Returns:
        [...], in [0, ln k]; NaN for an example with a NaN.

    Example:
        >>> round(float(entropy(jnp.array([0.5, 0.5]))), 4)
        0.6931
    """
    return jax.scipy.special.entr(jnp.asarray(probabilities)).sum(axis=-1)


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15, binning: Binning = "equal_width"
) -> ReliabilityBins:
    r"""Examples in bins by confidence, the largest probability; bin b holds the confidences in (e_{b-1}, e_b].

    e_b = b/B with "equal_width"; with "equal_mass" e_b is the confidence at place ceil(bn/B) from below, so that bins
    hold equally many examples but for ties, which stay together.

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).
        bins: B, >= 1.
        binning: "equal_width" or "equal_mass".

    Returns:
        `ReliabilityBins`; those of several calls with equal width can be added up by count.

    Raises:
        ValueError: as for `accuracy`, bins below 1, or an unknown binning.

    Example:
        >>> made = reliability(jnp.array([[0.9, 0.1], [0.4, 0.6]]), jnp.array([0, 0]), bins=2)
        >>> made.count.tolist(), made.accuracy.tolist()
        ([0.0, 2.0], [0.0, 0.5])

    References:
        Guo et al., "On calibration of modern neural networks", ICML 2017 (equal width); Nguyen and O'Connor, "Posterior
        calibration and exploratory analysis for natural language processing models", EMNLP 2015 (equal mass).
    """
    probabilities, labels = _door(probabilities, labels)
    check_range("bins", bins, low=1, open_high=True, whole=True)
    if binning not in ("equal_width", "equal_mass"):
        raise ValueError(f"binning = {binning!r}: choose 'equal_width' or 'equal_mass'")
    finite = _finite(probabilities)
    wide = jnp.promote_types(probabilities.dtype, jnp.float32)  # half precision cannot count beyond 2,048
    confidence = probabilities.max(axis=1).astype(wide)
    if binning == "equal_width":
        edges = jnp.arange(1, bins, dtype=wide) / bins
    else:
        ranked = jnp.sort(jnp.where(finite, confidence, jnp.inf))
        places = -(-jnp.arange(1, bins) * finite.sum() // bins)
        edges = ranked[jnp.maximum(places - 1, 0)]
    place = jnp.searchsorted(edges, confidence, side="left")
    inside = (jnp.arange(bins)[None, :] == place[:, None]) & finite[:, None]

    def total(values: jax.Array) -> jax.Array:
        # A masked sum and no product of matrices, which accelerators round to fewer digits.
        return jnp.where(inside, values[:, None], 0).sum(axis=0)

    count = total(jnp.ones_like(confidence))
    safe = jnp.maximum(count, 1)
    return ReliabilityBins(count, total(confidence) / safe, total(_hits(probabilities, labels).astype(wide)) / safe)


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15, binning: Binning = "equal_width"
) -> jax.Array:
    r"""$\sum_b \frac{n_b}{n} |\text{accuracy}_b - \text{confidence}_b|$ over bins by confidence.

    It is biased upwards: even perfect probabilities give about $\sum_b \sqrt{2 n_b c_b (1-c_b)/\pi}/n$, c_b the
    confidence of bin b. A row without finite probabilities is in no bin and adds the largest gap, 1/n.

    Args:
        probabilities: [n, k], in [0, 1], rows sum to 1.
        labels: integers [n], in [0, k).
        bins: B, >= 1.
        binning: "equal_width", the usual one, or "equal_mass", see `reliability`.

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
    made = reliability(probabilities, labels, bins=bins, binning=binning)
    n = jnp.shape(probabilities)[0]
    gaps = (made.count * jnp.abs(made.accuracy - made.confidence)).sum()
    return (gaps + (n - made.count.sum())) / n


def auroc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> jax.Array:
    r"""Area under the ROC curve: the chance that a positive example scores above a negative one, ties counting half.

    $$\frac{1}{nm} \sum_{i,j} 1[p_i > q_j] + \tfrac12 1[p_i = q_j]$$

    Exact (Mann-Whitney), in O((n + m) log m). To detect unknown inputs, the positive scores are `max_probability` (or
    minus `entropy`) on the test set and the negative ones the same on the other data set. A NaN loses every comparison,
    on either side, so all NaN is 0.

    Args:
        positive_scores: p, shape [n], the scores that should be large.
        negative_scores: q, shape [m], the scores that should be small.

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
    positive, negative = jnp.asarray(positive_scores), jnp.asarray(negative_scores)
    for name, scores in (("positive_scores", positive), ("negative_scores", negative)):
        if scores.ndim != 1 or scores.size == 0:
            raise ValueError(f"{name} has shape {scores.shape}: give a vector of at least one score")
    wide = jnp.promote_types(jnp.promote_types(positive.dtype, negative.dtype), jnp.float32)
    positive, negative = positive.astype(wide), negative.astype(wide)
    ranked = jnp.sort(negative)  # NaN last, and not to be counted as below anything
    known = (~jnp.isnan(negative)).sum()
    below = [jnp.minimum(jnp.searchsorted(ranked, positive, side=side), known) for side in ("left", "right")]
    wins = jnp.where(jnp.isnan(positive), 0, below[0] + below[1])
    return (wins.astype(wide) / (2 * negative.size)).mean()


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
    # Rounding may put a softmax an ulp outside; logits are further off.
    remedy = "they must lie in [0, 1]; apply softmax to logits"
    check_range("probabilities", probabilities, low=-1e-3, high=1 + 1e-3, allow_nan=True, remedy=remedy)
    return probabilities, labels


def _finite(probabilities: jax.Array) -> jax.Array:
    return jnp.isfinite(probabilities).all(axis=1)


def _is_label(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Mask [n, k]; a traced label outside [0, k) matches no class."""
    return labels[:, None] == jnp.arange(probabilities.shape[1])[None, :]


def _hits(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    right = (jnp.argmax(probabilities, axis=1) == labels) & _finite(probabilities)
    return right.astype(probabilities.dtype)
