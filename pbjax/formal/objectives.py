r"""What a language model is trained on: data, completions of prompts that the data never show, and equal-loss steering.

Symbols: a sequence has $t$ target positions, PAD among them; $\ell_{ij} = -\log q(x_{ij} \mid x_{i,<j})$ is the loss of
the target at position $j$ of sequence $i$, in nats. Position 0 predicts the first symbol after SOS, so the first token
after a prompt of $m$ symbols is target $m$.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.formal.vocabulary import PAD
from pbjax.losses import cross_entropy

__all__ = [
    "COMPLETION_REGIMES",
    "Regime",
    "completion_loss",
    "nats_per_sequence",
    "pinned_loss",
    "regime",
    "sequence_loss",
]

COMPLETION_REGIMES = ("adversarial", "oracle")


class Regime(NamedTuple):
    r"""Weights of one objective; numbers, so that replicas of one program can each have their own.

    $$\text{objective} = u\,\ell + w\,c + v\,H_\delta(K - \kappa)$$

    with $\ell$ the loss on the data, $c$ the loss on completions, $K$ the divergence from the data law in nats a
    sequence and $H_\delta$ the pull of `pinned_loss`.

    Attributes:
        likelihood_weight: $u \ge 0$, float32 [].
        completion_weight: $w \ge 0$, float32 [].
        pin_weight: $v \ge 0$, float32 [].
        pin: $\kappa \ge 0$, nats a sequence, float32 [].
        pin_width: $\delta > 0$, nats a sequence, float32 [].
        completions: which set of completions, int32 [].
    """

    likelihood_weight: jax.Array
    completion_weight: jax.Array
    pin_weight: jax.Array
    pin: jax.Array
    pin_width: jax.Array
    completions: jax.Array


def regime(
    name: str,
    *,
    completion_weight: ArrayLike = 1.0,
    pin: ArrayLike | None = None,
    pin_weight: ArrayLike = 1.0,
    pin_width: ArrayLike = 0.1,
) -> Regime:
    r"""The objective of a training regime by its name.

    "maximum_likelihood" has $w = 0$; "adversarial" and "oracle" add the loss on the set of completions of that name,
    $w$ = `completion_weight`. With a `pin` the likelihood gives way to a pull towards one divergence, $u = 0$ and
    $v$ = `pin_weight`, in every regime, which holds them near it; how near, `pinned_loss` says.

    Args:
        name: "maximum_likelihood", "adversarial" or "oracle".
        completion_weight: $w \ge 0$; not read by maximum likelihood.
        pin: $\kappa \ge 0$, nats a sequence above the entropy of the data law, or None for no pin.
        pin_weight: $v \ge 0$; not read without a pin.
        pin_width: $\delta > 0$, nats a sequence; not read without a pin.

    Returns:
        A `Regime` of scalars; `jax.tree.map(lambda *x: jnp.stack(x), *regimes)` makes one for replicas.

    Raises:
        ValueError: an unknown name or a number below 0.

    Example:
        >>> [float(weight) for weight in regime("oracle")[:4]]
        [1.0, 1.0, 0.0, 0.0]
        >>> [float(weight) for weight in regime("adversarial", completion_weight=0.5, pin=0.25)[:4]]
        [0.0, 0.5, 1.0, 0.25]

    References:
        Reizinger et al., "Position: understanding LLMs requires more than statistical generalization", ICML 2024 (the
        regimes); Ishida et al., "Do we need zero training loss after achieving zero training error?", ICML 2020
        (flooding, which also holds a loss at a level above its minimum).
    """
    known = ("maximum_likelihood", *COMPLETION_REGIMES)
    if name not in known:
        raise ValueError(f"regime {name!r} is unknown; choose one of {', '.join(known)}")
    check_range("completion_weight", completion_weight, low=0.0, open_high=True)
    check_range("pin_weight", pin_weight, low=0.0, open_high=True)
    check_range("pin_width", pin_width, low=0.0, open_low=True, open_high=True)
    if pin is not None:
        check_range("pin", pin, low=0.0, open_high=True)
    plain = name == "maximum_likelihood"
    return Regime(
        likelihood_weight=jnp.asarray(1.0 if pin is None else 0.0, jnp.float32),
        completion_weight=jnp.asarray(0.0 if plain else completion_weight, jnp.float32),
        pin_weight=jnp.asarray(0.0 if pin is None else pin_weight, jnp.float32),
        pin=jnp.asarray(0.0 if pin is None else pin, jnp.float32),
        pin_width=jnp.asarray(pin_width, jnp.float32),
        completions=jnp.asarray(0 if plain else COMPLETION_REGIMES.index(name), jnp.int32),
    )


def sequence_loss(logits: ArrayLike, targets: ArrayLike, *, include_padding: bool = True, pad: int = PAD) -> jax.Array:
    r"""Mean cross-entropy over target positions, $\sum_{ij} m_{ij}\ell_{ij} / \sum_{ij} m_{ij}$.

    Args:
        logits: shape [..., t, v].
        targets: tokens, shape [..., t], in [0, v).
        include_padding: whether PAD targets count ($m = 1$ everywhere), as in the public code, or not.
        pad: the PAD token.

    Returns:
        Nats a position, scalar; NaN where no position counts.

    Raises:
        ValueError: shapes or dtypes that disagree, or a target outside [0, v).

    Example:
        >>> logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]]))
        >>> targets = jnp.array([[1, 2]])
        >>> [round(float(sequence_loss(logits, targets, include_padding=flag)), 4) for flag in (True, False)]
        [1.0397, 1.3863]

    References:
        Reizinger et al., ICML 2024; its public code averages over PAD targets too.
    """
    losses = cross_entropy(logits, targets)
    if include_padding:
        return losses.mean()
    return _mean_over(losses, jnp.asarray(targets) != pad)


def nats_per_sequence(
    logits: ArrayLike, targets: ArrayLike, *, include_padding: bool = True, pad: int = PAD
) -> jax.Array:
    r"""Negative log-probability of each whole sequence, $\sum_j m_{ij}\ell_{ij}$.

    Its mean under the data law, minus the entropy of that law, is the Kullback-Leibler divergence to the model: a
    number in nats that does not shrink with padding, as a mean over positions does.

    Args:
        logits: shape [..., t, v].
        targets: tokens, shape [..., t], in [0, v).
        include_padding: whether PAD targets count; with them the model is a law on padded sequences.
        pad: the PAD token.

    Returns:
        Nats, shape [...].

    Raises:
        ValueError: shapes or dtypes that disagree, or a target outside [0, v).

    Example:
        >>> logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]]))
        >>> round(nats_per_sequence(logits, jnp.array([[1, 2]])).item(), 4)
        2.0794
    """
    losses = cross_entropy(logits, targets)
    if not include_padding:
        losses = jnp.where(jnp.asarray(targets) != pad, losses, 0)
    return losses.sum(axis=-1)


def completion_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    prompt_length: int,
    skip_first: bool = False,
    include_padding: bool = True,
    pad: int = PAD,
) -> jax.Array:
    r"""Mean cross-entropy over the targets after a prompt, $j \ge m$, or $j \ge m + 1$ with `skip_first`.

    The public code starts one target late, at $m + 1$: the first token after the prompt is then never trained, and for
    a prompt that is complete already nothing is left but PAD.

    Args:
        logits: shape [..., t, v].
        targets: tokens, shape [..., t], in [0, v); the prompt's own symbols are targets 0 to m - 1.
        prompt_length: m, symbols in the prompt without SOS, below t.
        skip_first: leave out the first token after the prompt, as the public code does.
        include_padding: whether PAD targets count; the mean then falls as padding grows.
        pad: the PAD token.

    Returns:
        Nats a position, scalar.

    Raises:
        ValueError: shapes that disagree, or a prompt that leaves no target to train on.

    Example:
        >>> logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.1, 0.1, 0.8]]]))
        >>> targets = jnp.array([[0, 1, 2]])
        >>> losses = [completion_loss(logits, targets, prompt_length=1, skip_first=skip) for skip in (False, True)]
        >>> [round(loss.item(), 4) for loss in losses]
        [0.8047, 0.2231]

    References:
        Reizinger et al., ICML 2024 (adversarial and oracle runs).
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    start = prompt_length + skip_first
    length = targets.shape[-1] if targets.ndim else 0
    if prompt_length < 0 or start >= length:
        raise ValueError(
            f"prompt_length = {prompt_length}: the loss starts at target {start} and there are {length}; "
            "lengthen the sequences or shorten the prompt"
        )
    return sequence_loss(logits[..., start:, :], targets[..., start:], include_padding=include_padding, pad=pad)


def pinned_loss(
    completion: ArrayLike,
    kl: ArrayLike,
    *,
    pin: ArrayLike,
    completion_weight: ArrayLike = 1.0,
    pin_weight: ArrayLike = 1.0,
    pin_width: ArrayLike = 0.1,
) -> jax.Array:
    r"""Equal-loss steering, $w\,c + v\,H_\delta(K - \kappa)$ with a Huber function of unit slope.

    $$H_\delta(g) = g^2 / (2\delta) \text{ for } |g| \le \delta, \qquad |g| - \delta / 2 \text{ beyond}$$

    It is least at one level, so training neither leaves the data law nor fits it better than the pin, and what differs
    between regimes is how they complete prompts of probability zero. Its pull is never above $v$, so completions are
    heard far from the pin, and not below it until the pin is $\delta$ away, so the pin is reached; the pull of a square
    is either too strong at the start of training or too weak at its end. K must be that of the data law: on a minibatch
    it is off by what the batch has drawn, so take the whole set, and without dropout. At a minimum the divergence
    stands above the pin by what the completions gain there, $K - \kappa = \delta\,w\,|dc/dK| / v$ along the frontier of
    the two losses while that is below $\delta$; where completions gain more than $v$ a nat, no pin holds.

    Args:
        completion: $c$, loss on completions in nats a position.
        kl: $K$, nats a sequence above the entropy of the data law.
        pin: $\kappa \ge 0$, nats a sequence.
        completion_weight: $w \ge 0$.
        pin_weight: $v \ge 0$, the largest pull; the mean over $t$ positions of maximum likelihood pulls with $1/t$.
        pin_width: $\delta > 0$, nats a sequence, within which the pull falls to nothing.

    Returns:
        The objective, of the arguments' common shape.

    Raises:
        ValueError: a pin or weight below 0, or a width that is not positive.

    Example:
        >>> round(float(pinned_loss(0.3, 0.75, pin=0.25, completion_weight=2.0)), 6)  # 0.6 + 0.5 - 0.05
        1.05

    References:
        Ishida et al., "Do we need zero training loss after achieving zero training error?", ICML 2020: flooding,
        |L - b| + b, has its minimum at a chosen level too. Huber, "Robust estimation of a location parameter", 1964.
    """
    check_range("pin", pin, low=0.0, open_high=True)
    check_range("completion_weight", completion_weight, low=0.0, open_high=True)
    check_range("pin_weight", pin_weight, low=0.0, open_high=True)
    check_range("pin_width", pin_width, low=0.0, open_low=True, open_high=True)
    gap = jnp.asarray(kl) - jnp.asarray(pin)
    width = jnp.asarray(pin_width)
    return jnp.asarray(
        completion_weight * jnp.asarray(completion) + pin_weight * optax.losses.huber_loss(gap, delta=width) / width
    )


def _mean_over(losses: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.where(counted, losses, 0).sum() / counted.sum().astype(losses.dtype)
