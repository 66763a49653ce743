"""Losses of a classifier from its logits: the 0-1 error and four cross-entropies, two of them bounded in [0, 1].

The bounded ones enter the PAC-Bayes bounds. A NaN among an example's logits costs that example the full loss of 1.0,
so a diverged network never looks good.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import xlog1py, xlogy
from jax.typing import ArrayLike

from pbjax._checks import check_range

__all__ = [
    "bounded_cross_entropy",
    "cross_entropy",
    "smooth_bounded_cross_entropy",
    "smoothed_cross_entropy",
    "zero_one",
]

Reduction = Literal["none", "mean"]


def zero_one(logits: ArrayLike, labels: ArrayLike, *, reduction: Reduction = "none", axis: int = -1) -> jax.Array:
    r"""0-1 error of the most probable class.

    1[argmax_j logits_j != label]; ties go to the lower class.

    Args:
      logits: unnormalised log-probabilities, shape [..., k], k >= 2.
      labels: integer classes, shape [...], in [0, k).
      reduction: "none" keeps one loss per example, "mean" averages them.
      axis: where the classes are; 0 suits logits [k, n] as feature-major networks give them.

    Returns:
      0.0 or 1.0 for each example, shape [...], or their mean; dtype of the logits.

    Raises:
      ValueError: when shapes or dtypes disagree, or a label lies outside [0, k).

    Example:
      >>> zero_one(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])).tolist()
      [0.0, 1.0]

    References:
      Langford, "Tutorial on practical prediction theory for classification", JMLR 2005.
    """
    logits, labels = _door(logits, labels, reduction, axis)
    # argmax would take a NaN for the largest logit, and count it as a hit when the label agrees.
    wrong = (jnp.argmax(logits, axis=axis) != labels) | jnp.isnan(logits).any(axis=axis)
    return _reduce(wrong.astype(logits.dtype), reduction)


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, reduction: Reduction = "none", axis: int = -1) -> jax.Array:
    r"""Cross-entropy, the unbounded negative log-probability of the label, in nats.

    -log p_y, p = softmax(logits)

    Args:
      logits: unnormalised log-probabilities, shape [..., k], k >= 2.
      labels: integer classes, shape [...], in [0, k).
      reduction: "none" keeps one loss per example, "mean" averages them.
      axis: where the classes are; 0 suits logits [k, n] as feature-major networks give them.

    Returns:
      Nats in [0, inf] for each example, shape [...], or their mean; dtype of the logits; NaN for a NaN logit.

    Raises:
      ValueError: when shapes or dtypes disagree, or a label lies outside [0, k).

    Example:
      >>> round(cross_entropy(jnp.zeros((1, 10)), jnp.array([3]), reduction="mean").item(), 4)
      2.3026

    References:
      Perez-Ortiz et al., "Tighter risk certificates for neural networks", JMLR 2021.
    """
    logits, labels = _door(logits, labels, reduction, axis)
    return _reduce(_negative_log_likelihood(logits, labels, axis), reduction)


def bounded_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, p_min: ArrayLike, reduction: Reduction = "none", axis: int = -1
) -> jax.Array:
    r"""Cross-entropy with the label's probability clamped at p_min, scaled to [0, 1].

    -log(max(p_y, p_min)) / log(1/p_min), p = softmax(logits)

    Its gradient vanishes where p_y < p_min, the worst examples, and jumps at p_y = p_min, which spoils the energy
    conservation of Hamiltonian Monte Carlo; sample with `smooth_bounded_cross_entropy`.

    Args:
      logits: unnormalised log-probabilities, shape [..., k], k >= 2.
      labels: integer classes, shape [...], in [0, k).
      p_min: smallest probability, in (0, 1); published runs use 1e-5 and 1e-4.
      reduction: "none" keeps one loss per example, "mean" averages them.
      axis: where the classes are; 0 suits logits [k, n] as feature-major networks give them.

    Returns:
      Losses in [0, 1] for each example, shape [...], or their mean; dtype of the logits; 1.0 for a NaN logit.

    Raises:
      ValueError: when shapes or dtypes disagree, a label lies outside [0, k) or p_min outside (0, 1).

    Example:
      >>> bounded_cross_entropy(jnp.array([[0.0, 100.0]]), jnp.array([0]), p_min=1e-4).item()
      1.0

    References:
      Perez-Ortiz et al., "Tighter risk certificates for neural networks", JMLR 2021.
    """
    logits, labels = _door(logits, labels, reduction, axis)
    check_range("p_min", p_min, low=0.0, high=1.0, open_low=True, open_high=True)
    ceiling = -jnp.log(jnp.asarray(p_min, logits.dtype))
    nats = _negative_log_likelihood(logits, labels, axis)
    # A comparison with NaN is false, which sends NaN to the full loss.
    return _reduce(jnp.where(nats < ceiling, nats / ceiling, jnp.ones_like(nats)), reduction)


def smooth_bounded_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, ceiling: ArrayLike, reduction: Reduction = "none", axis: int = -1
) -> jax.Array:
    r"""Cross-entropy of a probability squeezed into [e^-ceiling, 1 - e^-ceiling], scaled to [0, 1]: smooth everywhere.

    (-log(e^-l + (1 - 2 e^-l) p_y) + log(1 - e^-l)) / (l + log(1 - e^-l)), l = ceiling, p = softmax(logits)

    The default energy for Hamiltonian Monte Carlo. Evaluated as -log1p(-a (1 - p_y)) / -log1p(-a) with
    a = (1 - 2 e^-l)/(1 - e^-l) and 1 - p_y summed over the other classes: one pass of exponentials, digits kept for
    examples that are nearly right, every slope in a logit below 1 / (l + log(1 - e^-l)), nothing that can overflow.

    Args:
      logits: unnormalised log-probabilities, shape [..., k], k >= 2.
      labels: integer classes, shape [...], in [0, k).
      ceiling: l, the largest loss in nats before scaling, above log 2; 4 is usual.
      reduction: "none" keeps one loss per example, "mean" averages them.
      axis: where the classes are; 0 suits logits [k, n] as feature-major networks give them.

    Returns:
      Losses in [0, 1] for each example, shape [...], or their mean; dtype of the logits; 1.0 for a logit that is NaN
      or +inf.

    Raises:
      ValueError: when shapes or dtypes disagree, a label lies outside [0, k) or the ceiling is not above log 2.

    Example:
      >>> logits = jnp.array([[9.0, -9.0], [0.0, 0.0], [-9.0, 9.0]])
      >>> [round(x, 4) for x in smooth_bounded_cross_entropy(logits, jnp.array([0, 0, 0]), ceiling=4.0).tolist()]
      [0.0, 0.1694, 1.0]

    References:
      Dziugaite et al., "On the role of data in PAC-Bayes bounds", AISTATS 2021 (bounded cross-entropy).
    """
    logits, labels = _door(logits, labels, reduction, axis)
    check_range("ceiling", ceiling, low=math.log(2.0), open_low=True, open_high=True)
    # a is formed in the dtype of the logits, so that the largest loss is the scale itself and their ratio exactly 1.
    floor = jnp.exp(-jnp.asarray(ceiling, logits.dtype))
    a = (1 - 2 * floor) / (1 - floor)
    scale = -jnp.log1p(-a)
    correct, others, _, finite = _exponentials(logits, labels, axis)
    # others <= correct + others also after rounding, so the loss cannot leave [0, 1] by more than that of log1p.
    loss = -jnp.log1p(-a * (others / (correct + others))) / scale
    return _reduce(jnp.where(finite & (loss < 1), loss, jnp.ones_like(loss)), reduction)


def smoothed_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, smoothing: ArrayLike, reduction: Reduction = "none", axis: int = -1
) -> jax.Array:
    r"""Kullback-Leibler divergence from a smoothed label to the prediction, in nats: label smoothing for training.

    KL(q || p) = sum_j q_j log(q_j / p_j), q_y = 1 - s, q_j = s / (k - 1) for j != y, p = softmax(logits)

    Its gradient in the logits is p - q. It is 0 where the logits are log q up to a constant, and the cross-entropy at
    s = 0. The other convention gives mass a to all k classes, the label among them: that is s = a (k - 1) / k. Where it
    reports the cross-entropy of p under q, that is this loss plus the entropy of q, which the logits do not change.

    Args:
      logits: unnormalised log-probabilities, shape [..., k], k >= 2.
      labels: integer classes, shape [...], in [0, k).
      smoothing: s, the mass of the k - 1 classes that are not the label together, in [0, 1); 0.1 is usual. The label
        stays the most probable class of q below (k - 1) / k. A traced value is clipped to [0, 1].
      reduction: "none" keeps one loss per example, "mean" averages them.
      axis: where the classes are; 0 suits logits [k, n] as feature-major networks give them.

    Returns:
      Nats in [0, inf] for each example, shape [...], or their mean; dtype of the logits; NaN for a NaN logit.

    Raises:
      ValueError: when shapes or dtypes disagree, a label lies outside [0, k) or smoothing outside [0, 1).

    Example:
      >>> best = jnp.log(jnp.array([[0.9, 0.05, 0.05]]))
      >>> round(smoothed_cross_entropy(best, jnp.array([0]), smoothing=0.1, reduction="mean").item(), 6)
      0.0

    References:
      Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7 (the other
      convention).
    """
    logits, labels = _door(logits, labels, reduction, axis)
    check_range("smoothing", smoothing, low=0.0, high=1.0, open_high=True)
    k = logits.shape[axis]
    s = jnp.clip(jnp.asarray(smoothing, logits.dtype), 0, 1)
    entropy = -xlog1py(1 - s, -s) - xlogy(s, s / (k - 1))
    _, _, label_logit, finite = _exponentials(logits, labels, axis)
    nats = _negative_log_likelihood(logits, labels, axis)
    # How far the label's logit leads the mean of the others. Added to the label's own loss, so that s = 0 leaves every
    # digit of that, also where a class is masked by a logit of -inf and the lead is infinite.
    largest = lax.stop_gradient(logits.max(axis=axis, keepdims=True))
    shifted = jnp.where(jnp.expand_dims(finite, axis), logits - largest, 0)
    lead = (label_logit - shifted.mean(axis=axis)) * (k / (k - 1))
    plain = (s == 0) | jnp.isneginf(label_logit)
    loss = nats + s * jnp.where(plain, 0, lead) - entropy
    # Rounding may fall below the minimum of zero; the gradient there is left alone.
    return _reduce(loss + lax.stop_gradient(jnp.maximum(-loss, 0)), reduction)


def _door(logits: ArrayLike, labels: ArrayLike, reduction: str, axis: int) -> tuple[jax.Array, jax.Array]:
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim < 1 or not -logits.ndim <= axis < logits.ndim or logits.shape[axis] < 2:
        raise ValueError(f"logits has shape {logits.shape}: axis {axis} must hold at least two classes")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits has dtype {logits.dtype}: it must be floating")
    examples = tuple(np.delete(logits.shape, axis).tolist())
    if labels.shape != examples:
        raise ValueError(f"labels has shape {labels.shape}: for logits of shape {logits.shape} it must be {examples}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels has dtype {labels.dtype}: it must hold integer classes, not one-hot rows")
    if reduction not in ("none", "mean"):
        raise ValueError(f"reduction = {reduction!r}: it must be 'none' or 'mean'")
    check_range("labels", labels, low=0, high=logits.shape[axis] - 1)
    return logits, labels


def _exponentials(logits: jax.Array, labels: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """exp(logit - largest) of the label and summed over the others, label logit - largest, and whether that is finite.

    A traced label outside [0, k) matches no class: its probability is then 0 and its logit -inf.
    """
    largest = lax.stop_gradient(logits.max(axis=axis, keepdims=True))
    finite = jnp.isfinite(largest)
    shifted = jnp.where(finite, logits - largest, jnp.zeros_like(logits))
    weights = jnp.exp(shifted)
    # A mask, not a gather: its transpose is elementwise too, and does not scatter in the hot loop.
    is_label = lax.broadcasted_iota(labels.dtype, logits.shape, axis % logits.ndim) == jnp.expand_dims(labels, axis)
    correct = jnp.where(is_label, weights, 0).sum(axis=axis)
    others = jnp.where(is_label, 0, weights).sum(axis=axis)
    absent = (labels < 0) | (labels >= logits.shape[axis])
    label_logit = jnp.where(absent, -jnp.inf, jnp.where(is_label, shifted, 0).sum(axis=axis))
    return correct, others, label_logit, jnp.squeeze(finite, axis)


def _negative_log_likelihood(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    correct, others, label_logit, finite = _exponentials(logits, labels, axis)
    # When the label leads, log1p keeps the digits of a loss far below one. There `correct` is 1, and its derivative is
    # the label's whole share in the gradient: the division must stay.
    leads = label_logit == 0
    safe = jnp.where(leads, correct, 1)
    nats = jnp.where(leads, jnp.log1p(others / safe), jnp.log(correct + others) - label_logit)
    return jnp.where(finite, nats, jnp.nan)


def _reduce(losses: jax.Array, reduction: str) -> jax.Array:
    return losses.mean() if reduction == "mean" else losses
