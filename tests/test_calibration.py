"""Scores of probabilities: brute force, laws, invariances, and inputs that must not look good."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from pbjax.calibration import (
    accuracy,
    auroc,
    brier,
    entropy,
    expected_calibration_error,
    max_probability,
    negative_log_likelihood,
    reliability,
)

equal_mass_error = functools.partial(expected_calibration_error, binning="equal_mass")


@jax.jit
def _scores(probabilities, labels):
    """Everything that must be large or small to look good, one program a shape; the accuracy as an error."""
    losses = (negative_log_likelihood, brier, expected_calibration_error, equal_mass_error)
    return jnp.stack([1 - accuracy(probabilities, labels), *(loss(probabilities, labels) for loss in losses)])


def _examples(n=500, k=4, seed=0, scale=2.0):
    draw = np.random.default_rng(seed)
    probabilities = jax.nn.softmax(jnp.asarray(draw.normal(scale=scale, size=(n, k))))
    return probabilities, jnp.asarray(draw.integers(0, k, n))


def test_scores_against_loops():
    probabilities, labels = _examples(60)
    p, y = np.asarray(probabilities), np.asarray(labels)
    rows = range(len(y))
    np.testing.assert_allclose(accuracy(probabilities, labels), np.mean([p[i].argmax() == y[i] for i in rows]))
    np.testing.assert_allclose(
        negative_log_likelihood(probabilities, labels), -np.mean([np.log(p[i, y[i]]) for i in rows]), rtol=1e-12
    )
    squares = [sum((p[i, j] - (j == y[i])) ** 2 for j in range(4)) for i in rows]
    np.testing.assert_allclose(brier(probabilities, labels), np.mean(squares), rtol=1e-12)
    np.testing.assert_allclose(max_probability(probabilities), p.max(1))
    np.testing.assert_allclose(entropy(probabilities), -(p * np.log(p)).sum(1), rtol=1e-12)


def test_two_class_brier_is_twice_that_of_scikit_learn():
    probabilities, labels = _examples(200, 2)
    theirs = brier_score_loss(np.asarray(labels), np.asarray(probabilities)[:, 1])
    np.testing.assert_allclose(brier(probabilities, labels), 2 * theirs, rtol=1e-12)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_against_a_loop(bins):
    probabilities, labels = _examples(300)
    confidence = np.asarray(probabilities.max(1))
    right = np.asarray(probabilities.argmax(1) == labels)
    total, made = 0.0, reliability(probabilities, labels, bins=bins)
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        assert made.count[b] == inside.sum()
        if inside.any():
            np.testing.assert_allclose(made.accuracy[b], right[inside].mean())
            np.testing.assert_allclose(made.confidence[b], confidence[inside].mean())
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        else:
            assert made.accuracy[b] == made.confidence[b] == 0
    np.testing.assert_allclose(expected_calibration_error(probabilities, labels, bins=bins), total, rtol=1e-10)


def test_edges_belong_to_the_lower_bin():
    probabilities = jnp.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    made = reliability(probabilities, jnp.zeros(3, int), bins=4)
    assert made.count.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("bins", "dtype"), [(10, jnp.float64), (15, jnp.float32)])
def test_every_edge_belongs_to_the_lower_bin(bins, dtype):
    """Also where b/B times B is not b after rounding: 0.7 · 10 > 7 in float64."""
    edges = jnp.arange(1, bins + 1, dtype=dtype) / bins
    edges = edges[edges >= 0.5]
    probabilities = jnp.stack([edges, 1 - edges], axis=1)
    count = reliability(probabilities, jnp.zeros(len(edges), int), bins=bins).count
    assert count.tolist() == [0.0] * (bins - len(edges)) + [1.0] * len(edges)


def test_bins_of_equal_mass():
    probabilities, labels = _examples(300)
    made = jax.jit(functools.partial(reliability, bins=7, binning="equal_mass"))(probabilities, labels)
    assert made.count.sum() == 300
    assert set(made.count.tolist()) <= {42, 43}
    order = np.argsort(np.asarray(probabilities.max(1)))
    right = np.asarray(probabilities.argmax(1) == labels)[order]
    ends = [-(-b * 300 // 7) for b in range(8)]
    np.testing.assert_allclose(made.accuracy, [right[a:b].mean() for a, b in itertools.pairwise(ends)])
    # Equal confidences share a bin, so that the order of the rows does not matter.
    tied = jnp.tile(jnp.array([[0.75, 0.25]]), (9, 1))
    made = jax.jit(functools.partial(reliability, bins=4, binning="equal_mass"))(tied, jnp.arange(9) % 2)
    assert made.count.tolist() == [9, 0, 0, 0]


def test_the_order_of_rows_and_of_classes_does_not_matter():
    probabilities, labels = _examples()
    rows = np.random.default_rng(1).permutation(500)
    classes = np.array([2, 0, 3, 1])
    expected = _scores(probabilities, labels)
    np.testing.assert_allclose(_scores(probabilities[rows], labels[rows]), expected, rtol=1e-12)
    renamed = jnp.asarray(np.argsort(classes))[labels]
    np.testing.assert_allclose(_scores(probabilities[:, classes], renamed), expected, rtol=1e-12)


def test_float32_alone_and_half_precision():
    probabilities, labels = _examples(scale=5.0)
    narrow, labels = probabilities.astype(jnp.float32), labels.astype(jnp.int32)
    with jax.enable_x64(False):
        low = _scores(narrow, labels)
        area = jax.jit(auroc)(narrow[:200, 0], narrow[200:, 1])
        # All rows fall into one bin; counting them in bfloat16 would stop at 256.
        count = jax.jit(lambda p, y: reliability(p, y, bins=1).count)(narrow.astype(jnp.bfloat16), labels)
        certain = jnp.array([[1 + 2e-7, 0.0]], jnp.float32)
        cost = jax.jit(negative_log_likelihood)(certain, labels[:1] * 0)
    assert low.dtype == area.dtype == count.dtype == jnp.float32
    np.testing.assert_allclose(low, _scores(narrow.astype(jnp.float64), labels), rtol=1e-5)
    np.testing.assert_allclose(area, auroc(probabilities[:200, 0], probabilities[200:, 1]), rtol=1e-4)
    assert count.item() == 500
    assert cost == 0


def test_perfect_probabilities_have_the_error_of_sampling_only():
    n, bins, repeats = 2000, 10, 40
    probabilities, _ = _examples(n, seed=3, scale=1.0)
    keys = jax.random.split(jax.random.key(0), repeats)
    draws = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(probabilities)))(keys)
    errors = jax.lax.map(lambda labels: expected_calibration_error(probabilities, labels, bins=bins), draws)
    made = reliability(probabilities, draws[0], bins=bins)  # counts and confidences do not depend on the labels
    c = np.asarray(made.confidence)
    expected = np.sum(np.sqrt(2 * np.asarray(made.count) * c * (1 - c) / np.pi)) / n
    # The normal approximation of |binomial - mean| is good to a few per cent in bins this full.
    assert abs(errors.mean() - expected) < 4.5 * errors.std(ddof=1) / repeats**0.5 + 0.05 * expected
    # Confidences that are all too high by a tenth are off by about a tenth.
    k = probabilities.shape[1]
    peak = jax.nn.one_hot(probabilities.argmax(1), k)
    over = jnp.where(probabilities.max(1, keepdims=True) < 0.85, 1.0, 0.0) * 0.1
    shifted = probabilities + over * (peak - (1 - peak) / (k - 1))
    shifted = jnp.clip(shifted, 0, None)
    assert expected_calibration_error(shifted, draws[0], bins=bins) > 3 * expected


def _padded(scores):
    """One shape for all examples, by repeating each list to a common multiple: shares do not change, and jit compiles
    once instead of once a shape."""
    return jnp.asarray(list(scores) * (12 // len(scores)))


LEVELS = st.sampled_from([-jnp.inf, 0.0, 0.25, 0.5, 1.0, jnp.inf, jnp.nan])
FEW = st.sampled_from([1, 2, 3, 4, 6, 12]).flatmap(lambda size: st.lists(LEVELS, min_size=size, max_size=size))


@settings(max_examples=60)
@given(FEW, FEW)
def test_auroc_is_the_mann_whitney_statistic(positive, negative):
    """Comparisons with NaN are false: it loses on either side, also against infinities."""
    pairs = [1.0 if p > q else 0.5 if p == q else 0.0 for p in positive for q in negative]
    np.testing.assert_allclose(auroc(_padded(positive), _padded(negative)), np.mean(pairs), rtol=1e-12)


def test_auroc_against_scikit_learn_and_under_monotone_maps():
    draw = np.random.default_rng(0)
    familiar, strange = draw.normal(0.5, size=700), draw.normal(size=900)
    theirs = roc_auc_score(np.r_[np.ones(700), np.zeros(900)], np.r_[familiar, strange])
    np.testing.assert_allclose(auroc(familiar, strange), theirs, rtol=1e-12)
    np.testing.assert_allclose(auroc(np.tanh(familiar), np.tanh(strange)), theirs, rtol=1e-12)
    np.testing.assert_allclose(auroc(strange, familiar), 1 - theirs, rtol=1e-12)


def test_nan_never_looks_good():
    good = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    bad = good.at[0].set(jnp.nan)
    labels = jnp.array([0, 1])
    assert accuracy(bad, labels) == 0.5
    assert brier(bad, labels) == 1.0
    assert negative_log_likelihood(bad, labels) > 40
    assert jnp.isfinite(negative_log_likelihood(bad, labels))
    assert reliability(bad, labels).count.sum() == 1
    assert auroc(max_probability(bad), jnp.array([0.5])) == 0.5
    assert auroc(jnp.array([0.75]), max_probability(bad * 0.5)) == 0.5
    assert auroc(-entropy(bad), jnp.array([-0.5])) == 0.5


@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf])
def test_no_score_gets_better_by_breaking_a_row(broken):
    """The calibration error of a broken network must not be that of a perfect one, confidence 0 and accuracy 0."""
    probabilities, labels = _examples(scale=3.0)
    labels = jnp.where(jnp.arange(500) % 5 > 0, probabilities.argmax(axis=1), labels)
    # The bins of equal mass move with the rows that are left, so their error may move a little either way.
    before = _scores(probabilities, labels)[:4]
    ruined = jnp.stack([probabilities.at[row, row % 4].set(broken) for row in range(12)])
    assert (jax.lax.map(lambda p: _scores(p, labels), ruined)[:, :4] >= before[None] - 1e-12).all()
    floor = -np.log(np.finfo(np.float64).tiny)
    np.testing.assert_allclose(_scores(jnp.full_like(probabilities, broken), labels), [1, floor, 2, 1, 1], rtol=1e-12)


def test_a_traced_label_outside_the_classes_is_no_hit():
    probabilities, labels = jnp.array([[0.1, 0.9]]), jnp.array([2])
    assert jax.jit(accuracy)(probabilities, labels) == 0
    assert jax.jit(negative_log_likelihood)(probabilities, labels) > 700
    np.testing.assert_allclose(jax.jit(brier)(probabilities, labels), 0.82)


def test_a_probability_that_was_rounded_to_zero_costs_a_finite_amount():
    p = jnp.array([[1.0, 0.0]], jnp.float32)
    value = negative_log_likelihood(p, jnp.array([1]))
    np.testing.assert_allclose(value, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)


def test_one_program_over_replicas():
    probabilities = jnp.stack([_examples(seed=s)[0] for s in range(3)])
    labels = _examples()[1]
    together = jax.jit(jax.vmap(_scores, in_axes=(0, None)))(probabilities, labels)
    np.testing.assert_allclose(together, [_scores(p, labels) for p in probabilities], rtol=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (jnp.array([[3.0, -2.0]]), jnp.array([0]), "softmax"),
        (jnp.array([0.5, 0.5]), jnp.array([0]), r"\[n, k\]"),
        (jnp.array([[0.5, 0.5]]), jnp.array([0.0]), "integers"),
        (jnp.array([[0.5, 0.5]]), jnp.array([0, 1]), "integers"),
        (jnp.array([[0.5, 0.5]]), jnp.array([2]), "labels"),
    ],
)
def test_what_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        accuracy(probabilities, labels)


def test_bins_that_are_refused():
    probabilities, labels = _examples(5)
    with pytest.raises(ValueError, match="bins = 0"):
        reliability(probabilities, labels, bins=0)


def test_scores_must_be_vectors():
    with pytest.raises(ValueError, match="positive_scores"):
        auroc(jnp.zeros((2, 2)), jnp.zeros(2))
