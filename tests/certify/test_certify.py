"""The room that certifies a network of one's own: its chains are those of `sampling`, its rows what was promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax import certificates, certify, losses
from pbjax.posteriors import Gaussian
from pbjax.sampling import init_paths, make_schedule, path_chunk, path_sums

N = 200


def rows(seed=0, n=N):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2)).astype(np.float32)
    return x, (x[:, 0] + 0.3 * generator.normal(size=n) > 0).astype(int)


def apply(params, x):
    return x @ params["w"] + params["b"][None]


PRIOR = Gaussian({"w": jnp.full((2, 2), 0.5), "b": jnp.zeros(2)}, {"w": jnp.full((2, 2), 0.3), "b": jnp.zeros(2)})


def start(keys, target):
    return jax.jit(lambda keys, rows: certify.begin(keys, target, rows))(keys, target.rows)


def test_target_is_the_prior_and_the_mean_loss():
    x, y = rows()
    target = certify.make_target(apply, PRIOR, x, y, rows_per_chunk=37)
    z = jax.random.normal(jax.random.key(0), (6,), jnp.float32)
    params = target.to_params(z)
    np.testing.assert_allclose(params["w"], 0.5 + np.exp(0.3) * z[2:].reshape(2, 2), rtol=1e-6)
    logits = apply(params, x)
    expected = losses.smooth_bounded_cross_entropy(logits, jnp.asarray(y), ceiling=4.0).mean()
    risks = target.risks(z, target.rows)
    np.testing.assert_allclose(target.energy(z, target.rows), expected, rtol=1e-5)
    np.testing.assert_allclose(risks["surrogate"], expected, rtol=1e-5)
    np.testing.assert_allclose(risks["zero_one"], np.mean(np.argmax(logits, -1) != y), atol=1e-6)


@pytest.mark.slow
def test_a_chain_is_the_rooms_own_and_depends_on_its_key_alone():
    x, y = rows()
    target = certify.make_target(apply, PRIOR, x, y)
    schedule = make_schedule(np.geomspace(1, N, 12), step_sizes=0.3, num_integration_steps=3)
    keys = jax.random.split(jax.random.key(3), 3)
    step = jax.jit(lambda s, r: certify.advance(s, schedule, r, target=target, moves=5))
    state = start(keys, target)
    for _ in range(3):  # the last chunk goes beyond the end
        state, stop = step(state, target.rows)

    def energy(z):
        return target.energy(z, target.rows)

    own = init_paths(keys[1], chains=1, dimension=6, energy=energy)
    own, trace = jax.jit(lambda s: path_chunk(s, schedule, energy=energy, moves=12))(own)
    sums = path_sums(own)
    np.testing.assert_allclose(own.position[0], state.position[1, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums.heat[0], stop.heat[1], rtol=1e-5)
    np.testing.assert_allclose(trace.acceptance[10:].mean(), stop.acceptance[1], rtol=1e-5)
    np.testing.assert_allclose(stop.log_weight, -(stop.heat + N * stop.risks["surrogate"]), rtol=1e-6)
    assert float(stop.beta) == pytest.approx(N) and np.ptp(stop.heat) > 1


def test_heat_identity_holds_through_the_room():
    # E exp(-W) g(w_K) = E_prior g: with g an event that the chains do reach, at a mild beta.
    x, y = rows(n=20)
    target = certify.make_target(apply, PRIOR, x, y)
    schedule = make_schedule([2.0, 4.0, 6.0], step_sizes=0.9, num_integration_steps=2)
    keys = jax.random.split(jax.random.key(11), 20_000)
    state, stop = jax.jit(
        lambda keys, r: certify.advance(certify.begin(keys, target, r), schedule, r, target=target, moves=3)
    )(keys, target.rows)
    event = np.asarray(state.position[:, 0, 2] - state.position[:, 0, 3] > 0)  # whitened kernel, first row
    values = np.exp(-np.asarray(stop.heat)) * event
    error = values.std() / np.sqrt(len(values))
    assert error < 0.012
    assert abs(values.mean() - 0.5) < 4.5 * error  # a false alarm once in 150,000
    assert abs(event.mean() - 0.5) > 0.05  # the event's own frequency has moved, so the weights matter


def test_by_annealing_certifies_what_it_returns():
    x, y = rows()
    made = certify.by_annealing(
        jax.random.key(0), apply, PRIOR, x, y, gradients=300, chains=2, delta=0.05, tries=1000, rows_per_chunk=64
    )
    logits = jax.vmap(apply, (0, None))(made.params, x)
    errors = np.mean(np.argmax(logits, -1) != y[None], axis=1)
    np.testing.assert_allclose(made.stop.risks["zero_one"], errors, atol=1e-6)
    expected = certificates.heat_single(
        made.stop.heat, errors, n=N, delta=0.025, loss="zero_one", slack=made.stop.slack, union=1000
    )
    assert made.certificate.value == pytest.approx(expected[0].value, rel=1e-5)
    assert max(errors) < made.certificate.value < 0.5
    assert made.certificate.n == N and made.certificate.beta == N
    assert made.network["w"].shape == (2, 2)
    assert made.schedule.num_gradients == 300
    routes = [(c.loss, c.route) for c in made.certificates]
    assert routes.count(("zero_one", "heat_single")) == 2 and ("surrogate", "ais_free_energy") in routes
    for certificate in made.certificates:
        assert certificate.delta == 0.025
        assert sum(certificate.delta_ledger.values()) == pytest.approx(0.025)


def test_limit_and_parameter_reach_their_routes():
    heat, risk = np.linspace(50.0, 70.0, 400), np.linspace(0.05, 0.07, 400)
    common = {"n": 3000, "beta": 3000.0, "delta": 0.05}
    made = certify.heat_certificates(
        heat, -heat, {"zero_one": risk}, limit="betting", parameter=0.4, tries=7, **common
    )  # fmt: skip
    by_route = {c.route: c for c in made}
    law = certificates.heat_law_rigorous(heat, risk, loss="zero_one", limit="betting", union=7, **common)
    mean = certificates.heat_mean(heat, risk, loss="zero_one", parameter=0.4, union=7, **common)
    assert by_route["heat_law_rigorous"] == law and by_route["heat_mean"].value == mean.value
    assert made[0] == certificates.heat_single(heat, risk, loss="zero_one", parameter=0.4, union=7, **common)[0]
    plain = {c.route: c for c in certify.heat_certificates(heat, -heat, {"zero_one": risk}, tries=7, **common)}
    assert law.value < plain["heat_law_rigorous"].value
    assert plain["heat_mean"].value != mean.value


@pytest.mark.slow
def test_shuffled_labels_certify_nothing_below_chance():
    x, _ = rows()
    y = np.random.default_rng(5).integers(0, 2, N)
    made = certify.by_annealing(jax.random.key(0), apply, PRIOR, x, y, gradients=300, chains=4)
    assert min(c.value for c in made.certificates if c.loss == "zero_one") > 0.5


def test_cubic_schedule_spends_its_budget_and_no_more():
    schedule = certify.cubic_schedule(beta=500.0, gradients=100, dimension=81, num_integration_steps=7, step_size=0.9)
    assert schedule.num_gradients == 99
    np.testing.assert_allclose(schedule.betas, 500 * (np.arange(1, 15) / 14) ** 3)
    np.testing.assert_allclose(schedule.step_sizes, 0.3 / np.sqrt(1 + schedule.betas / 200))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"delta": 1.0}, "delta"), ({"chains": 0}, "chains"), ({"tries": 0}, "tries"), ({"gradients": 1}, "gradients"),
        ({"labels": [0, 1]}, "labels"), ({"beta": -1.0}, "beta"),
        ({"prior": Gaussian(jnp.zeros(3), jnp.zeros(2))}, "prior.mean"), ({"parameter": 0.0}, "parameter"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(changed, said):
    x, y = rows()
    given = {"prior": PRIOR, "inputs": x, "labels": y, **changed}
    with pytest.raises(ValueError, match=said) as caught:
        certify.by_annealing(jax.random.key(0), apply, **given)
    assert "\n" not in str(caught.value)
