"""Networks that memorise labels without any relation to the inputs, by annealed HMC: nothing below chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax import bounds
from pbjax.certificates import ais_free_energy, heat_law_rigorous, heat_mean, heat_single
from pbjax.sampling import init_paths, make_schedule, path_chunk, path_sums

# Labels are fair coins, so every network errs on a new example with probability 1/2, and its surrogate
# sigmoid(-margin) has mean 1/2 too, as the margin of the other label is the opposite.
N, INPUTS, HIDDEN, DATA_SETS, CHAINS, RUNGS = 60, 10, 16, 12, 4, 60
DELTA = 0.1
SETTINGS = {"n": N, "delta": DELTA, "loss": "zero_one"}


def margins(z, x, label):
    first, offset, last = jnp.split(z, [INPUTS * HIDDEN, (INPUTS + 1) * HIDDEN])
    return label * (jnp.tanh(x @ first.reshape(INPUTS, HIDDEN) + offset[None]) @ last)


@pytest.fixture(scope="module")
def runs():
    """Path sums and empirical errors of chains on every data set, [R, M]."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(DATA_SETS, N, INPUTS)), jnp.float32)
    label = jnp.asarray(rng.choice([-1.0, 1.0], size=(DATA_SETS, N)), jnp.float32)
    betas = 600.0 * (np.arange(1, RUNGS + 1) / RUNGS) ** 2
    steps = 0.25 * np.sqrt(60 / np.maximum(betas, 60))
    schedule = make_schedule(betas, step_sizes=steps, num_integration_steps=6)

    def one(key, x, label):
        def energy(z):
            return jnp.mean(jax.nn.sigmoid(-margins(z, x, label)).astype(jnp.float64))

        state = init_paths(key, chains=CHAINS, dimension=(INPUTS + 2) * HIDDEN, energy=energy)
        state, _ = path_chunk(state, schedule, energy=energy, moves=RUNGS)
        return path_sums(state), jax.vmap(lambda z: jnp.mean(margins(z, x, label) <= 0))(state.position)

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), DATA_SETS), x, label)


def test_no_route_certifies_below_chance(runs):
    sums, error = runs
    assert error.mean() < 0.1  # they do memorise
    for r in range(DATA_SETS):
        heat = {"heat": sums.heat[r], "empirical_risk": error[r], "slack": sums.slack[r], **SETTINGS}
        made = [*heat_single(**heat), heat_mean(**heat), heat_mean(parameter=2.0, **heat)]
        made += [heat_law_rigorous(beta=600.0, limit=limit, **heat) for limit in ("kl", "betting")]
        made += ais_free_energy(600.0, sums.log_weight[r], slack=sums.slack[r], n=N, delta=DELTA, loss="surrogate")
        # Each may fail with probability 0.1; these are far from it.
        assert min(certificate.value for certificate in made) > 0.55


def test_the_heat_is_what_prevents_it(runs):
    sums, error = runs
    assert (np.asarray(bounds.pac_bayes_kl(error, 0.0, n=N, delta=DELTA)) < 0.5).all()
    # A fifth of it would be too little for some.
    part = np.asarray(bounds.pac_bayes_kl(error, sums.heat / 5, n=N, delta=DELTA))
    assert (part < 0.5).any()
