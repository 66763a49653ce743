"""Causal attention and its written-out derivative against the plain definition; dropout: masks, means, keys."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.models import attention
from pbjax.models.dropout import dropout, hash_words

H, C, N, T = 2, 2, 3, 7
READABLE = np.ones((N, T), bool)
READABLE[1, 5:] = READABLE[2, :2] = False  # the first positions of the last sequence have nothing to read


# The programs here are compiled once and run once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def vectors(seed=0, channels=C):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(H, c, N, T))) for c in (C, C, channels)]


def plain(queries, keys, values, mask: Any = 1.0):
    """Softmax over the allowed scores, written with -inf; where nothing is allowed, 0."""
    allowed = (np.tril(np.ones((T, T), bool))[None] & READABLE[:, None, :])[None]
    some = allowed.any(-1, keepdims=True)
    scores = jnp.einsum("hcni,hcnj->hnij", queries, keys) / C**0.5
    weights = jax.nn.softmax(jnp.where(allowed, scores, jnp.where(some, -jnp.inf, 0.0)), axis=-1)
    return jnp.einsum("hnij,hcnj->hcni", jnp.where(some, weights, 0.0) * mask, values)


def attend(rate=0.0, key=None):
    return lambda *qkv: attention.causal_attention(*qkv, readable=jnp.asarray(READABLE), rate=rate, key=key)


@pytest.mark.parametrize("rate", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_attention_its_gradient_and_curvature_are_those_of_the_plain_definition(monkeypatch, rate):
    if hasattr(attention, "BLOCK"):
        monkeypatch.setattr(attention, "BLOCK", 3)  # several blocks, not all of one size
    key = jax.random.key(2)
    ours, inputs = attend(rate, key), vectors()
    # Values that are unit vectors give the dropped-out weights, and these the mask, whatever the values.
    unit = jnp.broadcast_to(jnp.eye(T)[None, :, None, :], (H, T, N, T))
    weights = plain(inputs[0], inputs[1], unit)
    dropped = quick_jit(ours)(inputs[0], inputs[1], unit)
    mask = np.moveaxis(np.where(weights > 0, dropped / jnp.where(weights > 0, weights, 1.0), 0.0), 1, 3)
    np.testing.assert_allclose(mask * (mask - 1 / (1 - rate)), 0.0, atol=1e-9)

    def slopes(function):
        def total(qkv):
            output = function(*qkv)
            return jnp.sum(jnp.sin(output + 0.3) * jnp.cos(jnp.arange(output.size).reshape(output.shape))), output

        gradient = jax.grad(total, has_aux=True)
        (first, output), (second, _) = jax.jvp(gradient, (inputs,), (vectors(5),))
        return output, first, second

    found, expected = quick_jit(lambda: (slopes(ours), slopes(lambda *qkv: plain(*qkv, mask=mask))))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found, expected)
    assert np.all(np.asarray(found[0])[:, :, 2, :2] == 0.0)


def test_attention_that_is_dropped_out_has_the_right_mean():
    # 5 standard errors of each of 84 means: a false alarm once in 20,000 runs.
    inputs, draws = vectors(), 4000
    outputs = jax.jit(jax.vmap(lambda key: attend(0.3, key)(*inputs)))(jax.random.split(jax.random.key(0), draws))
    error = np.abs(outputs.mean(0) - plain(*inputs))
    assert np.all(error <= 5 * np.asarray(outputs.std(0)) / draws**0.5 + 1e-12)
    assert np.asarray(outputs.std(0)).max() > 0.1


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    # 5 standard errors of a binomial share: a false alarm once in 1.7 million runs.
    size = 100_000
    dropped = np.asarray(dropout(jnp.ones(size), rate, jax.random.key(4)))
    assert abs((dropped == 0).mean() - rate) <= 5 * (rate * (1 - rate) / size) ** 0.5
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-12)


def test_masks_of_neighbours_rows_and_keys_are_not_correlated():
    # Correlations of 2^17 pairs of fair bits each: 5 standard errors, a false alarm once in 1.7 million each.
    words = np.stack([hash_words(jax.random.key(i), (512, 256)) for i in range(2)])
    for bit in (31, 28, 16, 0):
        signs = 2.0 * ((words >> bit) & 1) - 1.0
        for a, b in (
            (signs[0, :, 1:], signs[0, :, :-1]),
            (signs[0, 1:], signs[0, :-1]),
            (signs[0], signs[1]),
            (signs[0], np.ones(())),
        ):
            product = a * b
            assert abs(product.mean()) <= 5 / product.size**0.5


def test_dropout_repeats_with_its_key_and_is_the_identity_without_one():
    inputs = jnp.arange(1.0, 50.0)
    first, again, other = (dropout(inputs, 0.5, jax.random.key(i)) for i in (0, 0, 1))
    assert bool((first == again).all()) and not bool((first == other).all())
    assert dropout(inputs, 0.5, None) is inputs
    assert dropout(inputs, 0.0, jax.random.key(0)) is inputs


def test_gradient_of_dropout_is_its_mask():
    inputs, key = jnp.arange(1.0, 50.0), jax.random.key(0)
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.5, key)))(inputs)
    np.testing.assert_allclose(gradient * inputs, dropout(inputs, 0.5, key))
