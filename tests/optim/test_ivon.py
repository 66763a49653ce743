"""IVON: step by step against the PyTorch package, its fixed point on quadratics, and its two halves."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pbjax.optim.ivon import IvonState, ivon
from pbjax.optim.own_loop import perturbed_value_and_grad

TRACE = json.loads((Path(__file__).parent / "ivon_trace.json").read_text())
PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]], jnp.float32), "bias": jnp.array([0.3, -0.7], jnp.float32)}


def loss(params: Any) -> jax.Array:
    """Something smooth that is no quadratic."""
    return jnp.sum(jnp.log(jnp.cosh(params["kernel"]))) + jnp.sum(jnp.sin(params["bias"]) * params["kernel"][0])


def run(tx: Any, grad_fn: Any, params: Any, steps: int) -> tuple[Any, Any, Any]:
    """Params, state and all updates after some steps in one scan."""

    def body(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params, grad_fn=grad_fn, key=key)
        return (optax.apply_updates(params, updates), state), updates

    keys = jax.random.split(jax.random.key(0), steps)
    (params, state), updates = jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), keys))(params)
    return params, state, updates


@pytest.mark.parametrize("name", TRACE["runs"])
def test_every_step_is_that_of_the_pytorch_package(name: str) -> None:
    recorded = TRACE["runs"][name]
    settings = dict(recorded["settings"])
    samples = settings.pop("mc_samples", 1)
    steps = len(recorded["rates"])
    rates = jnp.array(recorded["rates"], jnp.float32)
    noise = jnp.array(recorded["noise"], jnp.float32)
    inputs, labels = (jnp.array(TRACE[part], jnp.float32) for part in ("inputs", "labels"))
    estimator = {"price": "reparametrised", "gradsq": "squared_gradient"}[settings.pop("hess_approx", "price")]

    # The noise for every key that a step will ask for: a step splits its key for the samples, a sample for the leaves.
    keys = jax.random.split(jax.random.key(5), steps)
    asked = [sample for key in keys for sample in ([key] if samples == 1 else jax.random.split(key, samples))]
    table = jnp.stack([jax.random.key_data(jax.random.split(key, 1)[0]) for key in asked])

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        found = jnp.all(table == jax.random.key_data(key)[None], axis=1)
        return jnp.where(jnp.any(found), noise[jnp.argmax(found)], jnp.nan).reshape(shape).astype(dtype)

    tx = ivon(
        lambda count: rates[count], n=settings.pop("ess"), samples=samples, hessian_estimator=estimator, draw=draw,
        **settings,
    )  # fmt: skip
    grad_fn = jax.grad(lambda w: jnp.mean(jax.nn.softplus(-labels * (inputs @ w))))

    def body(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        updates, state = tx.update(params, state, params, grad_fn=grad_fn, key=key)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state.momentum, state.hessian)

    start = jnp.array(TRACE["start"], jnp.float32)
    _, found = jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), keys))(start)
    for ours, theirs in zip(found, ("params", "momentum", "hessian"), strict=True):
        np.testing.assert_allclose(ours, np.array(recorded[theirs]), rtol=5e-6, atol=1e-6, err_msg=theirs)


def test_the_trace_reaches_what_it_is_there_for() -> None:
    runs = TRACE["runs"]
    assert np.min(runs["quick_hessian"]["hessian"]) < 0
    # The length of a clipped step is the rescaled rate times the radius.
    moves = np.abs(np.diff(np.array(runs["clipped"]["params"]), axis=0))
    assert np.sum(np.abs(moves - 0.2 * 0.201 * 0.3) < 1e-5) > 5


def test_fixed_points_on_quadratics() -> None:
    # Twelve coordinates: six curvatures with the minimum at 0 (for h, whose formula leaves out the pull of the prior)
    # and at 1 (for the mean). 1 - beta2 is 0.03: the correction to h is up to 3 %.
    curvatures, rate, seeds, burn, steps = np.array([0.01, 0.05, 0.2, 1.0, 4.0, 20.0]), 0.03, 48, 2000, 8000
    n, prior_scale = np.array([[100.0], [1000.0], [20.0]]), np.array([[0.5], [1.0], [0.2]])
    delta = 1 / (n * prior_scale**2)
    h = jnp.array(np.tile(curvatures, 2), jnp.float32)
    centre = jnp.repeat(jnp.array([0.0, 1.0], jnp.float32), 6)

    def one(key: jax.Array, n: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
        tx = ivon(0.02, n=n, beta2=1 - rate, weight_decay=delta, rescale_lr=False)

        def body(carry: Any, index: jax.Array) -> tuple[Any, None]:
            params, state, totals = carry
            updates, state = tx.update(
                params, state, params, grad_fn=lambda w: h * (w - centre), key=jax.random.fold_in(key, index)
            )
            params = optax.apply_updates(params, updates)
            counted = (index >= burn) / steps
            new = (state.hessian, params)
            return (params, state, jax.tree.map(lambda t, v: t + counted * v, totals, new)), None

        start = jnp.zeros(12, jnp.float32)
        zeros = (jnp.zeros(12), jnp.zeros(12))
        return jax.lax.scan(body, (start, tx.init(start), zeros), jnp.arange(burn + steps))[0][2]

    over_seeds = jax.vmap(one, in_axes=(0, None, None))
    over_cases = jax.jit(jax.vmap(over_seeds, in_axes=(None, 0, 0)))
    keys = jax.random.split(jax.random.key(1), seeds)
    hessian, mean = jax.tree.map(np.asarray, over_cases(keys, jnp.array(n[:, 0]), jnp.array(delta[:, 0])))
    # Standard errors from the spread over seeds, two times 18 values: at 4.5 errors a false alarm has chance
    # 36 x 7e-6 = 2.5e-4. What is left out is of second order in 1 - beta2 for h, and for the mean of first order in
    # 1 - beta2 times its distance from the minimum (h remembers the noise that the momentum remembers).
    expected = curvatures * (1 + rate * curvatures / (curvatures + delta))
    error = np.std(hessian[..., :6], axis=1) / np.sqrt(seeds)
    assert np.all(np.abs(np.mean(hessian[..., :6], axis=1) - expected) < 4.5 * error + 4 * rate**2 * curvatures)
    # Small enough an error to see the correction.
    assert np.all(error < 0.004 * curvatures)
    expected = n * curvatures / (n * curvatures + 1 / prior_scale**2)
    error = np.std(mean[..., 6:], axis=1) / np.sqrt(seeds)
    assert np.all(np.abs(np.mean(mean[..., 6:], axis=1) - expected) < 4.5 * error + rate * (1 - expected))
    assert np.all(error < 0.01)


@pytest.mark.parametrize(("samples", "estimator"), [(1, "reparametrised"), (3, "squared_gradient")])
def test_both_forms_make_the_same_step(samples: int, estimator: str) -> None:
    tx = ivon(0.3, n=50, beta2=0.9, samples=samples, hessian_estimator=estimator)

    def by_grad_fn(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        updates, state = tx.update(params, state, params, value_and_grad_fn=jax.value_and_grad(loss), key=key)
        return (optax.apply_updates(params, updates), state), None

    def by_own_loop(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        value, grads, state = perturbed_value_and_grad(loss, state, params, key, member=tx)
        updates, state = tx.update(grads, state, params, perturbed=True)
        return (optax.apply_updates(params, updates), state), value

    keys, start = jax.random.split(jax.random.key(2), 4), (PARAMS, tx.init(PARAMS))
    one, _ = jax.jit(lambda c: jax.lax.scan(by_grad_fn, c, keys))(start)
    two, values = jax.jit(lambda c: jax.lax.scan(by_own_loop, c, keys))(start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, two)
    assert int(one[1].count) == 4
    np.testing.assert_allclose(values[-1], one[1].metrics.perturbed_loss, rtol=1e-5)


def test_clipping_in_between_acts_on_the_mean_only() -> None:
    tx = ivon(0.3, n=50, beta2=0.9)

    @jax.jit
    def step(share: jax.Array) -> Any:
        _, grads, state = perturbed_value_and_grad(loss, tx.init(PARAMS), PARAMS, jax.random.key(3), member=tx)
        return tx.update(jax.tree.map(lambda g: share * g, grads), state, PARAMS, perturbed=True)

    (whole_updates, whole), (half_updates, half) = step(jnp.float32(1)), step(jnp.float32(0.5))
    jax.tree.map(np.testing.assert_array_equal, whole.hessian, half.hessian)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 2, rtol=1e-6), half.momentum, whole.momentum)
    assert np.linalg.norm(whole_updates["kernel"]) > 1.5 * np.linalg.norm(half_updates["kernel"])
    assert not np.allclose(whole.hessian["kernel"], 1.0, rtol=1e-3)


def test_masked_leaves_have_no_noise_and_are_momentum_with_weight_decay() -> None:
    seen = []

    def grad_fn(params: Any) -> Any:
        seen.append(params["bias"])
        return jax.tree.map(jnp.ones_like, params)

    decay = 0.1
    tx = ivon(0.5, n=10, hess_init=0.7, weight_decay=decay, mask={"kernel": True, "bias": False})
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(3):
        before = params["bias"]
        updates, state = tx.update(params, state, params, grad_fn=grad_fn, key=jax.random.key(step))
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(seen[step], before)
        # A constant gradient has the bias-corrected momentum 1.
        np.testing.assert_allclose(params["bias"], before - 0.5 * (1 + decay * before), rtol=1e-6)
    scales = state.log_scales(params)
    assert np.all(np.isneginf(scales["bias"]))
    np.testing.assert_allclose(scales["kernel"], -0.5 * np.log(10 * (state.hessian["kernel"] + decay)), rtol=1e-6)
    np.testing.assert_allclose(state.hessian["bias"], 0.7, rtol=1e-6)


def test_the_incoming_gradient_is_not_read_and_a_sample_costs_one_gradient() -> None:
    calls = []
    tx = ivon(0.1, n=10, samples=4)

    def grad_fn(params: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return params

    nan = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), PARAMS)
    updates, _ = jax.jit(lambda p: tx.update(nan, tx.init(p), p, grad_fn=grad_fn, key=jax.random.key(0)))(PARAMS)
    jax.effects_barrier()
    assert len(calls) == 4
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))


def test_metrics_say_what_the_step_did() -> None:
    tx = ivon(0.1, n=25, hess_init=0.15, weight_decay=0.01, samples=500)
    params = {"w": jnp.zeros(40, jnp.float32)}
    value_and_grad_fn = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))
    step = jax.jit(lambda p: tx.update(p, tx.init(p), p, value_and_grad_fn=value_and_grad_fn, key=jax.random.key(0)))
    state = step(params)[1]
    np.testing.assert_allclose(state.metrics.mean_scale, 0.5, rtol=1e-5)
    # E ||nu||^2 = 40/4, relative spread sqrt(2/20000) = 1 %: five of them. The loss is that square.
    np.testing.assert_allclose(state.metrics.perturbation_norm**2, 10.0, rtol=0.05)
    np.testing.assert_allclose(state.metrics.perturbed_loss, state.metrics.perturbation_norm**2, rtol=1e-5)


@pytest.mark.parametrize("own_loop", [False, True])
def test_a_bad_gradient_leaves_nothing_behind(own_loop: bool) -> None:
    # 1e30 is finite, but its square in h is not; the clipped step would be finite without a guard.
    tx = ivon(0.1, n=10, clip_radius=1.0)
    _, state, _ = run(tx, jax.grad(loss), PARAMS, 2)

    @jax.jit
    def step(state: Any, slope: jax.Array) -> Any:
        def broken(params: Any) -> jax.Array:
            return jnp.sum(params["kernel"]) + slope * params["bias"][0]

        key = jax.random.key(0)
        if not own_loop:
            return tx.update(PARAMS, state, PARAMS, grad_fn=jax.grad(broken), key=key)
        _, grads, new = perturbed_value_and_grad(broken, state, PARAMS, key, member=tx)
        return tx.update(grads, new, PARAMS, perturbed=True)

    for bad in (jnp.inf, jnp.nan, 1e30):
        updates, new = step(state, jnp.float32(bad))
        jax.tree.map(np.testing.assert_array_equal, new, state)
        assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(updates))
    assert int(step(state, jnp.float32(1))[1].count) == 3


def test_zero_gradient_shrinks_the_weights_only() -> None:
    tx = ivon(0.5, n=10, weight_decay=0.1)
    _, state, updates = run(tx, lambda p: jax.tree.map(jnp.zeros_like, p), PARAMS, 1)
    updates = jax.tree.map(lambda u: u[0], updates)
    jax.tree.map(lambda u, w: np.testing.assert_allclose(u, -0.05 * w, rtol=1e-4), updates, PARAMS)
    jax.tree.map(lambda h: np.testing.assert_allclose(h, 1.0, rtol=1e-4), state.hessian)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_the_precision_stays_positive_under_wild_gradients(weight_decay: float) -> None:
    tx = ivon(0.01, n=1e4, beta2=0.5, weight_decay=weight_decay)
    params = jnp.zeros(200, jnp.float32)
    # Gradients against the noise: the estimate of a strongly negative curvature.
    _, state, updates = run(tx, lambda w: -50 * jnp.sign(w), params, 300)
    assert np.all(state.hessian + jnp.float32(weight_decay) > 0)
    assert np.all(np.isfinite(updates))
    assert np.all(np.isfinite(state.log_scales(params)))


def test_slow_decay_is_not_lost_in_float32() -> None:
    # Zero squared gradients: h' = h (1 - r + r^2/2) with r = 1e-5. With 1 - float32(0.99999) for r, h would be 2.7e-4
    # too small after 20 000 steps.
    tx = ivon(0.0, n=10, beta2=0.99999, weight_decay=0.0, hessian_estimator="squared_gradient")
    _, state, _ = run(tx, jnp.zeros_like, jnp.zeros(1, jnp.float32), 20_000)
    np.testing.assert_allclose(state.hessian, (1 - 1e-5 + 5e-11) ** 20_000, rtol=5e-5)


def test_state_keeps_structure_and_float32_for_bfloat16_params() -> None:
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    tx = ivon(0.1, n=10, samples=2)
    moved, state, updates = run(tx, jax.grad(loss), params, 2)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tx.init(params))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
    assert isinstance(state, IvonState)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.momentum, state.hessian))} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves((moved, updates))} == {jnp.dtype(jnp.bfloat16)}


def test_injected_hyperparameters_reach_the_state() -> None:
    tx = optax.inject_hyperparams(ivon, static_args=("samples",))(learning_rate=0.1, n=100.0, weight_decay=0.01)
    plain = ivon(0.1, n=400.0, weight_decay=0.02)
    state = tx.init(PARAMS)
    state.hyperparams.update(n=jnp.float32(400.0), weight_decay=jnp.float32(0.02))
    grad_fn, key = jax.grad(loss), jax.random.key(0)
    one, state = jax.jit(lambda s: tx.update(PARAMS, s, PARAMS, grad_fn=grad_fn, key=key))(state)
    # The Hessian starts at its own start: nothing of n or the decay is in there.
    two, expected = plain.update(PARAMS, plain.init(PARAMS), PARAMS, grad_fn=grad_fn, key=key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, two)
    inner = state.inner_state
    assert isinstance(inner, IvonState)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), inner.log_scales(PARAMS), expected.log_scales(PARAMS)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": None}, "n is missing"),
        ({"n": 0.0}, "n = 0"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"hess_init": 0.0}, "hess_init"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": 1.5}, "beta2"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"clip_radius": 0.0}, "clip_radius"),
        ({"samples": 0}, "samples"),
        ({"hessian_estimator": "price"}, "reparametrised, squared_gradient"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ivon(**{"learning_rate": 0.1, "n": 10, **settings})


def test_what_is_missing_at_update_is_named() -> None:
    tx = ivon(0.1, n=10)
    state, grad_fn, key = tx.init(PARAMS), jax.grad(loss), jax.random.key(0)
    with pytest.raises(ValueError, match="key is missing"):
        tx.update(PARAMS, state, PARAMS, grad_fn=grad_fn)
    with pytest.raises(ValueError, match="grad_fn is missing"):
        tx.update(PARAMS, state, PARAMS, key=key)
    with pytest.raises(ValueError, match="params is missing"):
        tx.update(PARAMS, state, grad_fn=grad_fn, key=key)
    with pytest.raises(ValueError, match="int32"):
        tx.init({"w": jnp.arange(3, dtype=jnp.int32)})
    with pytest.raises(ValueError, match="perturbs nothing"):
        ivon(0.1, n=10, mask={"kernel": False, "bias": False}).init(PARAMS)
    with pytest.raises(ValueError, match="static_args"):
        jax.jit(lambda s: ivon(0.1, n=10, samples=s).init(PARAMS))(2)
