"""Hidden Markov models, mixtures of them, and a random generator of mixtures whose concepts share their emissions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax._checks import check_n, check_range, check_unit_interval, concrete


class HMM(NamedTuple):
    """A hidden Markov model: a first state, then at every step a symbol and the next state.

    Attributes:
        initial: law of the first state, shape `[s]`.
        transition: law of the next state given the present one, rows, shape `[s, s]`.
        emission: law of the symbol given the state, rows, shape `[s, v]`.
    """

    initial: Any
    transition: Any
    emission: Any


class Mixture(NamedTuple):
    """Hidden Markov models (concepts) of equal sizes and a prior over them; one concept makes a whole sequence.

    Attributes:
        prior: law of the concept, shape `[c]`.
        initial: laws of the first state, shape `[c, s]`.
        transition: laws of the next state, shape `[c, s, s]`.
        emission: laws of the symbol, shape `[c, s, v]`.
        delimiter: the symbol that separates the examples of a prompt, an integer in [0, v); the models emit it
            like any other.
    """

    prior: Any
    initial: Any
    transition: Any
    emission: Any
    delimiter: Any = 0

    def concept(self, index: Any) -> HMM:
        """One of the models."""
        return HMM(self.initial[index], self.transition[index], self.emission[index])


def make_mixture(models: Sequence[HMM], *, prior: Any = None, delimiter: int = 0) -> Mixture:
    r"""A mixture of given models, $p(x) = \sum_c \pi_c\, p_c(x)$.

    Args:
        models: hidden Markov models with as many states and symbols as each other.
        prior: probabilities, shape `[c]`; uniform by default.
        delimiter: the delimiting symbol, an integer in [0, v).

    Returns:
        The `Mixture`.

    Raises:
        ValueError: for no models, models of unequal sizes, rows that are no laws, or a delimiter that is no symbol.

    Example:
        >>> coin = HMM(jnp.array([1.0]), jnp.array([[1.0]]), jnp.array([[0.25, 0.75]]))
        >>> make_mixture([coin, coin]).prior.tolist()
        [0.5, 0.5]
    """
    if not models:
        raise ValueError("models = []: a mixture needs at least one hidden Markov model")
    shapes = [tuple(np.shape(part) for part in model) for model in models]
    for shape in shapes:
        if shape != shapes[0]:
            raise ValueError(f"models have shapes {shapes[0]} and {shape}: all must be of the same sizes")
    initial, transition, emission = (jnp.stack([jnp.asarray(x) for x in part]) for part in zip(*models, strict=True))
    if prior is None:
        prior = jnp.full((len(models),), 1 / len(models), emission.dtype)
    mixture = Mixture(jnp.asarray(prior), initial, transition, emission, delimiter)
    check_mixture(mixture)
    return mixture


def random_mixture(
    key: jax.Array,
    *,
    concepts: int = 5,
    entities: int = 3,
    properties: int = 4,
    vocabulary_size: int = 13,
    delimiter_probability: float = 0.1,
    permutations: int = 3,
    temperature: float = 0.1,
    stickiness: float = 0.9,
    smoothing: float = 0.02,
    noise: float = 0.05,
) -> Mixture:
    r"""A random mixture in the manner of GINC: concepts differ in how properties follow each other, and in that alone.

    A state is an entity $e$ and a property $a$. Entities stay with probability `stickiness` and else are drawn anew;
    the properties of concept $c$ move by a random convex combination of permutation matrices, with u uniform in [0, 1],

    $$A_c = (1 - \sigma) \sum_m w_{cm} \Pi_{cm} + \sigma / P, \qquad w_c = \mathrm{softmax}(u_c / \tau).$$

    A table shared by all concepts holds a symbol for every state. A state emits the delimiter, symbol 0, with a
    probability of its own from `delimiter_probability` × [1/2, 1]; else its symbol, or with probability `noise` any.
    The first state is uniform, so sequences of all concepts start alike.

    Args:
        key: a key of `jax.random`.
        concepts: number of models c, at least 1.
        entities: number of entities E, at least 1.
        properties: number of properties P, at least 1; there are s = E P states.
        vocabulary_size: number of symbols v with the delimiter, at least 3.
        delimiter_probability: largest probability of the delimiter in any state, in (0, 1).
        permutations: number of permutations that a concept mixes, at least 1.
        temperature: tau, above 0; towards 0 a concept is one permutation.
        stickiness: probability that an entity stays, in [0, 1].
        smoothing: weight sigma of the uniform law in A_c, in [0, 1].
        noise: probability of a uniformly drawn symbol, in [0, 1].

    Returns:
        The `Mixture` with a uniform prior; `delimiter_bound` of it is at most `delimiter_probability`.

    Raises:
        ValueError: for a number outside its range.

    Example:
        >>> random_mixture(jax.random.key(0), concepts=4, entities=2, properties=3, vocabulary_size=7).emission.shape
        (4, 6, 7)

    References:
        Xie et al., "An Explanation of In-context Learning as Implicit Bayesian Inference", ICLR 2022 (GINC, section
        4), where symbols are certain given the state and the delimiter is placed by hand in prompts.
    """
    sizes = {"concepts": concepts, "entities": entities, "properties": properties, "permutations": permutations}
    for name, size in sizes.items():
        check_range(name, size, low=1, open_high=True, whole=True)
    check_range("vocabulary_size", vocabulary_size, low=3, open_high=True, whole=True)
    check_range("delimiter_probability", delimiter_probability, low=0, high=1, open_low=True, open_high=True)
    check_range("temperature", temperature, low=0, open_low=True, open_high=True)
    for name, value in {"stickiness": stickiness, "smoothing": smoothing, "noise": noise}.items():
        check_unit_interval(name, value)
    rates = (delimiter_probability, temperature, stickiness, smoothing, noise)
    return _random(key, (concepts, entities, properties, vocabulary_size, permutations), rates)


def delimiter_bound(mixture: Mixture) -> jax.Array:
    r"""Bound rho on the probability of the delimiter d given any past, from one step of the models.

    $$\rho = \max_c \max\Bigl\{\sum_z \mu_c(z) B_c(z, d),\; \max_z \sum_{z'} A_c(z, z') B_c(z', d)\Bigr\}$$

    Given any past, p(d | past) is a mean of these terms: over concepts with their posterior, and over the last state
    with its law given past and concept (over the first state at position 0). No mean is above the largest term.
    It is at most the largest probability of the delimiter in any state.

    Args:
        mixture: the models; concepts of prior zero count too.

    Returns:
        rho, a scalar in [0, 1]. At 1 some past makes the delimiter certain and no bound falls with the examples.

    Raises:
        ValueError: for a mixture that is none.

    Example:
        >>> coin = HMM(jnp.array([1.0]), jnp.array([[1.0]]), jnp.array([[0.25, 0.75]]))
        >>> delimiter_bound(make_mixture([coin])).item()
        0.25
    """
    check_mixture(mixture)
    delimits = mixture.emission[..., mixture.delimiter]
    first = jnp.sum(mixture.initial * delimits, axis=-1)
    later = jnp.einsum("cab,cb->ca", mixture.transition, delimits)
    return jnp.minimum(jnp.maximum(first.max(), later.max()), 1)


@partial(jax.jit, static_argnums=1)
def _random(key: jax.Array, sizes: tuple[int, ...], rates: tuple[Any, ...]) -> Mixture:
    concepts, entities, properties, vocabulary_size, permutations = sizes
    delimiter_probability, temperature, stickiness, smoothing, noise = rates
    states = entities * properties
    order_key, weight_key, table_key, delimiter_key = jax.random.split(key, 4)
    orders = jax.vmap(lambda key: jax.random.permutation(key, properties))(
        jax.random.split(order_key, concepts * permutations)
    ).reshape(concepts, permutations, properties)
    weights = jax.nn.softmax(jax.random.uniform(weight_key, (concepts, permutations)) / temperature)
    moves = jnp.einsum("cm,cmab->cab", weights, jax.nn.one_hot(orders, properties, dtype=weights.dtype))
    moves = (1 - smoothing) * moves + smoothing / properties
    stays = stickiness * jnp.eye(entities, dtype=moves.dtype) + (1 - stickiness) / entities
    transition = jnp.einsum("ef,cab->ceafb", stays, moves).reshape(concepts, states, states)
    # Every symbol stands for as many states as any other, give or take one.
    table = jax.random.permutation(table_key, jnp.arange(states) % (vocabulary_size - 1))
    one = jax.nn.one_hot(table, vocabulary_size - 1, dtype=moves.dtype)
    ordinary = (1 - noise) * one + noise / (vocabulary_size - 1)
    delimits = delimiter_probability * jax.random.uniform(delimiter_key, (states, 1), moves.dtype, 0.5, 1.0)
    emission = jnp.concatenate([delimits, (1 - delimits) * ordinary], axis=1)
    return Mixture(
        prior=jnp.full((concepts,), 1 / concepts, moves.dtype),
        initial=jnp.full((concepts, states), 1 / states, moves.dtype),
        transition=transition,
        emission=jnp.broadcast_to(emission, (concepts, states, vocabulary_size)),
        delimiter=jnp.zeros((), jnp.int32),
    )


def check_mixture(mixture: Mixture) -> None:
    """Refuses a mixture whose shapes do not fit, whose rows are no laws, or whose delimiter is no symbol."""
    prior, initial, transition, emission = (jnp.shape(part) for part in mixture[:4])
    if len(emission) != 3 or 0 in emission:
        raise ValueError(f"emission has shape {emission}: a mixture needs [concepts, states, symbols], none of them 0")
    concepts, states, symbols = emission
    expected = {
        "prior": (prior, (concepts,)),
        "initial": (initial, (concepts, states)),
        "transition": (transition, (concepts, states, states)),
    }
    for name, (shape, right) in expected.items():
        if shape != right:
            raise ValueError(f"{name} has shape {shape}: with an emission of shape {emission} it must be {right}")
    for name, law in zip(mixture._fields[:4], mixture[:4], strict=True):
        _check_laws(name, law)
    check_range("delimiter", mixture.delimiter, low=0, high=symbols - 1, whole=True)


def as_mixture(model: HMM | Mixture) -> Mixture:
    """A single model as a mixture of one; ValueError for what is no model."""
    if isinstance(model, HMM):
        model = Mixture(jnp.ones(1), *(jnp.asarray(part)[None] for part in model))
    check_mixture(model)
    return model


def check_layout(symbols: int, examples: int | None = None) -> None:
    """Refuses examples of no symbols, and a negative number of them."""
    check_n(symbols, name="symbols")
    if examples is not None:
        check_range("examples", examples, low=0, open_high=True, whole=True)


def _check_laws(name: str, law: Any) -> None:
    check_unit_interval(name, law)
    values = concrete(law)
    if values is None:
        return
    totals = values.sum(-1, dtype=np.float64)
    wrong = np.abs(totals - 1) > 1e-5  # what float32 leaves of rows that were normalised
    if np.any(wrong):
        raise ValueError(f"{name} has a row that sums to {totals[wrong].flat[0]:.6g}: every row must sum to 1")
