"""Completions of prompts: greedy or sampled, all prompts and seeds at once, until every one has ended."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike

from pbjax._checks import check_n, check_range, concrete
from pbjax.formal.vocabulary import EOS, PAD
from pbjax.models import LanguageModel
from pbjax.models.language_model import check_tokens

__all__ = ["decode"]


def decode(
    model: LanguageModel,
    params: Any,
    prompts: ArrayLike,
    *,
    max_new: int,
    key: jax.Array | None = None,
    temperature: ArrayLike = 1.0,
    rows: ArrayLike | None = None,
    cached: bool = True,
) -> jax.Array:
    r"""Prompts and what the model makes of them, token by token, until EOS.

    $x_t = \arg\max_x q(x \mid x_{<t})$, or $x_t \sim q(x \mid x_{<t})^{1/\tau}$ with a key. Nothing but PAD follows an
    EOS; the loop ends when every prompt (of every replica under `vmap`) has ended, or after `max_new` tokens.

    Args:
        model: a `LanguageModel`.
        params: its parameters.
        prompts: tokens [n, p] with SOS first, all of one length.
        max_new: tokens to add at most; the model reads p + max_new - 1 positions.
        key: for sampling; greedy without.
        temperature: $\tau > 0$, read when sampling.
        rows: batch rows [n] of the prompts, for models that read them; 0 to n - 1 by default.
        cached: step with the model's cache. Otherwise every token costs a pass over all positions; the tokens are the
            same up to rounding of logits that nearly tie.

    Returns:
        Tokens [n, p + max_new], int32.

    Raises:
        ValueError: no prompts or empty ones, a token outside the vocabulary, PAD before an EOS, more positions than the
            model has, or a temperature that is not positive.

    Example:
        >>> from pbjax.models import transformer
        >>> model = transformer(5, width=4, heads=2, feed_forward=8, layers=1)
        >>> prompts = jnp.array([[0, 3, 3], [0, 3, 4]])
        >>> decode(model, model.init(jax.random.key(0)), prompts, max_new=4).shape
        (2, 7)
    """
    prompts = check_tokens(prompts, vocabulary_size=model.vocabulary_size, name="prompts")
    check_n(max_new, name="max_new")
    check_range("temperature", temperature, low=0.0, open_low=True, open_high=True)
    n, p = prompts.shape
    if model.max_positions is not None and p > model.max_positions:
        raise ValueError(f"prompts have {p} tokens, SOS included: the model has {model.max_positions} positions")
    if model.max_positions is not None and p + max_new - 1 > model.max_positions:
        raise ValueError(
            f"max_new = {max_new}: after prompts of {p} tokens the model has positions for "
            f"{model.max_positions - p + 1} new ones"
        )
    _check_no_gaps(prompts)
    rows = jnp.arange(n) if rows is None else jnp.asarray(rows)
    if rows.shape != (n,):
        raise ValueError(f"rows has shape {rows.shape}: it must be ({n},), one for each prompt")
    return _decode(
        model, params, prompts, rows, key, jnp.asarray(temperature), max_new=int(max_new),
        cached=cached,
    )  # fmt: skip


def _check_no_gaps(prompts: jax.Array) -> None:
    known = concrete(prompts)
    if known is not None and np.any((known == PAD) & (np.cumsum(known == EOS, axis=1) == 0)):
        raise ValueError("prompts hold PAD before an EOS: all must have one length; decode each length by itself")


@partial(jax.jit, static_argnames=("model", "max_new", "cached"))
def _decode(
    model: LanguageModel,
    params: Any,
    prompts: jax.Array,
    rows: jax.Array,
    key: jax.Array | None,
    temperature: jax.Array,
    *,
    max_new: int,
    cached: bool,
) -> jax.Array:
    n, p = prompts.shape
    length = p + max_new
    tokens = jnp.full((n, length), PAD, jnp.int32).at[:, :p].set(prompts)
    ended = jnp.any(prompts == EOS, axis=1)

    def choose(logits: jax.Array, t: jax.Array) -> jax.Array:
        if key is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        scaled = logits / temperature.astype(logits.dtype)
        return jax.random.categorical(jax.random.fold_in(key, t), scaled).astype(jnp.int32)

    def advance(carry: tuple[jax.Array, jax.Array, jax.Array, Any]) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
        t, tokens, ended, cache = carry
        if cached:
            logits, cache = model.step(params, cache, jax.lax.dynamic_index_in_dim(tokens, t - 1, 1, keepdims=False))
        else:
            every = model.apply(params, tokens[:, :-1], rows=rows)
            logits = jax.lax.dynamic_index_in_dim(every, t - 1, 1, keepdims=False)
        new = jnp.where(ended, PAD, choose(logits, t))
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, new, t, 1)
        return t + 1, tokens, ended | (new == EOS), cache

    cache = ()
    if cached:
        cache, _ = jax.lax.scan(
            lambda cache, token: (model.step(params, cache, token)[1], None),
            model.start(params, rows, length - 1), prompts[:, :-1].T,
        )  # fmt: skip
    start = (jnp.int32(p), tokens, ended, cache)
    return jax.lax.while_loop(lambda carry: (carry[0] < length) & ~_all(carry[2]), advance, start)[1]


@custom_vmap
def _all(ended: jax.Array) -> jax.Array:
    """Whether all have ended, in every replica of a `vmap`.

    A loop whose condition differs between replicas would have to keep the whole cache of those that are done, and write
    each position with a scatter. To go on with all until the last has ended is free of that and adds nothing but PAD.
    """
    return jnp.all(ended)


@_all.def_vmap
def _all_replicas(axis_size: int, in_batched: list[bool], ended: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return _all(ended), False
