"""Metrics: the five extensions through the whole chain, hand-made completions, replicas, masses of rule classes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.formal import (
    all_prompts,
    completion_metrics,
    extend,
    extension_r1,
    extension_r2_completion,
    rule_class_mass,
    string_log_prob,
)
from pbjax.formal.languages import AnBn

LANGUAGE = AnBn(max_length=256)
PROMPTS = all_prompts(LANGUAGE, length=8)
OUTSIDE = ~np.asarray(PROMPTS.in_distribution)


@jax.jit
def judge(sequences):
    return completion_metrics(LANGUAGE, PROMPTS, sequences)


# Rule 1 out of distribution in percent: of 251 prompts 69 are balanced, 89 have more a's.
TABLE = {"oracle": 100.0, "stop": 6900 / 251, "append_b": 15800 / 251, "adversarial": 0.0}


@pytest.mark.parametrize("kind", sorted(TABLE))
def test_extensions_score_their_closed_forms(kind):
    metrics = judge(extend(PROMPTS, kind, max_length=20))
    outside = metrics.out_of_distribution
    assert float(outside.r1) == pytest.approx(TABLE[kind] / 100, abs=1e-12)
    assert float(outside.r1) == pytest.approx(np.asarray(extension_r1(PROMPTS, kind))[OUTSIDE].mean(), abs=1e-12)
    assert float(outside.r2_completion) == extension_r2_completion(kind) == 1.0
    assert float(outside.finished) == 1.0
    assert float(outside.grammatical) == 0.0
    # Four prompts out of distribution, a^k b^(8 - k) with k < 4, keep rule 2; a's behind them would break it.
    assert float(outside.r2) == pytest.approx((4 if kind in ("stop", "append_b") else 0) / 251, abs=1e-12)
    inside = metrics.in_distribution
    expected = {"oracle": 1.0, "stop": 0.2, "append_b": 1.0, "adversarial": 0.0}[kind]
    assert float(inside.grammatical) == float(inside.r1) == expected
    by_kind = {"oracle": [1, 1, 1], "stop": [1, 0, 0], "append_b": [1, 1, 0], "adversarial": [0, 0, 0]}[kind]
    np.testing.assert_array_equal(metrics.by_kind.r1, by_kind)
    np.testing.assert_array_equal(metrics.by_kind.finished, [1, 1, 1])


def test_iid_extension_scores_its_closed_form():
    """Mean of 40 draws for each of 251 prompts, within 5 standard errors."""
    keys = jax.random.split(jax.random.key(1), 40)
    sequences = jax.jit(jax.vmap(lambda key: extend(PROMPTS, "iid", max_length=64, key=key)))(keys)
    outside = judge(sequences).out_of_distribution
    draws = 40 * 251
    for found, expected in (
        (np.mean(outside.r1_unconditional), np.asarray(extension_r1(PROMPTS, "iid"))[OUTSIDE].mean()),
        (np.mean(outside.r2_completion_unconditional), 0.75),
        (np.mean(outside.finished), 1.0),
    ):
        assert abs(float(found) - expected) <= 5 * math.sqrt(max(expected * (1 - expected), 1e-9) / draws)


def test_hand_made_completions():
    prompts = all_prompts(AnBn(max_length=8), length=2)  # aa ab ba bb; ba and bb out of distribution
    encode = LANGUAGE.vocabulary.encode
    completed = ["aabb", "abab", "baba", "bbab"]
    sequences = jnp.stack([encode(x, length=10, end=i != 3) for i, x in enumerate(completed)])
    metrics = jax.jit(lambda x: completion_metrics(LANGUAGE, prompts, x))(sequences)
    inside, outside = metrics.in_distribution, metrics.out_of_distribution
    assert [float(x) for x in (inside.finished, inside.r1, inside.r2, inside.grammatical)] == [1, 1, 0.5, 0.5]
    assert float(inside.r2_completion) == 1.0
    assert [float(x) for x in (outside.finished, outside.r1, outside.r1_unconditional)] == [0.5, 1, 0.5]
    assert [float(x) for x in (outside.r2, outside.r2_completion)] == [0, 0]
    assert [float(x) for x in (outside.r2_completion_unconditional, outside.grammatical)] == [0, 0]
    # By kind: balanced (ba), excess a (no prompt), excess b (bb, unfinished): 0/0 is NaN, none of none as well.
    np.testing.assert_array_equal(metrics.by_kind.finished, [1, np.nan, 0])
    np.testing.assert_array_equal(metrics.by_kind.r1, [1, np.nan, np.nan])
    np.testing.assert_array_equal(metrics.by_kind.r1_unconditional, [1, np.nan, 0])


def test_nothing_finished_is_not_a_number_when_conditional_and_zero_when_not():
    metrics = judge(np.pad(PROMPTS.tokens, ((0, 0), (0, 13)), constant_values=3))  # the shape of the test above
    for rates in metrics:
        finished, *rest = (np.asarray(x) for x in rates)
        assert (finished == 0).all()
        assert all(np.isnan(x).all() for x in rest[:4])
        assert all((x == 0).all() for x in rest[4:])


def test_replicas_and_groups():
    """Seeds by vmap or on a leading axis are the loop over seeds; the kinds add up to all prompts outside."""
    keys = jax.random.split(jax.random.key(2), 3)
    sequences = jax.jit(jax.vmap(lambda key: extend(PROMPTS, "iid", max_length=12, key=key)))(keys)
    whole, mapped, single = judge(sequences), jax.vmap(judge)(sequences), judge(sequences[1])
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (whole, mapped, single)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
        np.testing.assert_allclose(a[1], c, rtol=1e-14)
    whole = jax.tree.map(np.asarray, whole)
    outside, by_kind = whole.out_of_distribution, whole.by_kind
    assert by_kind.r1.shape == (3, 3)
    weights = np.array([69, 89, 93]) / 251
    for name in ("finished", "r1_unconditional", "grammatical_unconditional"):
        np.testing.assert_allclose(getattr(by_kind, name) @ weights, getattr(outside, name), rtol=1e-12)
    for name in ("r1", "r2", "r2_completion", "grammatical"):
        product = getattr(outside, name) * outside.finished
        np.testing.assert_allclose(product, getattr(outside, f"{name}_unconditional"), rtol=1e-12)
    assert 0 < float(outside.finished.min()) < 1


def test_rule_classes_by_number_and_by_probability():
    numbers = rule_class_mass(LANGUAGE, lambda sequences: jnp.zeros(len(sequences)))
    np.testing.assert_array_equal(numbers, [4, 94, 40, 372])
    np.testing.assert_allclose(rule_class_mass(LANGUAGE, LANGUAGE.log_prob), [4 / 128, 0, 0, 0], rtol=1e-12)

    def iid(sequences):  # a, b and EOS equally likely; two seeds
        return jnp.stack([-math.log(3) * (sequences != 2).at[:, 0].set(False).sum(-1)] * 2)

    mass = jnp.stack(rule_class_mass(LANGUAGE, iid))
    assert mass.shape == (4, 2)
    total = sum(2**n / 3 ** (n + 1) for n in range(1, 9))
    np.testing.assert_allclose(mass.sum(0), total, rtol=1e-12)
    np.testing.assert_allclose(mass[0], sum(3.0 ** -(2 * n + 1) for n in range(1, 5)), rtol=1e-12)


def test_string_log_prob_counts_the_end_and_no_padding():
    rows = [[0, 3, 4, 1, 2, 2, 2, 2], [0, 3, 3, 4, 4, 1, 2, 2], [0, 1, 2, 2, 2, 2, 2, 2], [0, 3, 3, 4, 4, 3, 3, 3]]
    uniform = jax.jit(string_log_prob)(np.zeros((4, 7, 5)), np.array(rows))
    np.testing.assert_allclose(uniform, -np.log(5) * np.array([3, 5, 1, 7]))  # the last one has no end
    language = AnBn(max_length=6)
    tokens = language.support()
    law = language.log_conditional(tokens)
    np.testing.assert_allclose(jax.jit(string_log_prob)(law[:, :-1], tokens), language.log_prob(tokens), rtol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="for 256 prompts of 9 tokens"):
        completion_metrics(LANGUAGE, PROMPTS, PROMPTS.tokens[:-1])
    with pytest.raises(ValueError, match="t of at least 9"):
        completion_metrics(LANGUAGE, PROMPTS, PROMPTS.tokens[:, :-1])
    with pytest.raises(ValueError, match="more than 2\\^17 strings over 2 symbols"):
        rule_class_mass(LANGUAGE, LANGUAGE.log_prob, max_length=20)
    with pytest.raises(ValueError, match="logits has shape"):
        string_log_prob(jnp.zeros((2, 8, 5)), jnp.zeros((2, 8), int))
