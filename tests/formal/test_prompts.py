"""Prompts and their extensions: counts in closed form, every extension against its definition, refusals."""

import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.formal import EXTENSIONS, all_prompts, excess, extend, extension_r1, extension_r2_completion, follows
from pbjax.formal.languages import AnBn, AnBnCn, BThenEvenAs, Dyck, EvenAs, Interleaved
from pbjax.formal.vocabulary import PAD, SOS

LANGUAGE = AnBn(max_length=256)


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def strings(language, prompts):
    return [language.vocabulary.decode(row) for row in np.asarray(prompts.tokens)]


def test_prompts_of_letters_are_all_strings_in_order():
    prompts = all_prompts(LANGUAGE, length=8)
    assert strings(LANGUAGE, prompts) == ["".join(x) for x in itertools.product("ab", repeat=8)]
    assert (prompts.tokens[:, 0] == SOS).all()
    assert prompts.tokens.dtype == jnp.int32
    inside = [x for x, yes in zip(strings(LANGUAGE, prompts), prompts.in_distribution, strict=True) if yes]
    assert inside == ["aaaaaaaa", "aaaaaaab", "aaaaaabb", "aaaaabbb", "aaaabbbb"]


@pytest.mark.parametrize("length", [slow(1), slow(5), 8])
def test_classes_of_prompts_of_anbn(length):
    """All C(length, k) strings with k a's, less one prefix of the language for every k >= length / 2."""
    prompts = all_prompts(LANGUAGE, length=length)
    outside = np.asarray(prompts.kind)[~np.asarray(prompts.in_distribution)]
    inside = length // 2 + 1
    expected = np.zeros(3, int)
    for k in range(length + 1):
        kind = 0 if 2 * k == length else 1 if 2 * k > length else 2
        expected[kind] += math.comb(length, k) - (2 * k >= length)
    np.testing.assert_array_equal(np.bincount(outside, minlength=3), expected)
    assert prompts.in_distribution.sum() == inside
    assert prompts.kind_names == ("balanced", "excess a", "excess b")
    if length == 8:
        assert expected.tolist() == [69, 89, 93]


def test_prompts_do_not_depend_on_the_lengths_of_the_law_but_on_the_room():
    whole, part = (all_prompts(AnBn(max_length=16, lengths=lengths), length=8) for lengths in (None, (1, 3, 5)))
    np.testing.assert_array_equal(whole.in_distribution, part.in_distribution)
    assert all_prompts(AnBn(max_length=10), length=8).in_distribution.sum() == 2  # a^5 b^3 and a^4 b^4


@pytest.mark.parametrize("length", [slow(2), 5, slow(6)])
def test_prompts_of_anbncn(length):
    """a^k b^j with j <= k, and a^k b^k c^l with 1 <= l <= k."""
    prompts = all_prompts(AnBnCn(max_length=255), length=length)
    two_blocks = length // 2 + 1
    three_blocks = math.ceil(length / 2) - math.ceil(length / 3)
    assert len(prompts.tokens) == 3**length
    assert prompts.in_distribution.sum() == two_blocks + three_blocks
    counts = [tuple(x.count(s) for s in "abc") for x in strings(AnBnCn(), prompts)]
    balanced = np.array([len(set(x)) == 1 for x in counts])
    np.testing.assert_array_equal(np.asarray(prompts.kind) == 0, balanced)
    if length == 5:
        assert prompts.in_distribution.sum() == 4


def test_prompts_of_the_regular_languages():
    prompts = all_prompts(EvenAs(max_length=16), length=8)
    np.testing.assert_array_equal(prompts.in_distribution, prompts.tokens[:, 1] == 4)
    language = BThenEvenAs(max_length=16)
    prompts = all_prompts(language, length=8)
    expected = ["a" + b * "b" + (7 - b) * "a" for b in range(1, 7)] + [b * "b" + (8 - b) * "a" for b in range(1, 8)]
    assert strings(language, prompts) == expected
    np.testing.assert_array_equal(prompts.in_distribution, [False] * 6 + [True] * 7)


@pytest.mark.parametrize("kind", [Dyck, slow(Interleaved)])
def test_prompts_of_brackets(kind):
    """16 prime words of length 6: two shapes (Catalan number of 2), two kinds for each of three pairs."""
    language = kind(max_length=16)
    prompts = all_prompts(language, length=8)
    found = strings(language, prompts)
    assert Counter(x[:2] for x in found) == {")[": 16, "([": 16}
    np.testing.assert_array_equal(prompts.in_distribution, [x.startswith("(") for x in found])
    assert len(set(found)) == 32
    rest = np.asarray(prompts.tokens)[:, 3:]
    words = np.pad(rest, ((0, 0), (1, 0)), constant_values=SOS)
    words = np.pad(words, ((0, 0), (0, 1)), constant_values=1)
    assert (np.asarray(Dyck(max_length=16).log_prob(words)) > -np.inf).all()  # prime words
    assert prompts.kind_names == ("opens", "closes")


def test_excess():
    assert excess(jnp.array([[0, 3, 3, 4, 1, 3], [0, 4, 4, 4, 4, 2]])).tolist() == [1, -4]


def expected_extension(prompt, kind):
    more = prompt.count("a") - prompt.count("b")
    missing = "b" if more >= 0 else "a"
    return (
        prompt
        + {
            "oracle": abs(more) * missing,
            "stop": "",
            "append_b": max(more, 0) * "b",
            "adversarial": (abs(more) + 1) * missing,
        }[kind]
    )


@pytest.mark.parametrize("kind", ["oracle", "stop", "append_b", "adversarial"])
def test_extension_against_its_definition(kind):
    prompts = all_prompts(LANGUAGE, length=6)
    sequences = np.asarray(extend(prompts, kind, max_length=14))
    assert sequences.shape == (64, 16)
    expected = [expected_extension(x, kind) for x in strings(LANGUAGE, prompts)]
    assert [LANGUAGE.vocabulary.decode(row) for row in sequences] == expected
    ends = np.array([len(x) + 1 for x in expected])[:, None]
    np.testing.assert_array_equal(sequences == 1, np.arange(16) == ends)
    np.testing.assert_array_equal(sequences == PAD, np.arange(16) > ends)
    met = np.array([x.count("a") == x.count("b") for x in expected])
    np.testing.assert_array_equal(extension_r1(prompts, kind), met)
    traced = jax.jit(lambda tokens: extend(prompts._replace(tokens=tokens), kind, max_length=14))(prompts.tokens)
    np.testing.assert_array_equal(traced, sequences)


@pytest.mark.parametrize("kind", ["oracle", "stop", "append_b", "adversarial"])
def test_who_follows_an_extension(kind):
    """Each follows itself, and another exactly where both write the same; a missing EOS or one symbol is noticed."""
    prompts = all_prompts(LANGUAGE, length=6)
    texts = {other: [expected_extension(x, other) for x in strings(LANGUAGE, prompts)] for other in EXTENSIONS[:4]}
    for other in EXTENSIONS[:4]:
        made = extend(prompts, other, max_length=16)
        same = [x == y for x, y in zip(texts[kind], texts[other], strict=True)]
        np.testing.assert_array_equal(jax.jit(lambda made: follows(prompts, made, kind))(made), same)
    made = np.asarray(extend(prompts, kind, max_length=13))  # as short as the longest of them
    assert follows(prompts, made, kind).all()
    assert not follows(prompts, np.where(made == 1, PAD, made), kind).any()
    assert not follows(prompts, np.where(made == 1, 3, made), kind).any()


def test_iid_extension_is_uniform_over_a_b_and_the_end():
    """Frequencies within 5 standard errors of 1/3 (a right one fails with probability below 1e-6); PAD after EOS."""
    prompts = all_prompts(LANGUAGE, length=2)
    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.jit(jax.vmap(lambda key: extend(prompts, "iid", max_length=40, key=key)))
    sequences = np.asarray(draw(keys))
    completions = sequences[..., 3:].reshape(2_000, 39)
    np.testing.assert_array_equal(sequences[..., :3], np.broadcast_to(prompts.tokens, (500, 4, 3)))
    ended = np.cumsum(completions == 1, axis=1)
    behind = np.roll(ended, 1, axis=1) > 0
    behind[:, 0] = False
    assert (completions[behind] == PAD).all()
    drawn = completions[~behind]
    for token in (1, 3, 4):
        share = (drawn == token).mean()
        assert abs(share - 1 / 3) < 5 * math.sqrt(2 / 9 / drawn.size)


def test_iid_extension_without_room_ends_without_a_symbol_too_many():
    prompts = all_prompts(LANGUAGE, length=4)
    sequences = np.asarray(jax.jit(lambda key: extend(prompts, "iid", max_length=5, key=key))(jax.random.key(0)))
    assert sequences.shape == (16, 7)
    assert set(np.unique(sequences[:, -1])) <= {1, 2}


def test_closed_forms_of_the_iid_extension_by_summation():
    prompts = all_prompts(LANGUAGE, length=6)
    d = np.abs(np.asarray(excess(prompts.tokens)))
    walk = [
        sum(2.0**k / 3.0 ** (k + 1) * math.comb(k, (k + i) // 2) / 2.0**k for k in range(i, 400, 2)) for i in range(7)
    ]
    np.testing.assert_allclose(extension_r1(prompts, "iid"), np.array(walk)[d], rtol=1e-12)
    ordered = sum((1 / 3) * (2 / 3) ** k * (k + 1) / 2**k for k in range(200))
    assert extension_r2_completion("iid") == pytest.approx(ordered, rel=1e-12)
    assert extension_r2_completion("stop") == 1.0


def test_refusals():
    prompts = all_prompts(LANGUAGE, length=4)
    with pytest.raises(ValueError, match="length = 9: a prompt may have at most max_length = 8"):
        all_prompts(AnBn(max_length=8), length=9)
    with pytest.raises(ValueError, match="length = 0"):
        all_prompts(LANGUAGE, length=0)
    with pytest.raises(ValueError, match="too many"):
        all_prompts(LANGUAGE, length=17)
    with pytest.raises(ValueError, match="at least 3 symbols"):
        all_prompts(BThenEvenAs(), length=2)
    for length in (2, 7):
        with pytest.raises(ValueError, match=f"length = {length}: prompts of brackets"):
            all_prompts(Dyck(), length=length)
    with pytest.raises(ValueError, match="up to length 12"):
        all_prompts(Dyck(), length=14)
    with pytest.raises(ValueError, match="needs a key"):
        extend(prompts, "iid", max_length=16)
    with pytest.raises(ValueError, match="max_length = 8: the 'adversarial' extension of these prompts has 9 symbols"):
        extend(prompts, "adversarial", max_length=8)
    with pytest.raises(ValueError, match="the prompts alone have 4 symbols"):
        extend(prompts, "stop", max_length=3)
    with pytest.raises(ValueError, match="strings of a and b"):
        extend(all_prompts(AnBnCn(), length=3), "oracle", max_length=16)
    with pytest.raises(ValueError, match="kind = 'iid'"):
        follows(prompts, prompts.tokens, "iid")
    with pytest.raises(ValueError, match=r"completed has shape \(3, 5\): it must hold the 16 prompts"):
        follows(prompts, prompts.tokens[:3], "stop")
    for call in (extension_r2_completion, lambda kind: extension_r1(prompts, kind)):
        with pytest.raises(ValueError, match="kind = 'random'"):
            call("random")
    with pytest.raises(ValueError, match="kind = 'random'"):
        extend(prompts, "random", max_length=16)
