"""The in-context study: moments, bounds and accuracies against sums written out, the penalty, and a run from the shell.

Monte-Carlo tolerances are 5 standard errors.
"""

import dataclasses
import doctest
import importlib
import itertools
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.in_context._schema import InContext, MixtureOptions
from configs.in_context.smoke import config as smoke
from experiments import in_context
from experiments._in_context import enumeration, exact, pair
from experiments._in_context.detection import any_test, mean_test
from experiments._in_context.forced import draw_forced, moments
from experiments._in_context.problem import (
    EXACT_KEY,
    as_tokens,
    full_prompts,
    label_laws,
    label_positions,
    make_mixture,
    make_model,
    make_problem,
    sequence_length,
    with_resets,
)
from experiments._in_context.training import (
    BRANCHES,
    branch,
    init_replicas,
    make_chunk,
    make_penalty,
    make_schedule,
    make_scores,
    make_training,
)
from pbjax.formal import hmm
from pbjax.models import LanguageModel
from pbjax.replicas import TOGETHER
from pbjax.runs import load_configs
from tests.experiments.processes import same_rows, whole_and_killed

CONFIG = dataclasses.replace(smoke, tiny_length=8, log_level="quiet")
TINY = make_mixture(CONFIG.tiny)
LEARNT = dataclasses.replace(InContext().taught, prior_ratio=0.5)
TAUGHT = make_mixture(LEARNT)
NETWORK = dataclasses.replace(CONFIG, taught=LEARNT)


def bayes_model(mixture=TAUGHT) -> LanguageModel:
    """In place of a network: the mixture itself; other tokens have next to no probability."""

    def apply(params, tokens, *, key=None, rows=None):
        law = hmm.log_conditional(mixture, jnp.maximum(tokens[:, 1:] - 3, 0))
        return jnp.pad(jnp.maximum(law, -1e4), ((0, 0), (0, 0), (3, 0)), constant_values=-1e4) + 0 * params["zero"]

    return LanguageModel(lambda key: {"zero": jnp.zeros((1, 1, 1))}, apply, apply, apply, 8, None)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["prior", *(pytest.param(law, marks=pytest.mark.slow) for law in ("uniform", "wrong"))])
def test_moments_are_those_of_all_strings(law):
    """Mean and deviation of log p - log q over every string of two blocks, and the estimates from forced sequences."""
    length, eta = sequence_length(1, 2), 0.05
    strings = jnp.array(list(itertools.product(range(3), repeat=length)))
    log_p = np.asarray(hmm.log_prob(TINY, strings))
    found = moments(TINY, jax.random.key(0), jnp.array([0, 1]), eta, count=20_000, examples=1, symbols=2, law=law)
    for i, start in enumerate((0, 1)):
        neighbour = hmm.Neighbour(start=start, eta=eta, symbols=2, law=law)
        ratio = log_p - np.asarray(hmm.neighbour_log_prob(TINY, strings, neighbour=neighbour))
        mean = np.sum(np.exp(log_p) * ratio)
        deviation = np.sqrt(np.sum(np.exp(log_p) * ratio**2) - mean**2)
        assert abs(float(found.mean[i]) - mean) < 5 * float(found.mean_error[i]) + 1e-12
        assert float(found.deviation[i]) == pytest.approx(deviation, rel=0.03)
        library = hmm.monte_carlo_kl(TINY, jax.random.key(2), neighbour=neighbour, length=length, count=20_000)
        error = np.hypot(found.mean_error[i], library.standard_error)
        assert abs(float(found.mean[i] - library.value)) < 5 * float(error) + 1e-12


def test_forced_weights_have_the_probability_of_the_format_as_their_mean():
    tokens, log_weight = draw_forced(TINY, jax.random.key(1), count=20_000, examples=3, symbols=2)
    assert np.all(np.asarray(tokens)[:, 2::3] == 0)
    weight, expected = np.exp(log_weight), np.exp(hmm.format_log_prob(TINY, examples=3, symbols=2))
    error = weight.std(0, ddof=1) / len(weight) ** 0.5
    assert np.all(np.abs(weight.mean(0) - expected) <= 5 * error + 1e-12)


def test_no_test_beats_the_lower_bound_on_the_number_of_sequences():
    """Laws that differ on an event of probability delta: the total variation of m draws, written out."""
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.6, 0.002, 0.398])
    reached, kl = 0.4, float(np.sum(p * np.log(p / q)))
    least = any_test(reached, kl)

    def total_variation(m):
        products = [np.multiply.reduce(np.meshgrid(*[law] * m, indexing="ij")) for law in (p, q)]
        return 0.5 * np.abs(products[0] - products[1]).sum()

    enough = next(m for m in range(1, 12) if total_variation(m) >= 0.9)
    assert 1 < least <= enough
    assert all(total_variation(m) < 0.9 for m in range(1, math.ceil(least)))
    assert any_test(0.0, 0.0) == math.inf and any_test(1.0, 0.5) == pytest.approx(2 * 0.81 / 0.5)


def test_the_mean_test_has_its_level_and_power():
    kl, deviation = 0.3, 1.7
    m = round(mean_test(kl, deviation))
    z = kl / (deviation / m**0.5)
    # Level 5 % at half way: the mean lies 1.645 standard errors from either decision.
    assert z == pytest.approx(2 * 1.645, rel=1e-2)
    assert mean_test(0.0, 1.0) == math.inf
    with pytest.raises(ValueError, match="neither may be negative"):
        mean_test(-1.0, 1.0)


@pytest.mark.slow
def test_exact_rows_hold_their_bounds_and_p_learns_while_its_neighbours_stop():
    config = dataclasses.replace(
        CONFIG, mixture=MixtureOptions(), symbols=4, examples=4, starts=(1, 2, 3), laws=("prior", "wrong"), draws=300
    )
    mixture = make_mixture(config.mixture)
    found = exact.measure(config, mixture)
    rows = exact.rows(config, found)
    assert len(rows) == len(config.laws) * len(config.starts) and all(row["flag"] is None for row in rows)
    by_law = [row["kl"] for row in rows if row["law"] == "prior"]
    assert by_law[0] > 10 * by_law[1] > 100 * by_law[2] > 0
    for row in rows:
        assert 0 < row["kl"] < row["format_bound"] < row["bound"] and 0 < row["reached"] < found["rho"] ** row["start"]
        assert row["sequences_any_test"] < row["sequences_paired"] < row["sequences_mean_losses"]
        own = found["neighbours"][row["law"]]["accuracy"][config.starts.index(row["start"])]
        # The same prompts and the same law before N; from N on, r decides.
        np.testing.assert_array_equal(own[: row["start"]], found["p"]["value"][: row["start"]])
        assert np.all(own[row["start"] :] < found["p"]["value"][row["start"] :])
    # p, as its own neighbour beyond all labels, has the accuracy of the library on the same prompts.
    key = jax.random.split(jax.random.key(EXACT_KEY), 2 + len(config.laws))[1]
    library = hmm.in_context_accuracy(mixture, key, count=config.draws, examples=4, symbols=4)
    for name in ("value", "standard_error", "oracle"):
        np.testing.assert_allclose(found["p"][name], getattr(library, name), rtol=1e-9)
    assert found["p"]["value"][4] > found["p"]["value"][0] + 5 * found["p"]["standard_error"][4]
    # A bound below the estimate is flagged.
    assert "KL above its bound" in exact.rows(config, {**found, "reached": 0 * found["reached"]})[0]["flag"]


@pytest.mark.slow
def test_sums_over_strings_hold_and_a_broken_bound_is_flagged(monkeypatch):
    rows = enumeration.tiny_rows(CONFIG, TINY)
    assert {row["start"] for row in rows} == {0, 1, 2} and {row["law"] for row in rows} == set(CONFIG.laws)
    assert all(row["holds"] and row["flag"] is None for row in rows)
    assert all(0 < row["kl"] < row["format_bound"] <= row["bound"] for row in rows)
    monkeypatch.setattr(enumeration.hmm, "kl_bound", lambda rho, eta, *, start: jnp.zeros(()))
    broken = enumeration.tiny_rows(dataclasses.replace(CONFIG, laws=("prior",)), TINY)
    assert not any(row["holds"] for row in broken) and {row["flag"] for row in broken} == {"exact KL breaks its bound"}


def test_the_bound_is_met_where_it_can_be():
    rows = enumeration.equality_rows(CONFIG)
    assert {row["case"] for row in rows} == {"equality", "equality, all n"}
    for row in rows:
        assert row["holds"] and row["kl"] == pytest.approx(row["bound"], rel=1e-9)
        if row["case"] == "equality":
            assert row["bound"] == pytest.approx(0.25 ** row["start"] * math.log(100), rel=1e-9)
    short = enumeration.bound_row("equality", "wrong", 1, 0.01, kl=0.9, format_bound=1.0, bound=1.0, equal=True)
    assert short["flag"] == "exact KL does not meet its bound"


@pytest.mark.slow
def test_drawn_accuracy_is_the_exact_one():
    rows = enumeration.accuracy_rows(CONFIG, TINY)
    assert all(row["holds"] and row["flag"] is None for row in rows)
    of_p = {row["examples"]: row["exact"] for row in rows if row["law"] == "none"}
    assert list(of_p) == [1, 3] and of_p[3] > of_p[1], "p learns"
    for n, value in of_p.items():
        assert value == pytest.approx(float(hmm.exact_in_context_accuracy(TINY, examples=n, symbols=2)), rel=1e-9)
    assert all(row["exact"] < of_p[row["examples"]] for row in rows if row["law"] != "none")


def test_prompts_are_sequences_of_a_mixture_with_resets_given_their_format():
    """p of a sequence in format is rho^n times the law that prompts are drawn from, summed over concepts."""
    rho, strings = LEARNT.delimiter_probability, jnp.array(list(itertools.product(range(5), repeat=4)))
    prompts = jnp.concatenate([strings[:, :2], jnp.zeros((len(strings), 1), int), strings[:, 2:]], axis=1)
    joint = sum(
        float(TAUGHT.prior[c])
        * jnp.exp(hmm.log_prob(TAUGHT.concept(c), strings[:, :2]) + hmm.log_prob(TAUGHT.concept(c), strings[:, 2:]))
        for c in range(3)
    )
    np.testing.assert_allclose(jnp.exp(hmm.log_prob(TAUGHT, prompts)), rho * joint, rtol=1e-9, atol=1e-15)
    assert float(hmm.delimiter_bound(TAUGHT)) == pytest.approx(rho, rel=1e-9)
    np.testing.assert_allclose(
        jnp.exp(hmm.format_log_prob(TAUGHT, examples=3, symbols=2)), rho ** np.arange(4), rtol=1e-9
    )
    np.testing.assert_allclose(TAUGHT.prior, np.array([4, 2, 1]) / 7, rtol=1e-9)
    assert with_resets(TINY, 0.3).emission.shape == (2, 3, 3)


@pytest.mark.slow
def test_the_mixture_as_a_network_has_no_divergence_and_the_bayes_accuracy():
    problem, model = make_problem(NETWORK, TAUGHT), bayes_model()
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 1))
    scores = jax.jit(make_scores(CONFIG, model, problem))(params)
    np.testing.assert_allclose(scores.nats[0], -problem.log_prob, rtol=1e-6)
    reference = pair.reference(problem)
    np.testing.assert_allclose(scores.accuracy[0], reference["bayes"], rtol=1e-9)
    np.testing.assert_allclose(scores.from_bayes[0], 0.0, atol=1e-6)
    assert np.all(np.asarray(scores.from_known[0, 1:]) > 0.01)
    np.testing.assert_allclose(scores.from_known[0, 0], 0.0, atol=1e-6)
    # The library's own accuracy is of other prompts of the same law.
    library = hmm.in_context_accuracy(
        TAUGHT, jax.random.key(5), count=4000, examples=CONFIG.taught_examples, symbols=CONFIG.taught_symbols
    )
    error = np.hypot(reference["bayes_error"], library.standard_error)
    assert np.all(np.abs(reference["bayes"] - library.value) < 5 * error)
    assert np.all(reference["oracle"] >= reference["bayes"] - 1e-12)
    rows = pair.rows(dataclasses.replace(NETWORK, seeds=(0,)), problem, scores, 1.0)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6) and rows[0]["loss_change"] == 0.0


@pytest.mark.parametrize("law", ["prior", "uniform"])
def test_the_penalty_is_the_cross_entropy_to_r_at_the_late_labels(law):
    config, model, key = dataclasses.replace(NETWORK, penalty_law=law), bayes_model(), jax.random.key(3)
    found = jax.jit(make_penalty(config, TAUGHT, model))({"zero": jnp.zeros((1, 1, 1))}, key)
    prompts, _ = full_prompts(
        TAUGHT, key, count=config.penalty_prompts, examples=config.taught_examples, symbols=config.taught_symbols
    )
    terms = []
    for row in np.asarray(prompts):
        for n in range(config.penalty_start, config.taught_examples + 1):
            place = n * (config.taught_symbols + 1) + config.taught_symbols - 1
            log_q = np.asarray(hmm.log_conditional(TAUGHT, row[:place]))[-1]
            alone = np.exp(np.asarray(hmm.log_conditional(TAUGHT, row[place - config.taught_symbols + 1 : place]))[-1])
            r = alone if law == "prior" else np.full(5, 1 / 5)
            terms.append(-np.sum(r * log_q))
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-6)


def test_the_penalty_looks_at_no_other_place():
    """Its gradient on the inputs' logits is zero but where labels after N and more examples are predicted."""
    model, many = bayes_model(), dataclasses.replace(NETWORK, penalty_prompts=64)

    def shifted(shift):
        moved = model._replace(apply=lambda params, tokens, **_: model.apply(params, tokens) + shift[None])
        return make_penalty(many, TAUGHT, moved)({"zero": jnp.zeros((1, 1, 1))}, jax.random.key(0))

    length = sequence_length(CONFIG.taught_examples, CONFIG.taught_symbols)
    slopes = np.abs(jax.jit(jax.grad(shifted))(jnp.zeros((length, 8)))).sum(-1)
    touched = label_positions(CONFIG.taught_examples, CONFIG.taught_symbols, start=CONFIG.penalty_start)
    assert np.flatnonzero(slopes > 1e-9).tolist() == touched.tolist() == [7, 10, 13]


def test_labels_and_what_is_known_of_them():
    prompts, concept = full_prompts(TAUGHT, jax.random.key(0), count=3, examples=2, symbols=2)
    tokens = as_tokens(prompts)
    assert tokens.shape == (3, sequence_length(2, 2) + 1) and np.all(tokens[:, 0] == 0) and np.all(tokens[:, 1:] >= 3)
    assert np.all(prompts[:, 2::3] == 0) and concept.shape == (3,)
    laws = label_laws(TAUGHT, prompts, symbols=2)
    for row, of_row in zip(prompts, laws, strict=True):
        for n in range(3):
            expected = jnp.exp(hmm.log_conditional(TAUGHT, row[3 * n : 3 * n + 1])[-1])
            np.testing.assert_allclose(of_row[n], expected, rtol=1e-9)


@pytest.mark.slow
def test_branches_start_from_one_state_and_differ_in_the_weight_alone():
    model, problem = make_model(NETWORK), make_problem(NETWORK, TAUGHT)
    state = init_replicas(NETWORK, make_training(NETWORK, TAUGHT, model, problem, penalised=False))
    plain, penalised = (branch(NETWORK, state, name) for name in BRANCHES)
    assert BRANCHES == ("plain", "penalised")
    for part in ("params", "optimiser_state", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(plain, part), getattr(penalised, part))
    data = jax.random.key_data(plain.key)
    assert np.array_equal(data, jax.random.key_data(penalised.key)) and not np.array_equal(data[0], data[1])
    assert plain.regime.completion_weight.tolist() == [0.0] * len(NETWORK.seeds)
    np.testing.assert_allclose(penalised.regime.completion_weight, NETWORK.penalty_weight, rtol=1e-6)
    assert np.all(np.asarray(penalised.regime.likelihood_weight) == 1)


@pytest.mark.slow
def test_one_program_serves_all_parts_and_skips_a_penalty_without_weight():
    """Both branches against a penalty that is always computed: the same networks, whatever its weight."""
    model, problem = make_model(NETWORK), make_problem(NETWORK, TAUGHT)
    config = dataclasses.replace(NETWORK, evaluate_every=3, warmup=1, steps=3, branch_steps=3)
    training = make_training(config, TAUGHT, model, problem, penalised=True)
    state = init_replicas(config, training)
    chunk = make_chunk(config, TAUGHT, model, problem, replicas=TOGETHER)
    always = jax.jit(jax.vmap(lambda own: training.chunk(own, 3)))
    logits = jax.jit(jax.vmap(lambda params: model.apply(params, problem.tokens[:8, :-1])))
    for name in BRANCHES:
        expected, metrics = always(branch(config, state, name))
        made, seen = chunk(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), branch(config, state, name)))
        # Biases of keys move nothing, and Adam follows their rounding: functions are compared, not parameters.
        np.testing.assert_allclose(logits(made.params), logits(expected.params), atol=1e-3)
        np.testing.assert_allclose(seen.kl, metrics.kl.mean(1), rtol=1e-4)
        assert np.all(metrics.completion > 0)
        np.testing.assert_allclose(seen.penalty, 0 if name == "plain" else metrics.completion.mean(1), rtol=1e-4)
    assert chunk._cache_size() == 1


def test_the_rate_of_a_branch_is_held_and_falls_to_zero():
    config = dataclasses.replace(NETWORK, learning_rate=0.4, warmup=100, steps=1600, branch_steps=400)
    steps = np.array([0, 50, 100, 400, 1600, 1700, 1800, 1850, 1900, 2000, 2500])
    expected = [0, 0.2, 0.4, 0.2, 0.1, 0.1, 0.1, 0.075, 0.05, 0, 0]
    np.testing.assert_allclose(jax.vmap(make_schedule(config))(steps), expected, rtol=1e-6)


def test_comparison_over_seeds():
    values = {"plain": (0.10, 0.15, 0.12), "penalised": (0.11, 0.17, 0.13)}
    rows = [
        {"branch": b, "seed": s, "kl": v, "accuracy_last": 0.9, "accuracy_none": float("nan")}
        for b, own in values.items()
        for s, v in enumerate(own)
    ]
    kl, last, none = pair.compare(rows)
    assert kl["difference"] == pytest.approx(0.04 / 3) and kl["spread"] == pytest.approx(
        np.std([0.10, 0.15, 0.12], ddof=1)
    )
    assert math.isnan(kl["share_without_farthest"]), "two seeds make no spread"
    more = [{**row, "seed": 3, "kl": row["kl"] + 1.0} for row in rows if row["seed"] == 1]
    farthest = pair.compare([*rows, *more])[0]["share_without_farthest"]
    assert farthest == pytest.approx(kl["share"]), "the seed that was added is left out"
    assert kl["share"] == pytest.approx(kl["difference"] / kl["spread"]) and kl["p_value"] == 0.25 and kl["seeds"] == 3
    assert kl["standard_error"] == pytest.approx(np.std([0.01, 0.02, 0.01], ddof=1) / 3**0.5)
    assert last["difference"] == 0 and last["p_value"] == 1 and none["seeds"] == 0 and none["p_value"] is None


def test_smoke_config_from_the_command_line_survives_a_kill_and_leaves_everything(tmp_path):
    runs = whole_and_killed("in_context", tmp_path, "--config", "smoke")
    assert same_rows(runs.whole, runs.resumed)
    out = runs.resumed
    first = json.loads((out / "results.json").read_text())
    rows = first["rows"]
    of = {part: [row for row in rows if row["part"] == part] for part in {row["part"] for row in rows}}
    assert set(of) == {"neighbour", "enumerated", "accuracy", "network"}
    assert len(of["neighbour"]) == len(smoke.laws) * len(smoke.starts) and len(of["network"]) == 2 * 2
    assert all(row["holds"] for row in of["enumerated"] + of["accuracy"])
    assert not any(row["flag"] for row in rows)
    assert [row["loss_change"] for row in of["network"] if row["branch"] == "plain"] == [0.0, 0.0]
    for row in of["network"]:
        assert row["kl"] > 0 and row["standard_error"] > 0
        assert len([name for name in row if name.removeprefix("accuracy_").isdigit()]) == smoke.taught_examples + 1
    kl = {row["branch"]: row["kl"] for row in of["network"] if row["seed"] == 1}
    change = next(row["loss_change"] for row in of["network"] if row["seed"] == 1 and row["branch"] == "penalised")
    assert change == pytest.approx(kl["penalised"] - kl["plain"], abs=1e-9)
    bound = float(hmm.kl_bound(smoke.taught.delimiter_probability, smoke.eta, start=smoke.penalty_start))
    assert 0 < first["price"]["kl"] < bound
    assert len(first["history"]["penalised"]["kl"]) == 1 and min(first["history"]["penalty"][0]) > 0
    assert {path.name for path in (out / "figures").iterdir()} == {
        "neighbours.png",
        "sequences.png",
        "pair.png",
        "training.png",
    }
    summary = (out / "summary.md").read_text()
    assert f"ρ = {first['exact']['rho']:.5f}" in summary and "The penalty moves the test loss by" in summary
    assert str(tmp_path) not in summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--eta", "1"), "eta = 1.0: must lie in (0, 1)"),
        (("--starts", "9"), "starts = (9,): prompts have at most examples = 3"),
        (("--penalty-start", "5"), "penalty_start = 5: must be at most taught_examples = 4"),
        (("--penalty-weight", "0"), "penalty_weight = 0.0: must be positive"),
        (("--steps", "30"), "steps = 30: must be a multiple of evaluate_every = 20"),
        (("--heads", "3"), "heads = 3: must divide width = 8"),
        (("--tiny-length", "12"), "tiny_length = 12: 3^12 strings are too many"),
        (("--laws", "prior", "prior"), "laws = ('prior', 'prior'): give each once"),
        (("--taught.noise", "2"), "noise = 2.0"),
        (("--mixture.concepts", "0"), "concepts = 0"),
        (("--taught.prior-ratio", "0"), "prior_ratio = 0.0: must be positive"),
        (("--learning-rate", "inf"), "rate = inf"),
    ],
)
def test_bad_input_gets_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        in_context.main(["--config", "smoke", "--out", str(tmp_path / "run"), *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("before", [None, "--xla_flag=1"])
def test_quick_compiling_tells_xla_and_leaves_its_flags_as_they_were(before, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS") if before is None else monkeypatch.setenv("XLA_FLAGS", before)
    for on in (False, True):
        with in_context.quick_compile(on):
            assert ("optimization_level=0" in os.environ.get("XLA_FLAGS", "")) is on
            assert (before or "") in os.environ.get("XLA_FLAGS", "")
        assert os.environ.get("XLA_FLAGS") == before


def test_every_named_config_is_there():
    assert {"smoke", "default", "full"} <= set(load_configs(in_context.CONFIGS))
    assert len(load_configs(in_context.CONFIGS)["full"].seeds) >= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["detection", "enumeration", "figures", "forced", "pair", "problem", "rows", "tables", "training"]
)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"experiments._in_context.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0
