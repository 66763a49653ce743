"""Certificates of annealed chains against known true risks: data and runs repeated, violations counted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom, norm

from pbjax import bounds
from pbjax.bounds import bernoulli_kl
from pbjax.certificates import ais_free_energy, heat_law_rigorous, heat_mean, heat_single
from pbjax.sampling import init_paths, make_schedule, path_chunk, path_sums

# x ~ N(0, 1); y = 1[x > 0.7], flipped with probability 0.1; w ~ N(0, 1) classifies by x > w; logistic surrogate.
FLIP, CUT, SLOPE = 0.1, 0.7, 4.0
DELTA = 0.1
PARAMETER = 1.0  # C of Catoni's form
GRID = np.linspace(-5, 5, 401)


def logistic(margin):
    return 1 / (1 + np.exp(np.clip(SLOPE * margin, -50, 50)))


def true_error(w):
    return FLIP + (1 - 2 * FLIP) * np.abs(norm.cdf(w) - norm.cdf(CUT))


def true_surrogate_on_grid():
    nodes = np.linspace(-6, 6, 2001)
    weight = norm.pdf(nodes) / norm.pdf(nodes).sum()
    sign = np.where(nodes > CUT, 1.0, -1.0)
    margin = sign * (nodes - GRID[:, None])
    return ((1 - FLIP) * logistic(margin) + FLIP * logistic(-margin)) @ weight


@partial(jax.jit, static_argnames=("chains", "moves"))
def run(keys, x, sign, schedule, *, chains, moves):
    """Heat, log-weight, slack, end points and 0-1 errors of independent chains on every data set, [R, M]."""

    def one(key, x, sign):
        def energy(z):
            return jnp.mean(jax.nn.sigmoid(-SLOPE * sign * (x - z[0].astype(x.dtype))))

        state = init_paths(key, chains=chains, dimension=1, energy=energy)
        state, _ = path_chunk(state, schedule, energy=energy, moves=moves)
        sums, w = path_sums(state), state.position[:, 0].astype(x.dtype)
        error = jnp.mean((sign[None, :] * (x[None, :] - w[:, None]) <= 0).astype(x.dtype), axis=1)
        return sums.heat, sums.log_weight, sums.slack, w, error

    return jax.vmap(one)(keys, x, sign)


def data(repeats, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(repeats, n))
    y = (x > CUT) ^ (rng.random((repeats, n)) < FLIP)
    return x, np.where(y, 1.0, -1.0)


SCHEDULES = {
    "slow": make_schedule(160.0 * (np.arange(1, 41) / 40) ** 2, step_sizes=0.15, num_integration_steps=2),
    "two rungs, one leapfrog step": make_schedule([80.0, 160.0], step_sizes=0.5, num_integration_steps=1),
}


def violations(name, *, repeats, n, chains, seed, every_route):
    """Violations of each certificate, exp(n kl - W) and its like at a fixed C, mean errors on data and in truth."""
    schedule = SCHEDULES[name]
    x, sign = data(repeats, n, seed)
    out = run(
        jax.random.split(jax.random.key(seed), repeats), x, sign, schedule, chains=chains, moves=schedule.num_moves
    )
    heat, log_weight, slack, w, error = (np.asarray(a) for a in out)
    true = true_error(w)
    beta = float(schedule.betas[-1])
    surrogate = np.stack([logistic(s * (a - GRID[:, None])).mean(1) for a, s in zip(x, sign, strict=True)])
    gibbs = norm.pdf(GRID) * np.exp(-beta * (surrogate - surrogate.min(1, keepdims=True)))
    gibbs_risk = (gibbs / gibbs.sum(1, keepdims=True)) @ true_surrogate_on_grid()
    counts = dict.fromkeys(
        ("single", "best of all", "mean", "single, fixed C", "mean, fixed C", "law", "law by betting", "ais"), 0
    )
    settings = {"n": n, "delta": DELTA}
    for r in range(repeats):
        one = heat_single(heat[r, 0], error[r, 0], slack=slack[r, 0], loss="zero_one", **settings)
        mean = heat_mean(heat[r], error[r], slack=slack[r], loss="zero_one", **settings)
        [ais] = ais_free_energy(beta, log_weight[r], slack=slack[r], loss="surrogate", **settings)
        counts["single"] += one[0].value < true[r, 0]
        counts["mean"] += mean.value < true[r].mean()
        fixed = {"loss": "zero_one", "parameter": PARAMETER, **settings}
        counts["single, fixed C"] += (
            heat_single(heat[r, 0], error[r, 0], slack=slack[r, 0], **fixed)[0].value < true[r, 0]
        )
        counts["mean, fixed C"] += heat_mean(heat[r], error[r], slack=slack[r], **fixed).value < true[r].mean()
        counts["ais"] += ais.value < gibbs_risk[r]
        if every_route:
            every = heat_single(heat[r], error[r], slack=slack[r], loss="zero_one", **settings)
            counts["best of all"] += any(c.value < t for c, t in zip(every, true[r], strict=True))
            for name, limit in (("law", "kl"), ("law by betting", "betting")):
                law = heat_law_rigorous(
                    heat[r], error[r], beta=beta, slack=slack[r], loss="zero_one", limit=limit, **settings
                )
                counts[name] += law.value < true.mean()  # over data too: the law's own risk is not at hand
    gain = n * np.asarray(bernoulli_kl(error, true)) - heat
    fixed_gain = n * (-np.log1p(true * np.expm1(-PARAMETER)) - PARAMETER * error) - heat
    return counts, np.exp(gain), np.exp(fixed_gain), error.mean(), true.mean()


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_violations_stay_below_delta(name):
    repeats = 200
    counts, gains, fixed_gains, error, true = violations(
        name, repeats=repeats, n=60, chains=4, seed=1, every_route=False
    )
    # A rate of delta is exceeded by this many with probability 1e-4.
    assert max(counts.values()) <= binom.ppf(1 - 1e-4, repeats, DELTA), counts
    assert gains.mean() <= 2 * np.sqrt(60)
    # At a fixed C the constant is 1, so an excess would show. Chains on one data set count as one draw.
    by_data = fixed_gains.mean(1)
    assert by_data.mean() <= 1 + 4.5 * by_data.std() / np.sqrt(repeats)
    assert error < true or name != "slow"  # the chains do fit the data


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_violations_stay_below_delta_in_thousands(name):
    counts, gains, fixed_gains, _, _ = violations(name, repeats=2500, n=40, chains=4, seed=2, every_route=True)
    assert max(counts.values()) <= binom.ppf(1 - 1e-4, 2500, DELTA), counts
    assert gains.mean() <= 2 * np.sqrt(40)
    by_data = fixed_gains.mean(1)
    assert by_data.mean() <= 1 + 4.5 * by_data.std() / np.sqrt(2500)


def memorise(rng, *, n, hypotheses, beta, moves, repeats):
    """Annealed Metropolis chains over hypotheses that all err with probability 1/2: heat and empirical error."""
    errors = rng.binomial(n, 0.5, size=(repeats, hypotheses)) / n
    rows = np.arange(repeats)
    at, heat = rng.integers(0, hypotheses, repeats), np.zeros(repeats)
    for b in beta * np.arange(1, moves + 1) / moves:
        other = rng.integers(0, hypotheses, repeats)
        drop = errors[rows, at] - errors[rows, other]
        accepted = np.log(rng.random(repeats)) < b * drop
        heat += b * np.where(accepted, drop, 0.0)
        at = np.where(accepted, other, at)
    return heat, errors[rows, at]


def test_shuffled_labels_certify_nothing_below_chance():
    n, repeats = 200, 200
    heat, error = memorise(np.random.default_rng(3), n=n, hypotheses=10_000, beta=2000.0, moves=4000, repeats=repeats)
    assert error.mean() < 0.4  # it does memorise
    settings = {"n": n, "delta": DELTA, "loss": "zero_one"}
    singles = [heat_single(w, q, **settings)[0].value for w, q in zip(heat, error, strict=True)]
    assert sum(value < 0.5 for value in singles) <= binom.ppf(1 - 1e-4, repeats, DELTA)
    groups = [heat_mean(heat[k : k + 8], error[k : k + 8], **settings).value for k in range(0, repeats, 8)]
    assert min(groups) >= 0.5
    # The control can fail: without the heat most runs would be certified below chance.
    without = np.asarray(bounds.pac_bayes_kl(error, 0.0, n=n, delta=DELTA))
    assert np.mean(without < 0.5) > 0.5
