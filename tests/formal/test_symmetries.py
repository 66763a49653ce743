"""Symmetries: the function stays, gradients move by the inverse transpose, training notices scales and no orders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from pbjax.formal import all_prompts, symmetries
from pbjax.formal.languages import AnBn
from pbjax.models import causal_linear, lstm, mlp, transformer
from pbjax.sharpness import worst_case

HEADS, CHANNELS, HIDDEN = 2, 4, 6


def slow(*cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@functools.cache
def make(positions="none", dtype="float32"):
    """A small transformer, none of whose weights is special, unlike the biases and norms that it starts from.

    Compilation is what these tests spend their time on: two layers in float32 only.
    """
    layers = 2 if dtype == "float32" else 1
    model = transformer(5, width=8, heads=HEADS, feed_forward=HIDDEN, layers=layers, dropout=0.0, positions=positions)
    return jax.jit(model.apply), normal(jax.eval_shape(model.init, jax.random.key(0)), dtype)


def normal(shapes, dtype):
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * draws.standard_normal(x.shape), dtype), shapes)


MLP = mlp((5, 4, 3), activation="relu")
apply_mlp = jax.jit(MLP.apply)


@functools.cache
def make_mlp(dtype="float64"):
    inputs = jnp.asarray(np.random.default_rng(1).standard_normal((12, 3)), dtype)
    return normal(jax.eval_shape(MLP.init, jax.random.key(0), inputs), dtype), (inputs, jnp.arange(12) % 3)


@functools.cache
def tokens():
    """Random tokens, padding among them, and all prompts of six symbols; 60 of the 64 have probability zero."""
    prompts = all_prompts(AnBn(max_length=16), length=6)
    assert (~prompts.in_distribution).sum() == 60
    drawn = np.random.default_rng(2).integers(0, 5, (32, 7))
    return np.concatenate([drawn, prompts.tokens]).astype(np.int32)


def loss(params, rows):
    logits = make("none", "float64")[0](params, rows)
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], rows[:, 1:]).mean()


value_and_gradient = jax.jit(jax.value_and_grad(loss))


def mlp_loss(params, batch):
    inputs, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(MLP.apply(params, inputs), labels).mean()


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def draw(kind, params, *, strength=8.0, positions="none"):
    key = jax.random.key(5)
    if kind in symmetries.PARTS:
        return symmetries.draw_mixing(
            key, params, heads=HEADS, strength=strength, positions=positions, parts=(kind,)
        )  # fmt: skip
    if kind == "mixing":
        return symmetries.draw_mixing(key, params, heads=HEADS, strength=strength, positions=positions)
    if kind == "permutation":
        return symmetries.draw_permutation(key, params, heads=HEADS)
    return symmetries.draw_rescaling(key, params, strength=strength, draw=kind)


KINDS = (*symmetries.DRAWS, *symmetries.PARTS, "permutation")


def assert_close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


def moves(found, params):
    """Whether some weight of every layer is another."""
    layers = [name for name in params if name.startswith("Layer_")]
    return all(
        any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), found[name], params[name])))
        for name in layers
    )


@pytest.mark.parametrize("kind", ["powers_of_two", "constant"])
@pytest.mark.parametrize("strength", [2.0, 1024.0])
def test_powers_of_two_keep_logits_bit_by_bit(kind, strength):
    model, params = make()
    drawn = draw(kind, params, strength=strength)
    moved = drawn.transform(params)
    assert moves(moved, params)
    assert model(params, tokens()).dtype == jnp.float32
    np.testing.assert_array_equal(model(moved, tokens()), model(params, tokens()))
    assert_equal(drawn.inverse(moved), params)
    assert (drawn.scales["Layer_0"] == strength).all() == (kind == "constant")


@pytest.mark.parametrize("kind", symmetries.DRAWS)
def test_rescaling_of_an_mlp(kind):
    """Two hidden layers: the kernel between them is scaled on both sides."""
    params, (inputs, _) = make_mlp("float32")
    drawn = symmetries.draw_rescaling(jax.random.key(0), params, strength=16.0, draw=kind, activation="relu")
    moved = drawn.transform(params)
    first, second = drawn.scales["Dense_0"], drawn.scales["Dense_1"]
    np.testing.assert_allclose(
        moved["Dense_1"]["kernel"], params["Dense_1"]["kernel"] * second[None] / first[:, None], rtol=1e-6
    )
    expected = apply_mlp(params, inputs)
    if kind == "log_uniform":
        np.testing.assert_allclose(apply_mlp(moved, inputs), expected, rtol=2e-5, atol=2e-6)
        assert_close(drawn.inverse(moved), params, rtol=1e-6)
    else:
        np.testing.assert_array_equal(apply_mlp(moved, inputs), expected)
        assert_equal(drawn.inverse(moved), params)


@pytest.mark.parametrize("kind", ["powers_of_two", *slow(("log_uniform",))])
def test_law_of_the_scales(kind):
    """log2 d within [-3, 3], each integer with frequency 1/7 or uniform, within 5 standard errors."""
    neurons = 4_000
    wide = {"kernel": jnp.zeros((neurons, neurons // 100), jnp.float32), "bias": jnp.zeros(neurons, jnp.float32)}
    params = {"Dense_0": wide, "Dense_1": wide, "Dense_2": wide}
    sample = symmetries.draw_rescaling(jax.random.key(0), params, strength=8.0, draw=kind, activation="relu").scales
    for scales in sample.values():
        assert scales.dtype == jnp.float32
        exponents = np.log2(np.asarray(scales)).ravel()
        whole = np.round(exponents)
        assert (exponents == whole).all() == (kind == "powers_of_two")
        assert np.abs(exponents).max() <= 3 + 1e-6
        edges = np.arange(-3.5, 4) if kind == "powers_of_two" else np.linspace(-3, 3, 8) + [-1e-3, *[0] * 6, 1e-3]
        share = np.histogram(exponents, edges)[0] / exponents.size
        assert np.abs(share - 1 / 7).max() < 5 * (6 / 49 / exponents.size) ** 0.5
    assert (sample["Dense_0"] != sample["Dense_1"]).any()


@pytest.mark.parametrize(
    ("kind", "positions", "dtype"),
    [
        *((kind, "none", "float32") for kind in symmetries.PARTS),
        *((kind, "none", "float64") for kind in (*symmetries.PARTS, "permutation", "log_uniform")),
        ("query_key", "rotary", "float64"),
        *slow(*((kind, "rotary", "float32") for kind in (*symmetries.PARTS, "permutation", "log_uniform"))),
    ],
)
def test_logits_stay_up_to_rounding(kind, positions, dtype):
    condition = 100.0
    model, params = make(positions, dtype)
    moved = draw(kind, params, strength=condition, positions=positions).transform(params)
    assert moves(moved, params)
    expected = model(params, tokens())
    tolerance = 1e-6 * condition if dtype == "float32" else 1e-12
    np.testing.assert_allclose(model(moved, tokens()), expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_condition_numbers_of_mixings(positions):
    _, params = make(positions, "float64")
    drawn = draw("mixing", params, strength=100.0, positions=positions)
    for matrices in (*drawn.query_key.values(), *drawn.value_output.values()):
        assert matrices.shape == (HEADS, CHANNELS, CHANNELS)
        np.testing.assert_allclose(np.linalg.cond(matrices), 100.0, rtol=1e-9)
        np.testing.assert_allclose(matrices, jnp.swapaxes(matrices, 1, 2), atol=1e-12)
        # The ends of the spectrum are 10 and 1/10.
        np.testing.assert_allclose(np.linalg.norm(matrices, 2, axis=(1, 2)), 10.0, rtol=1e-9)


def test_rotations_notice_a_matrix_that_does_not_commute():
    """The refusal is not too strict: what it refuses does change the function."""
    model, params = make("rotary", "float64")
    expected = model(params, tokens())
    wrong = draw("query_key", params)
    assert np.abs(model(wrong.transform(params), tokens()) - expected).max() > 1e-3
    with pytest.raises(ValueError, match="query_key of Layer_0 does not commute with rotary positions"):
        symmetries.mixing(wrong.query_key, positions="rotary")
    pairs = np.zeros((HEADS, 4, 4))
    pairs[:, :2, :2] = [[1.0, -2.0], [2.0, 1.0]]
    pairs[:, 2:, 2:] = [[0.3, 0.1], [-0.1, 0.3]]
    turned = symmetries.mixing({"Layer_0": pairs}, {"Layer_0": wrong.query_key["Layer_0"]}, positions="rotary")
    np.testing.assert_allclose(model(turned.transform(params), tokens()), expected, rtol=0, atol=1e-12)


def test_mixing_by_matrices_that_are_not_symmetric():
    """Drawn ones cannot tell M from its transpose."""
    model, params = make("none", "float64")
    matrices = np.random.default_rng(3).standard_normal((2, HEADS, CHANNELS, CHANNELS))
    drawn = symmetries.mixing({"Layer_0": matrices[0]}, {"Layer_0": matrices[1]}, positions="none")
    moved = drawn.transform(params)
    np.testing.assert_allclose(model(moved, tokens()), model(params, tokens()), rtol=0, atol=1e-11)
    kernel = params["Layer_0"]["Query"]["kernel"]
    np.testing.assert_allclose(moved["Layer_0"]["Query"]["kernel"][:, 4:], kernel[:, 4:] @ matrices[0, 1], rtol=1e-12)
    assert_close(drawn.inverse(moved), params, rtol=1e-9, atol=1e-11)
    check_gradient(params, drawn)


def check_gradient(params, drawn):
    (value, gradient), (moved_value, moved) = (
        value_and_gradient(tree, tokens()) for tree in (params, drawn.transform(params))
    )
    np.testing.assert_allclose(moved_value, value, rtol=1e-12)
    assert_close(moved, drawn.gradient(gradient), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_move_by_the_inverse_transpose(kind):
    _, params = make("none", "float64")
    check_gradient(params, draw(kind, params))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_inverse_transpose_of_the_map(kind):
    """<T v, gradient(g)> = <v, g> for any v and g, by the trees alone."""
    _, params = make("none", "float64")
    drawn = draw(kind, params)
    other = jax.tree.map(lambda x: jnp.asarray(np.cos(30 * x)), params)

    def inner(one, other):
        return sum(jax.tree.leaves(jax.tree.map(np.vdot, one, other)))

    np.testing.assert_allclose(inner(drawn.transform(params), drawn.gradient(other)), inner(params, other), rtol=1e-11)


@pytest.mark.parametrize("kind", [*symmetries.DRAWS, "mixing"])
@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_strength_one_is_the_identity(kind, positions):
    _, params = make(positions)
    drawn = draw(kind, params, strength=1.0, positions=positions)
    for move in (drawn.transform, drawn.inverse, drawn.gradient):
        assert_equal(move(params), params)


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_undoes(kind):
    _, params = make("none", "float64")
    drawn = draw(kind, params)
    assert_close(drawn.inverse(drawn.transform(params)), params, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["query_key", *slow(("powers_of_two",), ("permutation",))])
def test_maps_are_trees_under_jit_and_vmap_over_seeds(kind):
    _, params = make("none", "float64")
    several, drawn = stack(params, jax.tree.map(lambda x: 2 * x, params)), draw(kind, params)
    moved, restored = jax.jit(
        jax.vmap(lambda drawn, params: (drawn.transform(params), drawn.inverse(drawn.transform(params))))
    )(stack(drawn, drawn), several)
    assert_close(restored, several, rtol=1e-11, atol=1e-13)
    expected = drawn.transform(params)
    assert_close(moved, stack(expected, jax.tree.map(lambda x: 2 * x, expected)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["log_uniform", *slow(("permutation",))])
def test_draws_under_jit_and_vmap_over_keys(kind):
    """A seed draws the same alone and among others, and another seed something else."""
    _, params = make("none", "float64")

    def one(key):
        if kind == "permutation":
            return symmetries.draw_permutation(key, params, heads=HEADS)
        return symmetries.draw_rescaling(key, params, strength=8.0, draw=kind)

    keys = jax.random.split(jax.random.key(0), 3)
    drawn = jax.jit(jax.vmap(one))(keys)
    assert_close(jax.tree.map(lambda x: x[1], drawn), one(keys[1]), rtol=1e-14)
    first = jax.tree.leaves(drawn)[0]
    assert (first[0] != first[1]).any()


def test_permutations_move_whole_neurons_and_heads():
    _, params = make()
    drawn = symmetries.permutation({"Layer_0": jnp.arange(HIDDEN)[::-1]}, {"Layer_0": [1, 0]})
    moved = drawn.transform(params)
    before, after = params["Layer_0"], moved["Layer_0"]
    np.testing.assert_array_equal(after["Dense_0"]["bias"], before["Dense_0"]["bias"][::-1])
    np.testing.assert_array_equal(after["Value"]["bias"], jnp.roll(before["Value"]["bias"], CHANNELS))
    np.testing.assert_array_equal(after["Out"]["kernel"], jnp.roll(before["Out"]["kernel"], CHANNELS, axis=0))
    assert_equal(moved["Layer_1"], params["Layer_1"])
    assert_equal(drawn.inverse(moved), params)


def curves(optimizer, *starts, steps=6):
    """Losses [starts, steps] and parameters behind a short fine-tuning from each start."""

    @jax.jit
    def update(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    losses, ends = [], []
    for params in starts:
        state = optimizer.init(params)
        for _ in range(steps):
            value, gradient = value_and_gradient(params, tokens())
            params, state = update(gradient, state, params)
            losses.append(float(value))
        ends.append(params)
    return np.array(losses).reshape(len(starts), steps), ends


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_training_notices_scales_and_mixings_and_no_permutations(name):
    """Orthogonal mixings are between: SGD does not notice them, Adam does, as it works channel by channel."""
    _, params = make("none", "float64")
    optimizer = optax.sgd(0.05) if name == "sgd" else optax.adamw(0.01, weight_decay=0.1)
    order = draw("permutation", params)
    turns = jnp.linalg.qr(jnp.sin(jnp.arange(1.0, 33.0)).reshape(HEADS, CHANNELS, CHANNELS))[0]
    turned = symmetries.mixing({"Layer_0": turns}, {"Layer_0": turns}, positions="none")
    others = [draw(kind, params, strength=16.0) for kind in ("powers_of_two", "query_key", "value_output")]
    losses, ends = curves(optimizer, params, *(drawn.transform(params) for drawn in (order, turned, *others)))
    np.testing.assert_allclose(losses[:, 0], np.full(6, losses[0, 0]), rtol=1e-10)
    assert losses[0, -1] < losses[0, 0] - 0.01
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    assert_close(order.inverse(ends[1]), ends[0], rtol=1e-7, atol=1e-7)
    apart = np.abs(losses[2:] / losses[:1] - 1).max(axis=1)
    assert (apart[0] < 1e-10) == (name == "sgd")
    assert (apart[1:] > 1e-4).all(), apart


def test_weight_decay_alone_is_seen_by_no_symmetry():
    """Shrinking commutes with every linear map: what is not invariant is the penalty as a number."""
    _, params = make("none", "float64")
    shrink = lambda tree: jax.tree.map(lambda x: 0.9 * x, tree)  # noqa: E731
    for kind in KINDS:
        drawn = draw(kind, params)
        assert_close(drawn.inverse(shrink(drawn.transform(params))), shrink(params), rtol=1e-11, atol=1e-13)


def test_adaptive_sharpness_does_not_see_scales_with_eta_zero():
    params, batch = make_mlp()
    moved = symmetries.draw_rescaling(jax.random.key(0), params, strength=16.0, activation="relu").transform(params)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    @functools.partial(jax.vmap, in_axes=(0, None))
    def sharpness(params, eta):
        return worst_case(mlp_loss, params, batch, radius=0.3, steps=3, metric="adaptive", eta=eta)

    invariant, others = sharpness(stack(params, moved), jnp.array([0.0, 0.01]))
    assert invariant[0] > 1e-2
    np.testing.assert_allclose(invariant[1], invariant[0], rtol=1e-10)
    assert abs(others[1] / others[0] - 1) > 1e-3


def test_the_trace_of_the_hessian_sees_scales_and_no_permutation():
    params, batch = make_mlp()
    scales = symmetries.draw_rescaling(jax.random.key(0), params, strength=16.0, activation="relu")
    order = symmetries.draw_permutation(jax.random.key(0), params)
    _, unravel = ravel_pytree(params)

    @jax.jit
    @jax.vmap
    def trace(tree):
        return jnp.trace(jax.hessian(lambda flat: mlp_loss(unravel(flat), batch))(ravel_pytree(tree)[0]))

    original, scaled, permuted = trace(stack(params, scales.transform(params), order.transform(params)))
    np.testing.assert_allclose(permuted, original, rtol=1e-10)
    assert scaled > 2 * original > 0


def test_strength_may_be_traced():
    _, params = make()
    key = jax.random.key(0)
    traced = jax.jit(lambda c: symmetries.draw_rescaling(key, params, strength=c))(9.0)
    assert_equal(traced, symmetries.draw_rescaling(key, params, strength=8.0))


@pytest.mark.slow
def test_condition_number_may_be_traced():
    _, params = make()
    key = jax.random.key(0)
    mixed = jax.jit(
        lambda c: symmetries.draw_mixing(key, params, heads=HEADS, strength=c, positions="none", parts=("query_key",))
    )(9.0)
    np.testing.assert_allclose(np.linalg.cond(mixed.query_key["Layer_1"]), 9.0, rtol=1e-4)


def refuses(message, call, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_refusals_of_rescaling():
    _, params = make()
    dense, (inputs, _) = make_mlp()
    key = jax.random.key(0)
    scale, fixed = symmetries.draw_rescaling, symmetries.rescaling
    refuses("activation = 'tanh': only 'relu'", scale, key, dense, strength=2.0, activation="tanh")
    refuses("activation = None: parameters of models.mlp do not tell", scale, key, dense, strength=2.0)
    refuses("activation = 'gelu'", fixed, {"Dense_0": jnp.ones(5)}, activation="gelu")
    for wrong in (0.5, float("nan"), float("inf")):
        refuses(f"strength = {wrong}: it must be finite and at least 1", scale, key, params, strength=wrong)
    refuses("strength = 3.0: powers of two reach", scale, key, params, strength=3.0)
    refuses(r"strength has shape \(2,\)", scale, key, params, strength=jnp.ones(2))
    refuses("draw = 'gamma': choose one of powers_of_two", scale, key, params, strength=2.0, draw="gamma")
    refuses("scales of Layer_0 = 0.0: .* needs finite d > 0", fixed, {"Layer_0": jnp.array([1.0, 0.0])})
    refuses(r"scales of Layer_0 have shape \(\)", fixed, {"Layer_0": jnp.array(1.0)})
    refuses(r"scales of Layer_0 have shape \(5,\): the layer has 6", fixed({"Layer_0": jnp.ones(5)}).transform, params)
    refuses(
        "scales name 'Layer_7': these params have Layer_0, Layer_1", fixed({"Layer_7": jnp.ones(6)}).inverse, params
    )
    one = jax.eval_shape(mlp((3,), activation="relu").init, key, inputs)
    others = [jax.eval_shape(model.init, key) for model in (lstm(5), causal_linear(5, max_positions=4))]
    others += [one, {}, [1.0]]
    for other in others:
        refuses("params hold .*: give those of models.transformer, or of models.mlp", scale, key, other, strength=2.0)


def test_refusals_of_mixings_and_permutations():
    _, params = make()
    dense, _ = make_mlp()
    key = jax.random.key(0)
    mix, fixed = symmetries.draw_mixing, symmetries.mixing
    known = {"heads": HEADS, "positions": "none"}
    refuses("strength = 0.5: a condition number", mix, key, params, strength=0.5, **known)
    refuses("positions = 'relative'", mix, key, params, heads=HEADS, strength=2.0, positions="relative")
    refuses("positions = 'relative'", fixed, positions="relative")
    refuses(r"parts = \('query',\)", mix, key, params, strength=2.0, parts=("query",), **known)
    refuses("heads = 3: it must divide the width 8", mix, key, params, heads=3, strength=2.0, positions="none")
    refuses("single channel has condition number 1", mix, key, params, heads=8, strength=2.0, positions="none")
    refuses("single pair .* rotary", mix, key, params, heads=4, strength=2.0, positions="rotary")
    refuses("params hold Dense_0, .*: heads are those", mix, key, dense, strength=2.0, **known)
    singular = {"Layer_0": jnp.zeros((HEADS, 4, 4)) + jnp.eye(4)[None].at[0, 0, 0].set(0.0)}
    refuses("value_output of Layer_0 has condition number inf: it is singular", fixed, None, singular, positions="none")
    refuses("query_key of Layer_0 = nan", fixed, {"Layer_0": jnp.full((1, 2, 2), jnp.nan)}, positions="none")
    refuses(r"has shape \(4, 4\): give a square matrix", fixed, {"Layer_0": jnp.eye(4)}, positions="none")
    refuses("rotary positions turn pairs", fixed, {"Layer_0": jnp.eye(3)[None]}, positions="rotary")
    refuses("h c must be the width 8", fixed({"Layer_0": jnp.eye(4)[None]}, positions="none").transform, params)
    refuses("query_key names 'Layer_9'", fixed({"Layer_9": jnp.eye(8)[None]}, positions="none").transform, params)
    refuses("neurons of Layer_0 are .* give each of 0", symmetries.permutation, {"Layer_0": [0, 0, 1]})
    refuses("heads of Layer_0 are .* give each of 0", symmetries.permutation, None, {"Layer_0": [1, 2]})
    refuses("neurons name 'Layer_5'", symmetries.permutation({"Layer_5": [0]}).transform, params)
    refuses("heads name 'Layer_5'", symmetries.permutation(None, {"Layer_5": [1, 0]}).transform, params)
    refuses("heads = 3: it must divide", symmetries.draw_permutation, key, params, heads=3)
