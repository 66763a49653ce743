"""VOGN: against a transcription in numpy, its fixed points on linear regression, and its two halves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pbjax.optim import _trees as trees
from pbjax.optim.own_loop import perturbed_value_and_grad
from pbjax.optim.vogn import VognState, vogn

ROWS = 6
INPUTS = jax.random.normal(jax.random.key(10), (ROWS, 3), jnp.float32) * jnp.array([[0.5, 1.0, 2.0]], jnp.float32)
TARGETS = jax.random.normal(jax.random.key(11), (ROWS,), jnp.float32)
PARAMS = {"kernel": jnp.array([0.4, -0.3, 0.2], jnp.float32), "bias": jnp.array([0.1], jnp.float32)}


def example_loss(params: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over rows of half a squared error."""
    predicted = jnp.tanh(inputs @ params["kernel"] + params["bias"])
    return 0.5 * jnp.mean((predicted - targets) ** 2)


def part_value_and_grad(params: Any, part: jax.Array) -> Any:
    """Loss and gradient of one example, by its index."""
    return jax.value_and_grad(example_loss)(params, INPUTS[part][None], TARGETS[part][None])


def run(tx: Any, params: Any, steps: int, value_and_grad_fn: Any = part_value_and_grad) -> tuple[Any, Any, Any]:
    """Params, state and all updates after some steps in one scan."""

    def body(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        nan = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params)
        updates, state = tx.update(nan, state, params, value_and_grad_fn=value_and_grad_fn, key=key)
        return (optax.apply_updates(params, updates), state), updates

    keys = jax.random.split(jax.random.key(0), steps)
    (params, state), updates = jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), keys))(params)
    return params, state, updates


@pytest.mark.parametrize("samples", [1, 3])
def test_every_step_is_that_of_the_published_rule(samples: int) -> None:
    # The published form: ln sigma <- ln sigma - ln(1 + (1 - beta2) f)/2, in float64, one example after another.
    n, prior, damping, beta1, beta2, tau, steps = 40, 2.0, 0.05, 0.8, 0.9, 0.7, 6
    tx = vogn(
        lambda count: 0.2 / (1 + count), n=n, micro_batches=ROWS, prior_precision=prior, damping=damping, beta1=beta1,
        beta2=beta2, temperature=tau, precision_init=0.5, samples=samples,
    )  # fmt: skip
    params, state, _ = run(tx, PARAMS, steps)

    inputs, targets = np.asarray(INPUTS, np.float64), np.asarray(TARGETS, np.float64)
    mean = np.concatenate([np.asarray(PARAMS["bias"]), np.asarray(PARAMS["kernel"])]).astype(np.float64)
    momentum, log_std = np.zeros(4), np.full(4, -0.5 * np.log(0.5))
    mask = trees.resolve_mask(None, PARAMS)
    for step, key in enumerate(jax.random.split(jax.random.key(0), steps)):
        gradients = []
        for draw in [key] if samples == 1 else jax.random.split(key, samples):
            z = trees.normals(draw, PARAMS, mask)
            noise = np.concatenate([z["bias"], z["kernel"]]) * np.exp(log_std) / np.sqrt(n)
            bias, kernel = (mean + noise)[0], (mean + noise)[1:]
            for row, target in zip(inputs, targets, strict=True):
                predicted = np.tanh(row @ kernel + bias)
                gradients.append((predicted - target) * (1 - predicted**2) * np.concatenate([[1.0], row]))
        f = (prior / n + damping + np.mean(np.square(gradients), axis=0)) * np.exp(2 * log_std) - tau
        log_std = log_std - 0.5 * np.log1p((1 - beta2) * f)
        momentum = beta1 * momentum + (1 - beta1) * (np.mean(gradients, axis=0) + prior / n * mean)
        mean = mean - 0.2 / (1 + step) * momentum * np.exp(2 * log_std)

    for found, expected in ((params, mean), (state.momentum, momentum), (state.precision, np.exp(-2 * log_std))):
        np.testing.assert_allclose(np.concatenate([found["bias"], found["kernel"]]), expected, rtol=1e-4, atol=1e-6)
    scales = state.log_scales(params)
    expected = log_std - 0.5 * np.log(n)
    np.testing.assert_allclose(np.concatenate([scales["bias"], scales["kernel"]]), expected, rtol=1e-5)


def test_fixed_points_on_linear_regression() -> None:
    # Every row has one feature, a_k, and at w* a residual of c_k or -c_k: the squared gradients of feature k have mean
    # (a^2 c^2 + a^4 sigma^2)/4 under noise sigma, and the gradient is a^2 (w - w*)/4.
    size, copies, beta2, seeds, burn, steps = 4, 4, 0.99, 32, 1500, 4000
    a, c, centre = np.array([0.5, 1.0, 2.0, 3.0]), np.array([1.0, 0.5, 0.3, 0.1]), np.array([1.0, -1.0, 0.5, 2.0])
    rows = size * copies
    inputs = np.kron(np.ones((copies, 1)), np.diag(a))
    targets = inputs @ centre + np.repeat([1, -1], rows // 2) * np.tile(c, copies)
    x, y = jnp.array(inputs, jnp.float32), jnp.array(targets, jnp.float32)
    prior, damping, tau = 2.0, 0.1, 0.5
    delta = prior / rows

    def grad_fn(w: jax.Array, part: jax.Array) -> jax.Array:
        return (x[part] @ w - y[part]) * x[part]

    def one(key: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        tx = vogn(
            rate, n=rows, micro_batches=rows, prior_precision=prior, damping=damping, temperature=tau, beta2=beta2
        )

        def body(carry: Any, index: jax.Array) -> tuple[Any, None]:
            params, state, totals = carry
            updates, state = tx.update(params, state, params, grad_fn=grad_fn, key=jax.random.fold_in(key, index))
            params = optax.apply_updates(params, updates)
            counted = (index >= burn) / steps
            return (params, state, jax.tree.map(lambda t, v: t + counted * v, totals, (state.precision, params))), None

        start = jnp.array(centre, jnp.float32)
        zeros = (jnp.zeros(size), jnp.zeros(size))
        return jax.lax.scan(body, (start, tx.init(start), zeros), jnp.arange(burn + steps))[0][2]

    # Two rates: 0, so that the mean stays where the squares are known exactly, and one at which it settles.
    over = jax.jit(jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(None, 0)))
    keys = jax.random.split(jax.random.key(1), seeds)
    precision, mean = jax.tree.map(np.asarray, over(keys, jnp.array([0.0, 0.02], jnp.float32)))

    # tau s = delta + damping + a^2 c^2/4 + a^4/(4 n s). Eight values against 4.5 standard errors over the seeds, false
    # alarm 5e-5; E 1/s exceeds 1/E s by the relative variance of s, at most 1 - beta2.
    constant, noisy = delta + damping + a**2 * c**2 / size, a**4 / (size * rows)
    expected = (constant + np.sqrt(constant**2 + 4 * tau * noisy)) / (2 * tau)
    error = np.std(precision[0], axis=0) / np.sqrt(seeds)
    assert np.all(np.abs(np.mean(precision[0], axis=0) - expected) < 4.5 * error + (1 - beta2) * noisy / expected)
    assert np.all(error < 0.01 * expected)
    # The noise has its part in it: without, the precision of the last feature would be less than half.
    assert constant[-1] / tau < 0.5 * expected[-1]

    expected = centre * (a**2 / size) / (a**2 / size + delta)
    error = np.std(mean[1], axis=0) / np.sqrt(seeds)
    assert np.all(np.abs(np.mean(mean[1], axis=0) - expected) < 4.5 * error + (1 - beta2) * np.abs(centre - expected))
    assert np.all(error < 0.02)


def test_both_forms_make_the_same_step_with_any_number_at_once() -> None:
    keys = jax.random.split(jax.random.key(2), 3)
    whole, chunked = (vogn(0.3, n=50, micro_batches=ROWS, beta2=0.9, samples=2, at_once=k) for k in (None, 2))
    assert whole.micro_batches == ROWS

    def with_aux(params: Any, inputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        return example_loss(params, inputs, targets), targets[0]

    def by_grad_fn(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        updates, state = whole.update(params, state, params, value_and_grad_fn=part_value_and_grad, key=key)
        return (optax.apply_updates(params, updates), state), state.metrics.perturbed_loss

    def by_own_loop(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        (value, aux), grads, state = perturbed_value_and_grad(
            with_aux, state, params, key, INPUTS, TARGETS, member=chunked, has_aux=True
        )
        updates, state = chunked.update(grads, state, params, perturbed=True)
        return (optax.apply_updates(params, updates), state), (value, aux)

    start = (PARAMS, whole.init(PARAMS))
    one, losses = jax.jit(lambda c: jax.lax.scan(by_grad_fn, c, keys))(start)
    two, (values, aux) = jax.jit(lambda c: jax.lax.scan(by_own_loop, c, keys))(start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, two)
    np.testing.assert_allclose(values, losses, rtol=1e-5)
    np.testing.assert_array_equal(aux, np.tile(TARGETS, (3, 1)))


def test_the_squares_are_those_of_single_examples() -> None:
    # Two examples with opposite gradients: the batch's gradient is 0, the mean square is 4.
    tx = vogn(0.5, n=1000, micro_batches=2, beta1=0.0, beta2=0.9, prior_precision=1e-6)
    params = jnp.zeros(1, jnp.float32)
    _, state, updates = run(tx, params, 1, lambda w, part: (0.0 * w[0], jnp.where(part == 0, 2.0, -2.0) + 0 * w))
    np.testing.assert_allclose(state.precision, 0.9 + 0.1 * 4, rtol=1e-6)
    np.testing.assert_array_equal(updates, 0.0)


def test_masked_leaves_have_no_noise_and_a_fixed_precision() -> None:
    tx = vogn(
        0.5, n=10, micro_batches=ROWS, beta1=0.0, precision_init=2.0, mask={"kernel": True, "bias": False}
    )  # fmt: skip

    def one(params: Any, part: jax.Array) -> Any:
        return jnp.float32(0), {"kernel": params["kernel"], "bias": jnp.ones(1, jnp.float32) + 0 * params["bias"]}

    params, state, _ = run(tx, PARAMS, 1, one)
    np.testing.assert_allclose(params["bias"], PARAMS["bias"] - 0.5 * (1 + 0.1 * PARAMS["bias"]) / 2, rtol=1e-6)
    np.testing.assert_allclose(state.precision["bias"], 2.0)
    scales = state.log_scales(params)
    assert np.all(np.isneginf(scales["bias"]))
    assert np.all(np.isfinite(scales["kernel"]))
    np.testing.assert_allclose(state.metrics.mean_scale, 20**-0.5, rtol=1e-6)


@pytest.mark.parametrize("own_loop", [False, True])
def test_a_bad_gradient_leaves_nothing_behind(own_loop: bool) -> None:
    tx = vogn(0.1, n=10, micro_batches=ROWS)
    _, state, _ = run(tx, PARAMS, 2)

    @jax.jit
    def step(state: Any, slope: jax.Array) -> Any:
        slopes = jnp.where(jnp.arange(ROWS) == 3, slope, 1)

        def broken(params: Any, slope: jax.Array) -> jax.Array:
            return jnp.sum(params["kernel"]) + jnp.sum(slope) * params["bias"][0]

        key = jax.random.key(0)
        if not own_loop:
            return tx.update(PARAMS, state, PARAMS, grad_fn=lambda p, part: jax.grad(broken)(p, slopes[part]), key=key)
        _, grads, new = perturbed_value_and_grad(broken, state, PARAMS, key, slopes, member=tx)
        return tx.update(grads, new, PARAMS, perturbed=True)

    # 1e30 is finite, but its square is not.
    for bad in (jnp.inf, jnp.nan, 1e30):
        updates, new = step(state, jnp.float32(bad))
        jax.tree.map(np.testing.assert_array_equal, new, state)
        assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(updates))
    assert int(step(state, jnp.float32(1))[1].count) == 3


def test_state_keeps_structure_and_float32_for_bfloat16_params() -> None:
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    tx = vogn(0.1, n=10, micro_batches=ROWS, at_once=3)

    def one(params: Any, part: jax.Array) -> Any:
        return jax.value_and_grad(example_loss)(
            params, INPUTS[part][None].astype(jnp.bfloat16), TARGETS[part][None].astype(jnp.bfloat16)
        )

    moved, state, updates = run(tx, params, 2, one)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tx.init(params))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
    assert isinstance(state, VognState)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.momentum, state.precision))} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves((moved, updates))} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": None}, "n is missing"),
        ({"n": 1.5}, "n = 1.5"),
        ({"micro_batches": None}, "micro_batches is missing"),
        ({"micro_batches": 0}, "micro_batches"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"prior_precision": 0.0}, "prior_precision"),
        ({"damping": -1.0}, "damping"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": 1.0}, "beta2"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 3.0, "beta2": 0.5}, "raise beta2"),
        ({"precision_init": 0.0}, "precision_init"),
        ({"samples": 0}, "samples"),
        ({"at_once": 3}, "at_once = 3: it must divide micro_batches = 4"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vogn(**{"learning_rate": 0.1, "n": 10, "micro_batches": 4, **settings})


def test_what_is_missing_at_update_is_named() -> None:
    tx = vogn(0.1, n=10, micro_batches=ROWS)
    state, key = tx.init(PARAMS), jax.random.key(0)
    with pytest.raises(ValueError, match="key is missing"):
        tx.update(PARAMS, state, PARAMS, value_and_grad_fn=part_value_and_grad)
    with pytest.raises(ValueError, match="grad_fn is missing"):
        tx.update(PARAMS, state, PARAMS, key=key)
    with pytest.raises(ValueError, match="params is missing"):
        tx.update(PARAMS, state, value_and_grad_fn=part_value_and_grad, key=key)
    with pytest.raises(ValueError, match="cannot be cut into 6 equal"):
        perturbed_value_and_grad(example_loss, state, PARAMS, key, INPUTS[:4], TARGETS[:4], member=tx)
    with pytest.raises(ValueError, match="static_args"):
        jax.jit(lambda b: vogn(0.1, n=10, micro_batches=b).init(PARAMS))(2)
