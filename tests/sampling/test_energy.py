"""The chunked energy against its definition: one full-batch mean, differentiated by jax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax.models import mlp
from pbjax.posteriors.energy import chunk_rows, energy, mean_losses
from pbjax.posteriors.gibbs import log_density, whiten


def squared(logits, labels, *, axis):
    return jnp.mean(jnp.square(jnp.tanh(logits) - 0.1 * jnp.expand_dims(labels, axis)), axis=axis)


MODEL = mlp((7, 3))
INPUTS = np.random.default_rng(0).normal(size=(53, 5)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 53)
PARAMS = MODEL.init(jax.random.key(0), jnp.asarray(INPUTS[:1]))


def definition(params):
    return jnp.mean(squared(MODEL.apply(params, jnp.asarray(INPUTS)), jnp.asarray(LABELS), axis=-1))


def energies(columns):
    if not columns:
        return energy(MODEL.apply, squared)
    return energy(MODEL.columns.apply, squared, columns=True, prepare=MODEL.columns.prepare)


@pytest.mark.parametrize("rows_per_chunk", [1, 10, 53, 500])
@pytest.mark.parametrize("columns", [True, False])
def test_value_and_gradient_equal_the_definition(rows_per_chunk, columns):
    rows = chunk_rows(INPUTS, LABELS, rows_per_chunk=rows_per_chunk, columns=columns)
    value, gradient = jax.value_and_grad(partial(energies(columns), rows=rows))(PARAMS)
    expected_value, expected = jax.value_and_grad(definition)(PARAMS)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected_value, rtol=2e-6)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-7)


def test_forward_mode_and_vmap_agree_with_reverse_mode():
    rows = chunk_rows(INPUTS, LABELS, rows_per_chunk=20, columns=False)
    function = partial(energy(MODEL.apply, squared), rows=rows)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), PARAMS)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(function)))(many)
    tangent = jax.tree.map(jnp.ones_like, PARAMS)
    for replica in range(3):
        params = jax.tree.map(lambda x, i=replica: x[i], many)
        value, derivative = jax.jvp(function, (params,), (tangent,))
        np.testing.assert_allclose(value, values[replica], rtol=1e-6)
        total = sum(float(jnp.sum(g[replica])) for g in jax.tree.leaves(gradients))
        np.testing.assert_allclose(derivative, total, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("columns", [True, False])
def test_hessian_vector_products_equal_those_of_the_definition(columns):
    rows = chunk_rows(INPUTS, LABELS, rows_per_chunk=20, columns=columns)
    tangent = jax.tree.map(jnp.ones_like, PARAMS)

    def product(function):
        return jax.jvp(jax.grad(function), (PARAMS,), (tangent,))[1]

    for ours, theirs in zip(
        jax.tree.leaves(product(partial(energies(columns), rows=rows))),
        jax.tree.leaves(product(definition)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-6)


def test_filler_rows_do_not_count():
    rows = chunk_rows(INPUTS, LABELS, rows_per_chunk=50, columns=False)
    assert rows.weights.shape == (2, 27) and float(rows.weights.sum()) == 53
    risks = mean_losses(MODEL.apply, {"one": lambda logits, labels, axis: jnp.ones(labels.shape)}, PARAMS, rows=rows)
    assert float(risks["one"]) == 1.0


def test_gradient_is_one_pass_and_traced_once():
    calls = 0

    def counting(logits, labels, *, axis):
        nonlocal calls
        calls += 1
        return squared(logits, labels, axis=axis)

    rows = chunk_rows(INPUTS, LABELS, rows_per_chunk=20, columns=False)
    function = jax.jit(jax.value_and_grad(partial(energy(MODEL.apply, counting), rows=rows)))
    for factor in (1.0, 2.0):
        function(jax.tree.map(lambda x, f=factor: f * x, PARAMS))
    # Once for the primal function's shape, once inside the derivative rule; never again for new values.
    assert calls <= 3


@pytest.mark.parametrize(
    ("inputs", "labels", "rows"),
    [(np.zeros((0, 2)), np.zeros(0), 5), (np.zeros((3, 2)), np.zeros(2), 5), (np.zeros((3, 2)), np.zeros(3), 0)],
)
def test_bad_rows_are_refused(inputs, labels, rows):
    with pytest.raises(ValueError, match="rows"):
        chunk_rows(inputs, labels, rows_per_chunk=rows, columns=False)


def test_whitening_inverts_and_has_the_prior_density():
    mean = jax.tree.map(jnp.zeros_like, PARAMS)
    map_ = whiten(mean, jax.tree.map(lambda x: jnp.full_like(x, np.log(0.3)), PARAMS))
    z = jax.random.normal(jax.random.key(3), (map_.dimension,), jnp.float32)
    np.testing.assert_allclose(map_.to_position(map_.to_params(z)), z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        log_density(z, 0.0, lambda _: jnp.float64(0.3)), -0.5 * float(jnp.sum(z.astype(jnp.float64) ** 2)), rtol=1e-12
    )


def test_model_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="widths"):
        mlp(())
    with pytest.raises(ValueError, match="tanh"):
        mlp((3,), activation="sine")
