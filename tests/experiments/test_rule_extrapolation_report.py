"""Rows, tables and figures of the rule-extrapolation study on made-up networks: by hand, by enumeration, with holes."""

import doctest
import itertools
import math

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from experiments._rule_extrapolation import comparisons, figures, tables
from experiments._rule_extrapolation import rows as rows_module
from experiments._rule_extrapolation.comparisons import against_first, correlations, differences
from experiments._rule_extrapolation.figures import bands as bands_module
from experiments._rule_extrapolation.figures import comparisons as comparison_figures
from experiments._rule_extrapolation.figures import drawing, masses, sharpness, trajectories
from experiments._rule_extrapolation.groups import Arm
from experiments._rule_extrapolation.rows import FIELDS, REGIMES, first_within, kinds_of, rows_by_arm, values_within
from experiments._rule_extrapolation.tables import markdown
from pbjax import runs

KINDS = ("balanced", "excess_a", "excess_b")
MASSES = ("mass_both", "mass_r1_only", "mass_r2_only", "mass_neither")
GOALS = {"maximum_likelihood": 0.45, "adversarial": 0.0, "oracle": 0.85}
NAN = math.nan


def arm(regime="oracle", position="none", language="anbn"):
    return Arm(language, "transformer", position, "adamw", regime)


def make_row(own=None, seed=0, selection="matched", **changed):
    row = {
        **(own or arm())._asdict(), "seed": seed, "selection": selection, "step": 900, "loss": 0.02,
        "kl_per_sequence": 0.3, "held_out_nats": None, "id_r1": 1.0, "id_finished": 1.0, "ood_r1": 0.8,
        "ood_r1_unconditional": 0.4, "ood_r2_completion": 1.0, "ood_r2_completion_unconditional": 0.5,
        "finished": 0.5, **{f"ood_r1_{kind}": 0.8 for kind in KINDS},
        **{f"ood_r1_unconditional_{kind}": 0.4 for kind in KINDS}, **{f"finished_{kind}": 0.5 for kind in KINDS},
        "sharpness_trace": 10.0 + seed, "sharpness_adaptive": 1.0 + (seed * 7) % 3, "gaussian_scale": 0.01,
        **dict.fromkeys(rows_module.MATCHED_ONLY[3:]), "seconds": 1.0, "flag": None,
    }  # fmt: skip
    return {**row, **changed}


def of_accuracies(own=None, selection="matched", **columns):
    count = len(next(iter(columns.values())))
    return [make_row(own, s, selection, **{name: v[s] for name, v in columns.items()}) for s in range(count)]


def trajectory(kl, r1, **others):
    kl, r1 = np.array(kl, float), np.array(r1, float)
    own = {"step": 100 * np.arange(1, kl.shape[1] + 1), "loss": 0.02 + kl / 257, "kl_per_sequence": kl, "ood_r1": r1,
           "ood_r1_unconditional": r1 / 2, "finished": np.full(kl.shape, 0.5)}  # fmt: skip
    return {**own, **others}


@pytest.fixture(scope="module")
def study():
    """Three regimes, two position encodings, five seeds: adversarial ones that never come near, one that diverges."""
    rng = np.random.default_rng(0)
    table, history, (seeds, count) = [], {}, (5, 20)
    for position, regime in itertools.product(("none", "batch_row"), REGIMES):
        own, t = arm(regime, position), np.arange(1, count + 1)
        nearest = 0.9 if regime == "adversarial" else 0.05
        kl = 80 * np.exp(-t / 2) * rng.uniform(0.5, 2, (seeds, 1)) + nearest * rng.uniform(0.9, 1.1, (seeds, count))
        r1 = np.clip(GOALS[regime] * (1 - np.exp(-t / 4)) + 0.05 * rng.normal(size=(seeds, 1)), 0, 1) + 0 * kl
        r1[:, 0] = NAN  # nothing ends yet
        masses_ = np.exp(-t / np.array([30.0, 3.0, 6.0, 2.0])[:, None])[:, None] * np.full((4, seeds, 1), 0.2)
        history[own] = trajectory(kl, r1, **dict(zip(MASSES, masses_, strict=True)))
        near = first_within(kl, 0.5)
        for seed in range(seeds):
            for selection, c in (("best", int(kl[seed].argmin())), ("last", count - 1), ("matched", int(near[seed]))):
                if c < 0:
                    continue
                values = {"loss": history[own]["loss"][seed, c], "kl_per_sequence": kl[seed, c], "ood_r1": r1[seed, c]}
                if selection != "matched":
                    values |= dict.fromkeys(("sharpness_trace", "sharpness_adaptive", "gaussian_scale"))
                table.append(make_row(own, seed, selection, step=int(100 * (c + 1)), **values))
    table[0].update(flag="diverged", loss=NAN, kl_per_sequence=NAN)
    return table, history


@pytest.mark.parametrize("module", [rows_module, comparisons, tables, drawing])
def test_examples(module):
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0


# --- rows


def test_rows_are_those_of_results_json(study):
    checked = runs.check_rows(study[0], fields=FIELDS)
    assert checked[0]["loss"] is None and checked[0]["flag"] == "diverged"
    assert "ood_r1_balanced" in checked[0]
    with pytest.raises(ValueError, match="lacks regime"):
        runs.check_rows([{k: v for k, v in study[0][0].items() if k != "regime"}], fields=FIELDS)


def test_a_band_is_entered_at_the_first_evaluation_within_it():
    own = trajectory(
        [[5, 0.3, 0.2, 0.9], [5, NAN, 0.31, 0.1], [5, 4, 3, 2]], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    )
    assert first_within(own["kl_per_sequence"], 0.3).tolist() == [1, 3, -1]  # the band's edge is within
    np.testing.assert_array_equal(values_within(own, "ood_r1", 0.3), [1, 7, NAN])
    np.testing.assert_array_equal(values_within(own, "kl_per_sequence", 0.25), [0.2, 0.1, NAN])
    assert first_within([[NAN, NAN]], 1.0).tolist() == [-1]
    np.testing.assert_array_equal(values_within(own, "ood_r1", None), [3, 7, 9])  # the end of training


def test_rows_are_by_arm_and_selection_and_a_double_is_refused():
    rows = [make_row(arm(regime), seed, s) for s in ("best", "last") for regime in GOALS for seed in (1, 0)]
    found = rows_by_arm(rows[::-1], "best")
    assert [own.regime for own in found] == list(REGIMES)
    assert all([row["seed"] for row in own] == [0, 1] for own in found.values())
    with pytest.raises(ValueError, match="two rows at selection 'best'"):
        rows_by_arm([*rows, rows[0]], "best")


def test_prompt_classes_are_those_of_the_rows():
    assert kinds_of([make_row()]) == list(KINDS)
    empty = {f"{column}_excess_a": None for column in ("ood_r1", "ood_r1_unconditional", "finished")}
    assert kinds_of([{**make_row(), **empty}]) == ["balanced", "excess_b"]
    assert kinds_of([{"finished": 0.5}]) == []


# --- comparisons


def test_difference_of_regimes_by_enumeration():
    accuracies = {"oracle": [0.9, 0.5, 0.8, 1.0], "maximum_likelihood": [0.6, 0.4, 0.3, 0.1], "adversarial": [0.2, 0.0]}
    history = {arm(r): trajectory([[9, 0.2]] * len(v), [[0.5, x] for x in v]) for r, v in accuracies.items()}
    # A seed that never comes near takes no part, whatever its accuracy.
    history[arm("adversarial")] = trajectory([[9, 0.2], [9, 0.2], [9, 8]], [[0, 0.2], [0, 0.0], [1, 1]])
    far = {own: {**h, "kl_per_sequence": np.full(h["ood_r1"].shape, 9.0)} for own, h in history.items()}
    ends = differences(far, (0.3, None))
    assert {row["band"] for row in ends} == {None} and ends[1]["test"].counts == (4, 3)
    found = differences(history, (0.3, 0.01))
    assert {row["band"] for row in found} == {0.3}
    first, second, *unconditional = found
    for row, greater, lesser in ((first, "oracle", "maximum_likelihood"),
                                 (second, "maximum_likelihood", "adversarial")):  # fmt: skip
        a, b = accuracies[greater], accuracies[lesser]
        pooled, splits = [*a, *b], list(itertools.combinations(range(len(a) + len(b)), len(a)))
        every = [np.mean([pooled[i] for i in own]) - np.mean([pooled[i] for i in range(len(pooled)) if i not in own])
                 for own in splits]  # fmt: skip
        gap = np.mean(a) - np.mean(b)
        assert (row["greater"], row["lesser"]) == (greater, lesser) and row["test"].counts == (len(a), len(b))
        assert row["test"].difference == pytest.approx(gap)
        assert row["test"].p_value == np.mean(np.abs(every) >= abs(gap) - 1e-12)
        error = math.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
        assert row["test"].standard_error == pytest.approx(error)
    assert [row["p_holm"] for row in (first, second)] == runs.holm([first["test"].p_value, second["test"].p_value])
    assert [row["test"].difference for row in unconditional] == pytest.approx(
        [first["test"].difference / 2, second["test"].difference / 2]
    )


def test_settings_are_compared_with_the_first_that_differs_in_one_thing():
    r1 = {
        ("none", "oracle"): 0.5,
        ("none", "adversarial"): 0.1,
        ("rotary", "oracle"): 0.9,
        ("rotary", "adversarial"): 0,
    }
    history = {arm(regime, position): trajectory([[9, 0.2]] * 3, [[0, x], [0, x + 0.01], [0, x - 0.01]])
               for (position, regime), x in r1.items()}  # fmt: skip
    history[arm("oracle", "rotary", "dyck")] = trajectory([[0.2]], [[1.0]])  # nothing to compare it with
    found = [row for row in against_first(history, (0.3,)) if row["column"] == "ood_r1"]
    assert [(row["arm"], row["first"], row["varied"]) for row in found] == [
        (arm(regime, "rotary"), arm(regime, "none"), "position") for regime in ("oracle", "adversarial")
    ]
    assert [row["test"].difference for row in found] == pytest.approx([0.4, -0.1])
    assert [row["test"].p_value for row in found] == [0.1, 0.1] and [row["p_holm"] for row in found] == [0.2, 0.2]
    del history[arm("oracle", "rotary", "dyck")]
    cells = line_of(
        markdown([make_row(own) for own in history], history, bands=(0.3,)),
        "Settings against the first at matched loss", "0.3", "rotary − none", "adversarial",
    )  # fmt: skip
    assert cells[3:6] == ["3, 3", "-10.0 ± 0.8", "0.100 / 0.200"]
    assert against_first({arm(): trajectory([[0.2]], [[1.0]])}, (0.3,)) == []


def test_correlation_by_enumeration_and_flagged_seeds_left_out():
    trace, r1 = [1.0, 2.0, 3.0, 4.0, 5.0], [0.2, 0.1, 0.4, 0.3, 0.5]
    rows = of_accuracies(sharpness_trace=trace, ood_r1=r1)
    rows.append(make_row(seed=9, sharpness_trace=100.0, ood_r1=0.0, flag="diverged"))
    found = {row["measure"]: row for row in correlations(rows)}
    every = [np.corrcoef(trace, order)[0, 1] for order in itertools.permutations(r1)]
    assert found["sharpness_trace"]["test"].rho == pytest.approx(0.8)
    assert found["sharpness_trace"]["test"].p_value == np.mean(np.abs(every) >= 0.8 - 1e-9)
    assert found["sharpness_trace"]["left_out"] == 1 and found["sharpness_trace"]["test"].count == 5
    assert found["gaussian_scale"]["test"].rho is None  # it does not vary
    tested = [row["test"].p_value for row in found.values()]
    assert [row["p_holm"] for row in found.values()] == runs.holm(tested)
    assert correlations(rows, selection="last") == []


# --- tables


def line_of(text, heading, *starts):
    """Cells of the line that starts so, below a heading."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    (line,) = [line for line in section if line.startswith("| " + " | ".join(starts) + " |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_by_hand():
    rows = of_accuracies(ood_r1=(0.5, 0.7, 0.9), finished=(0.2, 0.4, NAN), finished_balanced=(0.1, 0.3, 0.5))
    rows += of_accuracies(selection="last", ood_r1=(0.5, 0.7, 0.9, 1.0))
    kl = [[5, 0.6, 0.2], [5, 0.4, 0.35], [5, 4, 3]]
    text = markdown(rows, {arm(): trajectory(kl, [[0, 0.5, 0.6], [0, 0.8, 0.7], [0, 1, 1]])}, bands=(0.7, 0.3, 0.1))
    cells = line_of(text, "Matched loss", "oracle")
    assert cells[1] == "3 of 4" and "70.0 ± 20.0" in cells and "30.0 ± 14.1 (2 of 3)" in cells
    assert line_of(text, "Within loss bands", "0.7", "oracle")[2:7] == [
        "2 of 3", "200", "0.500 ± 0.141", "65.0 ± 21.2", "50.0–80.0"
    ]  # fmt: skip
    assert line_of(text, "Within loss bands", "0.3", "oracle")[2:7] == ["1 of 3", "300", "0.200", "60.0", "60.0–60.0"]
    assert line_of(text, "Within loss bands", "0.1", "oracle")[2:] == ["0 of 3", *["–"] * 6]
    assert "What completions are" not in text
    behaving = markdown(of_accuracies(endless=(0.5, 0.7), follows_stop=(0.0, NAN), row_agreement=(1.0, 0.5)), {})
    assert line_of(behaving, "What completions are: matched loss", "oracle")[1:] == [
        "2", "–", "0.0 (1 of 2)", "–", "–", "60.0 ± 14.1", "–", "–", "75.0 ± 35.4"
    ]  # fmt: skip
    kind = line_of(text, "By class of the prompt: matched loss", "oracle", "balanced")
    assert kind[2:] == ["3", "80.0 ± 0.0", "40.0 ± 0.0", "30.0 ± 20.0"]


def test_markdown_of_a_study(study):
    text = markdown(*study)
    for heading in (
        "Least loss", "End of training", "Matched loss", "Within loss bands", "Order of the regimes at matched loss",
        "Loss and flatness against OOD R1: matched loss", "By class of the prompt: matched loss",
    ):  # fmt: skip
        assert f"## {heading}\n" in text
    assert line_of(text, "Matched loss", "none", "adversarial")[2] == "0 of 5"
    assert line_of(text, "Order of the regimes at matched loss", "0.7", "none", "oracle − maximum likelihood")[3] == (
        "5, 5"
    )
    assert "maximum likelihood − adversarial" not in text  # no adversarial network comes near
    assert "1 of 5 seeds: diverged" in text and "nan" not in text and "None" not in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block


def test_tables_take_what_json_gives_back(study):
    rows = runs.check_rows(study[0], fields=FIELDS)
    assert markdown(rows, study[1]) == markdown(*study)
    bare = [make_row(seed=s, **dict.fromkeys(("ood_r1", "loss", "finished", "sharpness_trace"))) for s in range(2)]
    assert "| oracle | 2 | 900 | – |" in markdown(bare, {})


def test_no_rows_say_so():
    with pytest.raises(ValueError, match="no rows"):
        markdown([], {})


# --- figures


def is_a_small_png(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return path.stat().st_size <= 150_000 and pixels.std() > 5 and min(pixels.shape) > 200


@pytest.fixture
def drawn(monkeypatch):
    """Figures are kept, and drawn once so that their layout is settled, but not written."""
    kept = []
    for module in (bands_module, comparison_figures, masses, sharpness, trajectories):
        monkeypatch.setattr(module, "save_png", lambda figure, path, **_: kept.append(figure))
    return kept


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def colours_of(figure):
    return dict(zip(labels_of(figure), [h.get_color() for h in figure.legends[0].legend_handles], strict=True))


def one_setting(study):
    return [r for r in study[0] if r["position"] == "none"], {a: h for a, h in study[1].items() if a.position == "none"}


def test_figures_are_written(study, tmp_path):
    rows, history = one_setting(study)
    for draw in (figures.loss_against_accuracy, figures.accuracy_within_bands, figures.class_mass):
        draw(history, tmp_path / f"{draw.__name__}.png")
    for draw in (figures.accuracy_by_kind, figures.accuracy_by_arm, figures.sharpness_against_accuracy):
        draw(rows, tmp_path / f"{draw.__name__}.png")
    written = list(tmp_path.iterdir())
    assert len(written) == 6 and all(map(is_a_small_png, written))


def test_trajectories_have_a_circle_a_star_and_the_colours_of_the_regimes(study, drawn):
    figures.loss_against_accuracy(study[1], "unwritten.png")
    panels = drawn[0].axes
    assert len(panels) == 4 and all(axes.get_yscale() == "log" for axes in panels)
    assert colours_of(drawn[0]) == {REGIMES[regime]: drawing.style(regime).colour for regime in REGIMES}
    for axes in panels:
        assert [line.get_marker() for line in axes.lines].count("o") == 3
        assert [line.get_marker() for line in axes.lines].count("*") == 3
        assert len([line for line in axes.lines if line.get_linewidth() < 1]) == 15  # a seed each
    # No legend inside a panel.
    assert all(axes.get_legend() is None for axes in panels)


def test_the_mean_path_by_hand(drawn):
    x = np.array([[NAN, 0.2, 0.4], [NAN, 0.4, 0.6], [0.5, 0.6, NAN]])
    y = np.array([[9.0, 1.0, 0.1], [9.0, 2.0, 0.4], [9.0, 4.0, 0.2]])
    # First column: one of three has an accuracy, fewer than half. Second: 0.4 and the cube root of 8.
    np.testing.assert_allclose(trajectories._mean_path(x, y), [[0.4, 2.0], [0.5, 0.2]])
    figures.loss_against_accuracy({arm(): trajectory(y, x)}, "unwritten.png", floor={"anbn": 0.019})
    (panel, _) = drawn[0].axes
    assert "loss" in panel.get_ylabel() and "least loss" in labels_of(drawn[0])
    (mean,) = [line for line in panel.lines if line.get_label() == "oracle"]
    np.testing.assert_allclose(np.asarray(mean.get_xdata(), float), [40.0, 50.0])


def test_histograms_count_each_seed_once_and_print_their_spread(drawn):
    r1 = [[0.0, 1.0], [0.0, 0.55], [0.0, 0.55], [0.0, NAN], [0.9, 0.9]]
    kl = [[3.0, 0.2]] * 4 + [[3.0, 2.0]]
    figures.accuracy_within_bands({arm(): trajectory(kl, r1)}, "unwritten.png", bands=(0.3, 0.1))
    near, nearer = drawn[0].axes
    assert [patch.get_height() for patch in near.patches] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 1]  # 100 % is in the last bin
    assert near.get_ylim()[1] > 2
    # Mean of 1, 0.55, 0.55 and its standard deviation.
    assert near.texts[0].get_text() == "oracle: n = 4 of 5, 70.0 ± 26.0 % (1 never end)"
    assert [text.get_text() for text in nearer.texts] == ["no seed comes so near", "oracle: n = 0 of 5"]


def test_masses_have_an_exact_line_and_empty_arms_are_left_out(study, drawn):
    _, history = one_setting(study)
    empty = {name: np.full((5, 20), NAN) for name in MASSES}
    history = {**history, arm("adversarial"): {**history[arm("adversarial")], **empty}}
    figures.class_mass(history, "unwritten.png", exact=4 / 128)
    assert len(drawn[0].axes) == 2 and labels_of(drawn[0])[-1] == "rules 1 and 2, exact"
    for axes in drawn[0].axes:
        (exact,) = [line for line in axes.lines if line.get_label() == "rules 1 and 2, exact"]
        assert exact.get_ydata()[0] == 3.125 and axes.get_ylim()[0] < 3.125 < axes.get_ylim()[1]
    both = next(line for line in drawn[0].axes[0].lines if line.get_label() == "rules 1 and 2")
    np.testing.assert_allclose(np.asarray(both.get_ydata(), float)[0], 20 * math.exp(-1 / 30))
    with pytest.raises(ValueError, match="no probability of rule classes"):
        figures.class_mass({arm(): trajectory([[1.0]], [[1.0]], **dict.fromkeys(MASSES, np.array([[NAN]])))}, "a.png")


def test_every_seed_is_a_dot_and_what_is_not_there_has_a_word(drawn):
    rows = of_accuracies(arm("oracle"), ood_r1_balanced=(0.5, 0.7, NAN), ood_r1_excess_a=(NAN, NAN, NAN))
    rows += of_accuracies(arm("adversarial"), selection="last", ood_r1=(0.0, 0.0))
    rows[1]["flag"] = "diverged"
    figures.accuracy_by_kind(rows, "unwritten.png")
    panel = drawn[0].axes[0]
    bars = [patch.get_height() for patch in panel.patches]
    assert bars == pytest.approx([60.0, 80.0])  # balanced and excess b
    marks = [points for points in panel.collections if isinstance(points, PathCollection)]
    heights = sorted(y for points in marks for y in np.asarray(points.get_offsets())[:, 1].tolist())
    assert heights == pytest.approx([50.0, 70.0, 80.0, 80.0, 80.0])
    hollow = [points for points in marks if np.all(np.asarray(points.get_facecolor())[:, :3] == 1)]
    assert [len(np.asarray(points.get_offsets())) for points in hollow] == [1, 1]  # the flagged seed, in two classes
    assert [text.get_text() for text in panel.texts] == ["none so near", "none so near", "none ends", "none so near"]
    assert "hollow: flagged" in drawn[0].get_suptitle()
    figures.accuracy_by_arm(rows, "unwritten.png")
    assert [axes.texts[0].get_text() for axes in drawn[1].axes] == ["none so near"] * 3
    figures.accuracy_by_arm(rows, "unwritten.png", selection="last")
    assert drawn[2].axes[0].patches[0].get_height() == 0.0


def test_arms_of_a_sweep_are_named_by_what_varies(study, drawn):
    figures.accuracy_by_arm(study[0], "unwritten.png", selection="best")
    texts = [text.get_text() for text in drawn[0].axes[-1].get_xticklabels()]
    assert texts == ["none", "batch row"]
    assert all(axes.get_ylim() == (-4, 104) for axes in drawn[0].axes)


def test_sharpness_prints_the_correlations_of_the_table(study, drawn):
    rows, _ = one_setting(study)
    figures.sharpness_against_accuracy(rows, "unwritten.png")
    assert len(drawn[0].axes) == 3 and labels_of(drawn[0]) == ["maximum likelihood", "oracle"]
    tested = {(row["arm"], row["measure"]): row["test"] for row in correlations(rows)}
    for axes, measure in zip(drawn[0].axes, ("sharpness_trace", "sharpness_adaptive", "gaussian_scale"), strict=True):
        for text, regime in zip(reversed(axes.texts), ("maximum_likelihood", "oracle"), strict=True):
            test = tested[arm(regime), measure]
            assert text.get_text().startswith(REGIMES[regime]) and text.get_text().endswith(f"n = {test.count}")
            assert ("ρ –" if test.rho is None else f"ρ = {test.rho:+.2f}, p = {test.p_value:.2g}") in text.get_text()


def test_many_settings_stand_side_by_side(study, tmp_path):
    _, history = one_setting(study)
    many = {arm("oracle", language=f"language_{i}"): history[arm("oracle")] for i in range(7)}
    figures.accuracy_within_bands(many, tmp_path / "a.png", bands=(0.3,))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[1] < 110 * (1.0 + 3.1 * 5)


def test_figures_without_data_say_so(tmp_path):
    for draw in (figures.loss_against_accuracy, figures.accuracy_within_bands, figures.class_mass):
        with pytest.raises(ValueError, match=r"no .*: train some networks first"):
            draw({}, tmp_path / "a.png")
    for draw in (figures.accuracy_by_kind, figures.accuracy_by_arm, figures.sharpness_against_accuracy):
        for rows in ([], [make_row(selection="last")]):
            with pytest.raises(ValueError, match="no rows at selection 'matched'"):
                draw(rows, tmp_path / "a.png")
    unmeasured = dict.fromkeys(("sharpness_trace", "sharpness_adaptive", "gaussian_scale"))
    with pytest.raises(ValueError, match="with a sharpness"):
        figures.sharpness_against_accuracy([make_row(**unmeasured)], tmp_path / "a.png")
    with pytest.raises(ValueError, match="no loss bands"):
        figures.accuracy_within_bands({arm(): trajectory([[1.0]], [[1.0]])}, tmp_path / "a.png", bands=())
    with pytest.raises(ValueError, match=r"lacks ood_r1"):
        figures.accuracy_within_bands({arm(): {"step": [1], "kl_per_sequence": [[1.0]]}}, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\[S, C\] and step \[C\] needed"):
        figures.loss_against_accuracy({arm(): trajectory([[1.0]], [[1.0, 2.0]])}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
