"""The same programs on meshes of one to eight devices, results to a file; run as a process of its own."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments import rule_extrapolation
from experiments._rule_extrapolation.groups import groups
from experiments._rule_extrapolation.training import init_replicas, make_chunk, make_training
from pbjax.certify import advance, begin, make_target
from pbjax.losses import smooth_bounded_cross_entropy
from pbjax.models import mlp
from pbjax.posteriors import fan_in_prior
from pbjax.posteriors.energy import chunk_rows, energy
from pbjax.posteriors.gibbs import whiten
from pbjax.runs import lay_out_replicas, load_configs, replica_mesh, replicate, shard_data, shard_replicas
from pbjax.sampling import HMCSettings, adapt_chunk, freeze, init_ladder, make_schedule, sample_chunk

CEILING, REPLICAS, ROWS, WIDTHS = 4.0, 8, 203, (20, 12, 5)  # 203 rows need fillers on every number of devices


def loss(logits, labels, axis):
    return smooth_bounded_cross_entropy(logits, labels, ceiling=CEILING, axis=axis)


BETAS, SETTINGS = np.array([1.0, 4.0, 16.0, 64.0]), HMCSettings(num_integration_steps=4, jitter=0.2)


def leaves(tree):
    keys = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(keys)]


def two_wells(z):
    """L in [0, 1]; z [2]."""
    squares = jnp.sum(jnp.square(z.astype(jnp.float64)[None] - jnp.array([[2.0, 0.0], [-2.0, 0.0]])), axis=1)
    return 1 - jnp.sum(jnp.array([0.9, 1.0]) * jnp.exp(-2 * squares))


def ladder(devices):
    """A ladder of 4 x 4 replicas at frozen step sizes: everything that 20 draws leave."""
    betas = jnp.asarray(BETAS)

    def start(key):
        z = jax.random.normal(jax.random.key(1), (4, 4, 2), jnp.float32)
        return init_ladder(
            key, z, betas=betas, energy=two_wells, step_sizes=jnp.full(4, 0.3), num_functionals=1, exchange=False
        )

    def chunk(state):
        return sample_chunk(
            state, betas, energy=two_wells, observe=lambda z: two_wells(z)[None], settings=SETTINGS, draws=20
        )

    state = jax.jit(start)(jax.random.key(2))
    mesh = replica_mesh(jax.devices()[:devices], num_replicas=16)
    state, traces = jax.jit(chunk)(replicate(mesh, state)._replace(kernel=shard_replicas(mesh, state.kernel)))
    assert len(state.kernel.position.sharding.device_set) == devices
    return leaves((state, traces))


def network_and_rows():
    """A network, its prior, and inputs and labels of noise."""
    noise = np.random.default_rng(1)
    inputs = noise.normal(size=(ROWS, WIDTHS[0])).astype(np.float32)
    model = mlp(WIDTHS[1:])
    prior = fan_in_prior(model.init(jax.random.key(0), inputs[:1]), scale=4.0)
    return model, prior, inputs, noise.integers(0, WIDTHS[-1], ROWS)


def learning_problem(columns):
    """A network, its rows in two chunks, and the energy of flat weights: (dimension, rows, energy)."""
    model, prior, inputs, labels = network_and_rows()
    rows = chunk_rows(inputs, labels, rows_per_chunk=110, columns=columns)
    whitening = whiten(prior.mean, prior.log_scale)
    apply, prepare = (model.columns.apply, model.columns.prepare) if columns else (model.apply, lambda w: w)
    function = energy(apply, loss, columns=columns, prepare=prepare)
    return whitening.dimension, rows, lambda z, rows: function(whitening.to_params(z), rows=rows)


def network_ladder(devices, columns, exchange):
    """Adaptation and sampling of 4 x 4 networks: everything that 12 moves leave."""
    dimension, rows, of_weights = learning_problem(columns)
    betas = jnp.asarray(BETAS)
    replicas = lay_out_replicas(16, devices=jax.devices()[:devices])
    assert replicas.at_once == 2  # one group a device on eight of them

    def start(key, rows):
        z = jax.random.normal(jax.random.key(1), (4, 4, dimension), jnp.float32)
        return init_ladder(
            key,
            z,
            betas=betas,
            energy=lambda z: of_weights(z, rows),
            step_sizes=jnp.full(4, 0.1),
            num_functionals=1,
            exchange=exchange,
        )

    def chunk(state, rows):
        given = {"energy": lambda z: of_weights(z, rows), "settings": SETTINGS, "replicas": replicas}
        state, rates = adapt_chunk(state, betas, moves=6, total_moves=6, **given)
        state = freeze(state, total_moves=6)
        return sample_chunk(state, betas, observe=lambda z: of_weights(z, rows)[None], draws=6, **given), rates

    state = jax.jit(start)(jax.random.key(2), rows)
    state = replicate(replicas.mesh, state)._replace(kernel=shard_replicas(replicas.mesh, state.kernel))
    made = jax.jit(chunk)(state, replicate(replicas.mesh, rows))
    assert len(made[0][0].kernel.position.sharding.device_set) == devices
    return leaves(made)


def annealed_chains(devices):
    """Eight certified networks: everything that two chunks of an annealed path leave, the second past its end."""
    model, prior, inputs, labels = network_and_rows()
    target = make_target(model.apply, prior, inputs, labels, rows_per_chunk=110, columns=model.columns)
    replicas = lay_out_replicas(REPLICAS, at_once=1, devices=jax.devices()[:devices])
    schedule = make_schedule([1.0, 20.0, 200.0], step_sizes=[0.3, 0.1, 0.05], num_integration_steps=[2, 3, 2])
    keys = jax.random.split(jax.random.key(2), REPLICAS)
    state = jax.jit(lambda keys, rows: begin(keys, target, rows))(keys, target.rows)
    state = jax.tree.map(
        lambda leaf: shard_replicas(replicas.mesh, leaf) if leaf.ndim else replicate(replicas.mesh, leaf), state
    )
    rows = replicate(replicas.mesh, target.rows)

    @jax.jit
    def chunk(state, schedule, rows):
        # Made here and read by every chain.
        schedule = schedule._replace(step_sizes=0.5 * schedule.step_sizes)
        return advance(state, schedule, rows, target=target, moves=2, jitter=0.1, replicas=replicas)

    stops = []
    for _ in range(2):
        state, stop = chunk(state, schedule, rows)
        stops.append(stop)
    assert int(state.moves) == schedule.num_moves
    assert chunk._cache_size() == 1
    assert len(state.position.sharding.device_set) == devices
    return leaves((state, stops))


def trained_seeds(devices):
    """Eight language models after six steps of SAM in two chunks, and what is seen of them, decoding included."""
    config = dataclasses.replace(
        load_configs(rule_extrapolation.CONFIGS)["smoke"], regimes=("oracle",), optimisers=("sam",), max_length=8,
        class_length=3, seeds=tuple(range(REPLICAS)), steps=6, evaluate_every=3,
    )  # fmt: skip
    study = rule_extrapolation.Study(config)
    (group,) = groups(config)
    problem, model = study.problems["anbn"], study.model(group)
    training = make_training(config, problem, model, group)
    replicas = lay_out_replicas(REPLICAS, at_once=1, devices=jax.devices()[:devices])
    chunk = jax.jit(make_chunk(config, problem, model, training, replicas=replicas))
    carry, first = chunk(shard_replicas(replicas.mesh, init_replicas(config, training, group)))
    carry, last = chunk(carry)
    assert len(last.loss.sharding.device_set) == devices
    return leaves((carry, first, last))


def network(shards):
    """Energy [R] and its gradient of R networks, the rows over `shards` devices; feature-major and row-major."""
    noise = np.random.default_rng(0)
    inputs = 1 + noise.normal(size=(ROWS, WIDTHS[0])).astype(np.float32)
    labels = np.zeros(ROWS, int)  # a gradient that is large beside its rounding
    model = mlp(WIDTHS[1:])
    params = jax.tree.map(
        lambda leaf: (0.1 * noise.normal(size=(REPLICAS, *leaf.shape))).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), inputs[:1]),
    )
    mesh = replica_mesh(num_replicas=REPLICAS, data_shards=shards)
    results = []
    for columns in (True, False) if shards == 8 else (True,):
        rows = chunk_rows(inputs, labels, rows_per_chunk=110, columns=columns)
        apply, prepare = (model.columns.apply, model.columns.prepare) if columns else (model.apply, lambda w: w)
        function = energy(apply, loss, columns=columns, prepare=prepare)
        placed = shard_data(mesh, rows, axis=-1 if columns else 1)
        held = placed.labels.addressable_shards[0].data.shape[1]
        assert held == -(-rows.labels.shape[1] // shards), "a device holds more than its share of the rows"

        def all_replicas(w, rows, function=function):
            return jax.vmap(jax.value_and_grad(lambda one: function(one, rows=rows)))(w)

        compiled = jax.jit(all_replicas).lower(shard_replicas(mesh, params), placed).compile()
        text = compiled.as_text()
        assert ("all-reduce" in text) == (shards > 1)
        assert "all-gather" not in text, "the rows were put together again"
        results += [np.asarray(leaf) for leaf in jax.tree.leaves(compiled(shard_replicas(mesh, params), placed))]
    return results, [np.asarray(leaf) for leaf in jax.tree.leaves(params)], inputs


SAME_BITS = {
    "plain": lambda devices: network_ladder(devices, columns=True, exchange=False),
    "exchange": lambda devices: network_ladder(devices, columns=False, exchange=True),
    "chains": annealed_chains,
    "seeds": trained_seeds,
}


def main(path, *same_bits):
    jax.config.update("jax_enable_x64", True)
    saved = {}
    if same_bits:
        name, *counts = same_bits
        for count in map(int, counts):
            saved |= {f"{name}_{count}_{index}": leaf for index, leaf in enumerate(SAME_BITS[name](count))}
        np.savez(path, **saved)
        return
    for count in (1, 2, 4, 8):
        saved |= {f"draws_{count}_{index}": leaf for index, leaf in enumerate(ladder(count))}
        results, params, inputs = network(count)
        saved |= {f"network_{count}_{index}": leaf for index, leaf in enumerate(results)}
    saved |= {f"params_{index}": leaf for index, leaf in enumerate(params)} | {"inputs": inputs}
    np.savez(path, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
