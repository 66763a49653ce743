r"""Moments of log p - log q_N under p, for all N at once, from sequences whose delimiters are forced into the format.

L = log p(x) - log q_N(x) is a sum over affected labels, $L = \sum_{n \ge N} 1[F_n]\, \ell_n$, and F_n implies all F_m
with m < n, so

$$E L = \sum_n E[1_{F_n} \ell_n], \qquad
  E L^2 = \sum_n E\Bigl[1_{F_n} \bigl(\ell_n^2 + 2 \ell_n \sum_{N \le m < n} \ell_m\bigr)\Bigr].$$

An expectation on F_n under p is one over forced sequences, weighted by the probability that p gave the n forced
delimiters; the label at n itself is integrated out. Few sequences of p ever reach an affected label, these all do.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments._in_context.problem import label_positions, sequence_length
from pbjax.formal import hmm
from pbjax.formal.hmm import divergence


class Moments(NamedTuple):
    """Of log p(x) - log q_N(x) under p, each [number of N].

    Attributes:
        mean: KL(p || q_N), nats.
        mean_error: its Monte-Carlo standard error.
        deviation: standard deviation over sequences, nats.
    """

    mean: jax.Array
    mean_error: jax.Array
    deviation: jax.Array


@partial(jax.jit, static_argnames=("count", "examples", "symbols"))
def draw_forced(
    mixture: hmm.Mixture, key: jax.Array, *, count: int, examples: int, symbols: int
) -> tuple[jax.Array, jax.Array]:
    """Sequences of p with the delimiter wherever the format has it, and what p gave to these delimiters.

    Args:
        mixture: p.
        key: of the draw.
        count: sequences.
        examples: n.
        symbols: k.

    Returns:
        Symbols [count, (n + 1)(k + 1) - 1]; log-weights of the delimiters before the label after 0, ..., n examples
        [count, n + 1].

    Example:
        >>> coin = hmm.make_mixture([hmm.HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.25, 0.75]]))])
        >>> tokens, log_weight = draw_forced(coin, jax.random.key(0), count=1, examples=2, symbols=1)
        >>> tokens[0, 1::2].tolist(), jnp.exp(log_weight[0]).round(4).tolist()
        ([0, 0], [1.0, 0.25, 0.0625])
    """
    tokens, log_weight = divergence.draw_forced(mixture, key, count, sequence_length(examples, symbols), symbols)
    return tokens, log_weight[:, label_positions(examples, symbols)]


@partial(jax.jit, static_argnames=("count", "examples", "symbols", "law"))
def moments(
    mixture: hmm.Mixture, key: jax.Array, starts: jax.Array, eta: jax.Array, *, count: int, examples: int,
    symbols: int, law: str,
) -> Moments:  # fmt: skip
    """Moments for every N of `starts`, all from one set of sequences.

    Args:
        mixture: p.
        key: of the draw.
        starts: N, integers [s], each at most n.
        eta: weight of p in the changed law.
        count: sequences, at least 2.
        examples: n.
        symbols: k.
        law: r, one of `hmm.LAWS`.

    Returns:
        `Moments` [s].

    Example:
        >>> coin = hmm.make_mixture([hmm.HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, 0.9, 0.0]]))])
        >>> made = moments(coin, jax.random.key(0), jnp.array([1]), 0.01, count=2, examples=2, symbols=1, law="wrong")
        >>> bool(jnp.isclose(made.mean[0], (0.1 + 0.01) * jnp.log(100)))
        True
    """
    tokens, log_weight = draw_forced(mixture, key, count=count, examples=examples, symbols=symbols)
    places = label_positions(examples, symbols)
    log_p = hmm.log_conditional(mixture, tokens)[:, places]
    drawn = tokens[:, places]

    def of(begin: jax.Array) -> Moments:
        neighbour = hmm.Neighbour(start=begin, eta=eta, symbols=symbols, law=law)
        log_q = hmm.neighbour_log_conditional(mixture, tokens, neighbour=neighbour)[:, places]
        possible = log_p > -jnp.inf
        ratio = jnp.where(possible, log_p - jnp.where(possible, log_q, 0), 0)
        p = jnp.exp(log_p)
        taken = jnp.take_along_axis(ratio, drawn[..., None], axis=-1)[..., 0]
        before = jnp.cumsum(taken, axis=1) - taken  # labels before N have ratio 0
        kl = jnp.sum(p * ratio, axis=-1)
        weight = jnp.exp(log_weight)
        first = jnp.sum(weight * kl, axis=1)
        second = jnp.sum(weight * (jnp.sum(p * ratio**2, axis=-1) + 2 * kl * before), axis=1)
        mean = first.mean()
        variance = jnp.maximum(second.mean() - mean**2, 0)
        return Moments(mean, first.std(ddof=1) / count**0.5, jnp.sqrt(variance))

    return jax.vmap(of)(starts)
