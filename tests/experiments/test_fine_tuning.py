"""The fine-tuning study: equal functions, runs that are dropped for good reason, linear networks, and a whole run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from configs.fine_tuning.smoke import config as smoke
from experiments import fine_tuning
from experiments._fine_tuning import measuring, tuning
from experiments._fine_tuning.linearised import tangent_maps
from experiments._fine_tuning.methods import learning_rates, make_method
from experiments._fine_tuning.problem import Arm, arms, draw_control, make_problem, map_keys, transformed
from experiments._fine_tuning.rows import slope
from pbjax.runs import RunError, load_configs
from tests.experiments.processes import same_rows, whole_and_killed

CONFIG = dataclasses.replace(smoke, log_level="quiet", symmetries=("rescaling", "mixing"))
PROBLEM = make_problem(CONFIG)


@pytest.fixture(scope="module")
def params():
    """Networks of both seeds, not pre-trained, under all maps."""
    made = jax.vmap(PROBLEM.model.init)(jax.random.split(jax.random.key(0), 2))
    return transformed(CONFIG, made)


def test_arms_begin_with_no_map_and_the_control():
    assert arms(CONFIG) == (Arm("none", 1), Arm("permutation", 1), Arm("rescaling", 2), Arm("mixing", 2))


def test_maps_leave_the_function(params):
    found = measuring.logit_gaps(PROBLEM, params, arms(CONFIG))
    assert np.all(found["logit_gap"][0] == 0) and np.all(found["logit_gap"][2] == 0)
    assert measuring.identical_at_one(CONFIG, jax.tree.map(lambda leaf: leaf[0], params))
    broken = dict(params)
    broken["Embedding"] = params["Embedding"].at[2, 1].mul(1.01)
    with pytest.raises(RunError, match="rescaling with c = 2 moves logits"):
        measuring.logit_gaps(PROBLEM, broken, arms(CONFIG))


def carry_of(shape, *, reached, steps, failed=()):
    reached, steps = np.ravel(reached), np.broadcast_to(steps, shape.size)
    lost = np.isin(np.arange(shape.size), failed)
    return tuning.Carry((), (), jnp.asarray(steps), jnp.asarray(reached), jnp.asarray(reached < 0), jnp.asarray(lost))


def test_runs_go_on_as_long_as_they_matter():
    """Two maps, three rates, two seeds. Without a map the middle rate took 8 and 2 steps, so 4 on average."""
    shape = tuning.Shape(2, 3, 2)

    def going(carry, cap=64.0):
        return tuning.still_matters(shape, carry, cap_factor=cap).reshape(2, 3, 2).tolist()

    # After 3 steps the others may still be faster; after 5 none can, and the rate that is held fixed is the middle one.
    early = carry_of(shape, reached=[[[-1, -1], [8, 2], [-1, -1]], [[-1, -1]] * 3], steps=3)
    assert going(early) == [[[True, True], [False, False], [True, True]], [[True, True]] * 3]
    late = early._replace(steps=early.steps + 2)
    assert going(late) == [[[False, False]] * 3, [[True, True]] * 3]
    # Under the map the first rate is done, so the third is over; the second, which is held fixed, goes on to the cap.
    done = carry_of(shape, reached=[[[-1, -1], [8, 2], [-1, -1]], [[6, 6], [-1, -1], [-1, -1]]], steps=9)
    assert going(done)[1] == [[False, False], [True, True], [False, False]]
    assert going(done, cap=2.0)[1][1] == [False, False]
    # A seed that failed takes its rate with it.
    failed = carry_of(shape, reached=[[[-1, -1], [8, 2], [-1, -1]], [[6, 6], [-1, -1], [-1, -1]]], steps=3, failed=(0,))
    assert going(failed)[0][0] == [False, False]


def test_the_best_rate_has_the_least_mean_log():
    config = dataclasses.replace(CONFIG, symmetries=("rescaling",))
    shape = tuning.shape_of(config)
    reached = np.full((shape.arms, shape.rates, shape.seeds), -1)
    reached[0] = [[9, 9], [2, 16], [7, -1]]
    reached[1] = reached[0]
    reached[2, 1] = [40, -1]
    raw = {
        "reached": reached.ravel(), "steps": np.full(shape.size, 99), "failed": np.zeros(shape.size, bool),
        "curve": np.ones((4, shape.size)),
    }  # fmt: skip
    found = tuning.outcome(config, raw)
    assert found.tuned.tolist() == [1, 1, 1] and found.fixed == 1 and found.curve.shape == (3, 3, 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "muon", "lora_2"])
def test_a_chunk_is_the_replicas_one_by_one(params, name):
    """Blocks, order and frozen replicas against a plain loop, for the network and for the network made linear."""
    config = dataclasses.replace(CONFIG, rates=2, evaluate_every=3, replicas_at_once=5)
    method, shape = make_method(config, name), tuning.shape_of(config)
    start, carry = tuning.init(config, method, params)
    tokens = PROBLEM.after.support()
    rates = learning_rates(config, name)
    for linearised in (False, True):
        chunk = jax.jit(tuning.make_chunk(config, PROBLEM, method, linearised=linearised))
        made, first = chunk(carry, params, start)
        for r in (shape.size - 1,):
            a, q, s = np.unravel_index(r, shape)
            base, origin = (jax.tree.map(lambda leaf, a=a, s=s: leaf[a, s], tree) for tree in (params, start))

            def loss(w, base=base, origin=origin, linearised=linearised):
                network = lambda w: PROBLEM.model.apply(method.merge(base, w), tokens[:, :-1])  # noqa: E731
                logits = network(w)
                if linearised:
                    value, forth, _ = tangent_maps(network, origin)
                    logits = value + forth(jax.tree.map(jnp.subtract, w, origin))
                logs = jax.nn.log_softmax(logits)
                nats = -jnp.take_along_axis(logs, tokens[:, 1:, None], -1)[..., 0]
                return nats.mean()

            w, state = origin, method.optimiser.init(origin)
            gradient, update = jax.jit(jax.grad(loss)), jax.jit(method.optimiser.update)
            for _ in range(3):
                updates, state = update(gradient(w), state, w)
                w = jax.tree.map(lambda w, u, q=q: w + rates[q] * u, w, updates)
            own = jax.tree.map(lambda leaf, r=r: leaf[r], made.trained)
            np.testing.assert_allclose(ravel_pytree(own)[0], ravel_pytree(w)[0], rtol=1e-6, atol=1e-9)
            expected = loss(origin) * (tokens.shape[1] - 1) - PROBLEM.after.entropy
            np.testing.assert_allclose(first[r], expected, rtol=1e-9)
        assert made.steps.tolist() == [3] * shape.size


def test_tangent_maps_are_the_jacobian():
    function = lambda w: jnp.stack([jnp.sin(w["a"]).sum(), (w["a"] * w["b"]).sum()])  # noqa: E731
    at = {"a": jnp.array([0.1, 0.2]), "b": jnp.array([3.0, -1.0])}
    value, forth, back = tangent_maps(function, at)
    jacobian = jax.jacobian(function)(at)
    direction = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5, 0.25])}
    expected = jacobian["a"] @ direction["a"] + jacobian["b"] @ direction["b"]
    np.testing.assert_allclose(value, function(at))
    np.testing.assert_allclose(forth(direction), expected, rtol=1e-12)
    u = jnp.array([2.0, 3.0])
    jax.tree.map(lambda got, j: np.testing.assert_allclose(got, u @ j, rtol=1e-12), back(u), jacobian)


@pytest.mark.slow
def test_curvature_is_the_top_of_the_dense_matrix(params):
    one = jax.tree.map(lambda leaf: leaf[0, 0], params)
    tokens = PROBLEM.after.support()[:, :-1]
    flat, unravel = ravel_pytree(one)
    network = lambda w: PROBLEM.model.apply(unravel(w), tokens).reshape(-1, PROBLEM.model.vocabulary_size)  # noqa: E731
    jacobian = jax.jit(jax.jacrev(network))(flat)
    p = jax.nn.softmax(network(flat))
    centred = jacobian - jnp.einsum("nv,nvp->np", p, jacobian)[:, None]
    dense = jnp.einsum("nv,nvp,nvq->pq", p, centred, centred) / len(p)
    found = measuring.curvature(dataclasses.replace(CONFIG, power_iterations=300), PROBLEM, one, jax.random.key(0))
    np.testing.assert_allclose(found, jnp.linalg.eigvalsh(dense)[-1], rtol=1e-3)


def test_lora_starts_at_the_function_and_has_its_rank(params):
    method = make_method(CONFIG, "lora_2")
    one = jax.tree.map(lambda leaf: leaf[0, 0], params)
    adapters = method.init(jax.random.key(0), one)
    jax.tree.map(np.testing.assert_array_equal, method.merge(one, adapters), one)
    moved = jax.tree.map(lambda leaf: leaf + jax.random.normal(jax.random.key(1), leaf.shape), adapters)
    change = method.merge(one, moved)["Layer_0"]["Dense_0"]["kernel"] - one["Layer_0"]["Dense_0"]["kernel"]
    assert np.linalg.matrix_rank(change, tol=1e-8) == 2


@pytest.mark.slow
def test_permuted_adapters_are_those_of_the_permuted_network(params):
    """After any step, not only where B is zero; and what the study starts the control from is this and nothing else."""
    method, key = make_method(CONFIG, "lora_2"), map_keys(CONFIG)[1]
    own = jax.tree.map(lambda leaf: leaf[0, 1], params)
    adapters = method.init(jax.random.key(0), own)
    moved = jax.tree.map(lambda leaf: leaf + jax.random.normal(jax.random.key(1), leaf.shape), adapters)
    permutation = draw_control(CONFIG, key, own)
    found = method.merge(permutation.transform(own), method.permute(permutation, own, moved))
    # Sums over the rank may be added in another order.
    expected = permutation.transform(method.merge(own, moved))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), found, expected)
    start, _ = tuning.init(CONFIG, method, params)
    drawn = jax.tree.map(lambda leaf: leaf[0, 1], start)
    jax.tree.map(
        lambda leaf, expected: np.testing.assert_array_equal(leaf[1, 1], expected),
        start,
        method.permute(permutation, own, drawn),
    )
    assert not np.array_equal(start["Layer_0"]["Dense_1"]["a"][1, 1], drawn["Layer_0"]["Dense_1"]["a"])
    np.testing.assert_array_equal(start["Layer_0"]["Dense_1"]["a"][2, 1], drawn["Layer_0"]["Dense_1"]["a"])


@pytest.mark.slow
def test_the_control_of_lora_stays_with_the_original(params):
    config = dataclasses.replace(CONFIG, symmetries=("rescaling",), rates=2, evaluate_every=5)
    method, shape = make_method(config, "lora_2"), tuning.shape_of(config)
    own = jax.tree.map(lambda leaf: leaf[:3], params)
    start, carry = tuning.init(config, method, own)
    chunk = jax.jit(tuning.make_chunk(config, PROBLEM, method, linearised=False))
    for _ in range(4):
        carry, found = chunk(carry, own, start)
    found = np.asarray(found).reshape(shape)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    assert np.all(np.abs(found[2] - found[0]) > 1e-6 * found[0]), "a rescaling is seen"


def test_feed_forward_moves_nothing_else(params):
    one = jax.tree.map(lambda leaf: leaf[0, 0], params)
    method = make_method(dataclasses.replace(CONFIG, trained="feed_forward"), "sgd")
    moved = method.merge(one, jax.tree.map(lambda leaf: leaf + 1, method.init(jax.random.key(0), one)))
    changed = jax.tree.map(lambda a, b: bool((a != b).all()), one, moved)
    assert all(jax.tree.leaves([changed["Layer_0"].pop(part) for part in ("Dense_0", "Dense_1")]))
    assert not any(jax.tree.leaves(changed))


def test_slopes_of_exact_powers():
    row = lambda c, seed, steps: {  # noqa: E731
        "method": "sgd", "policy": "tuned", "symmetry": "none" if c == 1 else "rescaling", "strength": c, "seed": seed,
        "steps": steps, "steps_taken": 640, "flag": None,
    }  # fmt: skip
    table = [row(c, seed, 10 * (seed + 1) * c**2) for c in (1, 2, 4) for seed in (0, 1)]
    found = slope(table, method="sgd", symmetry="rescaling", policy="tuned")
    np.testing.assert_allclose(found[:3], 2.0, atol=1e-9)
    assert found.censored == 0
    table[-1] |= {"steps": None, "flag": "censored"}
    assert slope(table, method="sgd", symmetry="rescaling", policy="tuned").censored == 1
    table[-1] |= {"flag": "diverged"}
    assert slope(table, method="sgd", symmetry="rescaling", policy="tuned") is None


@pytest.mark.parametrize("linearised", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_smoke_config_from_the_command_line_survives_a_kill_and_leaves_everything(tmp_path, linearised):
    runs = whole_and_killed("fine_tuning", tmp_path, "--config", "smoke", *(["--linearised"] if linearised else []))
    assert same_rows(runs.whole, runs.resumed)
    out = runs.resumed
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert len(rows) == 3 * 2 * 2
    by = {(row["symmetry"], row["policy"], row["seed"]): row for row in rows}
    assert all(row["steps"] is not None and row["steps"] > 0 for row in rows if row["symmetry"] == "none")
    for (symmetry, policy, seed), row in by.items():
        assert row["logit_gap"] <= row["logit_allowed"]
        if symmetry == "none":
            assert abs(by["permutation", policy, seed]["steps"] - row["steps"]) <= 1
    assert {path.name for path in (out / "figures").iterdir()} == {
        "steps_rescaling.png", "curves_rescaling.png", "sharpness.png"
    }  # fmt: skip
    text = (out / "summary.md").read_text()
    assert "as it is: yes" in text and "NO" not in text.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strengths", "3"), "strengths = (3,): give powers of two above 1"),
        (("--strengths", "1"), "strengths = (1,): give powers of two above 1"),
        (("--heads", "3"), "heads = 3: must divide width = 8"),
        (("--heads", "8", "--symmetries", "mixing"), "heads = 8: heads of one channel cannot be mixed"),
        (("--max-steps", "30"), "max_steps = 30: must be a multiple of evaluate_every = 20"),
        (("--pretrain-steps", "5"), "pretrain_steps = 5: must be a multiple of 10"),
        (("--methods", "newton"), "newton"),
        (("--methods", "lora_1", "--trained", "feed_forward"), "trained = 'feed_forward': LoRA adapts"),
    ],
)
def test_bad_options_get_one_line_and_status_2(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        fine_tuning.main(["--config", "smoke", "--out", str(tmp_path / "run"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_config_loads():
    assert {"smoke", "default", "full"} <= set(load_configs(fine_tuning.CONFIGS))
