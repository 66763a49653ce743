"""What the tests of all language models leave open: the state-space layer against complex numbers, seeds, precision."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.models import causal_linear, lstm, state_space, transformer
from pbjax.models.attention import causal_attention, masked_softmax
from pbjax.models.language_model import PAD
from pbjax.models.positions import rotate

V, D, S = 5, 4, 3
MODELS = {
    "transformer": transformer(V, width=D, heads=2, feed_forward=6, layers=2),
    "lstm": lstm(V, width=D, embedding=3, layers=2),
    "state space": state_space(V, width=D, state=S, layers=2),
    "linear": causal_linear(V, embedding=3, max_positions=6),
}
names = pytest.mark.parametrize("name", sorted(MODELS))
TOKENS = jnp.array([[0, 3, 4, 4, 1, PAD], [0, 4, PAD, 3, 3, 1]], jnp.int32)


def shaken(name, seed=0):
    """Float64 parameters none of which is at a special value."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(MODELS[name].init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.6 + 0.2), shapes)


def test_state_space_model_by_hand():
    """Layer by layer, with a loop over tokens and complex numbers in place of the convolution."""
    params = shaken("state space")
    p = jax.tree.map(np.asarray, params)

    def norm(at, x):
        return at["scale"] * (x - x.mean()) / np.sqrt(x.var() + 1e-5) + at["bias"]

    def dense(at, x):
        return x @ at["kernel"] + at["bias"]

    expected = np.zeros((2, 6, V))
    for row, sequence in enumerate(np.asarray(TOKENS)):
        states = np.zeros((2, D, S), complex)
        for i, token in enumerate(sequence):
            x = p["Embedding"][token]
            for number in (0, 1):
                at = p[f"Layer_{number}"]
                rate, step = -np.exp(at["log_decay"]) + 1j * at["frequency"], np.exp(at["log_step"])[:, None]
                u = norm(at["Norm_0"], x)
                # The exact solution of h' = A h + u over a time step in which u stays what it is.
                states[number] = np.exp(step * rate) * states[number] + (np.exp(step * rate) - 1) / rate * u[:, None]
                read = at["read_real"] + 1j * at["read_imaginary"]
                y = 2 * (read * states[number]).sum(1).real + at["skip"] * u
                gelu = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
                value, gate = np.split(dense(at["Dense_0"], gelu), 2)
                x = x + value / (1 + np.exp(-gate))
            expected[row, i] = dense(p["Dense_0"], norm(p["Norm_0"], x))
    np.testing.assert_allclose(jax.jit(MODELS["state space"].apply)(params, TOKENS), expected, rtol=1e-9, atol=1e-10)


def test_convolution_reads_nothing_later():
    toeplitz = importlib.import_module("pbjax.models.state_space")._toeplitz
    matrix = np.asarray(jax.jit(toeplitz, static_argnums=1)(shaken("state space")["Layer_0"], 6))
    assert np.all(np.tril(matrix, -1) == 0) and np.all(matrix[:, 0, :4] != 0)
    np.testing.assert_allclose(matrix[:, 0, :5], matrix[:, 1, 1:])


@names
def test_seeds_of_one_program_do_not_see_each_other(name):
    params = [shaken(name, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    together = jax.jit(jax.vmap(MODELS[name].apply, (0, None)))(stacked, TOKENS)
    alone = jax.jit(MODELS[name].apply)
    for i in (0, 1):
        np.testing.assert_allclose(together[i], alone(params[i], TOKENS), rtol=1e-9, atol=1e-10)


@names
def test_float32_stays_float32(name):
    model, rows, key = MODELS[name], jnp.arange(2), jax.random.key(0)
    params = jax.eval_shape(model.init, key)
    logits = jax.eval_shape(lambda p: model.apply(p, TOKENS, key=key), params)
    step = jax.eval_shape(lambda p: model.step(p, model.start(p, rows, 6), TOKENS[:, 0]), params)
    assert logits.dtype == jnp.float32
    assert not [leaf for leaf in jax.tree.leaves((params, step)) if leaf.dtype == jnp.float64]


def test_derivatives_of_attention_where_there_is_nothing_to_read():
    queries = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 1, 3))) * 1e3
    nobody = jnp.zeros((1, 3), bool)

    @jax.jit
    def total(x):
        step = masked_softmax(jnp.sum(x, axis=1), jnp.zeros((1, 1, 3), bool))
        return jnp.sum(causal_attention(x, x, x, readable=nobody)) + jnp.sum(step)

    slope = jax.grad(total)
    assert total(queries) == 0 and np.all(slope(queries) == 0)
    # Reverse mode over reverse mode, in which a selected zero would meet an infinite slope.
    assert np.all(jax.grad(lambda x: jnp.sum(slope(x) * queries))(queries) == 0)


def test_rotated_products_see_distances_only():
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 4, 1, 1)))
    near, far = (jnp.vdot(rotate(vectors[0], jnp.array([m])), rotate(vectors[1], jnp.array([m + 3]))) for m in (0, 40))
    np.testing.assert_allclose(near, far, rtol=1e-9)
    assert abs(near - jnp.vdot(vectors[0], vectors[1])) > 1e-3


def test_where_the_transformer_starts():
    layer = jax.jit(transformer(V, layers=1).init)(jax.random.key(0))["Layer_0"]
    # Inputs of attention as one Xavier matrix [30, 10], everything else uniform on one over the root of its inputs.
    for name, bound in [("Query", 40 / 6), ("Key", 40 / 6), ("Value", 40 / 6), ("Out", 10), ("Dense_0", 10)]:
        largest = float(jnp.abs(layer[name]["kernel"]).max()) * bound**0.5
        assert 0.9 < largest <= 1.0, name
        assert bool(jnp.any(layer[name]["bias"] != 0)) == (name == "Dense_0")
    assert 0.9 < float(jnp.abs(layer["Dense_1"]["kernel"]).max()) * 32 <= 1.0
