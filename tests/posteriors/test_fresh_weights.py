"""Risks from pairs of row and weights: against closed forms, whole passes, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from pbjax import losses, models
from pbjax.posteriors import Gaussian, fresh_weights_risk, init, posterior_risk

KEY = jax.random.key(0)


def _apply(params, inputs):
    return inputs @ params["kernel"]


def _zero_one(logits, labels):
    return losses.zero_one(logits, labels)


def _linear(rows=300):
    inputs = jax.random.normal(jax.random.key(1), (rows, 4))
    labels = jax.random.randint(jax.random.key(2), (rows,), 0, 2)
    mean = {"kernel": jax.random.normal(jax.random.key(3), (4, 2))}
    return Gaussian(mean, {"kernel": jnp.full((4, 2), jnp.log(0.7))}), inputs, labels


def test_mean_is_the_closed_form_of_a_linear_classifier():
    gaussian, inputs, labels = _linear()
    risk = fresh_weights_risk(KEY, gaussian, _zero_one, inputs, labels, apply=_apply, repeats=200)
    margins = inputs @ (gaussian.mean["kernel"] @ jnp.array([-1.0, 1.0]))
    spread = 0.7 * 2**0.5 * np.linalg.norm(inputs, axis=1)
    wrong = norm.cdf(np.where(labels == 1, -1, 1) * np.asarray(margins) / spread)
    assert risk.num_pairs == 60_000
    # Rows are used equally often, so only the draws vary: the error is below that of independent rows.
    exact_error = np.sqrt(np.mean(wrong * (1 - wrong)) / risk.num_pairs)
    assert exact_error < risk.standard_error
    assert abs(risk.mean - wrong.mean()) < 4.5 * exact_error  # false alarm 7e-6


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 64, 300, 1000])
def test_every_row_counts_equally_often_whatever_the_chunks(rows_per_chunk):
    gaussian, inputs, _ = _linear()
    # A loss that ignores the weights shows which rows were used.
    risk = fresh_weights_risk(
        KEY, gaussian, lambda logits, labels: labels / 300.0, inputs, jnp.arange(300), apply=_apply, repeats=3,
        rows_per_chunk=rows_per_chunk,
    )  # fmt: skip
    np.testing.assert_allclose(risk.mean, np.arange(300).mean() / 300, rtol=1e-12)
    assert risk.num_pairs == 900


@pytest.mark.slow
def test_layer_by_layer_has_the_law_of_whole_draws():
    model = models.mlp((16, 3), activation="tanh")
    inputs = jax.random.normal(jax.random.key(4), (200, 5))
    labels = jax.random.randint(jax.random.key(5), (200,), 0, 3)
    gaussian = init(model.init(jax.random.key(6), inputs[:1]), scale=0.5)
    local = fresh_weights_risk(
        KEY, gaussian, _zero_one, inputs, labels, apply=model.apply, activation="tanh", repeats=100
    )
    general = fresh_weights_risk(KEY, gaussian, _zero_one, inputs, labels, apply=model.apply, repeats=100)
    whole = posterior_risk(
        jax.random.key(7), gaussian, lambda w, x, y: {"z": losses.zero_one(model.apply(w, x), y)}, inputs, labels,
        num_draws=2000,
    )  # fmt: skip
    spread = float(jnp.hypot(local.standard_error, whole.standard_error["z"]))
    assert abs(local.mean - whole.mean["z"]) < 4.5 * spread
    assert abs(general.mean - whole.mean["z"]) < 4.5 * spread


def test_vmap_is_a_loop():
    gaussian, inputs, labels = _linear(50)
    keys = jax.random.split(KEY, 3)

    def call(key):
        risk = fresh_weights_risk(key, gaussian, _zero_one, inputs, labels, apply=_apply, repeats=2, rows_per_chunk=20)
        return risk.mean

    np.testing.assert_array_equal(jax.vmap(call)(keys), jnp.stack([call(key) for key in keys]))


def test_bad_arguments():
    gaussian, inputs, labels = _linear(10)
    with pytest.raises(ValueError, match="repeats"):
        fresh_weights_risk(KEY, gaussian, _zero_one, inputs, labels, apply=_apply, repeats=0)
    with pytest.raises(ValueError, match="as many labels as inputs"):
        fresh_weights_risk(KEY, gaussian, _zero_one, inputs, labels[:9], apply=_apply, repeats=1)
