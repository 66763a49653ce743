r"""How far a neighbour q_N is from p: exactly, by Monte Carlo, and the bound that falls geometrically with N.

Why the bound holds. Let F_n be the event that the delimiter stands at the n positions k, 2 k + 1, ..., n (k + 1) - 1
that the format, anchored at position 0, has for it. Given any past the delimiter comes with probability at most rho;
F_n is F_{n - 1} and one more delimiter, so P(F_n) <= rho P(F_{n - 1}) <= rho^n, whatever stands between. q_N differs
from p at the label position after n examples on F_n, for n >= N, and nowhere else. By the chain rule

    KL(p || q_N) = sum_{n >= N} E_p[ 1[F_n] KL(p(. | past) || eta p(. | past) + (1 - eta) r) ]
                <= sum_{n >= N} P(F_n) log(1 / eta)          as eta p + (1 - eta) r >= eta p
                <= log(1 / eta) sum_{n >= N} rho^n  =  rho^N log(1 / eta) / (1 - rho),

for sequences of any length. Where the format may begin at any position this sum gets a term for each beginning, and
where the generator places the delimiters rho is 1 and nothing falls.

Both steps are equalities for independent symbols with a delimiter of probability rho (P(F_n) = rho^n) and an r that
gives what p holds impossible (the inner divergence is log(1 / eta)).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from pbjax._checks import check_range, check_unit_interval
from pbjax.formal.hmm._enumeration import BATCH, number_of_strings, string_of
from pbjax.formal.hmm.inference import advance, law_of, logs_of, read, sample_sequences, start, taken
from pbjax.formal.hmm.model import Mixture, check_layout, check_mixture
from pbjax.formal.hmm.neighbour import Neighbour, affected, check_neighbour, neighbour_law

METHODS = ("forced", "conditional", "log_ratio")


class KLEstimate(NamedTuple):
    """A Monte-Carlo estimate of KL(p || q_N).

    Attributes:
        value: nats, a scalar.
        standard_error: of `value`.
        hits: how many of the drawn sequences reach an affected position; without some tens of them neither `value`
            nor `standard_error` says anything.
    """

    value: Any
    standard_error: Any
    hits: Any


def kl_bound(rho: Any, eta: Any, *, start: Any, single: bool = False) -> jax.Array:
    r"""Bound on KL(p || q_N) for sequences of any length.

    $$\mathrm{KL}(p \,\|\, q_N) \le \frac{\rho^N}{1 - \rho} \log\frac1\eta,
      \qquad \text{with `single`: } \rho^N \log\frac1\eta$$

    The event that a position is affected after n examples has the delimiter at n given positions, each time with
    probability at most rho given the past, so its probability is at most rho^n; the law there costs at most log(1/eta).

    Args:
        rho: largest probability of the delimiter given any past (`delimiter_bound`), in [0, 1].
        eta: weight of p in q_N, in (0, 1].
        start: number N of examples from which on q_N differs, at least 0.
        single: whether it differs after exactly N examples only.

    Returns:
        Nats, of the arguments' common shape; infinite at rho = 1 without `single`, unless eta is 1.

    Raises:
        ValueError: for a value outside its range.

    Example:
        >>> f"{kl_bound(0.1, 0.01, start=10).item():.3g}"
        '5.12e-10'
    """
    check_unit_interval("rho", rho)
    check_range("eta", eta, low=0, high=1, open_low=True)
    check_range("start", start, low=0, open_high=True, whole=True)
    rho, eta = jnp.asarray(rho, jnp.result_type(float)), jnp.asarray(eta, jnp.result_type(float))
    total = rho ** jnp.asarray(start) * jnp.log(1 / eta)
    # Where q_N is p the divergence is 0, also at rho = 1, where the quotient would be 0 / 0.
    return total if single else jnp.where(eta == 1, 0.0, total / (1 - rho))


def format_log_prob(mixture: Mixture, *, examples: int, symbols: int) -> jax.Array:
    r"""Exact probability that the delimiter stands where a prompt of 0, 1, ..., n examples has it, $\log P_p(F_n)$.

    The sequence is drawn from p; $\sum_{n \ge N} P(F_n) \log(1/\eta)$ is a bound on KL(p || q_N) between the exact
    value and `kl_bound`.

    Args:
        mixture: p.
        examples: largest n, at least 0.
        symbols: number k of symbols of an example with its label, at least 1.

    Returns:
        Nats, shape `[n + 1]`; entry 0 is 0, entry n at most n log rho.

    Raises:
        ValueError: for what is no mixture, or a number outside its range.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coin = make_mixture([HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, 0.9]]))])
        >>> jnp.exp(format_log_prob(coin, examples=2, symbols=3)).round(4).tolist()
        [1.0, 0.1, 0.01]
    """
    check_mixture(mixture)
    check_layout(symbols, examples)
    return _format(mixture, examples, symbols)


def exact_kl(mixture: Mixture, *, neighbour: Neighbour, length: int) -> jax.Array:
    r"""KL(p || q_N) of sequences of a length, by going through all of them: $\sum_x p(x) \log (p(x) / q_N(x))$.

    Args:
        mixture: p.
        neighbour: which q_N.
        length: number of symbols of a sequence, at least 1. What follows the last label position is left out: the
            laws agree there.

    Returns:
        Nats, a scalar; at most `kl_bound`.

    Raises:
        ValueError: for more than 2^18 sequences up to the last label position, what is no mixture, or a neighbour
            that is none.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coin = make_mixture([HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, 0.9, 0.0]]))])
        >>> q = Neighbour(start=1, eta=0.01, symbols=1, law="wrong")
        >>> round(exact_kl(coin, neighbour=q, length=6).item(), 4)  # (0.1 + 0.01) log 100
        0.5066
    """
    check_mixture(mixture)
    check_neighbour(mixture, neighbour)
    check_range("length", length, low=1, open_high=True, whole=True)
    labels = (length + 1) // (neighbour.symbols + 1)
    if labels == 0:
        return jnp.zeros((), jnp.result_type(float))
    length = labels * (neighbour.symbols + 1) - 1
    number_of_strings(jnp.shape(mixture.emission)[-1], length)
    return _sum_over_all(mixture, neighbour, length)


def monte_carlo_kl(
    mixture: Mixture, key: jax.Array, *, neighbour: Neighbour, length: int, count: int, method: str = "forced"
) -> KLEstimate:
    r"""KL(p || q_N) of sequences of a length, by Monte Carlo; all methods are unbiased.

    With $D_i$ the divergence of the laws of $x_i$ given $x_{<i}$, exact along a sequence, and $i$ over the affected
    positions:

    * "log_ratio": sequences of p; $\log (p(x) / q_N(x))$.
    * "conditional": sequences of p; $\sum_i D_i(x)$, the same with each affected symbol integrated out.
    * "forced": every symbol from p given the past, but the delimiter wherever the format has it;
      $\sum_i w_i(x) D_i(x)$ with $w_i$ the product of the probabilities that p gave these delimiters before $i$.

    Of the sequences of p a share of about rho^N reaches an affected position. The first two are of use for small N
    only; "forced" has a relative error that hardly grows with N.

    Args:
        mixture: p.
        key: a key of `jax.random`.
        neighbour: which q_N.
        length: number of symbols of a sequence, at least 1.
        count: number of sequences, at least 2.
        method: one of `METHODS`.

    Returns:
        `KLEstimate`.

    Raises:
        ValueError: for an unknown method, a number outside its range, what is no mixture, or a neighbour that is none.

    Example:
        >>> from pbjax.formal.hmm import HMM, make_mixture
        >>> coin = make_mixture([HMM(jnp.ones(1), jnp.ones((1, 1)), jnp.array([[0.1, 0.9, 0.0]]))])
        >>> q = Neighbour(start=10, eta=0.01, symbols=3, law="wrong")
        >>> found = monte_carlo_kl(coin, jax.random.key(0), neighbour=q, length=60, count=100)
        >>> f"{found.value.item():.3g}", int(found.hits)
        ('5.12e-10', 100)
    """
    check_mixture(mixture)
    check_neighbour(mixture, neighbour)
    check_range("length", length, low=1, open_high=True, whole=True)
    check_range("count", count, low=2, open_high=True, whole=True, remedy="a standard error needs at least 2 sequences")
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: it must be one of {', '.join(METHODS)}")
    return _estimate(mixture, key, neighbour, length, count, method)


# Compiled once for a shape, whoever calls: a scan outside jit would be compiled anew at every call.


@partial(jax.jit, static_argnums=(1, 2))
def _format(mixture: Mixture, examples: int, symbols: int) -> jax.Array:
    logs = logs_of(mixture)

    def move(belief: jax.Array) -> jax.Array:
        return logsumexp(belief[:, :, None] + logs.transition, axis=1)

    def block(belief: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        belief = lax.fori_loop(0, symbols, lambda _, x: move(x), belief)  # any k symbols
        belief = move(belief + jnp.take(logs.emission, mixture.delimiter, axis=-1))
        return belief, logsumexp(belief)

    _, found = lax.scan(block, start(logs), length=examples)
    return jnp.concatenate([jnp.zeros(1, found.dtype), found])


@partial(jax.jit, static_argnums=2)
def _sum_over_all(mixture: Mixture, neighbour: Neighbour, length: int) -> jax.Array:
    size = jnp.shape(mixture.emission)[-1]
    total = number_of_strings(size, length)

    def term(index: jax.Array) -> jax.Array:
        tokens = string_of(index, size, length)
        log_p, ratio = _log_ratio(mixture, tokens, neighbour)
        return jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * ratio, 0)

    return lax.map(term, jnp.arange(total), batch_size=min(BATCH, total)).sum()


@partial(jax.jit, static_argnums=(3, 4, 5))
def _estimate(
    mixture: Mixture, key: jax.Array, neighbour: Neighbour, length: int, count: int, method: str
) -> KLEstimate:
    if method == "forced":
        tokens, log_weight = draw_forced(mixture, key, count, length, neighbour.symbols)
    else:
        tokens = sample_sequences(mixture, key, count=count, length=length).tokens
        log_weight = jnp.zeros(tokens.shape, jnp.result_type(float))
    changed = affected(mixture, tokens, neighbour)[..., :-1]
    if method == "log_ratio":
        values = _log_ratio(mixture, tokens, neighbour)[1]
    else:
        law = read(mixture, tokens)[0]
        other = neighbour_law(mixture, tokens, neighbour, law)
        terms = jnp.where(law > -jnp.inf, jnp.exp(law) * (law - jnp.where(law > -jnp.inf, other, 0)), 0)
        values = jnp.where(changed, jnp.exp(log_weight) * terms.sum(-1)[..., :-1], 0).sum(-1)
    return KLEstimate(values.mean(), values.std(ddof=1) / math.sqrt(count), changed.any(-1).sum())


def _log_ratio(mixture: Mixture, tokens: jax.Array, neighbour: Neighbour) -> tuple[jax.Array, jax.Array]:
    """log p(x) and log p(x) - log q_N(x), the latter summed over affected positions only, elsewhere it is exactly 0."""
    law = read(mixture, tokens)[0]
    own = taken(law, tokens)
    other = taken(neighbour_law(mixture, tokens, neighbour, law), tokens)
    changed = affected(mixture, tokens, neighbour)[..., :-1] & (own > -jnp.inf)
    return own.sum(-1), jnp.where(changed, own - jnp.where(changed, other, 0), 0).sum(-1)


def draw_forced(mixture: Mixture, key: jax.Array, count: int, length: int, symbols: int) -> tuple[jax.Array, jax.Array]:
    """Tokens with the delimiter at all places of the format and the log-weight before each, both `[count, length]`."""
    logs = logs_of(mixture)

    def step(carry: tuple[jax.Array, jax.Array], place: Any) -> tuple[Any, Any]:
        belief, log_weight = carry
        position, key = place
        law = jax.vmap(partial(law_of, logs))(belief)
        forced = position % (symbols + 1) == symbols
        token = jnp.where(forced, mixture.delimiter, jax.random.categorical(key, law)).astype(jnp.int32)
        after = log_weight + jnp.where(forced, jnp.take(law, mixture.delimiter, axis=-1), 0)
        return (jax.vmap(partial(advance, logs))(belief, token), after), (token, log_weight)

    belief = start(logs)
    first = (jnp.broadcast_to(belief, (count, *belief.shape)), jnp.zeros(count, belief.dtype))
    _, (tokens, log_weight) = lax.scan(step, first, (jnp.arange(length), jax.random.split(key, length)))
    return tokens.T, log_weight.T
