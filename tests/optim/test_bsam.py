"""bSAM against the published update written out anew, its fixed point, and the mistakes that ports of it have made."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pbjax.optim import _trees as trees
from pbjax.optim.bsam import BsamState, bsam
from pbjax.optim.own_loop import perturbed_value_and_grad

SETTINGS = {"n": 50, "radius": 0.3, "beta1": 0.8, "beta2": 0.9, "prior_precision": 5.0, "damping": 0.05}
RATE = 0.07


def problem():
    """A least-squares loss that is neither separable nor centred at 0, over two leaves: params, rows, gradient."""
    generator = np.random.default_rng(1)
    rows = {"x": jnp.asarray(generator.normal(size=(12, 3))), "y": jnp.asarray(generator.normal(size=(12,)))}
    params = {"kernel": jnp.asarray(generator.normal(size=3)), "bias": jnp.asarray(generator.normal(size=()))}
    return params, rows


def loss_of(params, rows):
    return jnp.mean(jnp.square(jnp.tanh(rows["x"] @ params["kernel"] + params["bias"]) - rows["y"]))


def numpy_gradient(weights, rows):
    """The same gradient by hand, weights [4] = kernel and bias."""
    x = np.column_stack([np.asarray(rows["x"]), np.ones(len(rows["y"]))])
    out = np.tanh(x @ weights)
    return x.T @ (2 * (out - np.asarray(rows["y"])) * (1 - out**2)) / len(out)


def flat(tree):
    return np.concatenate([np.asarray(tree["kernel"]).ravel(), np.asarray(tree["bias"]).ravel()])


def noise_of(key, params):
    return flat(trees.normals(key, params, trees.resolve_mask(None, params)))


def transcription(w, m, s, parts, *, rate, n, radius, beta1, beta2, prior_precision, damping):
    """One step of the published update: `parts` is a list of (noise z, gradient function), one a micro-batch."""
    delta = prior_precision / n
    ascended, increments = [], []
    for z, gradient in parts:
        g = gradient(w + z / np.sqrt(n * s))
        ascended.append(gradient(w + radius * g / s))
        increments.append(np.sqrt(s) * np.abs(g))
    m = beta1 * m + (1 - beta1) * (np.mean(ascended, axis=0) + delta * w)
    w = w - rate * m / s
    s = beta2 * s + (1 - beta2) * (np.mean(increments, axis=0) + delta + damping)
    return w, m, s


def part_of(rows, part, parts):
    return {name: leaf.reshape(parts, -1, *leaf.shape[1:])[part] for name, leaf in rows.items()}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("form", ["grad_fn", "own_loop"])
def test_twenty_steps_equal_the_published_update(parts, form):
    params, rows = problem()
    tx = bsam(RATE, precision_init=0.7, micro_batches=parts, **SETTINGS)

    @jax.jit
    def step(carry, key):
        params, state = carry
        if form == "own_loop":
            _, grads, state = perturbed_value_and_grad(loss_of, state, params, key, rows, member=tx)
            updates, state = tx.update(grads, state, params, perturbed=True)
        elif parts == 1:
            updates, state = tx.update(params, state, params, grad_fn=lambda p: jax.grad(loss_of)(p, rows), key=key)
        else:
            updates, state = tx.update(
                params, state, params, grad_fn=lambda p, i: jax.grad(loss_of)(p, part_of(rows, i, parts)), key=key
            )
        return (optax.apply_updates(params, updates), state), None

    w, m, s = flat(params), np.zeros(4), np.full(4, 0.7)
    carry = params, tx.init(params)
    for key in jax.random.split(jax.random.key(3), 20):
        keys = [key] if parts == 1 else list(jax.random.split(key, parts))
        given = [
            (noise_of(k, params), lambda v, i=i: numpy_gradient(v, part_of(rows, i, parts))) for i, k in enumerate(keys)
        ]
        w, m, s = transcription(w, m, s, given, rate=RATE, **SETTINGS)
        carry, _ = step(carry, key)
        np.testing.assert_allclose(flat(carry[0]), w, rtol=1e-5)
        np.testing.assert_allclose(flat(carry[1].momentum), m, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(flat(carry[1].precision), s, rtol=1e-5)
    assert int(carry[1].count) == 20


def test_both_forms_agree_and_the_structure_is_constant():
    params, rows = problem()
    tx = bsam(RATE, **SETTINGS)
    key, start = jax.random.key(0), tx.init(params)
    first, one = tx.update(params, start, params, grad_fn=lambda p: jax.grad(loss_of)(p, rows), key=key)
    value, grads, between = perturbed_value_and_grad(loss_of, start, params, key, rows, member=tx)
    second, two = tx.update(grads, between, params, perturbed=True)
    np.testing.assert_allclose(flat(first), flat(second), rtol=1e-12)
    np.testing.assert_allclose(flat(one.precision), flat(two.precision), rtol=1e-12)
    # The loss is that of the end of the ascent, which is where g' was taken.
    assert float(value) == pytest.approx(float(two.metrics.perturbed_loss), rel=1e-6)
    assert np.isnan(float(one.metrics.perturbed_loss))
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) for state in (start, one, between, two)]
    assert all(shape == shapes[0] for shape in shapes)


def test_aux_comes_from_micro_batch_0_once():
    params, rows = problem()
    rows["index"] = jnp.arange(12)

    def loss(params, rows):
        return loss_of(params, rows), {"first": rows["index"][0], "size": jnp.float32(rows["y"].shape[0])}

    tx = bsam(RATE, micro_batches=3, **SETTINGS)
    (value, aux), _, _ = perturbed_value_and_grad(
        loss, tx.init(params), params, jax.random.key(0), rows, member=tx, has_aux=True
    )
    assert value.shape == () and int(aux["first"]) == 0 and float(aux["size"]) == 4


def points(tx, params, key, gradient):
    """Where `tx` evaluated the gradient: (noisy point, ascended point), with `gradient(point)` given as its answer."""
    seen = []

    def grad_fn(point):
        seen.append(point)
        return gradient(point)

    updates, state = tx.update(params, tx.init(params), params, grad_fn=grad_fn, key=key)
    assert len(seen) == 2  # and the incoming gradient was not read: it was the params
    return seen, updates, state


def test_noise_has_deviation_one_over_root_of_n_times_s_and_not_its_square():
    params = jnp.full(100_000, 3.0)
    (noisy, _), _, state = points(
        bsam(0.1, n=25, precision_init=4.0), params, jax.random.key(0), lambda w: jnp.zeros_like(w)
    )
    deviation = float(jnp.std(noisy - params))
    # The relative standard error of a deviation is 1/sqrt(2 * 100,000) = 0.0022; five of them fail once in 1.7 million.
    assert deviation == pytest.approx(0.1, rel=0.0112)  # 1/(n s) would be 0.01
    assert abs(float(jnp.mean(noisy - params))) < 5 * 0.1 / np.sqrt(1e5)
    np.testing.assert_allclose(float(jnp.exp(state.log_scales(params))[0]), 1 / np.sqrt(25 * state.precision[0]), 1e-6)


def test_ascent_starts_at_the_mean_and_is_not_normalised():
    params, given = jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0])
    (noisy, ascended), _, state = points(
        bsam(0.1, n=1, radius=0.5, precision_init=2.0), params, jax.random.key(0), lambda _: given
    )
    assert float(jnp.min(jnp.abs(noisy - params))) > 1e-3  # the noise is there, and must not be in the ascended point
    np.testing.assert_allclose(ascended, params + 0.5 * given / 2.0, rtol=1e-6)
    assert float(state.metrics.perturbation_norm) == pytest.approx(0.5 * 5 / 2, rel=1e-6)


def test_noise_and_ascent_are_taken_back_off_the_weights():
    params = jnp.array([1.0, -2.0])
    _, updates, _ = points(bsam(0.0, n=1, radius=5.0), params, jax.random.key(0), lambda w: 10 * w)
    np.testing.assert_array_equal(optax.apply_updates(params, updates), params)


def test_step_divides_by_the_precision_from_before_its_update():
    params, given = jnp.array([0.0, 0.0]), jnp.array([100.0, 1.0])
    tx = bsam(1.0, n=10, beta1=0.0, beta2=0.5, precision_init=2.0, prior_precision=0.0)
    _, updates, state = points(tx, params, jax.random.key(0), lambda _: given)
    np.testing.assert_allclose(updates, -given / 2.0, rtol=1e-6)
    np.testing.assert_allclose(state.precision, 0.5 * 2 + 0.5 * (np.sqrt(2) * given + 0.1), rtol=1e-6)


def test_momentum_adds_delta_times_w_and_has_no_bias_correction():
    params, given = jnp.array([4.0, -2.0]), jnp.array([0.0, 0.0])
    tx = bsam(1.0, n=100, beta1=0.9, prior_precision=50.0)
    _, updates, state = points(tx, params, jax.random.key(0), lambda _: given)
    # A gradient times the decay would be 0 here, and bias correction ten times as much.
    np.testing.assert_allclose(state.momentum, 0.1 * 0.5 * np.asarray(params), rtol=1e-6)
    np.testing.assert_allclose(updates, -0.1 * 0.5 * np.asarray(params), rtol=1e-6)


def test_precision_reads_the_noisy_gradient_and_not_its_square_or_the_ascended_one():
    params = jnp.array([0.0, 0.0])
    answers = iter([jnp.array([2.0, -3.0]), jnp.array([50.0, 70.0])])
    tx = bsam(1.0, n=10, beta2=0.9, precision_init=4.0, prior_precision=20.0, damping=0.3)
    _, _, state = points(tx, params, jax.random.key(0), lambda _: next(answers))
    np.testing.assert_allclose(state.precision, 0.9 * 4 + 0.1 * (2 * np.array([2.0, 3.0]) + 2.0 + 0.3), rtol=1e-6)


def test_prior_enters_once_in_the_step_and_nowhere_in_noise_or_ascent():
    params, given = jnp.array([4.0, -2.0]), jnp.array([1.0, 1.0])
    key = jax.random.key(0)
    weak, strong = (bsam(1.0, n=100, radius=0.5, prior_precision=p, beta1=0.0) for p in (0.0, 300.0))
    seen_weak, updates_weak, _ = points(weak, params, key, lambda _: given)
    seen_strong, updates_strong, _ = points(strong, params, key, lambda _: given)
    for one, other in zip(seen_weak, seen_strong, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(updates_strong - updates_weak, -3.0 * np.asarray(params), rtol=1e-5)


def test_fixed_point_of_the_precision_on_quadratics():
    curvatures, copies, n = np.array([0.1, 0.5, 2.0, 10.0]), 2000, 100
    h = jnp.repeat(jnp.asarray(curvatures), copies)
    tx = bsam(0.01, n=n, beta2=0.99, prior_precision=1.0, damping=0.1)

    def step(carry, key):
        params, state = carry
        updates, state = tx.update(params, state, params, grad_fn=lambda w: h * w, key=key)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros_like(h), tx.init(jnp.zeros_like(h))
    keys = jax.random.split(jax.random.key(0), 1500)
    (_, state), _ = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))(start, keys)
    found = np.asarray(state.precision).reshape(len(curvatures), copies)
    curvature_part = curvatures * np.sqrt(2 / (np.pi * n))
    expected = 1.0 / n + 0.1 + curvature_part
    # s is an average with weights (1 - beta2) beta2^k of independent |z| whose deviation is sqrt(pi/2 - 1) = 0.756 of
    # their mean, so a copy has relative deviation 0.756 sqrt(0.01/1.99) and the mean of 2,000 copies 0.0012. Five of
    # these fail once in 1.7 million a curvature. 0.99^1500 of the start, and |w| > 0 on the way, are below 0.0004.
    np.testing.assert_allclose(found.mean(1) - 0.11, curvature_part, rtol=5 * 0.0012 + 0.0004)
    assert np.all(found.mean(1) - expected < 0.01 * expected)


def test_schedules_follow_the_count():
    params = jnp.array([1.0, 2.0])
    tx = bsam(lambda count: 0.1 / (1 + count), n=100, radius=lambda count: 0.5 * (count == 1))
    state, lengths, rates = tx.init(params), [], []
    for key in jax.random.split(jax.random.key(0), 3):
        before = state
        updates, state = tx.update(params, state, params, grad_fn=lambda w: jnp.ones_like(w), key=key)
        lengths.append(float(state.metrics.perturbation_norm))
        rates.append(float(-(updates * before.precision / state.momentum)[0]))
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.1 / 3], rtol=1e-5)
    assert lengths[0] == lengths[2] == 0 and lengths[1] > 0.1


def test_masked_leaves_have_no_noise_and_no_ascent_but_are_stepped():
    params, rows = problem()
    tx = bsam(RATE, mask={"kernel": True, "bias": False}, **SETTINGS)
    seen, updates, state = points(tx, params, jax.random.key(0), lambda p: jax.grad(loss_of)(p, rows))
    for point in seen:
        assert float(point["bias"]) == float(params["bias"])
        assert not np.any(np.asarray(point["kernel"] == params["kernel"]))
    assert float(updates["bias"]) != 0
    scales = state.log_scales(params)
    assert float(scales["bias"]) == -np.inf and np.all(np.isfinite(scales["kernel"]))
    assert float(state.metrics.mean_scale) == pytest.approx(1 / np.sqrt(50), rel=1e-6)


def test_bfloat16_params_keep_a_float32_state():
    params = jnp.ones(4, jnp.bfloat16)
    tx = bsam(0.1, n=10, micro_batches=2)
    updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda w, part: w, key=jax.random.key(0))
    assert updates.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in (state.momentum, state.precision, state.increment)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("bad", [0, 1], ids=["noisy", "ascended"])
@pytest.mark.parametrize("form", ["grad_fn", "own_loop"])
def test_a_gradient_that_is_not_finite_leaves_nothing_behind(bad, form):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = bsam(0.1, n=10, radius=0.5)
    _, state = tx.update(params, tx.init(params), params, grad_fn=lambda p: p, key=jax.random.key(0))
    calls = []

    def gradient(p):
        calls.append(p)
        return {"a": p["a"] * jnp.where(len(calls) == bad + 1, jnp.inf, 1.0), "b": p["b"]}

    if form == "grad_fn":
        updates, after = tx.update(params, state, params, grad_fn=gradient, key=jax.random.key(1))
    else:
        _, _, grads, between = tx.own_loop(
            state, params, jax.random.key(1), lambda p: (jnp.float32(0), gradient(p), ())
        )
        updates, after = tx.update(grads, between, params, perturbed=True)
    assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_zero_gradients_are_finite():
    params = jnp.zeros(3)
    tx = bsam(0.1, n=10)
    updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda w: 0 * w, key=jax.random.key(0))
    assert np.all(np.asarray(updates) == 0) and np.all(np.asarray(state.precision) > 0)


def test_in_a_chain_with_clipping_injected_numbers_and_seeds_side_by_side():
    params, rows = problem()
    injected = optax.inject_hyperparams(bsam, static_args=("micro_batches", "mask"))(
        learning_rate=RATE, micro_batches=3, **SETTINGS
    )
    tx = optax.chain(optax.clip_by_global_norm(1.0), injected)

    def grad_fn(p, part):
        return jax.grad(loss_of)(p, part_of(rows, part, 3))

    def run(key):
        def step(carry, key):
            params, state = carry
            updates, state = tx.update(params, state, params, grad_fn=grad_fn, key=key, unknown=1)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 4))[0][0]

    keys = jax.random.split(jax.random.key(5), 2)
    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)(keys[1])
    np.testing.assert_allclose(np.asarray(together["kernel"])[1], np.asarray(alone["kernel"]), rtol=1e-6)
    assert not np.allclose(np.asarray(together["kernel"])[0], np.asarray(together["kernel"])[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": None}, "n is missing"),
        ({"n": 0}, "n = 0"),
        ({"radius": -0.1}, "radius"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": -0.1}, "beta2"),
        ({"prior_precision": -1.0}, "prior_precision"),
        ({"precision_init": 0.0}, "precision_init"),
        ({"damping": 0.0, "prior_precision": 0.0}, "one must be positive"),
        ({"micro_batches": 0}, "micro_batches"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bsam(**{"learning_rate": 0.1, "n": 10, **arguments})


def test_what_is_missing_at_the_update_is_named():
    params = jnp.ones(2)
    tx = bsam(0.1, n=10)
    state = tx.init(params)
    assert isinstance(state, BsamState)
    with pytest.raises(ValueError, match="grad_fn is missing"):
        tx.update(params, state, params, key=jax.random.key(0))
    with pytest.raises(ValueError, match="key is missing"):
        tx.update(params, state, params, grad_fn=lambda w: w)
    with pytest.raises(ValueError, match="params is missing"):
        tx.update(params, state, grad_fn=lambda w: w, key=jax.random.key(0))
    with pytest.raises(ValueError, match="only floating-point"):
        tx.init(jnp.ones(2, jnp.int32))
    with pytest.raises(ValueError, match="perturbs nothing"):
        bsam(0.1, n=10, mask=False).init(params)
    with pytest.raises(ValueError, match="micro_batches is traced"):
        jax.jit(lambda count: bsam(0.1, n=10, micro_batches=count).init(params))(2)
