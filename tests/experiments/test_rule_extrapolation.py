"""The rule-extrapolation study: what its groups, problems and rows promise, and a run from the command line."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.rule_extrapolation.smoke import config as smoke
from experiments import rule_extrapolation
from experiments._rule_extrapolation.groups import groups
from experiments._rule_extrapolation.measuring import behaviour
from experiments._rule_extrapolation.problem import LANGUAGES, longest_read, make_model, make_problem
from experiments._rule_extrapolation.results import chosen
from experiments._rule_extrapolation.training import init_replicas, make_training
from pbjax import formal
from pbjax.runs import load_configs
from tests.experiments.processes import same_rows, whole_and_killed

CONFIG = dataclasses.replace(smoke, log_level="quiet")


def test_groups_share_a_program_where_they_can():
    config = dataclasses.replace(
        CONFIG, languages=("anbn", "dyck"), models=("transformer", "lstm"), positions=("none", "rotary"),
        completion_seeds=(7,),
    )  # fmt: skip
    made = list(groups(config))
    # a^n b^n: three settings, with and without completions; Dyck has no completions of a's and b's to train on.
    assert len(made) == 3 * 2 + 3
    assert len({group.name for group in made}) == len(made)
    both = [group for group in made if len(group.arms) == 2]
    assert {tuple(arm.regime for arm in group.arms) for group in both} == {("adversarial", "oracle")}
    assert all(group.seeds.tolist() == ([7] if group in both else [0, 1]) for group in made)
    assert {arm.position for group in made for arm in group.arms if arm.model == "lstm"} == {"none"}


@pytest.mark.slow
def test_a_seed_starts_alike_in_every_regime():
    problem = make_problem(CONFIG, "anbn")
    starts = []
    for group in groups(CONFIG):
        model = make_model(CONFIG, "transformer", "none", problem.language.vocabulary.size)
        state, _ = init_replicas(CONFIG, make_training(CONFIG, problem, model, group), group)
        starts += [jax.tree.map(lambda leaf, r=r: leaf[r], state.params) for r in range(group.size)]
        assert state.regime.completion_weight.tolist() == [
            arm.regime != "maximum_likelihood" for arm in group.arms for _ in group.seeds
        ]
    first, second = starts[::2], starts[1::2]
    assert len(first) == 3
    for same in (first, second):
        for other in same[1:]:
            jax.tree.map(np.testing.assert_array_equal, same[0], other)
    assert not np.array_equal(first[0]["Embedding"], second[0]["Embedding"])


@pytest.mark.parametrize("name", ["anbn", pytest.param("even_as", marks=pytest.mark.slow)])
def test_the_exact_law_has_no_divergence(name):
    """With the language itself as the model, nats a sequence less the reference are zero, also on drawn strings."""
    problem = make_problem(CONFIG, name)
    logits = problem.language.log_conditional(problem.test[:, :-1])
    nats = formal.nats_per_sequence(logits, problem.test[:, 1:])
    weights = jax.nn.softmax(jnp.zeros(len(nats)) if problem.log_weights is None else problem.log_weights)
    assert float((weights * nats).sum() - problem.reference) == pytest.approx(0.0, abs=1e-5)


def test_completions_are_those_of_the_prompts_out_of_distribution():
    problem = make_problem(CONFIG, "anbn")
    outside = ~np.asarray(problem.prompts.in_distribution)
    assert problem.completions.shape[:2] == (2, outside.sum())
    np.testing.assert_array_equal(
        problem.completions[:, :, : CONFIG.prompt_length + 1], np.tile(problem.prompts.tokens[outside], (2, 1, 1))
    )
    assert all(make_problem(CONFIG, name).completions is None for name in ("anbm", "anbnan"))
    equal = problem.language.rules["r1"](problem.completions)
    assert equal.all(axis=1).tolist() == [False, True] and not equal[0].any()
    # Rows are counted in and out of distribution apart.
    assert sorted(problem.rows[outside].tolist()) == list(range(outside.sum()))


def test_held_out_lengths_are_not_trained_on():
    problem = make_problem(dataclasses.replace(CONFIG, held_out=(2, 5)), "anbn")
    lengths = lambda tokens: set(((np.asarray(tokens) == 3).sum(axis=1)).tolist())  # noqa: E731
    assert lengths(problem.sequences) == {1, 3, 4, 6, 7, 8} and lengths(problem.held_out) == {2, 5}
    with pytest.raises(ValueError, match="n goes from 1 to 8"):
        make_problem(dataclasses.replace(CONFIG, held_out=(9,)), "anbn")
    with pytest.raises(ValueError, match="has no number n"):
        make_problem(dataclasses.replace(CONFIG, held_out=(2,)), "even_as")


@pytest.mark.parametrize("position", ["batch_row", pytest.param("rotary", marks=pytest.mark.slow)])
def test_completions_change_with_the_row_only_where_rows_are_read(position):
    problem = make_problem(CONFIG, "anbn")
    model = make_model(CONFIG, "transformer", position, problem.language.vocabulary.size)
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    # A small embedding, so that an untrained network hears the row above the symbols.
    params["Embedding"] = params["Embedding"] / 10
    found = jax.vmap(lambda one: behaviour(CONFIG, problem, model, one)["row_agreement"])(params)
    assert np.all(found < 1) if position == "batch_row" else np.all(found == 1)


@pytest.mark.parametrize("kind", ["oracle", "stop", "append_b", "adversarial"])
def test_behaviour_of_a_network_that_is_an_extension(kind, monkeypatch):
    """In place of a network: the extension itself, but prompts that end in a get a's without end."""
    problem = make_problem(CONFIG, "anbn")
    tokens = np.asarray(problem.prompts.tokens)
    after_a, outside = tokens[:, -1] == 3, ~np.asarray(problem.prompts.in_distribution)
    made = np.asarray(formal.extend(problem.prompts, kind, max_length=22)).copy()
    made[after_a, tokens.shape[1] :] = 3
    monkeypatch.setattr(formal, "decode", lambda *_, **__: jnp.asarray(made))
    found = {name: float(value) for name, value in behaviour(CONFIG, problem, None, None).items()}
    assert found["row_agreement"] == found["endless_after_a"] == 1
    share_b = np.mean(~after_a[outside])
    assert found["endless"] == pytest.approx(1 - share_b) and found[f"follows_{kind}"] == pytest.approx(share_b)
    # Of the prompts that end in b: by E3 all; by E2 those without too few b's; by E1 those with as many; by E4 none.
    more = np.asarray(formal.excess(tokens))[outside & ~after_a]
    agree = {"append_b": more == more, "stop": more <= 0, "oracle": more >= 0, "adversarial": more > more}[kind]
    assert found["append_b_after_b"] == pytest.approx(agree.mean())


def test_selections():
    kl = np.array([2.0, np.nan, 0.4, 0.6, 0.3, 0.5])
    assert chosen(kl, match=0.5) == {"best": 4, "last": 5, "matched": 2}
    assert chosen(kl, match=0.1)["matched"] is None


def test_smoke_config_from_the_command_line_survives_a_kill_and_leaves_everything(tmp_path):
    runs = whole_and_killed(
        "rule_extrapolation", tmp_path, "--config", "smoke", "--steps", "40", "--evaluate-every", "20", "--match", "50",
        "--sharpness-samples", "2", "--regimes", "adversarial", "oracle",
    )  # fmt: skip
    assert same_rows(runs.whole, runs.resumed)
    out = runs.resumed
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * 3
    assert {row["selection"] for row in rows} == {"best", "last", "matched"}
    for row in rows:
        assert row["step"] in (20, 40) and row["loss"] > 0 and 0 <= row["finished"] <= 1
        assert (row["sharpness_trace"] is not None) == (row["selection"] == "matched")
        if row["selection"] == "matched":
            assert row["endless"] == pytest.approx(1 - row["finished"]) and row["row_agreement"] == 1
        mass = sum(row[f"mass_{name}"] for name in ("both", "r1_only", "r2_only", "neither"))
        assert 0 < mass <= 1 + 1e-5
        assert math.isclose(row["ood_r1_unconditional"], row["finished"] * (row["ood_r1"] or 0.0), abs_tol=1e-6)
    names = {path.name for path in (out / "figures").iterdir()}
    assert {"loss_against_accuracy.png", "accuracy_within_bands.png", "class_mass.png", "accuracy_by_kind.png"} <= names
    assert "Within loss bands" in (out / "summary.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt-length", "16"), "prompt_length = 16: must be below max_length = 16"),
        (("--steps", "30", "--evaluate-every", "20"), "steps = 30: must be a multiple of evaluate_every = 20"),
        (("--heads", "3"), "heads = 3: must divide width = 10"),
        (("--bands", "0.1", "0.5"), "give the greatest first"),
        (("--pin", "0"), "pin = 0.0: must be positive"),
        (("--held-out", "99"), "held_out = (99,): n goes from 1 to 8"),
        (("--pin", "0.3", "--data", "fresh"), "data = 'fresh': a pin holds the divergence"),
        (("--pin", "0.3", "--languages", "even_as"), "even_as has too many strings"),
        (("--class-length", "20"), "class_length = 20: must be at most 12"),
        (("--languages", "dyck", "--regimes", "oracle"), "dyck has maximum_likelihood alone"),
        (("--positions", "rotary", "--width", "15"), "width / heads = 3: rotary positions need heads of even width"),
        (("--learning-rate", "inf"), "rate = inf"),
    ],
)
def test_bad_input_gets_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        rule_extrapolation.main(["--config", "smoke", "--out", str(tmp_path / "run"), *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert not (tmp_path / "run").exists()


def test_positions_suffice_for_whatever_is_read():
    """Completions that are trained on, and strings of the rule classes, may be longer than what is decoded."""
    config = dataclasses.replace(CONFIG, positions=("learned",), max_length=8, prompt_length=7, new_tokens=1)
    problem = make_problem(config, "anbn")
    model = make_model(config, "transformer", "learned", problem.language.vocabulary.size)
    for group in groups(config):
        make_training(config, problem, model, group)
    assert longest_read(dataclasses.replace(CONFIG, max_length=4, prompt_length=1, new_tokens=1, class_length=8)) == 9


def test_every_named_config_is_there():
    expected = {
        "smoke",
        "small",
        "small_full",
        "paper",
        "paper_short",
        "atlas",
        "positions",
        "chomsky",
        "optimisers",
        "equal_loss",
    }
    assert expected <= set(load_configs(rule_extrapolation.CONFIGS))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LANGUAGES))
def test_every_language_makes_a_problem(name):
    config = dataclasses.replace(CONFIG, prompt_length=6)
    problem = make_problem(config, name)
    assert problem.language.contains(problem.test).all()
    assert problem.prompts.in_distribution.any() and not problem.prompts.in_distribution.all()
