"""From an optimiser to a certificate: what `mean_field` has learned is what `pbjax.certificates` certifies."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from pbjax import certificates, data, losses, models, optim, posteriors


@pytest.mark.slow
def test_a_posterior_trained_by_an_optimiser_is_certified():
    digits = data.load("digits")
    model = models.mlp((16, 10))
    inputs, labels = jnp.asarray(digits.train_inputs), jnp.asarray(digits.train_labels)
    params = model.init(jax.random.key(0), inputs[:1])
    prior = posteriors.fan_in_prior(params, scale=4.0)
    surrogate = partial(losses.smooth_bounded_cross_entropy, ceiling=4.0)

    def loss(params, rows):
        return surrogate(model.apply(params, inputs[rows]), labels[rows]).mean()

    # beta = n / kl_weight = 5,700: the temperature mean field likes on these data.
    member = optim.mean_field(radius=1.0, n=digits.num_train, prior=prior, kl_weight=0.25)
    tx = optax.chain(member, optax.adam(0.02))

    @jax.jit
    def train(key):
        def body(carry, key):
            params, state = carry
            key_rows, key_noise = jax.random.split(key)
            rows = jax.random.randint(key_rows, (256,), 0, digits.num_train)
            _, grads, state = optim.perturbed_value_and_grad(loss, state, params, key_noise, rows, member=member)
            updates, state = tx.update(grads, state, params, perturbed=True)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), jax.random.split(key, 3000))[0]

    trained, state = train(jax.random.key(1))
    q = optim.posterior(state, trained)
    risk = posteriors.posterior_risk(
        jax.random.key(2), q, lambda p, x, y: {"zero_one": losses.zero_one(model.apply(p, x), y)}, inputs, labels,
        num_draws=200,
    )  # fmt: skip
    certificate = certificates.mean_field(
        risk.mean["zero_one"], 200, posteriors.kl(q, prior), n=digits.num_train, delta=0.05, loss="zero_one"
    )
    assert float(risk.mean["zero_one"]) < certificate.value < 0.75
