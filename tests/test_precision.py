"""Fast forces, exact values: which products of a program are which, and that the law of the chains does not notice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pbjax import precision
from pbjax.losses import smooth_bounded_cross_entropy
from pbjax.models import mlp
from pbjax.posteriors import fan_in_prior
from pbjax.posteriors.energy import chunk_rows
from pbjax.posteriors.energy import energy as mean_loss
from pbjax.posteriors.gibbs import whiten
from pbjax.precision import SplitEnergy, bind, force_of, value_and_force, with_fast_forces
from pbjax.sampling import HMCSettings, init_ladder, init_paths, make_schedule, path_chunk, path_sums, sample_chunk


def products(function, *arguments):
    """Precisions of all matrix products in the program of a function."""
    found = set()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                given = equation.params["precision"]
                found.update(str(p) for p in (given if isinstance(given, tuple) else (given,)))
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


@pytest.fixture(scope="module")
def network():
    """The energy of a network whose derivative rule is pbjax's own, and a position."""
    model = mlp((4, 3), activation="swish")
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    rows = chunk_rows(x, np.arange(20) % 3, rows_per_chunk=8, columns=True)
    params = model.init(jax.random.key(0), jnp.asarray(x[:1]))
    map_ = whiten(*fan_in_prior(params, scale=1.0))
    loss = functools.partial(smooth_bounded_cross_entropy, ceiling=4.0)
    function = mean_loss(model.columns.apply, loss, columns=True, prepare=model.columns.prepare)
    z = jax.random.normal(jax.random.key(1), (map_.dimension,), jnp.float32)
    return (lambda z, rows: function(map_.to_params(z), rows=rows)), rows, z


@pytest.mark.parametrize(("name", "forces"), [("bfloat16", "DEFAULT"), ("tensorfloat32", "HIGH")])
def test_values_are_float32_products_and_forces_are_fast_ones(network, name, forces):
    function, rows, z = network
    split = bind(with_fast_forces(function, name), rows)
    assert products(split, z) == {"HIGHEST"}
    assert products(jax.grad(force_of(split)), z) == {forces}
    assert products(value_and_force(split), z) == {"HIGHEST", forces}
    plain = bind(with_fast_forces(function, "float32"), rows)
    assert products(jax.value_and_grad(plain), z) == {"HIGHEST"}
    # Whatever the default of the process is.
    with jax.default_matmul_precision("bfloat16"):
        assert products(split, z) == {"HIGHEST"}


def test_one_trajectory_has_one_exact_pass_however_long_it_is(network):
    # The exact products stand outside the loop over leapfrog steps: their number does not grow with it.
    function, rows, z = network
    schedule = make_schedule([1.0, 2.0], step_sizes=0.1, num_integration_steps=7)
    calls = {"value": 0, "force": 0}

    def counted(name, function):
        def call(z):
            jax.debug.callback(lambda: calls.__setitem__(name, calls[name] + 1))
            return function(z)

        return call

    split = bind(with_fast_forces(function, "bfloat16"), rows)
    split = SplitEnergy(counted("value", split.value), counted("force", split.force))
    state = init_paths(jax.random.key(0), chains=1, dimension=z.size, energy=split)
    jax.effects_barrier()
    assert calls == {"value": 1, "force": 1}
    jax.block_until_ready(jax.jit(lambda s: path_chunk(s, schedule, energy=split, moves=2))(state))
    jax.effects_barrier()
    assert calls["force"] == 1 + 2 * 7 and calls["value"] <= 1 + 2


def near(z):
    """The energy of the toys, in [0, 1]."""
    return jnp.mean(jnp.tanh(z - 1.0) ** 2)


BAD = SplitEnergy(near, lambda z: jnp.mean(0.6 * jnp.tanh(z - 1.3) ** 2 + 0.05 * jnp.sin(20.0 * z)))


def test_the_path_identity_holds_with_a_bad_force():
    # E exp(-W) g(w_K) = P(g), exactly: what heat certificates rest on.
    schedule = make_schedule([2.0, 5.0, 8.0], step_sizes=0.5, num_integration_steps=3)
    chains = 40_000

    @jax.jit
    def run(key):
        state = init_paths(key, chains=chains, dimension=2, energy=BAD)
        state, trace = path_chunk(state, schedule, energy=BAD, moves=3)
        return state.position, path_sums(state), trace

    z, sums, trace = run(jax.random.key(2))
    event = np.asarray(z[:, 0] > 0.5)
    values = np.exp(-np.asarray(sums.heat)) * event
    error = values.std() / np.sqrt(chains)
    assert abs(values.mean() - 0.3085375) < 4 * error and error < 0.01  # P(z > 0.5)
    assert 0.2 < float(trace.acceptance.mean()) < 0.95  # the force is bad enough to be refused at times
    np.testing.assert_allclose(sums.energy, jax.vmap(near)(z), rtol=1e-6)
    # Had the force been the energy, the law would have been another one.
    other = SplitEnergy(BAD.force, BAD.force)
    wrong = jax.jit(
        lambda key: path_chunk(
            init_paths(key, chains=chains, dimension=2, energy=other), schedule, energy=other, moves=3
        )[0]
    )(jax.random.key(2))
    assert abs(float(jnp.mean(wrong.position[:, 0])) - float(z[:, 0].mean())) > 10 / np.sqrt(chains)


@pytest.mark.parametrize("exchange", [False, True])
def test_a_ladder_with_a_bad_force_draws_from_the_exact_gibbs_law(exchange):
    betas, rungs, chains = jnp.array([3.0, 8.0]), 2, 500
    grid = np.linspace(-8, 8, 4001)
    weights = np.exp(-0.5 * grid**2 - 8.0 * np.tanh(grid - 1.0) ** 2)
    wanted = float((weights * grid).sum() / weights.sum())
    start = jax.random.normal(jax.random.key(0), (rungs, chains, 1), jnp.float32)
    state = init_ladder(
        jax.random.key(1), start, betas=betas, energy=BAD, step_sizes=jnp.array([0.4, 0.4]), num_functionals=1,
        exchange=exchange,
    )  # fmt: skip
    run = jax.jit(
        lambda s: sample_chunk(
            s, betas, energy=BAD, observe=lambda z: z.astype(float), settings=HMCSettings(3), draws=300
        )
    )
    _, (draws, _) = run(state)
    means = np.asarray(draws.functionals)[0, 1, :, 50:].mean(axis=1)  # [chains]: independent
    assert abs(means.mean() - wanted) < 4 * means.std() / np.sqrt(chains)
    assert means.std() / np.sqrt(chains) < 0.01


def test_an_unknown_precision_is_one_clear_line():
    with pytest.raises(ValueError, match=r"^matmul precision 'half': choose 'float32', 'tensorfloat32' or 'bfloat16'$"):
        precision.check_matmul("half")
