"""Prompts: counts in and out of distribution, kinds against Python strings, refusals; what an extension appends."""

import itertools

import jax
import numpy as np
import pytest

from pbjax.formal import all_prompts, excess, extend
from pbjax.formal.languages import AnBm, AnBn, AnBnCn, BThenEvenAs, Dyck, EvenAs, Interleaved
from pbjax.formal.prompts import Prompts


def strings_of(language, prompts):
    return [language.vocabulary.decode(row) for row in np.asarray(prompts.tokens)]


def test_prompts_of_anbn_are_those_of_the_papers():
    """5 of 256 in distribution; the others 69 balanced, 89 with more a's, 93 with more b's."""
    language = AnBn(max_length=256)
    prompts = all_prompts(language, length=8)
    strings = strings_of(language, prompts)
    assert strings == ["".join(x) for x in itertools.product("ab", repeat=8)]
    inside = np.asarray(prompts.in_distribution)
    assert {x for x, good in zip(strings, inside, strict=True) if good} == {
        k * "a" + (8 - k) * "b" for k in range(4, 9)
    }
    kind = np.asarray(prompts.kind)
    assert np.bincount(kind[~inside]).tolist() == [69, 89, 93]
    assert sum(x.startswith("a") for x, good in zip(strings, inside, strict=True) if not good) == 123
    counted = [x.count("a") - x.count("b") for x in strings]
    np.testing.assert_array_equal(excess(prompts.tokens), counted)
    names = ["balanced" if d == 0 else "excess a" if d > 0 else "excess b" for d in counted]
    assert [prompts.kind_names[k] for k in kind] == names


@pytest.mark.parametrize(("max_length", "inside"), [(8, 1), (14, 4)])
def test_what_can_still_be_completed_depends_on_the_maximum(max_length, inside):
    """a^k b^(8 - k) with k >= 4 needs 2k symbols."""
    prompts = all_prompts(AnBn(max_length=max_length), length=8)
    assert int(prompts.in_distribution.sum()) == inside


def test_prompts_do_not_depend_on_the_lengths_that_the_law_leaves_out():
    whole = all_prompts(AnBn(max_length=7), length=3)
    part = all_prompts(AnBn(max_length=7, lengths=(1, 3)), length=3)
    np.testing.assert_array_equal(part.in_distribution, whole.in_distribution)


@pytest.mark.slow
def test_prompts_of_the_other_languages_over_two_letters():
    prompts = all_prompts(EvenAs(max_length=16), length=4)
    assert int(prompts.in_distribution.sum()) == 8  # those that start with b
    prompts = all_prompts(AnBm(max_length=10), length=4)
    assert int(prompts.in_distribution.sum()) == 4  # aaaa, aaab, aabb, abbb


def test_prompts_over_three_letters():
    language = AnBnCn(max_length=12)
    prompts = all_prompts(language, length=3)
    expected = {"aaa": "ordered", "aab": "ordered", "abc": "balanced", "cba": "balanced", "aba": "disordered"}
    kinds = dict(zip(strings_of(language, prompts), np.asarray(prompts.kind), strict=True))
    assert {x: prompts.kind_names[kinds[x]] for x in expected} == expected
    inside = np.asarray(prompts.in_distribution)
    assert {x for x, good in zip(kinds, inside, strict=True) if good} == {"aaa", "aab", "abc"}


def test_prompts_of_b_then_even_as():
    language = BThenEvenAs(max_length=16)
    prompts = all_prompts(language, length=5)
    outside, inside = ["abaaa", "abbaa", "abbba"], ["baaaa", "bbaaa", "bbbaa", "bbbba"]
    assert strings_of(language, prompts) == outside + inside
    assert prompts.in_distribution.tolist() == [False] * 3 + [True] * 4


@pytest.mark.slow
def test_number_of_prime_words():
    """2^k Catalan(k - 1) words of 2k symbols."""
    assert len(all_prompts(Dyck(max_length=16), length=10).tokens) == 2 * 2**4 * 5


@pytest.mark.parametrize("kind", [Dyck, pytest.param(Interleaved, marks=pytest.mark.slow)])
def test_prompts_of_brackets(kind):
    """Prime words of 4 symbols: 2 outer times 2 inner kinds."""
    language = kind(max_length=16)
    prompts = all_prompts(language, length=6)
    words = {"(())", "([])", "[()]", "[[]]"}
    assert set(strings_of(language, prompts)) == {start + x for start in (")[", "([") for x in words}
    assert prompts.kind_names == ("opens", "closes")
    np.testing.assert_array_equal(prompts.in_distribution, prompts.kind == 0)
    assert [x[:2] for x in strings_of(language, prompts)] == [")["] * 4 + ["(["] * 4


EXTENDED = {
    "oracle": {"aab": "aabb", "abb": "abba", "bba": "bbaa", "aaa": "aaabbb"},
    "stop": {"aab": "aab", "abb": "abb", "bba": "bba", "aaa": "aaa"},
    "append_b": {"aab": "aabb", "abb": "abb", "bba": "bba", "aaa": "aaabbb"},
    "adversarial": {"aab": "aabbb", "abb": "abbaa", "bba": "bbaaa", "aaa": "aaabbbb"},
}


@pytest.mark.parametrize("kind", sorted(EXTENDED))
def test_what_an_extension_appends(kind):
    language = AnBn(max_length=7)
    prompts = all_prompts(language, length=3)  # read once for all kinds: the same language and shape
    sequences = np.asarray(extend(prompts, kind, max_length=7))
    assert sequences.shape == (8, 9)
    assert ((sequences == 1).sum(-1) == 1).all()
    strings = dict(zip(strings_of(language, prompts), map(language.vocabulary.decode, sequences), strict=True))
    assert {x: strings[x] for x in EXTENDED[kind]} == EXTENDED[kind]


def test_random_extension_is_padded_behind_its_end_and_cut_at_the_maximum():
    prompts = all_prompts(AnBn(max_length=8), length=6)
    sequences = np.asarray(extend(prompts, "iid", max_length=8, key=jax.random.key(0)))
    assert sequences.shape == (64, 10)
    np.testing.assert_array_equal(sequences[:, :7], prompts.tokens)
    ended = np.cumsum(sequences == 1, axis=-1) - (sequences == 1)
    assert (sequences[ended > 0] == 2).all()
    assert not np.isin(sequences[:, -1], (3, 4)).any()
    unfinished = (sequences == 1).sum(-1) == 0
    # Three tokens without an end: (2/3)^3; within 5 standard errors, a right draw fails with probability below 1e-6.
    assert abs(unfinished.mean() - 8 / 27) < 5 * np.sqrt(8 / 27 * 19 / 27 / 64)


def test_refusals():
    with pytest.raises(ValueError, match="length = 17: a prompt may have at most max_length = 16"):
        all_prompts(AnBn(max_length=16), length=17)
    with pytest.raises(ValueError, match="length"):
        all_prompts(AnBn(max_length=16), length=0)
    with pytest.raises(ValueError, match="too many"):
        all_prompts(AnBn(max_length=64), length=17)
    with pytest.raises(ValueError, match="length = 5: prompts of brackets have an even number"):
        all_prompts(Dyck(max_length=16), length=5)
    with pytest.raises(ValueError, match="length = 2: prompts of brackets"):
        all_prompts(Dyck(max_length=16), length=2)
    with pytest.raises(ValueError, match="up to length 12"):
        all_prompts(Dyck(max_length=16), length=14)
    with pytest.raises(ValueError, match="length = 2: prompts of b-then-even-a"):
        all_prompts(BThenEvenAs(max_length=16), length=2)


def test_refusals_of_extensions():
    prompts = all_prompts(AnBn(max_length=7), length=3)
    with pytest.raises(ValueError, match="needs a key"):
        extend(prompts, "iid", max_length=16)
    with pytest.raises(ValueError, match="max_length = 5: the 'oracle' extension of these prompts has 6 symbols"):
        extend(prompts, "oracle", max_length=5)
    with pytest.raises(ValueError, match="max_length = 2: the prompts alone have 3 symbols"):
        extend(prompts, "stop", max_length=2)
    brackets = Prompts(np.array([[0, 5, 6]]), np.array([True]), np.array([0]), ("opens",))
    with pytest.raises(ValueError, match="holds token 6"):
        extend(brackets, "stop", max_length=8)
