"""Metrics: the five extensions in closed form, classes of all short strings, the law's own loss, 0/0, refusals."""

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
from pbjax.formal.languages.language import all_strings
from pbjax.losses import cross_entropy

LANGUAGE = AnBn(max_length=64)
PROMPTS = all_prompts(LANGUAGE, length=8)
OUTSIDE = ~np.asarray(PROMPTS.in_distribution)
METRICS = jax.jit(lambda sequences: completion_metrics(LANGUAGE, PROMPTS, sequences))

# Share of the 251 prompts out of distribution, and of the kinds balanced (69), excess a (89), excess b (93).
R1 = {
    "oracle": (1.0, [1, 1, 1]),
    "stop": (69 / 251, [1, 0, 0]),
    "append_b": ((69 + 89) / 251, [1, 1, 0]),
    "adversarial": (0.0, [0, 0, 0]),
}


@pytest.mark.parametrize("kind", sorted(R1))
def test_extensions_have_the_values_of_their_closed_form(kind):
    metrics = METRICS(extend(PROMPTS, kind, max_length=64))
    outside = metrics.out_of_distribution
    r1, by_kind = R1[kind]
    assert float(outside.finished) == 1
    assert float(outside.r1) == pytest.approx(r1, abs=1e-12)
    assert float(outside.r1_unconditional) == pytest.approx(r1, abs=1e-12)
    assert float(outside.r2_completion) == extension_r2_completion(kind) == 1
    assert float(outside.grammatical) == 0  # no prompt out of distribution can be completed
    np.testing.assert_allclose(metrics.by_kind.r1, by_kind)
    assert float(extension_r1(PROMPTS, kind)[OUTSIDE].mean()) == pytest.approx(r1, abs=1e-12)
    inside = metrics.in_distribution
    right = {"oracle": 1.0, "append_b": 1.0, "stop": 0.2, "adversarial": 0.0}[kind]  # a^4 b^4 needs no more
    for found in (inside.r1, inside.grammatical):
        assert float(found) == pytest.approx(right)
    assert float(inside.r2) == 1


def test_closed_form_of_the_random_extension_is_the_sum_over_its_length():
    """P(completion has excess -d) = sum_k (1/3) (2/3)^k C(k, (k + d)/2) / 2^k, summed to k = 400."""
    for row in (0, 1, 15, 254, 255):
        ones = row.bit_count()
        d = abs(8 - 2 * ones)
        total = sum((1 / 3) * math.comb(k, (k + d) // 2) / 3**k for k in range(d, 401, 2))
        assert float(extension_r1(PROMPTS, "iid")[row]) == pytest.approx(total, rel=1e-12)
    assert sum((1 / 3) * (k + 1) / 3**k for k in range(60)) == pytest.approx(0.75, rel=1e-12)


def test_random_extension_through_the_metrics():
    """Each value within 5 standard errors: a right metric fails with probability below 1e-6."""
    draws = 40
    keys = jax.random.split(jax.random.key(0), draws)
    found = jax.jit(lambda: METRICS(jax.vmap(lambda key: extend(PROMPTS, "iid", max_length=64, key=key))(keys)))()
    assert found.out_of_distribution.r1.shape == (draws,)
    assert found.by_kind.r1.shape == (draws, 3)
    p = np.asarray(extension_r1(PROMPTS, "iid"))[OUTSIDE]
    error = math.sqrt(np.sum(p * (1 - p)) / draws) / 251
    assert abs(float(found.out_of_distribution.r1.mean()) - p.mean()) < 5 * error
    r2 = float(found.out_of_distribution.r2_completion.mean())
    assert abs(r2 - 0.75) < 5 * math.sqrt(0.75 * 0.25 / (251 * draws))


def test_replicas_by_vmap_are_those_of_a_leading_axis():
    sequences = np.stack([extend(PROMPTS, kind, max_length=64) for kind in ("stop", "oracle")])
    for one, other in zip(
        jax.tree.leaves(METRICS(sequences)), jax.tree.leaves(jax.vmap(METRICS)(sequences)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_unfinished_completions_count_in_the_unconditional_rates_only():
    sequences = np.array(extend(PROMPTS, "oracle", max_length=64))
    endless = sequences.copy()
    endless[:, 9:] = 4
    half = np.where((np.arange(256) % 2 == 0)[:, None], sequences, endless)
    rates = METRICS(half).out_of_distribution
    finished = np.mean((np.arange(256) % 2 == 0)[OUTSIDE])
    assert float(rates.finished) == pytest.approx(finished)
    assert float(rates.r1) == 1
    assert float(rates.r1_unconditional) == pytest.approx(finished)
    rates = METRICS(endless).out_of_distribution
    assert float(rates.finished) == 0
    assert np.isnan(rates.r1)
    assert float(rates.r1_unconditional) == 0


def test_string_classes_and_their_mass():
    """510 strings of length 1 to 8: 4 keep both rules, 94 rule 1 alone, 40 rule 2 alone, 372 neither."""
    language = AnBn(max_length=256)
    counts = rule_class_mass(language, lambda rows: jnp.zeros(len(rows)))
    assert [float(x) for x in counts] == [4, 94, 40, 372]
    mass = rule_class_mass(language, jax.jit(language.log_prob))
    np.testing.assert_allclose(mass, [4 / 128, 0, 0, 0], atol=1e-12)
    seeds = rule_class_mass(language, lambda rows: jnp.zeros((3, len(rows))))
    assert seeds.both.tolist() == [4, 4, 4]


def test_law_as_a_model_has_the_loss_and_the_probabilities_of_the_language():
    language = AnBn(max_length=256)

    @jax.jit
    def judge():
        sequences = language.support()
        law = language.log_conditional(sequences)[:, :-1]
        return cross_entropy(law, sequences[:, 1:], reduction="mean"), string_log_prob(law, sequences)

    loss, log_prob = judge()
    assert float(loss) == pytest.approx(math.log(128) / 257, abs=1e-6)
    np.testing.assert_allclose(log_prob, -math.log(128), rtol=1e-12)


def test_string_probability_leaves_out_what_follows_the_end():
    sequences = all_strings(2, range(1, 4), 6)
    found = string_log_prob(jnp.zeros((len(sequences), 5, 5)), sequences)
    lengths = np.repeat([1, 2, 3], [2, 4, 8])
    np.testing.assert_allclose(found, -(lengths + 1) * math.log(5))


def test_refusals():
    with pytest.raises(ValueError, match=r"for 256 prompts of 9 tokens it must be \[\.\.\., 256, t\]"):
        completion_metrics(LANGUAGE, PROMPTS, jnp.zeros((251, 66), jnp.int32))
    with pytest.raises(ValueError, match="with t of at least 9"):
        completion_metrics(LANGUAGE, PROMPTS, jnp.zeros((256, 8), jnp.int32))
    with pytest.raises(ValueError, match="must be integers"):
        completion_metrics(LANGUAGE, PROMPTS, jnp.zeros((256, 66)))
    with pytest.raises(ValueError, match="logits has shape"):
        string_log_prob(jnp.zeros((2, 4, 5)), jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(ValueError, match="more than 2\\^17 strings"):
        rule_class_mass(LANGUAGE, LANGUAGE.log_prob, max_length=17)
