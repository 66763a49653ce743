"""Mixtures of hidden Markov models: all against sums over hidden paths, the KL bound with its case of equality.

Monte-Carlo tolerances are 5 standard errors: a right estimate leaves them with probability below 1e-6 a comparison.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.formal import hmm
from pbjax.formal.hmm import HMM, Mixture, Neighbour


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


LENGTH = 5  # two blocks of examples of k = 2 symbols: x y d x y
EVERY = np.array(list(itertools.product(range(3), repeat=LENGTH)))


def small_mixture() -> Mixture:
    """Two concepts, three states and symbols (so that a draw used twice shows); 1 is the delimiter."""
    draw = np.random.default_rng(0)
    return Mixture(
        prior=np.array([0.3, 0.7]),
        initial=draw.dirichlet(np.ones(3), 2),
        transition=draw.dirichlet(np.ones(3), (2, 3)),
        emission=draw.dirichlet([1.0, 1.0, 2.0], (2, 3)),
        delimiter=1,
    )


MIXTURE = small_mixture()


def over_hidden_paths() -> np.ndarray:
    """pi_c p_c(x) of all strings, [c, 3, 3, 3, 3, 3], as a sum over hidden paths."""
    joint = np.zeros((2, *(3,) * LENGTH))
    for c, path in itertools.product(range(2), itertools.product(range(3), repeat=LENGTH)):
        moves = [MIXTURE.transition[c, a, b] for a, b in itertools.pairwise(path)]
        weight = MIXTURE.prior[c] * MIXTURE.initial[c, path[0]] * math.prod(moves)
        joint[c] += weight * functools.reduce(np.multiply.outer, [MIXTURE.emission[c, z] for z in path])
    return joint


JOINT = over_hidden_paths()
# PREFIX[i] is pi_c p_c(first i symbols), [c, 3, ..., 3].
PREFIX = [JOINT.sum(axis=tuple(range(i + 1, LENGTH + 1))) for i in range(LENGTH + 1)]


def prefix_probability(string) -> float:
    return PREFIX[len(string)].sum(0)[tuple(string)]


def law_after(string) -> np.ndarray:
    return np.array([prefix_probability((*string, y)) for y in range(3)]) / prefix_probability(string)


def changed_positions(string, start, single=False) -> list[int]:
    """Label positions 1 and 4 with k = 2: the second needs the delimiter at position 2."""
    examples_at = {1: 0, 4: 1} if string[2] == MIXTURE.delimiter else {1: 0}
    return [i for i, n in examples_at.items() if (n == start if single else n >= start)]


def neighbour_law_after(string, position, eta, law) -> np.ndarray:
    p = law_after(string[:position])
    if law == "uniform":
        r = np.full(3, 1 / 3)
    elif law == "prior":
        r = law_after(string[position - 1 : position])
    else:
        r = np.eye(3)[min((0, 2), key=lambda y: p[y])]
    return eta * p + (1 - eta) * r


def coins(*probabilities) -> Mixture:
    """Concepts without memory; symbol 0 is the delimiter."""
    return hmm.make_mixture([HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([p])) for p in probabilities])


# Inference


def test_probability_is_the_sum_over_hidden_paths():
    np.testing.assert_allclose(jnp.exp(hmm.log_prob(MIXTURE, EVERY)), JOINT.sum(0).ravel(), rtol=1e-12)
    for c in range(2):
        found = jnp.exp(hmm.log_prob(MIXTURE.concept(c), EVERY))
        np.testing.assert_allclose(found, JOINT[c].ravel() / MIXTURE.prior[c], rtol=1e-12)


def test_predictive_law_is_a_ratio_of_probabilities_and_sums_to_one():
    law = np.exp(hmm.log_conditional(MIXTURE, EVERY))
    assert law.dtype == np.float64
    assert law.shape == (243, LENGTH + 1, 3)
    np.testing.assert_allclose(law.sum(-1), 1, rtol=1e-12)
    for i in range(LENGTH):
        expected = [law_after(string[:i]) for string in EVERY]
        np.testing.assert_allclose(law[:, i], expected, rtol=1e-11)


def test_posterior_of_the_concept():
    posterior = np.exp(hmm.log_concept_posterior(MIXTURE, EVERY))
    for i in range(LENGTH + 1):
        joint = np.array([PREFIX[i][:, *string[:i]] for string in EVERY])
        np.testing.assert_allclose(posterior[:, i], joint / joint.sum(1, keepdims=True), rtol=1e-11)


def test_impossible_sequences_and_long_ones():
    mixture = coins([0.1, 0.9, 0.0], [0.3, 0.7, 0.0])
    assert hmm.log_prob(mixture, jnp.array([1, 2, 1])) == -jnp.inf
    law = jnp.exp(hmm.log_conditional(mixture, jnp.array([1, 2, 1])))
    np.testing.assert_allclose(law[2:], np.full((2, 3), 1 / 3), rtol=1e-12)  # total: uniform after what cannot be
    np.testing.assert_allclose(jnp.exp(hmm.log_concept_posterior(mixture, jnp.array([1, 2])))[2], 0.5)
    # 4,000 symbols: the second concept is improbable beyond what a probability can hold, and still exact.
    tokens = jnp.array([0, 1] * 2_000)
    ratio = 2_000 * (math.log(0.1 * 0.9) - math.log(0.3 * 0.7))
    posterior = hmm.log_concept_posterior(mixture, tokens)[-1]
    np.testing.assert_allclose(posterior, [ratio, 0.0], rtol=1e-10)
    expected = math.log(0.5) + 2_000 * math.log(0.3 * 0.7)
    assert float(hmm.log_prob(mixture, tokens)) == pytest.approx(expected, rel=1e-12)


def test_batched_traced_and_mapped_calls_agree():
    rows = EVERY[::40].reshape(7, 1, LENGTH)
    whole = hmm.log_conditional(MIXTURE, rows)
    looped = [hmm.log_conditional(MIXTURE, row) for row in rows]
    mapped = jax.jit(jax.vmap(lambda row: hmm.log_conditional(MIXTURE, row)))(jnp.asarray(rows))
    np.testing.assert_allclose(whole, looped, rtol=1e-12)
    np.testing.assert_allclose(whole, mapped, rtol=1e-12)
    several = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), MIXTURE, MIXTURE._replace(delimiter=2))
    mapped = jax.vmap(lambda mixture: hmm.log_conditional(mixture, rows))(several)
    np.testing.assert_allclose(mapped[0], whole, rtol=1e-12)


# Sampling


def test_sequences_come_as_often_as_they_should():
    count = 20_000
    drawn = hmm.sample_sequences(MIXTURE, jax.random.key(0), count=count, length=LENGTH)
    assert drawn.tokens.dtype == jnp.int32
    cell = np.ravel_multi_index((np.asarray(drawn.concept), *np.asarray(drawn.tokens)[:, :3].T), (2, 3, 3, 3))
    p = PREFIX[3].ravel()
    share = np.bincount(cell, minlength=p.size) / count
    assert (abs(share - p) < 5 * np.sqrt(p * (1 - p) / count) + 5 / count).all()
    last = np.bincount(np.asarray(drawn.tokens)[:, -1], minlength=3) / count
    p = JOINT.sum((0, 1, 2, 3, 4))
    assert (abs(last - p) < 5 * np.sqrt(p * (1 - p) / count)).all()
    again = hmm.sample_sequences(MIXTURE, jax.random.key(0), count=count, length=LENGTH)
    np.testing.assert_array_equal(drawn.tokens, again.tokens)


def test_prompts_are_independent_examples_of_one_concept():
    count = 20_000
    prompts = hmm.sample_prompts(MIXTURE, jax.random.key(1), count=count, examples=1, symbols=2)
    assert prompts.tokens.shape == (count, 4)
    tokens = np.asarray(prompts.tokens)
    assert (tokens[:, 2] == MIXTURE.delimiter).all()
    cell = np.ravel_multi_index(
        (np.asarray(prompts.concept), *tokens[:, [0, 1, 3]].T, np.asarray(prompts.label)), (2, 3, 3, 3, 3)
    )
    example = PREFIX[2] / MIXTURE.prior[:, None, None]
    p = np.einsum("c,cxy,cuv->cxyuv", MIXTURE.prior, example, example).ravel()
    share = np.bincount(cell, minlength=p.size) / count
    assert (abs(share - p) < 5 * np.sqrt(p * (1 - p) / count) + 5 / count).all()


@pytest.mark.slow
def test_prompts_of_a_given_concept():
    count = 20_000
    one = hmm.sample_prompts(MIXTURE, jax.random.key(1), count=count, examples=1, symbols=2, concept=1)
    assert (one.concept == 1).all()
    start = np.bincount(np.asarray(one.tokens)[:, 0], minlength=3) / count
    p = PREFIX[1][1] / MIXTURE.prior[1]
    assert (abs(start - p) < 5 * np.sqrt(p * (1 - p) / count)).all()


# The generator, and how probable the delimiter can be


def test_random_mixture_shares_its_emissions_and_differs_in_its_transitions():
    mixture = hmm.random_mixture(
        jax.random.key(0), concepts=3, entities=2, properties=3, vocabulary_size=7, delimiter_probability=0.2
    )
    rho = float(hmm.delimiter_bound(mixture))
    mixture = jax.tree.map(np.asarray, mixture)
    for law in mixture[:4]:
        np.testing.assert_allclose(law.sum(-1), 1, rtol=1e-12)
        assert (law >= 0).all()
    assert (mixture.emission == mixture.emission[:1]).all()
    assert (abs(mixture.transition[0] - mixture.transition[1]) > 0.1).any()
    # Entity and property move independently: every transition matrix is a Kronecker product.
    grid = np.asarray(mixture.transition).reshape(3, 2, 3, 2, 3)
    np.testing.assert_allclose(
        np.einsum("ceafb,->ceafb", grid, 1.0),
        np.einsum("cef,cab->ceafb", grid.sum((2, 4)) / 3, grid.sum((1, 3)) / 2),
        rtol=1e-12,
    )
    delimits = np.asarray(mixture.emission[0, :, 0])
    assert (delimits >= 0.1).all()
    assert (delimits <= 0.2).all()
    assert 0.1 <= rho <= delimits.max()
    # 6 states, 6 ordinary symbols: each stands for one state.
    assert sorted(np.asarray(mixture.emission[0, :, 1:]).argmax(-1)) == list(range(6))


def test_no_past_makes_the_delimiter_more_probable_than_rho():
    rho = float(hmm.delimiter_bound(MIXTURE))
    delimits = MIXTURE.emission[:, :, 1]
    terms = [MIXTURE.initial[c] @ delimits[c] for c in range(2)]
    terms += [MIXTURE.transition[c, z] @ delimits[c] for c in range(2) for z in range(3)]
    assert rho == pytest.approx(max(terms), rel=1e-12)
    law = jnp.exp(hmm.log_conditional(MIXTURE, EVERY))
    assert law[..., 1].max() <= rho
    # Attained where a past leaves no doubt: a first state that certainly goes on to the delimiting one.
    chain = HMM(jnp.array([1.0, 0.0]), jnp.array([[0.0, 1.0], [0.0, 1.0]]), jnp.array([[0.0, 1.0], [0.8, 0.2]]))
    assert hmm.delimiter_bound(hmm.make_mixture([chain])) == pytest.approx(0.8)
    first = HMM(jnp.array([0.0, 1.0]), jnp.array([[1.0, 0.0], [1.0, 0.0]]), chain.emission)
    assert hmm.delimiter_bound(hmm.make_mixture([first])) == pytest.approx(0.8)  # at position 0 only


def test_probability_of_the_format():
    found = np.exp(hmm.format_log_prob(MIXTURE, examples=2, symbols=1))
    one, two = JOINT.sum((0, 1, 3, 4, 5))[1], JOINT.sum((0, 1, 3, 5))[1, 1]
    np.testing.assert_allclose(found, [1, one, two], rtol=1e-12)
    assert np.exp(hmm.format_log_prob(MIXTURE, examples=1, symbols=3))[1] == pytest.approx(
        JOINT.sum((0, 1, 2, 3, 5))[1], rel=1e-12
    )
    rho = float(hmm.delimiter_bound(MIXTURE))
    found = np.exp(hmm.format_log_prob(MIXTURE, examples=30, symbols=2))
    assert (found <= rho ** np.arange(31) * (1 + 1e-12)).all()


# In-context learning


def exact_accuracy(start=None, eta=0.01, law="uniform") -> float:
    """x y d x | y by sums over everything."""
    example = PREFIX[2] / MIXTURE.prior[:, None, None]
    total = 0.0
    for a, b, x in itertools.product(range(3), repeat=3):
        prompt = (a, b, MIXTURE.delimiter, x)
        guess = law_after(prompt) if start is None else neighbour_law_after(np.array(prompt), 4, eta, law)
        total += np.sum(MIXTURE.prior * example[:, a, b] * example[:, x, guess.argmax()])
    return total


def test_exact_accuracy_of_bayes_and_of_a_neighbour():
    zero = sum(PREFIX[2].sum(0).max(1))
    assert hmm.exact_in_context_accuracy(MIXTURE, examples=0, symbols=2) == pytest.approx(zero, rel=1e-12)
    assert hmm.exact_in_context_accuracy(MIXTURE, examples=1, symbols=2) == pytest.approx(exact_accuracy(), rel=1e-12)
    neighbour = Neighbour(start=1, eta=0.01, symbols=2, law="wrong")
    found = hmm.exact_in_context_accuracy(MIXTURE, examples=1, symbols=2, neighbour=neighbour)
    assert found == pytest.approx(exact_accuracy(1, law="wrong"), rel=1e-12)
    assert found < exact_accuracy() - 0.05


def test_sampled_accuracy_agrees_with_the_exact_one():
    found = hmm.in_context_accuracy(MIXTURE, jax.random.key(0), count=4_000, examples=1, symbols=2)
    expected = np.array([sum(PREFIX[2].sum(0).max(1)), exact_accuracy()])
    assert (abs(found.value - expected) < 5 * found.standard_error).all()
    assert (found.standard_error < 0.01).all()
    told = np.sum(PREFIX[2].max(2))
    # The entries of an array lie in [0, 1], so their mean has a standard error of at most 1 / (2 sqrt(4000)).
    assert (abs(found.oracle - told) < 5 * 0.5 / math.sqrt(4_000)).all()


def test_accuracy_rises_with_examples_and_a_neighbour_stops_learning():
    """Two coins: 0.5 (1 + |difference|) tells them apart in the end, and 0 examples say nothing."""
    mixture = coins([0.1, 0.8, 0.1], [0.1, 0.1, 0.8])
    draw = {"count": 2_000, "examples": 6, "symbols": 1}
    bayes = hmm.in_context_accuracy(mixture, jax.random.key(0), **draw)
    # One example: an ordinary symbol (0.9) decides, and is right about the concept with probability 8 / 9.
    exact = 0.1 * 0.45 + 0.8 * 0.8 + 0.1 * 0.1
    assert float(hmm.exact_in_context_accuracy(mixture, examples=1, symbols=1)) == pytest.approx(exact, rel=1e-12)
    assert (abs(bayes.value[:2] - np.array([0.45, exact])) < 5 * bayes.standard_error[:2]).all()
    assert bayes.value[6] > bayes.value[1] > bayes.value[0] + 0.2
    np.testing.assert_allclose(bayes.oracle, 0.8, rtol=1e-12)
    assert bayes.value[6] > 0.78
    never = Neighbour(start=3, eta=0.01, symbols=1, law="prior")
    stopped = hmm.in_context_accuracy(mixture, jax.random.key(0), **draw, neighbour=never)
    np.testing.assert_array_equal(stopped.value[:3], bayes.value[:3])
    assert (stopped.value[3:] < 0.8).all()


@pytest.mark.slow
def test_prediction_is_the_most_probable_symbol():
    expected = [law_after(string).argmax() for string in EVERY[:, :4]]
    np.testing.assert_array_equal(hmm.predict(MIXTURE, EVERY[:, :4]), expected)
    neighbour = Neighbour(start=1, eta=0.01, symbols=2, law="wrong")
    changed = [
        neighbour_law_after(string, 4, 0.01, "wrong").argmax() if string[2] == 1 else guess
        for string, guess in zip(EVERY[:, :4], expected, strict=True)
    ]
    np.testing.assert_array_equal(hmm.predict(MIXTURE, EVERY[:, :4], neighbour=neighbour), changed)


# Neighbours


@pytest.mark.parametrize("law", [slow("uniform"), "prior", "wrong"])
def test_neighbour_differs_at_its_labels_only_and_is_a_law(law):
    p = np.exp(hmm.log_conditional(MIXTURE, EVERY))
    neighbour = Neighbour(start=1, eta=0.2, symbols=2, law=law)
    q = np.exp(hmm.neighbour_log_conditional(MIXTURE, EVERY, neighbour=neighbour))
    np.testing.assert_allclose(q.sum(-1), 1, rtol=1e-12)
    expected = p.copy()
    for row, string in enumerate(EVERY):
        for i in changed_positions(string, 1):
            expected[row, i] = neighbour_law_after(string, i, 0.2, law)
    np.testing.assert_allclose(q, expected, rtol=1e-10)
    assert (abs(q - p).max((0, 2)) > 0.01).tolist() == [False] * 4 + [True, False]
    joint = np.exp(hmm.neighbour_log_prob(MIXTURE, EVERY, neighbour=neighbour))
    assert joint.sum() == pytest.approx(1, rel=1e-12)
    same = Neighbour(start=1, eta=1.0, symbols=2, law=law)
    np.testing.assert_allclose(hmm.neighbour_log_prob(MIXTURE, EVERY, neighbour=same), hmm.log_prob(MIXTURE, EVERY))


def kl_by_hand(start, eta, law, single=False) -> float:
    total = 0.0
    for string in EVERY:
        ratio = 0.0
        for i in changed_positions(string, start, single):
            ratio += math.log(law_after(string[:i])[string[i]])
            ratio -= math.log(neighbour_law_after(string, i, eta, law)[string[i]])
        total += JOINT.sum(0)[tuple(string)] * ratio
    return total


@pytest.mark.parametrize("law", [slow("uniform"), slow("prior"), "wrong"])
def test_exact_kl_is_the_sum_over_sequences_and_below_the_bound_for_every_n(law):
    eta, rho = 0.01, hmm.delimiter_bound(MIXTURE)
    reached = np.exp(hmm.format_log_prob(MIXTURE, examples=1, symbols=2))
    for single in (False, True) if law == "wrong" else (False,):
        # One compiled call for all N; kl_by_hand goes one by one.
        def of(start, single=single):
            return hmm.exact_kl(MIXTURE, neighbour=Neighbour(start, eta, 2, law, single), length=LENGTH)

        kl = jax.vmap(of)(jnp.arange(3))
        expected = [kl_by_hand(start, eta, law, single) for start in range(3)]
        np.testing.assert_allclose(kl, expected, rtol=1e-10, atol=1e-15)
        # Without examples the anchored prior predictive is p itself.
        assert float(kl[0]) == pytest.approx(float(kl[1]), rel=1e-12) if law == "prior" else kl[0] > kl[1]
        assert kl[1] > kl[2] == 0
        between = [sum(reached[start : start + 1] if single else reached[start:]) * math.log(100) for start in range(3)]
        bound = [float(hmm.kl_bound(rho, eta, start=start, single=single)) for start in range(3)]
        assert (np.asarray(kl) <= between).all()
        assert (np.asarray(between) <= bound).all()


def test_exact_kl_leaves_out_what_follows_the_last_label():
    kl = hmm.exact_kl(MIXTURE, neighbour=Neighbour(1, 0.01, 2), length=LENGTH + 2)
    assert float(kl) == pytest.approx(kl_by_hand(1, 0.01, "uniform"), rel=1e-10)
    assert hmm.exact_kl(MIXTURE, neighbour=Neighbour(0, 0.01, 2), length=1) == 0
    # 3^14 sequences would be refused, but the one label of these is the eighth symbol.
    assert hmm.exact_kl(MIXTURE, neighbour=Neighbour(0, 0.01, 8), length=14) > 0


def test_the_bound_is_attained():
    """Independent symbols, delimiter 0.2, and an r that holds all that p gives impossible."""
    mixture = coins([0.2, 0.8, 0.0])
    rho = hmm.delimiter_bound(mixture)
    assert rho == 0.2
    for start in (0, 1):
        q = Neighbour(start=start, eta=0.05, symbols=2, law="wrong", single=True)
        kl = float(hmm.exact_kl(mixture, neighbour=q, length=5))
        assert kl == pytest.approx(0.2**start * math.log(20), rel=1e-12)
        assert kl == pytest.approx(float(hmm.kl_bound(rho, 0.05, start=start, single=True)), rel=1e-12)
        q = Neighbour(start=start, eta=0.05, symbols=2, law="wrong")
        kl = float(hmm.exact_kl(mixture, neighbour=q, length=5))  # labels after 0 and 1 example
        assert kl == pytest.approx(sum(0.2**n for n in range(start, 2)) * math.log(20), rel=1e-12)
        # Longer sequences: 'forced' is exact here, as every path has the same weight, and 40 labels fill the series.
        found = hmm.monte_carlo_kl(mixture, jax.random.key(0), neighbour=q, length=119, count=2)
        assert float(found.value) == pytest.approx(float(hmm.kl_bound(rho, 0.05, start=start)), rel=1e-12)
        assert found.standard_error < 1e-12


def test_numbers_of_the_bound():
    assert hmm.kl_bound(0.1, 0.01, start=10) == pytest.approx(1e-10 * math.log(100) / 0.9, rel=1e-12)
    assert hmm.kl_bound(0.1, 0.01, start=10, single=True) == pytest.approx(1e-10 * math.log(100), rel=1e-12)
    assert hmm.kl_bound(1.0, 0.01, start=10) == jnp.inf
    assert hmm.kl_bound(1.0, 0.01, start=10, single=True) == pytest.approx(math.log(100), rel=1e-12)
    assert hmm.kl_bound(1.0, 1.0, start=3) == 0
    np.testing.assert_allclose(hmm.kl_bound(0.5, 0.5, start=jnp.arange(3)), math.log(2) * np.array([2, 1, 0.5]))


@pytest.mark.parametrize("method", ["forced", "conditional", slow("log_ratio")])
def test_sampled_kl_agrees_with_the_exact_one(method):
    neighbour = Neighbour(start=1, eta=0.01, symbols=2, law="wrong")
    found = hmm.monte_carlo_kl(MIXTURE, jax.random.key(0), neighbour=neighbour, length=5, count=4_000, method=method)
    expected = kl_by_hand(1, 0.01, "wrong")
    assert abs(float(found.value) - expected) < 5 * float(found.standard_error)
    assert found.standard_error < expected / 4
    reached = 1.0 if method == "forced" else JOINT.sum((0, 1, 2, 4, 5))[1]
    spread = 5 * math.sqrt(4_000 * reached * (1 - reached))
    assert abs(int(found.hits) - 4_000 * reached) <= spread


@pytest.mark.slow
def test_forcing_the_delimiters_reaches_divergences_that_sampling_does_not():
    neighbour = Neighbour(start=12, eta=0.01, symbols=2, law="uniform")
    forced, plain = (
        hmm.monte_carlo_kl(MIXTURE, jax.random.key(0), neighbour=neighbour, length=41, count=500, method=method)
        for method in ("forced", "conditional")
    )
    bound = float(hmm.kl_bound(hmm.delimiter_bound(MIXTURE), 0.01, start=12))
    assert 0 < forced.value < bound
    assert forced.standard_error < forced.value / 4
    assert forced.hits == 500
    assert plain.value == plain.hits == 0


# Refusals

GOOD = HMM(np.array([1.0]), np.array([[1.0]]), np.array([[0.5, 0.5]]))


def refused_calls():
    key = jax.random.key(0)
    q = Neighbour(start=1, eta=0.1, symbols=2)
    yield "models = ", lambda: hmm.make_mixture([])
    yield "all must be of the same sizes", lambda: hmm.make_mixture([GOOD, MIXTURE.concept(0)])
    yield (
        r"emission has a row that sums to 0.8",
        lambda: hmm.log_prob(GOOD._replace(emission=np.array([[0.3, 0.5]])), [0]),
    )
    yield "prior = -0.5", lambda: hmm.delimiter_bound(MIXTURE._replace(prior=np.array([-0.5, 1.5])))
    yield r"initial has shape \(1,\)", lambda: hmm.delimiter_bound(MIXTURE._replace(initial=np.ones(1)))
    yield r"emission has shape \(2, 3\)", lambda: hmm.delimiter_bound(MIXTURE._replace(emission=np.ones((2, 3))))
    yield "delimiter = 3", lambda: hmm.log_prob(MIXTURE._replace(delimiter=3), EVERY)
    yield "tokens = 3", lambda: hmm.log_prob(MIXTURE, np.array([0, 3]))
    yield "must be integers", lambda: hmm.log_conditional(MIXTURE, np.array([0.0, 1.0]))
    yield "count = 0", lambda: hmm.sample_sequences(MIXTURE, key, count=0, length=2)
    yield "length = 0", lambda: hmm.sample_sequences(MIXTURE, key, count=2, length=0)
    yield "examples = -1", lambda: hmm.sample_prompts(MIXTURE, key, count=2, examples=-1, symbols=2)
    yield "symbols = 0", lambda: hmm.sample_prompts(MIXTURE, key, count=2, examples=1, symbols=0)
    yield "concept = 2", lambda: hmm.sample_prompts(MIXTURE, key, count=2, examples=1, symbols=2, concept=2)
    yield "count = 1", lambda: hmm.in_context_accuracy(MIXTURE, key, count=1, examples=1, symbols=2)
    yield (
        "symbols = 3: the neighbour has examples of 2 symbols",
        lambda: hmm.in_context_accuracy(MIXTURE, key, count=2, examples=1, symbols=3, neighbour=q),
    )
    yield (
        r"3\^14 sequences are too many to go through, at most 2\^18",
        lambda: hmm.exact_in_context_accuracy(MIXTURE, examples=6, symbols=2),
    )
    yield r"3\^14 sequences are too many", lambda: hmm.exact_kl(MIXTURE, neighbour=q, length=15)
    yield "length = 0", lambda: hmm.exact_kl(MIXTURE, neighbour=q, length=0)
    for change, message in (
        ({"start": -1}, "start = -1"),
        ({"eta": 0.0}, "eta = 0.0"),
        ({"eta": 1.5}, "eta = 1.5"),
        ({"symbols": 0}, "symbols = 0"),
        ({"law": "random"}, "law = 'random': it must be one of uniform, prior, wrong"),
    ):
        bad = Neighbour(**{"start": 1, "eta": 0.1, "symbols": 2, **change})
        yield message, lambda bad=bad: hmm.exact_kl(MIXTURE, neighbour=bad, length=5)
    wrong = Neighbour(start=1, eta=0.1, symbols=2, law="wrong")
    yield "there is no wrong label", lambda: hmm.exact_kl(hmm.make_mixture([GOOD]), neighbour=wrong, length=5)
    estimate = {"neighbour": q, "length": 5, "count": 10}
    yield "method = 'plain'", lambda: hmm.monte_carlo_kl(MIXTURE, key, **estimate, method="plain")
    yield "count = 1", lambda: hmm.monte_carlo_kl(MIXTURE, key, **(estimate | {"count": 1}))
    yield "rho = 1.5", lambda: hmm.kl_bound(1.5, 0.1, start=1)
    yield "eta = 0", lambda: hmm.kl_bound(0.5, 0.0, start=1)
    yield "start = 0.5", lambda: hmm.kl_bound(0.5, 0.1, start=0.5)
    yield "vocabulary_size = 2", lambda: hmm.random_mixture(key, vocabulary_size=2)
    yield "delimiter_probability = 1", lambda: hmm.random_mixture(key, delimiter_probability=1.0)
    yield "temperature = 0", lambda: hmm.random_mixture(key, temperature=0.0)
    yield "concepts = 0", lambda: hmm.random_mixture(key, concepts=0)
    yield "noise = 1.5", lambda: hmm.random_mixture(key, noise=1.5)


def test_refusals_are_one_clear_line():
    for message, call in refused_calls():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
