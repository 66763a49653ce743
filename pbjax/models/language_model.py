"""What every autoregressive language model of the package is: pure functions over token sequences, and their layers.

Shapes: `n` sequences, `t` positions, `v` tokens of the vocabulary, `d` channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax._checks import check_n, check_range

# The padding token of every vocabulary of the package: start 0, end 1, padding 2, symbols from 3.
PAD = 2


class LanguageModel(NamedTuple):
    """An autoregressive model of token sequences as pure functions of its parameters.

    Logits at position i are for the token at i + 1 and depend on tokens 0 .. i alone, so a longer batch, filled up with
    padding, has the same logits on the first positions and one program serves every length. `apply` reads whole
    sequences, for training; `start` and `step` read one token a time and remember what they need, for decoding. Both
    give the same logits.

    Attributes:
        init: `init(key) -> params`, a dict pytree of float32 leaves.
        apply: `apply(params, tokens [n, t], *, key=None, rows=None) -> logits [n, t, v]`. With a key dropout is on.
            `rows` [n] are the numbers of the sequences in their batch, 0 .. n - 1 by default; only a model whose
            positions are indexed by them reads them.
        start: `start(params, rows [n], length) -> cache` for up to `length` tokens, a static number.
        step: `step(params, cache, tokens [n]) -> (logits [n, v], cache)`.
        vocabulary_size: v.
        max_positions: the longest sequence that the model can read, or None where there is no limit.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[..., jax.Array]
    start: Callable[..., Any]
    step: Callable[..., tuple[jax.Array, Any]]
    vocabulary_size: int
    max_positions: int | None = None


def affine(dense: Any, inputs: jax.Array) -> jax.Array:
    """`inputs [..., d_in] @ dense["kernel"] + dense["bias"]`, the bias spread out as strict rank promotion wants it."""
    return inputs @ dense["kernel"] + dense["bias"].reshape((1,) * (inputs.ndim - 1) + (-1,))


def uniform_dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    r"""Kernel and bias uniform on $\pm 1/\sqrt{d_{in}}$, as linear layers start in PyTorch.

    Args:
        key: PRNG key.
        inputs: width of the input, >= 1.
        outputs: width of the output, >= 1.

    Returns:
        `{"kernel" [inputs, outputs], "bias" [outputs]}`, float32.

    Example:
        >>> import jax
        >>> uniform_dense(jax.random.key(0), 4, 3)["kernel"].shape
        (4, 3)
    """
    bound = inputs**-0.5
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), jnp.float32, -bound, bound),
        "bias": jax.random.uniform(bias_key, (outputs,), jnp.float32, -bound, bound),
    }


def rows_or_default(rows: Any, n: int) -> jax.Array:
    """Numbers of the sequences in their batch, 0 .. n - 1 unless they are given.

    Raises:
        ValueError: when `rows` is not one number a sequence.
    """
    if rows is None:
        return jnp.arange(n, dtype=jnp.int32)
    rows = jnp.asarray(rows)
    if rows.shape != (n,):
        raise ValueError(f"rows have shape {rows.shape}: give the row of each of the {n} sequences")
    return rows


def check_sizes(**sizes: Any) -> None:
    """Refuses sizes that are not whole numbers of at least 1.

    Raises:
        ValueError: with the name and the value.
    """
    for name, size in sizes.items():
        check_n(size, name=name)


def check_dropout(dropout: float) -> None:
    """Refuses a rate outside [0, 1).

    Raises:
        ValueError: with the rate.
    """
    check_range("dropout", dropout, low=0.0, high=1.0, open_high=True)


def check_tokens(
    tokens: Any,
    *,
    vocabulary_size: int,
    max_positions: int | None = None,
    name: str = "tokens",
    axes: tuple[int, ...] = (2,),
) -> jax.Array:
    """Refuses batches of tokens that a model cannot read; values are only looked at outside jit.

    Args:
        tokens: integers [n, t], or with other axes in front.
        vocabulary_size: v; tokens lie in [0, v).
        max_positions: the largest t, or None.
        name: how the message calls them.
        axes: the numbers of axes that are allowed.

    Returns:
        The tokens as an int32 array.

    Raises:
        ValueError: a wrong rank or dtype, an empty or too long sequence, a token outside the vocabulary.
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim not in axes or 0 in tokens.shape or not jnp.issubdtype(tokens.dtype, jnp.integer):
        wanted = " or ".join(map(str, axes))
        raise ValueError(
            f"{name} has shape {tokens.shape} and dtype {tokens.dtype}: it must hold integer tokens on {wanted} axes "
            "and may not be empty"
        )
    if max_positions is not None and tokens.shape[-1] > max_positions:
        raise ValueError(f"{name} has {tokens.shape[-1]} positions: this model has been made for {max_positions}")
    known = f"the model's vocabulary is 0..{vocabulary_size - 1}"
    check_range(name, tokens, low=0, high=vocabulary_size - 1, remedy=known)
    return tokens.astype(jnp.int32)


def check_vocabulary(params: Any, vocabulary_size: int) -> None:
    """Refuses weights that were trained on another vocabulary, which would otherwise give numbers that mean nothing.

    Raises:
        ValueError: when the embedding has not a row for each token of the model.
    """
    rows = params["Embedding"].shape[0]
    if rows != vocabulary_size:
        raise ValueError(
            f"params are of a vocabulary of {rows} tokens: the model's has {vocabulary_size}; make the model for the "
            "language that they were trained on"
        )


def check_length(length: int, max_positions: int | None = None) -> None:
    """Refuses a cache of a wrong length.

    Raises:
        ValueError: when it is below 1 or above `max_positions`.
    """
    check_n(length, name="length")
    if max_positions is not None and length > max_positions:
        raise ValueError(f"length = {length}: this model has been made for {max_positions} positions")
