"""Sharpness against closed forms on quadratics, dense Hessians of small networks, and its invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.sharpness import (
    average_case,
    gaussian_scale,
    hessian_vector_product,
    hutchinson_trace,
    top_eigenvalue,
    worst_case,
)
from pbjax.sharpness.rows import mean_over_rows

KEY = jax.random.key(0)


def _symmetric(size=8, seed=0):
    draw = np.random.default_rng(seed).normal(size=(size, size))
    return jnp.asarray(draw @ draw.T / size)


H = _symmetric()
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=8))


def _quadratic(w, batch):
    """Rows scale the loss, so that micro-batches differ."""
    return 0.5 * w @ H @ w * jnp.mean(batch)


ROWS = jnp.asarray(np.random.default_rng(2).uniform(0.5, 1.5, size=12))


def _net(params, batch):
    inputs, labels = batch
    hidden = jax.nn.relu(inputs @ params["first"])
    logits = hidden @ params["second"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


@functools.cache
def _worst(loss, **options):
    """One compiled program for each choice of options, shared between tests."""
    return jax.jit(lambda params, batch: worst_case(loss, params, batch, **options))


def _network(seed=0, rows=30):
    draw = np.random.default_rng(seed)
    params = {"first": jnp.asarray(draw.normal(size=(3, 5))), "second": jnp.asarray(draw.normal(size=(5, 4)))}
    return params, (jnp.asarray(draw.normal(size=(rows, 3))), jnp.asarray(draw.integers(0, 4, rows)))


def _dense_hessian(params, batch):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.jit(jax.hessian(lambda w: _net(unravel(w), batch)))(flat)


def test_one_step_is_the_point_of_sam():
    g = H @ WEIGHTS
    moved = WEIGHTS + 0.3 * g / jnp.linalg.norm(g)
    expected = 0.5 * (moved @ H @ moved - WEIGHTS @ H @ WEIGHTS)
    np.testing.assert_allclose(_worst(_quadratic, radius=0.3)(WEIGHTS, jnp.ones(12)), expected, rtol=1e-10)
    # Every micro-batch goes the same way here, further up the steeper it is.
    np.testing.assert_allclose(_worst(_quadratic, radius=0.3, m=3)(WEIGHTS, ROWS), expected * ROWS.mean(), rtol=1e-10)


def test_many_steps_reach_the_maximum_on_the_ball():
    values, vectors = np.linalg.eigh(np.asarray(H))
    # Boundary maximum of a quadratic: (nu - H) epsilon = g with |epsilon| = rho, nu above the top eigenvalue.
    g, rho = np.asarray(H @ WEIGHTS), 0.7
    parts = vectors.T @ g
    low, high = values[-1] + 1e-9, values[-1] + np.linalg.norm(g) / rho + 1
    for _ in range(200):
        nu = (low + high) / 2
        low, high = (nu, high) if np.linalg.norm(parts / (nu - values)) > rho else (low, nu)
    epsilon = vectors @ (parts / (nu - values))
    expected = g @ epsilon + 0.5 * epsilon @ np.asarray(H) @ epsilon
    one = _worst(_quadratic, radius=rho)(WEIGHTS, jnp.ones(2))
    many = _worst(_quadratic, radius=rho, steps=200)(WEIGHTS, jnp.ones(2))
    assert one < many <= expected * (1 + 1e-9)
    np.testing.assert_allclose(many, expected, rtol=1e-3)


def test_more_steps_and_smaller_micro_batches_are_never_less_sharp():
    params, batch = _network()
    whole = _worst(_net, radius=0.5, steps=20)(params, batch)
    assert _worst(_net, radius=0.5)(params, batch) <= whole * 1.001
    # The worst point of a mean is no worse than the mean of worst points, as far as the ascent finds them.
    assert _worst(_net, radius=0.5, m=3, steps=20)(params, batch) > whole


def test_adaptive_sharpness_does_not_see_a_rescaling_of_layers():
    params, batch = _network()
    scaled = {"first": 8 * params["first"], "second": params["second"] / 8}
    np.testing.assert_allclose(_net(params, batch), _net(scaled, batch), rtol=1e-12)
    adaptive = _worst(_net, radius=0.3, metric="adaptive", eta=0.0, m=10, steps=3)
    np.testing.assert_allclose(adaptive(params, batch), adaptive(scaled, batch), rtol=1e-9)
    plain = _worst(_net, radius=0.3, m=10, steps=3)
    ratio = plain(scaled, batch) / plain(params, batch)
    assert ratio > 1.5 or ratio < 1 / 1.5


@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
def test_average_case_of_a_quadratic(metric):
    scale = jnp.ones(8) if metric == "euclidean" else jnp.abs(WEIGHTS) + 0.01
    expected = 0.4**2 / 8 / 2 * jnp.sum(jnp.diag(H) * scale**2)
    made = average_case(KEY, _quadratic, WEIGHTS, jnp.ones(3), radius=0.4, samples=4000, metric=metric)
    assert abs(made.value - expected) < 4.5 * made.standard_error  # false alarm 7e-6
    assert made.standard_error < 0.03 * expected


def test_mirrored_pairs_cancel_the_slope():
    made = average_case(KEY, lambda w, _: jnp.sum(w), WEIGHTS, None, radius=1.0, samples=5)
    np.testing.assert_allclose(made.value, 0.0, atol=1e-12)
    np.testing.assert_allclose(made.standard_error, 0.0, atol=1e-12)


def test_hessian_products_against_the_dense_hessian():
    params, batch = _network()
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    vector = jnp.asarray(np.random.default_rng(3).normal(size=flat.size))
    product = jax.jit(lambda v: hessian_vector_product(_net, params, batch, unravel(v)))(vector)
    np.testing.assert_allclose(
        jax.flatten_util.ravel_pytree(product)[0], _dense_hessian(params, batch) @ vector, rtol=1e-9, atol=1e-12
    )


def test_trace_is_exact_for_a_diagonal_and_has_its_law_otherwise():
    diagonal = jnp.arange(1.0, 6.0)
    made = hutchinson_trace(KEY, lambda w, _: 0.5 * jnp.sum(diagonal * w**2), jnp.ones(5), None, probes=3)
    np.testing.assert_allclose([made.value, made.standard_error], [15.0, 0.0], atol=1e-12)
    probes = 4000
    made = hutchinson_trace(KEY, _quadratic, WEIGHTS, jnp.ones(2), probes=probes)
    off = H - jnp.diag(jnp.diag(H))
    exact = jnp.sqrt(2 * jnp.sum(off**2) / probes)
    assert abs(made.value - jnp.trace(H)) < 4.5 * exact  # false alarm 7e-6
    # A sample standard deviation of 4,000 products of signs is good to about 4 %.
    np.testing.assert_allclose(made.standard_error, exact, rtol=0.15)


@pytest.mark.parametrize(
    ("iterations", "dtype"), [(35, jnp.float64), (35, jnp.float32), (6, jnp.float64), (6, jnp.float32)]
)
def test_top_eigenvalue_of_a_network_and_its_bound(iterations, dtype):
    params, batch = _network()
    values, vectors = np.linalg.eigh(np.asarray(_dense_hessian(params, batch)))
    params, batch = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float64 else x, (params, batch))
    made = jax.jit(lambda p: top_eigenvalue(KEY, _net, p, batch, iterations=iterations))(params)
    tolerance = (1e-9 if dtype == jnp.float64 else 1e-5) * values[-1]
    assert made.value <= values[-1] + tolerance
    assert np.abs(values - float(made.value)).min() <= made.residual + tolerance
    # What bounds the distance is the length of H v - theta v.
    flat = jax.flatten_util.ravel_pytree(made.vector)[0]
    defect = np.linalg.norm(vectors * values @ (vectors.T @ flat) - float(made.value) * flat)
    np.testing.assert_allclose(made.residual, defect, rtol=1e-3, atol=tolerance)
    if iterations == values.size:
        np.testing.assert_allclose(made.value, values[-1], atol=tolerance)
        np.testing.assert_allclose(abs(flat @ vectors[:, -1]), 1.0, rtol=1e-5)


def test_lanczos_ends_early_on_an_invariant_subspace():
    low_rank = jnp.diag(jnp.array([3.0, 3.0, 1.0, 0.0, 0.0, 0.0]))
    made = top_eigenvalue(KEY, lambda w, _: 0.5 * w @ low_rank @ w, jnp.ones(6), None, iterations=10)
    np.testing.assert_allclose(made.value, 3.0, rtol=1e-9)
    assert made.residual < 1e-7
    found = np.asarray(made.ritz_values)
    np.testing.assert_allclose(found[np.isfinite(found)], [0.0, 1.0, 3.0], atol=1e-7)


def test_all_negative_curvature_is_reported_as_such():
    made = top_eigenvalue(KEY, lambda w, _: -jnp.sum(w**2), jnp.ones(4), None, iterations=3)
    np.testing.assert_allclose(made.value, -2.0, rtol=1e-9)


def test_a_flat_loss_is_flat():
    flat = lambda w, batch: jnp.zeros(()) * jnp.sum(w)  # noqa: E731

    @jax.jit
    def measured(weights):
        return (
            worst_case(flat, weights, ROWS, radius=1.0, steps=3),
            worst_case(_quadratic, weights, ROWS, radius=0.0),
            *top_eigenvalue(KEY, flat, weights, ROWS, iterations=4)[:2],
            *hutchinson_trace(KEY, flat, weights, ROWS, probes=3),
        )

    np.testing.assert_array_equal(jnp.stack(measured(WEIGHTS)), np.zeros(6))


def test_a_loss_that_breaks_nearby_is_infinitely_sharp():
    cliff = lambda w, batch: jnp.sum(w) + jnp.where(jnp.sum(w) > 0.5, jnp.nan, 0.0)  # noqa: E731
    assert worst_case(cliff, jnp.zeros(4), ROWS, radius=1.0) == jnp.inf


def _measures(key, params, batch, rows_per_chunk=None, calls=None):
    def loss(params, batch):
        if calls is not None:
            calls.append(batch[1].shape[0])
        return _net(params, batch)

    chunks = {"rows_per_chunk": rows_per_chunk}
    average = average_case(key, loss, params, batch, radius=0.1, samples=3, **chunks)
    single = average_case(
        key, loss, params, batch, radius=0.1, samples=3, antithetic=False, metric="adaptive", **chunks
    )
    return (
        worst_case(loss, params, batch, radius=0.1, m=10, steps=3, **chunks),
        worst_case(loss, params, batch, radius=0.1, metric="adaptive", **chunks),
        *average,
        *single,
        *hutchinson_trace(key, loss, params, batch, probes=3, **chunks),
        *top_eigenvalue(key, loss, params, batch, iterations=4, **chunks)[:2],
    )


@pytest.mark.slow
def test_one_program_over_networks_and_over_chunks_of_rows():
    """All networks at once in chunks of 7 rows, two being left over, against each alone with all rows."""
    networks = [_network(seed)[0] for seed in range(3)]
    batch = _network()[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    keys = jax.random.split(KEY, 3)
    chunked = functools.partial(_measures, rows_per_chunk=7)
    together = jax.jit(jax.vmap(chunked, in_axes=(0, 0, None)))(keys, stacked, batch)
    alone = jax.jit(_measures)
    for index, params in enumerate(networks):
        np.testing.assert_allclose([part[index] for part in together], alone(keys[index], params, batch), rtol=1e-8)


def test_micro_batches_side_by_side():
    """20 rows take micro-batches of 10 in pairs, with one left."""
    params, batch = _network()
    options = {"radius": 0.3, "m": 10, "steps": 3}
    pairs = _worst(_net, **options, rows_per_chunk=20)(params, batch)
    np.testing.assert_allclose(pairs, _worst(_net, **options)(params, batch), rtol=1e-10)


@pytest.mark.parametrize("rows_per_chunk", [None, 1, 4, 5, 11, 12, 100])
def test_a_mean_over_rows_weighs_chunks_by_their_rows(rows_per_chunk):
    made = mean_over_rows(lambda rows: {"mean": rows.mean()}, ROWS, rows_per_chunk)
    np.testing.assert_allclose(made["mean"], ROWS.mean(), rtol=1e-14)


def test_no_chunk_is_longer_than_asked_and_traces_do_not_grow():
    params, batch = _network()
    found = []
    for repeats in (1, 10):
        more = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * repeats), batch)  # noqa: B023
        calls = []
        jax.make_jaxpr(functools.partial(_measures, rows_per_chunk=7, calls=calls))(KEY, params, more)
        assert max(calls) <= 7
        found.append(len(calls))
    assert found[0] == found[1]


def test_without_mirror_images_the_slope_is_part_of_the_error():
    linear = lambda w, _: jnp.sum(w)  # noqa: E731
    made = average_case(KEY, linear, WEIGHTS, None, radius=1.0, samples=4000, antithetic=False)
    # The rise is sigma times a sum of 8 normals, sigma = 1/sqrt(8): a standard normal.
    assert abs(made.value) < 4.5 / 4000**0.5  # false alarm 7e-6
    np.testing.assert_allclose(made.standard_error, 4000**-0.5, rtol=0.06)


def test_logistic_regression_by_its_own_hessian():
    """H = X^T diag(s(1 - s)) X / n, in closed form."""
    draw = np.random.default_rng(0)
    inputs, weights = draw.normal(size=(40, 6)), draw.normal(size=6)
    batch = jnp.asarray(inputs), jnp.asarray(draw.integers(0, 2, 40))
    loss = lambda w, batch: jnp.mean(jax.nn.softplus(batch[0] @ w) - batch[1] * (batch[0] @ w))  # noqa: E731
    share = 1 / (1 + np.exp(-inputs @ weights))
    exact = inputs.T @ np.diag(share * (1 - share)) @ inputs / 40
    made = top_eigenvalue(KEY, loss, jnp.asarray(weights), batch, iterations=6, rows_per_chunk=16)
    np.testing.assert_allclose(made.ritz_values, np.linalg.eigvalsh(exact), rtol=1e-9)
    assert made.residual < 1e-9


def test_float32_alone():
    with jax.enable_x64(False):
        params, (inputs, labels) = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), _network())
        batch = (inputs, labels.astype(jnp.int32))
        shapes = jax.eval_shape(functools.partial(_measures, rows_per_chunk=7), KEY, params, batch)
        value = jax.jit(lambda p: worst_case(_net, p, batch, radius=0.3, m=10, steps=3))(params)
    assert {part.dtype for part in shapes} == {np.dtype("float32")}
    np.testing.assert_allclose(value, _worst(_net, radius=0.3, m=10, steps=3)(*_network()), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worst_case(_quadratic, WEIGHTS, ROWS, radius=-1.0), "radius"),
        (lambda: worst_case(_quadratic, WEIGHTS, ROWS, radius=1.0, m=5), "does not divide the 12 rows"),
        (lambda: worst_case(_quadratic, WEIGHTS, ROWS, radius=1.0, steps=0), "steps"),
        (lambda: worst_case(_quadratic, WEIGHTS, (ROWS, ROWS[:3]), radius=1.0), "same number"),
        (lambda: average_case(KEY, _quadratic, WEIGHTS, ROWS, radius=1.0, samples=1), "samples = 1"),
        (lambda: hutchinson_trace(KEY, _quadratic, WEIGHTS, ROWS, probes=1), "probes = 1"),
        (lambda: worst_case(_quadratic, WEIGHTS, ROWS, radius=1.0, rows_per_chunk=0), "rows_per_chunk = 0"),
        (lambda: worst_case(_quadratic, WEIGHTS, jnp.ones(()), radius=1.0), "same number"),
        (lambda: top_eigenvalue(KEY, _quadratic, WEIGHTS, ROWS, iterations=0), "iterations"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gaussian_scale_of_a_quadratic():
    """sigma^2 tr(H) mean(batch) / 2 = rise, but for the draws' own trace of variance 2 tr(H^2) / samples."""
    samples, rise = 400, 0.3
    sigma = jax.jit(lambda w: gaussian_scale(KEY, _quadratic, w, ROWS, rise=rise, samples=samples))(WEIGHTS)
    trace = 2 * rise / (float(sigma) ** 2 * float(ROWS.mean()))
    error = float(jnp.sqrt(2 * jnp.sum(H**2) / samples))
    assert abs(trace - float(jnp.trace(H))) < 5 * error  # one in two million


def test_gaussian_scale_stays_in_its_range_and_rises_with_the_tolerance():
    def scale(rise, **options):
        return float(gaussian_scale(KEY, _quadratic, WEIGHTS, ROWS, rise=rise, samples=4, **options))

    assert scale(1e-3) < scale(1e-2) < scale(1e-1)
    assert scale(1e9, largest=2.0) == pytest.approx(2.0, rel=1e-4)
    assert scale(1e-9, smallest=0.5) == pytest.approx(0.5, rel=1e-4)
    broken = gaussian_scale(KEY, lambda w, batch: jnp.sum(w) * jnp.nan, WEIGHTS, ROWS, rise=1.0, samples=2)
    assert float(broken) == pytest.approx(1e-5, rel=1e-3)
    with pytest.raises(ValueError, match="rise"):
        scale(0.0)
    with pytest.raises(ValueError, match="largest"):
        scale(1.0, smallest=1.0, largest=0.5)
