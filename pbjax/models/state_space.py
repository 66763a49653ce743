"""A diagonal state-space model as a language model: a convolution over whole sequences, a recurrence token by token."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax.models.channels import channel_dense, channel_norm, init_norm
from pbjax.models.dropout import dropout as drop
from pbjax.models.language_model import (
    LanguageModel,
    affine,
    check_dropout,
    check_length,
    check_sizes,
    check_tokens,
    check_vocabulary,
    uniform_dense,
)

NORM_EPSILON = 1e-5
# Time steps at the start: memories from ten to a thousand tokens.
SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1


class StateSpaceCache(NamedTuple):
    """State of every layer after the tokens read so far.

    Attributes:
        real: [layers, d, state, n].
        imaginary: [layers, d, state, n].
    """

    real: jax.Array
    imaginary: jax.Array


def state_space(
    vocabulary_size: int, *, width: int = 32, state: int = 16, layers: int = 4, dropout: float = 0.0
) -> LanguageModel:
    r"""Layers of diagonal linear recurrences, one a channel, between which only gates and norms are not linear.

    $h_t = e^{\Delta A} h_{t-1} + A^{-1}(e^{\Delta A} - 1)\, u_t$; $y_t = 2\, \mathrm{Re}(C^\top h_t) + D u_t$ with
    $u = N(x)$; $x \leftarrow x + a\, \sigma(b)$, $(a, b) = W\, \mathrm{gelu}(y)$

    A is complex with a negative real part, $-e^{r} + i s$, and starts as $-1/2 + i \pi k$; $\Delta$ starts log-uniform
    on [0.001, 0.1]. The recurrence does not depend on the tokens, so a whole sequence is a causal convolution with
    $K_k = 2\, \mathrm{Re}(C^\top e^{k \Delta A} A^{-1}(e^{\Delta A} - 1))$. It is done as one product with a Toeplitz
    matrix a channel: up to some hundred tokens that is many times cheaper than a scan over states, which are `state`
    times as large as the activations.

    Args:
        vocabulary_size: v, >= 1.
        width: d, channels.
        state: complex numbers of state a channel (their conjugates are implied).
        layers: number of layers.
        dropout: rate on each branch, in [0, 1).

    Returns:
        A `LanguageModel` with parameters `Embedding` [v, d], `Layer_0 ..`, `Norm_0` and `Dense_0`. It reads sequences
        of any length.

    Raises:
        ValueError: sizes below 1, a rate outside [0, 1); at `apply`, tokens that the model cannot read.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = state_space(5, width=8, state=4, layers=2)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.array([[0, 3, 3, 4]])).shape
        (1, 4, 5)

    References:
        Gu et al., "On the parameterization and initialization of diagonal state space models", NeurIPS 2022, equations
        2 and 7 (S4D-Lin).
    """
    check_sizes(vocabulary_size=vocabulary_size, width=width, state=state, layers=layers)
    check_dropout(dropout)

    def init(key: jax.Array) -> Any:
        embedding_key, output_key, *layer_keys = jax.random.split(key, 2 + layers)
        params: dict[str, Any] = {
            "Embedding": jax.random.normal(embedding_key, (vocabulary_size, width), jnp.float32),
            "Norm_0": init_norm(width),
            "Dense_0": uniform_dense(output_key, width, vocabulary_size),
        }
        return params | {f"Layer_{i}": _init_layer(layer_key, width, state) for i, layer_key in enumerate(layer_keys)}

    def finish(layer: Any, hidden: jax.Array, outputs: jax.Array, key: jax.Array | None) -> jax.Array:
        """The rest of a layer once its recurrence has given y: both [d, n, t]."""
        value, gate = jnp.split(channel_dense(layer["Dense_0"], jax.nn.gelu(outputs)), 2)
        return hidden + drop(value * jax.nn.sigmoid(gate), dropout, key)

    def apply(params: Any, tokens: Any, *, key: jax.Array | None = None, rows: Any = None) -> jax.Array:
        del rows
        check_vocabulary(params, vocabulary_size)
        tokens = check_tokens(tokens, vocabulary_size=vocabulary_size)
        keys = [None] * layers if key is None else jax.random.split(key, layers)
        hidden = params["Embedding"].T[:, tokens]
        for i in range(layers):
            layer = params[f"Layer_{i}"]
            inputs = channel_norm(layer["Norm_0"], hidden, epsilon=NORM_EPSILON)
            outputs = inputs @ _toeplitz(layer, tokens.shape[1]) + layer["skip"][:, None, None] * inputs
            hidden = finish(layer, hidden, outputs, keys[i])
        hidden = channel_norm(params["Norm_0"], hidden, epsilon=NORM_EPSILON)
        return jnp.moveaxis(channel_dense(params["Dense_0"], hidden), 0, -1)

    def start(params: Any, rows: Any, length: int) -> StateSpaceCache:
        check_vocabulary(params, vocabulary_size)
        check_length(length)
        zeros = jnp.zeros((layers, width, state, jnp.shape(rows)[0]), params["Embedding"].dtype)
        return StateSpaceCache(zeros, zeros)

    def step(params: Any, cache: StateSpaceCache, tokens: Any) -> tuple[jax.Array, StateSpaceCache]:
        hidden = params["Embedding"].T[:, jnp.asarray(tokens)][:, :, None]
        reals, imaginaries = [], []
        for i in range(layers):
            layer = params[f"Layer_{i}"]
            inputs = channel_norm(layer["Norm_0"], hidden, epsilon=NORM_EPSILON)
            drive = inputs[:, None, :, 0]
            kept = _times(_power(layer, jnp.ones(1, inputs.dtype)), (cache.real[i], cache.imaginary[i]))
            after = [a + b * drive for a, b in zip(kept, _force(layer), strict=True)]
            outputs = 2.0 * jnp.sum(_times(_read(layer), after)[0], axis=1)[:, :, None]
            hidden = finish(layer, hidden, outputs + layer["skip"][:, None, None] * inputs, None)
            reals.append(after[0])
            imaginaries.append(after[1])
        hidden = channel_norm(params["Norm_0"], hidden, epsilon=NORM_EPSILON)
        return affine(params["Dense_0"], hidden[:, :, 0].T), StateSpaceCache(jnp.stack(reals), jnp.stack(imaginaries))

    return LanguageModel(init, apply, start, step, vocabulary_size)


def _init_layer(key: jax.Array, width: int, state: int) -> Any:
    step_key, real_key, imaginary_key, dense_key = jax.random.split(key, 4)
    low, high = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
    frequencies = jnp.pi * jnp.arange(state, dtype=jnp.float32)
    return {
        "Norm_0": init_norm(width),
        "log_step": jax.random.uniform(step_key, (width,), jnp.float32, low, high),
        "log_decay": jnp.full((width, state), math.log(0.5), jnp.float32),
        "frequency": jnp.broadcast_to(frequencies, (width, state)),
        # Real and imaginary part of C with variance 1/2 each.
        "read_real": jax.random.normal(real_key, (width, state), jnp.float32) * 0.5**0.5,
        "read_imaginary": jax.random.normal(imaginary_key, (width, state), jnp.float32) * 0.5**0.5,
        "skip": jnp.ones(width, jnp.float32),
        "Dense_0": uniform_dense(dense_key, width, 2 * width),
    }


# Complex numbers are pairs of real arrays: optimisers, posteriors and checkpoints then see float32 leaves only.
def _times(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _power(layer: Any, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(k Delta A) [d, state, k] for numbers of steps [k]."""
    time = jnp.exp(layer["log_step"])[:, None, None] * steps[None, None, :]
    size, angle = jnp.exp(-jnp.exp(layer["log_decay"])[:, :, None] * time), layer["frequency"][:, :, None] * time
    return size * jnp.cos(angle), size * jnp.sin(angle)


def _read(layer: Any) -> tuple[jax.Array, jax.Array]:
    """C [d, state, 1]."""
    return layer["read_real"][:, :, None], layer["read_imaginary"][:, :, None]


def _force(layer: Any) -> tuple[jax.Array, jax.Array]:
    """(exp(Delta A) - 1) / A [d, state, 1]: what a token held for one step adds (zero-order hold, B = 1)."""
    real, imaginary = _power(layer, jnp.ones(1, layer["log_step"].dtype))
    rate, frequency = -jnp.exp(layer["log_decay"])[:, :, None], layer["frequency"][:, :, None]
    squared = rate**2 + frequency**2
    return _times((real - 1.0, imaginary), (rate / squared, -frequency / squared))


def _toeplitz(layer: Any, t: int) -> jax.Array:
    """The convolution as matrices [d, from, to]: entry (j, i) is K_{i-j}, and 0 where j > i."""
    steps = jnp.arange(t, dtype=layer["log_step"].dtype)
    kernel = 2.0 * jnp.sum(_times(_times(_read(layer), _force(layer)), _power(layer, steps))[0], axis=1)
    lag = jnp.arange(t)[None, :] - jnp.arange(t)[:, None]
    return jnp.where(lag >= 0, kernel[:, jnp.maximum(lag, 0)], 0.0)
