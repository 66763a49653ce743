"""The SAM-as-VI study: what its training, budgets and rows promise, and the smoke config from the command line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pbjax
from configs.sam_as_vi.smoke import config as smoke
from experiments import sam_as_vi
from experiments._sam_as_vi.evaluation import Trained, certified
from experiments._sam_as_vi.groups import make_group
from experiments._sam_as_vi.methods import METHODS, Hyper, gradients_per_step
from experiments._sam_as_vi.training import init_replicas, make_chunk
from pbjax import data
from pbjax.replicas import TOGETHER, Replicas
from pbjax.runs import load_configs
from pbjax.runs.verifying import verify
from tests.experiments.processes import same_rows, whole_and_killed

CONFIG = dataclasses.replace(smoke, epochs=2.0, log_level="quiet")


@pytest.fixture(scope="module")
def study():
    return sam_as_vi.Study(CONFIG)


def _train(study, method, *, radius=0.1, problem=None, seeds=(0, 1), budget="epochs", at_once=2, kappa=1.0):
    """(replicas, watched of each chunk) after a whole run."""
    problem = study.problem if problem is None else problem
    cells = [(0.05, radius, kappa)]
    group = make_group(study.config, "final", method, budget, cells, seeds)
    shape = study.plan(group)
    chunk = jax.jit(
        make_chunk(method, study.setting(group), problem, shape, replicas=Replicas(at_once=at_once), watch_rows=50)
    )
    hyper = Hyper(*(jnp.asarray(x) for x in (group.learning_rate, group.radius, group.kappa)))
    state = (jnp.zeros((), jnp.int32), init_replicas(method, hyper, group.seed, study.setting(group), problem))
    limits = jnp.array([shape.prior_chunks, shape.chunks])
    watched = []
    for _ in range(shape.chunks):
        state, seen = chunk(state, hyper, limits, (problem.inputs, problem.labels, problem.validation))
        watched.append(seen)
    return state[1], watched


def _same(a, b, **options):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **options), a, b)


@pytest.mark.slow
def test_methods_see_the_same_batches_from_the_same_start(study):
    # A radius of nothing makes SAM plain SGD: only equal batches in equal order then give equal weights.
    plain, _ = _train(study, "sgd")
    flat, _ = _train(study, "sam", radius=1e-12)
    _same(plain.params, flat.params, rtol=2e-4, atol=2e-5)
    other, _ = _train(study, "sgd", seeds=(2, 3))
    assert not np.allclose(plain.params["Dense_0"]["kernel"], other.params["Dense_0"]["kernel"], atol=1e-3)


@pytest.mark.slow
def test_the_first_stage_knows_nothing_of_the_certified_rows(study):
    problem = study.problem
    spoiled = problem._replace(inputs=problem.inputs.at[problem.prior_rows :].set(jnp.nan))
    clean, _ = _train(study, "mean_field")
    dirty, _ = _train(study, "mean_field", problem=spoiled)
    _same(clean.centre, dirty.centre, rtol=0)
    assert not np.isfinite(dirty.params["Dense_0"]["kernel"]).any()
    assert not np.allclose(clean.centre["Dense_0"]["kernel"], clean.params["Dense_0"]["kernel"], atol=1e-3)


@pytest.mark.slow
def test_a_method_may_have_a_decay_of_its_own(study):
    """The weights of the method named shrink; those of the other do not notice."""
    other = sam_as_vi.Study(dataclasses.replace(CONFIG, weight_decays={"sgd": 0.1}))
    norm = {}
    for method in ("sgd", "sam"):
        for name, made in (("shared", study), ("own", other)):
            replicas, _ = _train(made, method)
            norm[method, name] = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(replicas.params))
    assert norm["sgd", "own"] < 0.9 * norm["sgd", "shared"]
    assert norm["sam", "own"] == norm["sam", "shared"]


def test_every_row_of_a_pass_is_used_once(study):
    """Each row is marked by a feature of its own; a linear loss adds up which rows were seen."""
    problem = study.problem
    counts = []
    group = make_group(study.config, "final", "sgd", "epochs", [(0.05, 0.1, 1.0)], (0,))
    shape = study.plan(group)

    def apply(params, inputs):
        # Gradient of the loss in params[i] is the number of times row i is in the batch, over the batch size.
        return jnp.stack([jnp.zeros(inputs.shape[0]), inputs @ params], axis=1)

    marks = jnp.eye(problem.n, dtype=jnp.float32)
    marked = problem._replace(
        inputs=marks, labels=jnp.zeros(problem.n, jnp.int32), validation=(marks[:1], jnp.zeros(1, jnp.int32)),
        model=problem.model._replace(init=lambda key, inputs: jnp.zeros(problem.n), apply=apply),
    )  # fmt: skip
    setting = study.setting(group)._replace(momentum=0.0, weight_decay=0.0)
    chunk = jax.jit(make_chunk("sgd", setting, marked, shape, replicas=TOGETHER, watch_rows=1))
    hyper = Hyper(*(jnp.full(1, x, jnp.float32) for x in (1e-6, 0.0, 0.0)))
    state = (jnp.zeros((), jnp.int32), init_replicas("sgd", hyper, np.array([0]), setting, marked))
    for _ in range(shape.chunks):
        before = state[1].params
        data = (marked.inputs, marked.labels, marked.validation)
        state, _ = chunk(state, hyper, jnp.array([shape.prior_chunks, shape.chunks]), data)
        counts.append(np.asarray((state[1].params - before)[0] != 0))
    used = shape.steps * problem.batch_size
    # The schedule starts at a rate of zero, so the very first batch leaves no trace.
    assert [seen.sum() for seen in counts] == [used - problem.batch_size] + [used] * (shape.chunks - 1)
    early = np.array(counts[: shape.prior_chunks])
    assert not early[:, problem.prior_rows :].any()
    late = np.array(counts[shape.prior_chunks :])
    for start in range(0, len(late) - shape.passes + 1, shape.passes):
        assert (late[start : start + shape.passes].sum(axis=0) <= 1).all()


QUICK = ("bsam",)  # a compilation each; the others with the slow tests


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(METHODS)]
)
def test_every_method_learns_and_costs_what_its_budget_says(study, method):
    spec = METHODS[method]
    # Well inside every method's range: two epochs of digits tell what learns, not what learns best.
    replicas, watched = _train(study, method, radius=0.05, budget="epochs")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(replicas.params))
    assert (watched[-1].train_loss < watched[0].train_loss).all()
    assert np.isfinite(watched[-1].radius).all() == spec.has_radius
    steps = {}
    for budget in ("epochs", "gradients"):
        group = make_group(study.config, "final", method, budget, [(0.05, 0.1, 1.0)], (0,))
        shape = study.plan(group)
        steps[budget] = shape.steps * shape.chunks
    # Budgets are whole chunks, so a half may be off by half a chunk.
    assert abs(steps["epochs"] - steps["gradients"] * gradients_per_step(method, 1)) <= shape.steps


@pytest.mark.slow
def test_replicas_one_by_one_are_the_same_program(study):
    together, _ = _train(study, "mix_sam", at_once=2)
    apart, _ = _train(study, "mix_sam", at_once=1)
    _same(together.params, apart.params, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_certificate_counts_its_rows_and_does_not_move_the_weights(study):
    replicas, _ = _train(study, "sgd")
    trained = jax.tree.map(lambda leaf: leaf[0], Trained(replicas.params, (), replicas.centre, replicas.key))
    numbers = jax.jit(lambda t: certified(CONFIG, study.problem, t, jax.random.key(0)))(trained)
    from experiments._sam_as_vi.evaluation import certificate

    made = certificate(CONFIG, study.problem, jax.tree.map(np.asarray, numbers))
    assert made.n == study.problem.n - study.problem.prior_rows
    assert made.empirical_risk <= made.value <= 1
    assert made.inputs["num_draws"] == made.n * CONFIG.certificate_repeats
    assert made.inputs["union"] == CONFIG.prior_scale_count
    assert abs(sum(made.delta_ledger.values()) - CONFIG.delta) < 1e-12
    assert "600 training rows" in made.assumption


@pytest.mark.parametrize(
    "methods", [("sgd", "sam"), pytest.param(("sgd", "sam", "mean_field"), marks=pytest.mark.slow)]
)
def test_smoke_config_from_the_command_line_survives_a_kill_and_leaves_everything(tmp_path, methods):
    runs = whole_and_killed(
        "sam_as_vi", tmp_path, "--config", "smoke", "--epochs", "2", "--methods", *methods, "--curve-methods", "sam",
        "--curve-radii", "0.05", "0.2",
    )  # fmt: skip
    assert same_rows(runs.whole, runs.resumed)
    out = runs.resumed
    rows = json.loads((out / "results.json").read_text())["rows"]
    final = [row for row in rows if row["stage"] == "final"]
    # Two seeds and two budgets each: one-gradient methods stand under both.
    assert len(final) == 4 * len(methods)
    assert {row["method"] for row in final} == set(methods)
    for row in final:
        assert row["certificate_risk"] <= row["certificate"] <= 1
        assert row["sharpness_worst"] > 0
        assert (row["averaged_nll"] is not None) == (row["method"] == "mean_field")
    assert len([row for row in rows if row["stage"] == "curve_radius"]) == 4
    assert [(verdict.stored, verdict.verdict) for verdict in verify(out)] == [
        (row["certificate"], "equal") for row in rows if row["certificate"] is not None
    ]
    kept = pbjax.load(out, name="sam, gradients", seed=1)
    [row] = kept.rows
    assert (row["method"], row["budget"], row["seed"]) == ("sam", "gradients", 1)
    assert kept.certificate is not None and kept.certificate.value == row["certificate"]
    dataset = data.load(**kept.inputs["data"])
    found = np.asarray(kept.apply(kept.params, jnp.asarray(dataset.test_inputs))).argmax(-1)
    assert np.mean(found == dataset.test_labels) == pytest.approx(row["test_accuracy"], abs=1e-6)
    assert "inside compiled code" in (out / "summary.md").read_text()
    for name in ("learning_curves", "reliability", "sharpness", "radius"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
    stored = list((out / "checkpoints").glob("*/result.npz"))
    assert len(stored) == 2 * (len(methods) + 1 + 1)  # trained, measured: the methods, SAM at a second budget, a curve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "sgd", "sammy"], "'sammy' is not a method"),
        (["--curve-methods", "sgd"], "sgd has no radius"),
        (["--prior-share", "1.0"], "prior_share = 1.0"),
        (["--tune", "--tune-seeds", "0"], "tune_seeds"),
        (["--other-dataset", "mnist", "--data-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--validation-rows", "1400"], "fill a batch"),
    ],
)
def test_bad_options_get_one_line_and_status_2(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        sam_as_vi.main(["--config", "smoke", "--out", str(tmp_path / "run"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_every_config_loads():
    configs = load_configs(sam_as_vi.CONFIGS)
    expected = {"smoke", "mnist_mlp", "fashion_cnn", "cifar10_small", "cifar10", "cifar100"}
    assert expected <= set(configs)
