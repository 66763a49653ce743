"""Languages: oracles against brute force, laws against enumerated generators, floors in closed form, refusals."""

import itertools
import math
from collections import defaultdict
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pbjax.formal.languages import AnBm, AnBn, AnBnAn, AnBnCn, BThenEvenAs, Dyck, EvenAs, Interleaved
from pbjax.formal.languages.language import all_strings
from pbjax.formal.vocabulary import EOS, PAD, SOS, Vocabulary
from pbjax.losses import cross_entropy

# Every function here runs once: most of the time would go into making it fast.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

LETTERS = [AnBn, AnBnCn, AnBnAn, AnBm, EvenAs, BThenEvenAs]
BRACKETS = [Dyck, Interleaved]


# Oracles of Python strings, written from the definitions.


def ordered(string, alphabet):
    return list(string) == sorted(string, key=alphabet.index)


def matched(string, opening, closing):
    depth = 0
    for symbol in string:
        depth += (symbol == opening) - (symbol == closing)
        if depth < 0:
            return False
    return depth == 0


def nested(string):
    before = None
    while before != string:
        before, string = string, string.replace("()", "").replace("[]", "")
    return string == ""


def middle(string):
    return "b" in string and string.index("b") == len(string) - 1 - string.rindex("b") and "a" not in string.strip("a")


ORACLES = {
    AnBn: (
        lambda x: x.count("a") == x.count("b"),
        lambda x: ordered(x, "ab"),
        lambda x: any(x == n * "a" + n * "b" for n in range(1, 9)),
    ),
    AnBnCn: (
        lambda x: x.count("a") == x.count("b") == x.count("c"),
        lambda x: ordered(x, "abc"),
        lambda x: any(x == n * "a" + n * "b" + n * "c" for n in range(1, 9)),
    ),
    AnBnAn: (
        lambda x: x.count("a") == 2 * x.count("b"),
        middle,
        lambda x: any(x == n * "a" + n * "b" + n * "a" for n in range(1, 9)),
    ),
    AnBm: (
        lambda x: "a" in x and "b" in x,
        lambda x: ordered(x, "ab"),
        lambda x: any(x == n * "a" + (len(x) - n) * "b" for n in range(1, len(x))),
    ),
    EvenAs: (
        lambda x: x.count("a") % 2 == 0,
        lambda x: x.startswith("b"),
        lambda x: x.startswith("b") and x.count("a") % 2 == 0,
    ),
    BThenEvenAs: (
        lambda x: len(x.rpartition("b")[2]) % 2 == 0,
        lambda x: "b" in x and ordered(x, "ba"),
        lambda x: any(x == n * "b" + (len(x) - n) * "a" and (len(x) - n) % 2 == 0 for n in range(1, 11)),
    ),
    Dyck: (
        lambda x: matched(x, "[", "]"),
        lambda x: matched(x, "(", ")"),
        lambda x: x != "" and nested(x),
    ),
    Interleaved: (
        lambda x: matched(x, "[", "]"),
        lambda x: matched(x, "(", ")"),
        lambda x: x != "" and matched(x, "[", "]") and matched(x, "(", ")"),
    ),
}


def strings_up_to(alphabet, length):
    """In the order of `all_strings`."""
    return ["".join(x) for n in range(length + 1) for x in itertools.product(alphabet, repeat=n)]


def encode(language, string, length):
    """As `Vocabulary.encode`, in NumPy."""
    tokens = np.full(length, PAD, np.int32)
    tokens[: len(string) + 2] = [SOS, *(3 + language.symbols.index(x) for x in string), EOS]
    return tokens


def ill_formed(language, member):
    """What is no longer a sequence of the language, by the way it was spoilt: its start or its end, not its string."""
    end = 1 + len(member)
    good = encode(language, member, end + 3).tolist()
    return {
        "no end": [PAD if token == EOS else token for token in good],
        "no start": [PAD, *good[1:]],
        "start inside": [SOS, *good[:-1]],
        "padding inside": [SOS, PAD, *good[1:-1]],
        "an unknown symbol inside": [SOS, 3 + len(language.symbols), *good[1:-1]],
        "empty": [SOS, EOS, *[PAD] * (end + 1)],
    }


def check_oracles(kind, length):
    language = kind(max_length=12)
    tokens = np.asarray(all_strings(len(language.symbols), range(length + 1), length + 2))
    strings = strings_up_to(language.symbols, length)
    assert len(strings) == len(tokens)
    assert [language.vocabulary.decode(row) for row in tokens[::997]] == strings[::997]
    expected = np.array([[oracle(x) for x in strings] for oracle in ORACLES[kind]])
    member = next(string for string, good in zip(strings, expected[2], strict=True) if good and len(string) > 1)
    spoilt = ill_formed(language, member)
    more = [*spoilt.values(), [*language.vocabulary.encode(member).tolist(), 3]]
    more = [row + [PAD] * (tokens.shape[1] - len(row)) for row in more]
    rules = (language.rules["r1"], language.rules["r2"], language.contains)
    judge = jit(lambda rows: jnp.stack([rule(rows) for rule in rules]))
    found = np.asarray(judge(np.concatenate([tokens, np.array(more, np.int32)])))
    np.testing.assert_array_equal(found[:, : len(strings)], expected)
    spoilt_found = dict(zip(spoilt, found[:, len(strings) :].T.tolist(), strict=False))
    assert not any(contained for *_, contained in spoilt_found.values())
    for name in ("no start", "start inside", "padding inside"):
        assert spoilt_found[name][:2] == [True, True]  # markers do not count for a rule
    assert found[:, -1].all()  # what follows the end does not matter


@pytest.mark.parametrize("kind", [*LETTERS, *BRACKETS])
def test_oracles_against_brute_force_and_ill_formed_sequences(kind):
    check_oracles(kind, {2: 10, 3: 7, 4: 6}[len(kind.symbols)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AnBnCn, *BRACKETS])
def test_oracles_of_larger_alphabets_on_all_strings_up_to_length_10(kind):
    check_oracles(kind, 10)


# Laws as dictionaries {string: probability}, enumerated from the generators.


def blocks(pattern, weights, length=None):
    total = sum(weights.values())
    second = length or (lambda n: n)
    return {
        "".join(symbol * (n if i == 0 else second(n)) for i, symbol in enumerate(pattern)): weight / total
        for n, weight in weights.items()
    }


def even_as(max_length):
    law = {}
    for length in range(1, max_length + 1):
        evens = range(0, length, 2)
        for k in evens:
            for places in itertools.combinations(range(1, length), k):
                string = "".join("a" if i in places else "b" for i in range(length))
                law[string] = Fraction(1, max_length * len(evens) * math.comb(length - 1, k))
    return law


def b_then_even_as(max_length):
    law = {}
    for length in range(1, max_length + 1):
        evens = range(0, length, 2)
        law |= {(length - k) * "b" + k * "a": Fraction(1, max_length * len(evens)) for k in evens}
    return law


def brackets(max_length, *, interleaved):
    law = defaultdict(Fraction)

    def grow(word, open_brackets, length, probability):
        if (word and not interleaved and not open_brackets) or len(word) == length:
            law[word] += probability
            return
        can_close = sorted(set(open_brackets)) if interleaved else open_brackets[-1:]
        forced = open_brackets and len(word) + len(open_brackets) >= length
        moves = [] if forced else [("(", [*open_brackets, ")"]), ("[", [*open_brackets, "]"])]
        for closing in can_close:
            rest = list(open_brackets)
            rest.reverse()
            rest.remove(closing)
            rest.reverse()
            moves.append((closing, rest))
        for symbol, following in moves:
            grow(word + symbol, following, length, probability / len(moves))

    for length in range(2, max_length + 1, 2):
        grow("", [], length, Fraction(1, max_length // 2))
    return dict(law)


LAWS = {
    "anbn": (AnBn(max_length=9), blocks("ab", dict.fromkeys(range(1, 5), 1))),
    "anbn of some n": (AnBn(max_length=12, lengths=(5, 2, 3)), blocks("ab", dict.fromkeys((2, 3, 5), 1))),
    "anbn geometric": (
        AnBn(max_length=12, law="geometric", decay=0.6),
        blocks("ab", {n: 0.6**n for n in range(1, 7)}),
    ),
    "anbn geometric of some n": (
        AnBn(max_length=12, lengths=(1, 4, 6), law="geometric", decay=0.3),
        blocks("ab", {n: 0.3**n for n in (1, 4, 6)}),
    ),
    "anbncn": (AnBnCn(max_length=9), blocks("abc", dict.fromkeys(range(1, 4), 1))),
    "anbnan": (AnBnAn(max_length=9), blocks("aba", dict.fromkeys(range(1, 4), 1))),
    "anbm": (AnBm(max_length=8), blocks("ab", dict.fromkeys(range(1, 6), 1), lambda n: 6 - n)),
    "even a": (EvenAs(max_length=6), even_as(6)),
    "b then even a": (BThenEvenAs(max_length=6), b_then_even_as(6)),
    "dyck": (Dyck(max_length=6), brackets(6, interleaved=False)),
    "interleaved": (Interleaved(max_length=6), brackets(6, interleaved=True)),
}


# The class is one for all laws of n: two of the five also without --run-slow.
SLOW_LAWS = ("anbn", "anbn of some n", "anbn geometric")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_LAWS)) for name in sorted(LAWS)]


def next_token_laws(language, law, strings, width):
    """Ratios of prefix masses, `[string, place, v]`, and whether each sequence may go on from its last place."""
    mass = defaultdict(float)
    for string, probability in law.items():
        for prefix in itertools.accumulate(string + "$", initial=""):
            mass[prefix] += float(probability)
    size = language.vocabulary.size
    laws = np.full((len(strings), width, size), 1 / size)
    for row, string in enumerate(strings):
        for place in range(width):
            prefix = string[:place] + "$" * (place > len(string))
            if mass[prefix] > 0 and place > len(string):
                laws[row, place] = np.eye(size)[PAD]
            elif mass[prefix] > 0:
                after = [0, mass[prefix + "$"], 0, *(mass[prefix + symbol] for symbol in language.symbols)]
                laws[row, place] = np.array(after) / mass[prefix]
    return laws, np.array([mass[string + "$"] > 0 for string in strings])


@pytest.mark.parametrize("name", NAMES)
def test_law_is_that_of_the_enumerated_generator(name):
    """Probabilities, next-token laws, prefixes, support and entropy, on the support and on all short strings."""
    language, law = LAWS[name]
    assert float(sum(law.values())) == pytest.approx(1)
    strings = sorted({*strings_up_to(language.symbols, 5 if len(language.symbols) < 4 else 3), *law})
    width = language.max_length + 2
    tokens = np.stack([encode(language, string, width) for string in strings])
    read = jit(lambda rows: (language.log_prob(rows), language.log_conditional(rows), language.is_prefix(rows)))
    log_prob, conditional, is_prefix = read(tokens)
    np.testing.assert_allclose(np.exp(log_prob), [float(law.get(string, 0)) for string in strings], rtol=1e-12)
    laws, is_string = next_token_laws(language, law, strings, width)
    np.testing.assert_allclose(np.exp(conditional), laws, rtol=1e-11, atol=1e-15)
    if "some n" not in name:
        np.testing.assert_array_equal(is_prefix, is_string)
    assert language.entropy == pytest.approx(-sum(float(p) * math.log(p) for p in law.values()), rel=1e-12)
    assert language.loss_floor == pytest.approx(language.entropy / (language.max_length + 1))


def check_support(name, *, compiled):
    language, law = LAWS[name]
    rows = np.asarray(jit(language.support)() if compiled else language.support())
    found = [language.vocabulary.decode(row) for row in rows]
    assert len(found) == len(law)
    assert set(found) == set(law)
    assert found == sorted(found, key=len)


@pytest.mark.parametrize("name", [name for name in sorted(LAWS) if name.startswith("an") or name == "b then even a"])
def test_support_in_closed_form(name):
    check_support(name, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even a", "dyck", "interleaved"])
def test_support_among_all_strings(name):
    check_support(name, compiled=False)


# There are two samplers: by n, and by the scan over next-token laws, which are tested above.
SAMPLED = [pytest.param(x, marks=[pytest.mark.slow] * (x not in ("anbm", "b then even a"))) for x in sorted(LAWS)]


@pytest.mark.parametrize("name", SAMPLED)
def test_sampler_draws_from_the_law(name):
    """Chi-squared over the strings, rare ones pooled; each test rejects a right sampler with probability 1e-6."""
    language, law = LAWS[name]
    draws = 4_000
    tokens = jit(lambda key: language.sample(key, (4, draws // 4)))(jax.random.key(3))
    assert tokens.shape == (4, draws // 4, language.max_length + 2)
    assert tokens.dtype == jnp.int32
    rows, counts = np.unique(np.asarray(tokens).reshape(draws, -1), axis=0, return_counts=True)
    observed = {language.vocabulary.decode(row): n for row, n in zip(rows, counts, strict=True)}
    assert set(observed) <= set(law)
    common = [string for string, p in law.items() if draws * p >= 5]
    expected = np.array([draws * float(law[string]) for string in common])
    seen = np.array([observed.get(string, 0) for string in common])
    if len(common) < len(law):
        expected, seen = np.append(expected, draws - expected.sum()), np.append(seen, draws - seen.sum())
    statistic = np.sum((seen - expected) ** 2 / expected)
    assert statistic < scipy.stats.chi2.isf(1e-6, len(expected) - 1)


@pytest.mark.parametrize("kind", [*LETTERS, *BRACKETS])
def test_types_in_single_precision_and_of_replicas(kind):
    language = kind(max_length=6)
    with jax.enable_x64(False):
        tokens = jax.eval_shape(lambda key: language.sample(key, (2, 3)), jax.random.key(0))
        assert tokens == jax.ShapeDtypeStruct((2, 3, 8), jnp.int32)
        assert jax.eval_shape(language.log_prob, tokens) == jax.ShapeDtypeStruct((2, 3), jnp.float32)
        law = jax.ShapeDtypeStruct((2, 3, 8, language.vocabulary.size), jnp.float32)
        assert jax.eval_shape(language.log_conditional, tokens) == law
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 5))
    replicas = jax.eval_shape(jax.vmap(lambda key: language.log_prob(language.sample(key, (2, 3)))), keys)
    assert replicas == jax.ShapeDtypeStruct((5, 2, 3), jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AnBnAn, EvenAs, Interleaved])
def test_replicas_and_single_precision_change_nothing(kind):
    """One language of each file; what they share is the same scan."""
    language = kind(max_length=6)
    keys = jax.random.split(jax.random.key(0), 3)
    tokens, log_prob = jit(jax.vmap(lambda key: draw_and_judge(language, key)))(keys)
    assert tokens.shape == (3, 5, 8)
    one_tokens, one_log_prob = jit(lambda key: draw_and_judge(language, key))(keys[1])
    np.testing.assert_array_equal(tokens[1], one_tokens)
    np.testing.assert_allclose(log_prob[1], one_log_prob)
    with jax.enable_x64(False):
        single, contained = jit(lambda rows: (language.log_prob(rows), language.contains(rows)))(np.asarray(tokens))
        assert single.dtype == jnp.float32
        assert contained.all()
        np.testing.assert_allclose(single, np.asarray(log_prob), rtol=1e-5)


def draw_and_judge(language, key):
    tokens = language.sample(key, (5,))
    return tokens, language.log_prob(tokens)


# Closed forms at the published size: 256 symbols, 257 target positions.

FLOORS = {
    AnBn: math.log(128) / 257,
    AnBnCn: math.log(85) / 257,
    AnBnAn: math.log(85) / 257,
    AnBm: math.log(253) / 257,
    BThenEvenAs: (math.log(256) + sum(2 * math.log(k) for k in range(1, 129)) / 256) / 257,
}


@pytest.mark.parametrize("kind", list(FLOORS))
def test_floor_in_closed_form(kind):
    assert kind(max_length=256).loss_floor == pytest.approx(FLOORS[kind], abs=1e-12)


def test_floors_of_the_other_languages():
    assert EvenAs(max_length=256).loss_floor == pytest.approx(0.27337, abs=5e-6)
    # Monte-Carlo values of an independent program, 4,000 strings: standard errors 0.0041 and 0.0059.
    assert Dyck(max_length=256).loss_floor == pytest.approx(0.220, abs=5 * 0.0041)
    assert Interleaved(max_length=256).loss_floor == pytest.approx(0.629, abs=5 * 0.0059)


def test_loss_of_the_exact_law_is_the_floor_and_its_accuracy_the_ceiling():
    language = AnBn(max_length=256)

    def read():
        sequences = language.support()
        law, targets = language.log_conditional(sequences)[:, :-1], sequences[:, 1:]
        return cross_entropy(law, targets, reduction="mean"), (jnp.argmax(law, axis=-1) != targets).sum()

    loss, errors = jit(read)()
    assert float(loss) == pytest.approx(0.018879, abs=1e-6)
    assert float(loss) == pytest.approx(language.loss_floor, rel=1e-12)
    assert int(errors) == 127  # the end of the a's, for every n but the largest


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EvenAs, BThenEvenAs, *BRACKETS])
def test_floor_is_the_mean_loss_of_long_samples(kind):
    """Within 5 standard errors; a right floor is rejected with probability below 1e-6."""
    language = kind(max_length=256)
    nats = -np.asarray(language.log_prob(language.sample(jax.random.key(1), (4_000,))))
    assert abs(nats.mean() - language.entropy) < 5 * nats.std() / math.sqrt(4_000)


def test_held_out_lengths_are_the_complement():
    language = AnBn(max_length=12, lengths=(1, 4))
    rest = language.held_out()
    assert rest.lengths == (2, 3, 5, 6)
    assert rest.held_out().lengths == (1, 4)
    strings = [language.vocabulary.decode(row) for row in np.asarray(jit(rest.support)())]
    assert strings == [n * "a" + n * "b" for n in (2, 3, 5, 6)]
    # In distribution whichever n the law leaves out; not in it: a second b too many, an n that does not fit.
    prompts = np.stack([encode(language, x, 9)[:8] for x in ("aaaaabb", "aaabbbb", "aaaaaaa")])
    assert jit(language.is_prefix)(prompts).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="none is held out"):
        AnBn(max_length=12).held_out()


@settings(max_examples=10)
@given(st.text(alphabet="abc", max_size=12), st.integers(0, 3))
def test_encoding_and_decoding_are_inverse(string, more):
    vocabulary = Vocabulary(("a", "b", "c"))
    tokens = vocabulary.encode(string, length=len(string) + 2 + more)
    assert tokens.dtype == jnp.int32
    assert vocabulary.decode(tokens) == string
    assert vocabulary.decode(vocabulary.encode(string, end=False)) == string
    assert vocabulary.decode([*tokens.tolist(), 3, 1]) == string


def test_refusals():
    vocabulary = AnBn().vocabulary
    with pytest.raises(ValueError, match="holds 'c': the symbols are a b"):
        vocabulary.encode("abc")
    with pytest.raises(ValueError, match="needs 6 tokens: length = 5"):
        vocabulary.encode("aabb", length=5)
    with pytest.raises(ValueError, match="token 5 is outside the vocabulary"):
        vocabulary.decode([0, 5])
    with pytest.raises(ValueError, match="one row of integers"):
        vocabulary.decode(np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="different characters"):
        Vocabulary(("a", "a"))
    for language, max_length in ((AnBn, 1), (AnBnCn, 2), (AnBm, 3), (Dyck, 1), (Interleaved, 1)):
        with pytest.raises(ValueError, match=f"max_length = {max_length}"):
            language(max_length=max_length)
    with pytest.raises(ValueError, match="max_length = 0"):
        EvenAs(max_length=0)
    with pytest.raises(ValueError, match="lengths = 5"):
        AnBn(max_length=8, lengths=(1, 5))
    with pytest.raises(ValueError, match="at least one n"):
        AnBn(max_length=8, lengths=())
    with pytest.raises(ValueError, match="law = 'zipf'"):
        AnBn(law="zipf")
    with pytest.raises(ValueError, match="decay"):
        AnBn(law="geometric", decay=0.0)
    with pytest.raises(ValueError, match="too many"):
        EvenAs(max_length=64).support()
    with pytest.raises(ValueError, match="must be integers"):
        AnBn().contains(jnp.zeros(4))
