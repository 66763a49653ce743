"""Scores of probabilities: brute force, laws, invariances, and inputs that must not look good."""

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


def test_perfect_probabilities_have_the_error_of_sampling_only():
    n, bins, repeats = 2000, 10, 40
    probabilities, _ = _examples(n, seed=3, scale=1.0)
    keys = jax.random.split(jax.random.key(0), repeats)
    draws = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(probabilities)))(keys)
    errors = jax.vmap(lambda labels: expected_calibration_error(probabilities, labels, bins=bins))(draws)
    made = reliability(probabilities, draws[0], bins=bins)
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


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=12), st.lists(st.integers(0, 6), min_size=1, max_size=12)
)  # fmt: skip
def test_auroc_is_the_mann_whitney_statistic(familiar, strange):
    pairs = [1.0 if f > s else 0.5 if f == s else 0.0 for f in familiar for s in strange]
    value = auroc(jnp.asarray(familiar, jnp.float64), jnp.asarray(strange, jnp.float64))
    np.testing.assert_allclose(value, np.mean(pairs), rtol=1e-12)


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
    assert reliability(bad, labels).accuracy.max() == 1.0
    assert reliability(bad, labels).count.tolist()[0] == 1.0
    assert auroc(jnp.array([jnp.nan, 1.0]), jnp.array([0.5])) == 0.5
    assert auroc(jnp.array([0.5]), jnp.array([jnp.nan, 0.0])) == 0.5


def test_a_probability_that_was_rounded_to_zero_costs_a_finite_amount():
    p = jnp.array([[1.0, 0.0]], jnp.float32)
    value = negative_log_likelihood(p, jnp.array([1]))
    np.testing.assert_allclose(value, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)


def test_one_program_over_replicas():
    probabilities = jnp.stack([_examples(50, seed=s)[0] for s in range(3)])
    labels = _examples(50)[1]
    for score in (accuracy, negative_log_likelihood, brier, expected_calibration_error):
        together = jax.jit(jax.vmap(score, in_axes=(0, None)))(probabilities, labels)
        np.testing.assert_allclose(together, [score(p, labels) for p in probabilities], rtol=1e-12)


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


def test_scores_must_be_vectors():
    with pytest.raises(ValueError, match="familiar"):
        auroc(jnp.zeros((2, 2)), jnp.zeros(2))
