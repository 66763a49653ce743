"""Neighbours q_N of a mixture p: as close as one likes in test loss, without in-context learning from N examples on.

q_N equals p at every position but the label position after n >= N examples in prompt format (`in_context` has the
layout: examples of k symbols, position 0 begins the first). There it mixes p with a law r that does not learn,
q_N(y | .) = eta p(y | .) + (1 - eta) r(y).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pbjax._checks import check_range
from pbjax.formal.hmm.inference import check_symbols, read, taken
from pbjax.formal.hmm.model import Mixture, check_layout, check_mixture

LAWS = ("uniform", "prior", "wrong")


@partial(jax.tree_util.register_dataclass, data_fields=("start", "eta"), meta_fields=("symbols", "law", "single"))
@dataclass(frozen=True)
class Neighbour:
    r"""Which neighbour q_N of p: $q_N(y \mid x_{<i}) = \eta\, p(y \mid x_{<i}) + (1 - \eta)\, r(y)$ where affected.

    A position i is affected when i = n (k + 1) + k - 1 for some n >= N (n = N with `single`) and the delimiter stands
    at all of k, 2 k + 1, ..., n (k + 1) - 1. Nothing is asked of the other positions: an example may hold anything.

    The laws r:

    * "uniform": all symbols alike.
    * "prior": what p says of the label when it sees the test example alone, at position 0: it never learns.
    * "wrong": the ordinary symbol (not the delimiter) that p holds least probable here, with certainty.

    Attributes:
        start: number N of examples from which on the label law is changed, at least 0; may be an array under vmap.
        eta: weight of p in (0, 1]; at 1, q_N is p.
        symbols: number k of symbols of an example with its label, at least 1.
        law: which r, one of `LAWS`.
        single: whether the one label after exactly N examples is changed, and none after more.
    """

    start: Any
    eta: Any
    symbols: int
    law: str = "uniform"
    single: bool = False


def neighbour_log_conditional(mixture: Mixture, tokens: Any, *, neighbour: Neighbour) -> jax.Array:
    r"""Exact law of the next symbol under q_N after every prefix.

    Args:
        mixture: p.
        tokens: symbols, integers in [0, v), shape `[..., t]`.
        neighbour: which q_N.

    Returns:
        Nats, shape `[..., t + 1, v]`, as of `log_conditional`.

    Raises:
        ValueError: for what is no mixture, tokens that are no symbols, or a neighbour that is none.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coin = make_mixture([HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, 0.7, 0.2]]))])
        >>> q = Neighbour(start=1, eta=0.1, symbols=1, law="wrong")
        >>> jnp.exp(neighbour_log_conditional(coin, jnp.array([1, 0]), neighbour=q)).round(3).tolist()
        [[0.1, 0.7, 0.2], [0.1, 0.7, 0.2], [0.01, 0.07, 0.92]]
    """
    tokens = _checked(mixture, tokens, neighbour)
    return neighbour_law(mixture, tokens, neighbour)


def neighbour_log_prob(mixture: Mixture, tokens: Any, *, neighbour: Neighbour) -> jax.Array:
    r"""Log-probability under q_N that a sequence starts with these symbols.

    Args:
        mixture: p.
        tokens: symbols, integers in [0, v), shape `[..., t]`.
        neighbour: which q_N.

    Returns:
        Nats, shape `[...]`.

    Raises:
        ValueError: for what is no mixture, tokens that are no symbols, or a neighbour that is none.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coin = make_mixture([HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, 0.7, 0.2]]))])
        >>> q = Neighbour(start=1, eta=0.1, symbols=1, law="wrong")
        >>> round(jnp.exp(neighbour_log_prob(coin, jnp.array([1, 0, 2]), neighbour=q)).item(), 4)  # 0.7 × 0.1 × 0.92
        0.0644
    """
    tokens = _checked(mixture, tokens, neighbour)
    return _total(mixture, tokens, neighbour)


@jax.jit
def _total(mixture: Mixture, tokens: jax.Array, neighbour: Neighbour) -> jax.Array:
    return taken(neighbour_law(mixture, tokens, neighbour), tokens).sum(-1)


# What the other files of this room build on. They take checked arguments.


def affected(mixture: Mixture, tokens: jax.Array, neighbour: Neighbour) -> jax.Array:
    """Whether the law of the next symbol is changed after every prefix, bool `[..., t + 1]`."""
    block = neighbour.symbols + 1
    place = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
    kept = jnp.cumsum((place % block == neighbour.symbols) & (tokens != mixture.delimiter), axis=-1) == 0
    kept = jnp.concatenate([jnp.ones_like(kept, shape=(*kept.shape[:-1], 1)), kept], axis=-1)
    examples, within = jnp.divmod(jnp.broadcast_to(jnp.arange(tokens.shape[-1] + 1), kept.shape), block)
    enough = examples == neighbour.start if neighbour.single else examples >= neighbour.start
    return kept & (within == neighbour.symbols - 1) & enough


@jax.jit
def neighbour_law(mixture: Mixture, tokens: jax.Array, neighbour: Neighbour, law: jax.Array | None = None) -> jax.Array:
    """Laws of q_N after every prefix, `[..., t + 1, v]`; `law` are those of p, if they are known."""
    law = read(mixture, tokens)[0] if law is None else law
    other = _other_law(mixture, tokens, neighbour, law)
    eta = jnp.asarray(neighbour.eta, law.dtype)
    mixed = jnp.logaddexp(law + jnp.log(eta), other + jnp.log1p(-eta))
    return jnp.where(affected(mixture, tokens, neighbour)[..., None], mixed, law)


def block_laws(mixture: Mixture, tokens: jax.Array, symbols: int) -> jax.Array:
    """Law of each label whose position t or less holds, from its own example alone as if it began at position 0.

    Shape `[..., n + 1, v]` for the labels after 0 to n examples.
    """
    length, block = tokens.shape[-1], symbols + 1
    number = max((length + 2) // block, 1)  # labels stand at n block + symbols - 1, of which the last is at most t
    padded = jnp.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, max(number * block - length, 0))])
    blocks = padded[..., : number * block].reshape(*tokens.shape[:-1], number, block)
    return read(mixture, blocks[..., : symbols - 1])[0][..., -1, :]


def check_neighbour(mixture: Mixture, neighbour: Neighbour, *, symbols: int | None = None) -> None:
    """Refuses settings outside their ranges, and examples of another length than `symbols`."""
    check_layout(neighbour.symbols)
    check_range("start", neighbour.start, low=0, open_high=True, whole=True)
    check_range("eta", neighbour.eta, low=0, high=1, open_low=True)
    if neighbour.law not in LAWS:
        raise ValueError(f"law = {neighbour.law!r}: it must be one of {', '.join(LAWS)}")
    if neighbour.law == "wrong" and jnp.shape(mixture.emission)[-1] < 3:
        raise ValueError("law = 'wrong': with one ordinary symbol beside the delimiter there is no wrong label")
    if symbols is not None and symbols != neighbour.symbols:
        raise ValueError(f"symbols = {symbols}: the neighbour has examples of {neighbour.symbols} symbols")


def _checked(mixture: Mixture, tokens: Any, neighbour: Neighbour) -> jax.Array:
    check_mixture(mixture)
    check_neighbour(mixture, neighbour)
    return check_symbols(mixture, tokens)


def _other_law(mixture: Mixture, tokens: jax.Array, neighbour: Neighbour, law: jax.Array) -> jax.Array:
    """Log of r at every position, `[..., t + 1, v]`; it means something at label positions only."""
    size = law.shape[-1]
    if neighbour.law == "uniform":
        return jnp.full_like(law, -jnp.log(size))
    if neighbour.law == "wrong":
        symbol = jnp.arange(size)
        ordinary = jnp.where(jnp.broadcast_to(symbol == mixture.delimiter, law.shape), jnp.inf, law)
        # The last of the least probable, so that it is never the first of the most probable, which p would predict.
        wrong = size - 1 - jnp.argmin(jnp.flip(ordinary, -1), axis=-1)
        return jnp.where(jnp.broadcast_to(symbol, law.shape) == wrong[..., None], 0.0, -jnp.inf).astype(law.dtype)
    blocks = block_laws(mixture, tokens, neighbour.symbols)
    repeated = jnp.repeat(blocks, neighbour.symbols + 1, axis=-2)
    missing = max(law.shape[-2] - repeated.shape[-2], 0)
    padding = [(0, 0)] * (law.ndim - 2) + [(0, missing), (0, 0)]
    return jnp.pad(repeated, padding, mode="edge")[..., : law.shape[-2], :]
