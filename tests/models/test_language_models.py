"""Language models: counts, plain definitions in NumPy, step after step against whole sequences, causality, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.formal import decode
from pbjax.models import causal_linear, channels, lstm, state_space, transformer
from pbjax.models.language_model import PAD
from pbjax.models.positions import POSITIONS

V, N, T, SHORT = 6, 3, 7, 4
EPSILON = 6e-3

MODELS = {
    f"transformer, {positions}": functools.partial(
        transformer, V, width=8, heads=2, feed_forward=12, layers=2, positions=positions, max_positions=T, dropout=0.3
    )
    for positions in POSITIONS
} | {
    "lstm": functools.partial(lstm, V, width=5, embedding=3, layers=2),
    "state space": functools.partial(state_space, V, width=6, state=3, layers=2, dropout=0.3),
    "causal linear": functools.partial(causal_linear, V, embedding=3, max_positions=T),
}
TRANSFORMERS = [name for name in MODELS if name.startswith("transformer")]


# The programs here are compiled once and run once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
quick_key = functools.partial(jax.random.key, impl="unsafe_rbg")


def shaken(model, seed=7, scale=0.4):
    """float64 parameters none of which is at a special value: those of `init` have zeros and ones."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape)), shapes)


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def batches():
    """The same batch of symbols four times: as it is, another end, padding from SHORT on, rows in another order."""
    rng = np.random.default_rng(1)
    tokens = np.concatenate([np.zeros((N, 1), int), rng.integers(3, V, (N, T - 1))], axis=1)
    other = tokens.copy()
    other[:, SHORT:] = 3 + (tokens[:, SHORT:] - 2) % 3
    filled = tokens.copy()
    filled[:, SHORT:] = PAD
    assert (other != tokens).any(axis=1).all()
    return np.stack([tokens, other, filled, tokens])


ROWS = np.stack([np.arange(N)] * 3 + [np.roll(np.arange(N), 1)])


def logits_of(name):
    """One program a model: `apply` and `step` on all batches [4, N, T, V], and `apply` on the first positions."""
    model = MODELS[name]()
    params = shaken(model)

    @quick_jit
    def everything(params, tokens, rows):
        def advance(cache, column):
            logits, cache = model.step(params, cache, column)
            return cache, logits

        stepped = jax.lax.scan(advance, model.start(params, rows, T), tokens.T)[1]
        return (
            model.apply(params, tokens, rows=rows),
            stepped.swapaxes(0, 1),
            model.apply(params, tokens[:N, :SHORT]),
        )

    whole, stepped, short = everything(params, jnp.asarray(batches().reshape(-1, T)), jnp.asarray(ROWS.reshape(-1)))
    return params, np.array(whole).reshape(4, N, T, V), np.array(stepped).reshape(4, N, T, V), np.array(short)


# --- sizes ---


def test_counts_of_the_published_transformers():
    assert count(transformer(5)) == 110_075
    assert count(transformer(5, width=8, heads=4, layers=3)) == 53_293


@pytest.mark.parametrize(("v", "d", "h", "f", "layers", "p"), [(5, 10, 5, 1024, 5, 257), (7, 6, 3, 11, 2, 9)])
def test_count_of_a_transformer(v, d, h, f, layers, p):
    layer = 4 * (d * d + d) + (2 * d * f + f + d) + 4 * d
    sizes = {"width": d, "heads": h, "feed_forward": f, "layers": layers, "max_positions": p}
    assert count(transformer(v, **sizes)) == v * d + layers * layer + d * v + v
    assert count(transformer(v, positions="learned", **sizes)) == v * d + layers * layer + d * v + v + p * d


def test_counts_of_the_other_models():
    gates = 4 * (10 * 64 + 64 * 64 + 64) + 4 * 4 * (2 * 64 * 64 + 64)
    assert count(lstm(5)) == 5 * 10 + gates + 64 * 5 + 5
    layer = 2 * 32 + 32 + 4 * 32 * 16 + 32 + 32 * 64 + 64
    assert count(state_space(5, layers=3)) == 5 * 32 + 3 * layer + 2 * 32 + 32 * 5 + 5
    assert count(causal_linear(5, embedding=2, max_positions=9)) == 10 + 9 * 2 * 9 * 5 + 9 * 5


def test_initialisation_is_float32_and_differs_between_layers_unless_they_are_to_be_identical():
    build = functools.partial(transformer, V, width=4, heads=2, feed_forward=3, layers=2)
    for identical in (False, True):
        params = quick_jit(build(identical_layers=identical).init)(quick_key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        first, second = params["Layer_0"], params["Layer_1"]
        same = jax.tree.map(lambda a, b: bool((a == b).all()), first, second)
        assert jax.tree.all(same) == identical
        assert same["Query"]["kernel"] == same["Dense_0"]["kernel"] == identical


# --- definitions ---


def positions_added(kind, params, width):
    """[N or 1, T or 1, width]."""
    if kind == "learned":
        return np.array(params["Positions"])[None, :T]
    if kind not in ("sinusoidal", "batch_row"):
        return np.zeros((1, 1, width))
    index = np.arange(T if kind == "sinusoidal" else N)
    table = np.array([[m / 10_000 ** (2 * (j // 2) / width) for j in range(width)] for m in index])
    table = np.where(np.arange(width) % 2 == 0, np.sin(table), np.cos(table))
    return table[None] if kind == "sinusoidal" else table[:, None]


def turned(vectors, t):
    """Rotary positions as products with complex numbers: vectors [n, h, t, c]."""
    c = vectors.shape[-1]
    angles = np.arange(t)[:, None] * 10_000.0 ** (-np.arange(0, c, 2) / c)
    numbers = (vectors[..., ::2] + 1j * vectors[..., 1::2]) * np.exp(1j * angles)
    return np.stack([numbers.real, numbers.imag], axis=-1).reshape(vectors.shape)


def plain_transformer(params, tokens, *, heads, layers, kind="none", xp=np):
    """Post-norm layers, written over [n, t, d] and softmaxes with -inf; `xp` is numpy or jax.numpy."""

    def dense(layer, x):
        return xp.einsum("...i,io->...o", x, layer["kernel"]) + xp.broadcast_to(
            layer["bias"], (*x.shape[:-1], layer["bias"].shape[0])
        )

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / xp.sqrt(x.var(-1, keepdims=True) + EPSILON)
        return x * xp.broadcast_to(layer["scale"], x.shape) + xp.broadcast_to(layer["bias"], x.shape)

    n, t = tokens.shape
    width = params["Embedding"].shape[1]
    x = params["Embedding"][tokens] * width**0.5 + positions_added(kind, params, width)
    allowed = np.tril(np.ones((t, t), bool))[None, None] & (tokens != PAD)[:, None, None, :]
    for layer in (params[f"Layer_{i}"] for i in range(layers)):
        q, k, v = (
            dense(layer[name], x).reshape(n, t, heads, -1).transpose(0, 2, 1, 3) for name in ("Query", "Key", "Value")
        )
        if kind == "rotary":
            q, k = turned(q, t), turned(k, t)
        scores = xp.where(allowed, q @ k.transpose(0, 1, 3, 2) / (width / heads) ** 0.5, -np.inf)
        weights = xp.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        read = (weights @ v).transpose(0, 2, 1, 3).reshape(n, t, width)
        x = norm(layer["Norm_0"], x + dense(layer["Out"], read))
        x = norm(layer["Norm_1"], x + dense(layer["Dense_1"], xp.maximum(dense(layer["Dense_0"], x), 0)))
    return dense(params["Dense_0"], x)


def plain_lstm(params, tokens):
    x = params["Embedding"][tokens]
    for layer in (params["Layer_0"], params["Layer_1"]):
        hidden, memory, outputs = np.zeros((N, 5)), np.zeros((N, 5)), []
        for t in range(T):
            z = x[:, t] @ layer["kernel"] + hidden @ layer["recurrent"] + layer["bias"]
            enter, forget, leave = (1 / (1 + np.exp(-z[:, 5 * j : 5 * j + 5])) for j in (0, 1, 3))
            memory = forget * memory + enter * np.tanh(z[:, 10:15])
            hidden = leave * np.tanh(memory)
            outputs.append(hidden)
        x = np.stack(outputs, axis=1)
    return x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def plain_causal_linear(params, tokens):
    logits = np.broadcast_to(params["Dense_0"]["bias"], (N, T, V)).copy()
    for i in range(T):
        for j in range(i + 1):
            logits[:, i] += params["Embedding"][tokens[:, j]] @ params["Dense_0"]["kernel"][j, :, i]
    return logits


def test_gradient_of_the_transformer_is_that_of_its_plain_definition(monkeypatch):
    monkeypatch.setattr(channels, "CACHED", 5 * 4)  # fifteen positions in blocks of four, the last one not full
    model = transformer(V, width=4, heads=2, feed_forward=5, layers=1)
    params, tokens = shaken(model), batches()[2][:, :5]
    weights = np.random.default_rng(3).normal(size=(N, 5, V))

    @quick_jit
    def gradients(params):
        ours = jax.grad(lambda p: jnp.sum(weights * jnp.tanh(model.apply(p, tokens))))
        plain = jax.grad(lambda p: jnp.sum(weights * jnp.tanh(plain_transformer(p, tokens, heads=2, layers=1, xp=jnp))))
        return ours(params), plain(params)

    ours, plain = gradients(params)
    # Nobody sees what is added to all keys, so that gradient is rounding in both.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), ours, plain)


# --- what every model keeps ---


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.endswith(("sinusoidal", "learned")))
        for name in sorted(MODELS)
    ],
)
def test_steps_causality_padding_and_rows(name):
    # One test, so that one worker compiles the model once.
    params, whole, stepped, short = logits_of(name)
    tokens, other, filled, moved = whole
    np.testing.assert_allclose(stepped, whole, atol=1e-5)
    np.testing.assert_allclose(other[:, :SHORT], tokens[:, :SHORT], atol=1e-10)
    assert (np.abs(other[:, SHORT:] - tokens[:, SHORT:]).max(axis=(1, 2)) > 1e-3).all()
    # A longer batch, filled up with padding; the shorter one has its rows by default.
    np.testing.assert_allclose(filled[:, :SHORT], short, atol=1e-10)
    if "batch_row" in name:
        assert (np.abs(moved - tokens).max(axis=(1, 2)) > 1e-3).all()
    else:
        np.testing.assert_allclose(moved, tokens, atol=1e-10)
    plain = {"lstm": plain_lstm, "causal linear": plain_causal_linear}
    plain |= {n: functools.partial(plain_transformer, heads=2, layers=2, kind=n.split(", ")[1]) for n in TRANSFORMERS}
    if name in plain:
        params = jax.tree.map(np.array, params)
        np.testing.assert_allclose(tokens, plain[name](params, batches()[0]), atol=1e-10)
        np.testing.assert_allclose(filled, plain[name](params, batches()[2]), atol=1e-10)


@pytest.mark.parametrize(
    "name", ["transformer, none", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "state space"))]
)
def test_dropout_is_on_with_a_key_and_the_same_for_the_same_key(name):
    model, tokens = MODELS[name](), jnp.asarray(batches()[0])
    params, keys = shaken(model), jnp.stack([quick_key(i) for i in (0, 0, 1)])
    both = quick_jit(
        lambda: (jax.lax.map(lambda key: model.apply(params, tokens, key=key), keys), model.apply(params, tokens))
    )
    (first, again, other), whole = both()
    assert bool((first == again).all())
    assert float(jnp.abs(first - other).max()) > 1e-3
    assert float(jnp.abs(first - whole).max()) > 1e-3


# --- refusals ---


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: transformer(5, width=10, heads=3), "heads = 3"),
        (lambda: transformer(5, width=6, heads=2, positions="rotary"), "make it even"),
        (lambda: transformer(5, positions="absolute"), "'absolute' are unknown"),
        (lambda: transformer(5, layers=0), "layers"),
        (lambda: transformer(5, dropout=1.0), "dropout"),
        (lambda: transformer(5, norm_epsilon=0.0), "norm_epsilon"),
        (lambda: lstm(0), "vocabulary_size"),
        (lambda: state_space(5, state=0), "state"),
        (lambda: causal_linear(5, max_positions=0), "max_positions"),
    ],
)
def test_sizes_that_make_no_model_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tokens_that_a_model_cannot_read_are_refused(name):
    model = MODELS[name]()
    params = shaken(model)
    for tokens, message in (
        (jnp.full((1, 2), V), rf"tokens = {V}: the model's vocabulary is 0..{V - 1}"),
        (jnp.full((1, 2), -1), r"tokens = -1: the model's vocabulary"),
        (jnp.zeros((1, 0), int), "may not be empty"),
        (jnp.zeros(3, int), r"shape \(3,\).*on 2 axes"),
        (jnp.zeros((1, 2)), "integer tokens on 2 axes"),
    ):
        with pytest.raises(ValueError, match=message):
            model.apply(params, tokens)
    with pytest.raises(ValueError, match="length"):
        model.start(params, jnp.arange(1), 0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_of_another_vocabulary_are_refused(name):
    model = MODELS[name]()
    params = shaken(model)
    params["Embedding"] = params["Embedding"][:-1]
    message = rf"params are of a vocabulary of {V - 1} tokens: the model's has {V}"
    with pytest.raises(ValueError, match=message):
        jax.jit(model.apply)(params, jnp.zeros((1, 2), int))
    with pytest.raises(ValueError, match=message):
        decode(model, params, jnp.zeros((1, 2), int), max_new=2)


def test_weights_of_another_depth_or_length_are_refused():
    params = shaken(transformer(5, layers=2, feed_forward=8, positions="learned", max_positions=6))
    for model, message in (
        (transformer(5, layers=1, feed_forward=8, positions="learned", max_positions=6), "params are of 2 layers"),
        (transformer(5, layers=2, feed_forward=8, positions="learned", max_positions=9), "params have 6 positions"),
    ):
        with pytest.raises(ValueError, match=message):
            model.apply(params, jnp.zeros((1, 2), int))
        with pytest.raises(ValueError, match=message):
            model.start(params, jnp.arange(1), 2)


@pytest.mark.parametrize("name", ["transformer, learned", "causal linear"])
def test_sequences_and_caches_longer_than_the_model_are_refused(name):
    model = MODELS[name]()
    params = shaken(model)
    assert model.max_positions == T
    with pytest.raises(ValueError, match=f"{T + 1} positions"):
        model.apply(params, jnp.zeros((1, T + 1), int))
    with pytest.raises(ValueError, match=f"length = {T + 1}"):
        model.start(params, jnp.arange(1), T + 1)


def test_rows_of_another_number_than_the_sequences_are_refused():
    model = MODELS["transformer, batch_row"]()
    with pytest.raises(ValueError, match="row of each of the 2 sequences"):
        model.apply(shaken(model), jnp.zeros((2, 3), int), rows=jnp.arange(3))
