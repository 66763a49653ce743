"""Tables, statistics and figures of the study on made-up rows: by hand, against scipy, and on rows with holes."""

import doctest
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from experiments._sam_as_vi import comparisons, correlations, figures, tables
from experiments._sam_as_vi import rows as rows_module
from experiments._sam_as_vi.comparisons import paired, replaces
from experiments._sam_as_vi.correlations import rank_correlations
from experiments._sam_as_vi.figures import calibration, drawing, interpolations
from experiments._sam_as_vi.methods import METHODS
from experiments._sam_as_vi.rows import AVERAGED, FIELDS, MEASURES, ORDER, summarise, value
from experiments._sam_as_vi.tables import markdown
from pbjax import runs
from pbjax.runs.statistics import holm

ROWS_SEED = 0


def make_row(method="sgd", seed=0, **changed):
    row = {
        "stage": "final", "method": method, "dataset": "mnist", "model": "mlp", "budget": "gradients", "seed": seed,
        "learning_rate": 0.1, "radius": 0.1, "effective_radius": 0.1, "kappa": None, "samples": 1, "mean_scale": None,
        "test_accuracy": 0.98, "test_nll": 0.06, "ece": 0.01, "brier": 0.03, "ood_auroc": None,
        **dict.fromkeys(AVERAGED), "certificate": 0.1, "certificate_risk": 0.03, "certificate_kl": 500.0,
        "certificate_n": 30000, "delta": 0.025, "assumption": "iid", "delta_ledger": {"kl": 0.025},
        **dict.fromkeys(MEASURES, 1.0), "train_loss": 0.01, "gradients": 1000, "epochs": 5.0, "seconds": 1.0,
        "flag": None,
    }  # fmt: skip
    return {**row, **changed}


def of_values(outcome, **methods):
    return [make_row(m, s, **{outcome: v}) for m, values in methods.items() for s, v in enumerate(values)]


@pytest.fixture(scope="module")
def study():
    """Every method, both budgets, five seeds, a diverged network, and all the curves."""
    rng = np.random.default_rng(ROWS_SEED)
    rows = []
    for budget, (rank, method), seed in itertools.product(("gradients", "epochs"), enumerate(ORDER), range(5)):
        error = 0.02 - 0.0004 * rank + 0.0002 * rng.normal()
        sharp = {name: error * 10.0**power * rng.uniform(0.9, 1.1) for power, name in enumerate(MEASURES)}
        averaged = {n: 0.05 + 0.001 * rng.normal() for n in AVERAGED} if METHODS[method].scale == "learned" else {}
        rows.append(
            make_row(method, seed, budget=budget, test_accuracy=1 - error, test_nll=3 * error + 0.002 * rng.normal(),
                     certificate=4 * error, **sharp, **averaged)
        )  # fmt: skip
    rows[16].update(flag="diverged", test_accuracy=0.1, test_nll=math.nan, sharpness_trace=math.inf)
    for seed in range(3):
        noise = 0.0003 * rng.normal()
        for kappa in (0.0, 1.0, math.inf):
            rows.append(make_row("mix_sam", seed, stage="curve_kappa", kappa=kappa, test_accuracy=0.98 + noise))
        for samples in (1, 4):
            rows.append(make_row("mean_field", seed, stage="curve_samples", samples=samples))
        for radius in (0.01, 0.1, 1.0):
            accuracy = 0.1 if radius == 1.0 else 0.98 + noise + 0.001 * radius
            rows.append(make_row("sam", seed, stage="curve_radius", radius=radius, test_accuracy=accuracy))
            rows.append(make_row("asam", seed, stage="curve_radius", radius=radius, test_accuracy=0.981 + noise))
            rows.append(make_row("random_sam", seed, stage="curve_scale", radius=radius, averaged_nll=0.06 + noise))
            rows.append(make_row("mean_field", seed, stage="curve_scale", radius=radius, averaged_nll=0.05 + noise))
    return rows


@pytest.mark.parametrize("module", [rows_module, comparisons, correlations, tables, drawing])
def test_examples(module):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert result.attempted > 0 and result.failed == 0


def test_rows_are_those_of_results_json(study):
    checked = runs.check_rows(study, fields=FIELDS)
    assert checked[16]["test_nll"] is None and checked[16]["flag"] == "diverged"
    with pytest.raises(ValueError, match="lacks seed"):
        runs.check_rows([{k: v for k, v in study[0].items() if k != "seed"}], fields=FIELDS)


# --- means over seeds


def test_mean_and_standard_error_by_hand():
    # 1, 2, 3, 4: variance 5/3, over four values: sqrt(5/12).
    (row,) = summarise(of_values("test_nll", sgd=(1.0, 2.0, 3.0, 4.0)))
    assert row["test_nll"] == 2.5
    assert row["test_nll_standard_error"] == pytest.approx(math.sqrt(5 / 12), rel=1e-12)
    assert row["seeds"] == 4 and row["gap"] == pytest.approx(2.49) and row["test_error"] == pytest.approx(0.02)


def test_one_seed_has_no_error_and_flags_are_shown():
    rows = of_values("test_nll", sgd=(1.0,), sam=(1.0, math.nan, 3.0))
    rows[2]["flag"] = "diverged"
    one, other = summarise(rows)
    assert one["test_nll"] == 1.0 and one["test_nll_standard_error"] is None and one["flag"] is None
    assert other["test_nll"] == 2.0 and other["test_nll_seeds"] == 2 and other["seeds"] == 3
    assert other["flagged"] == 1 and other["flag"] == "1 of 3 seeds: diverged"
    assert "(2 of 3)" in markdown(rows) and "†" in markdown(rows)


def test_a_flagged_seed_counts_in_the_mean():
    rows = of_values("test_accuracy", sgd=(0.9, 0.1))
    rows[1]["flag"] = "diverged"
    assert summarise(rows)[0]["test_accuracy"] == pytest.approx(0.5)


def test_a_grid_of_settings_is_not_averaged_and_a_double_is_refused():
    rows = [make_row("mix_sam", s, kappa=k, test_nll=k) for s in range(2) for k in (0.5, 2.0)]
    found = {row["method"]: row["test_nll"] for row in summarise(rows)}
    assert found == {"mix_sam (kappa 0.5)": 0.5, "mix_sam (kappa 2)": 2.0}
    with pytest.raises(ValueError, match="two rows of one seed"):
        summarise([make_row(), make_row()])


# --- paired tests


def test_paired_against_scipy_and_by_hand():
    rng = np.random.default_rng(1)
    values = rng.normal(0.98, 0.01, size=(4, 5))
    names = ("sgd", "sam", "asam", "ivon")
    found = paired(
        of_values("test_accuracy", **dict(zip(names, values.tolist(), strict=True))), outcome="test_accuracy"
    )
    assert [row["method"] for row in found] == ["sam", "asam", "ivon"]
    for row, own in zip(found, values[1:], strict=True):
        test = stats.ttest_rel(own, values[0])
        assert row["p_value"] == pytest.approx(test.pvalue, rel=1e-12)
        interval = test.confidence_interval()
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        exact = stats.permutation_test((own - values[0],), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert row["p_sign_flip"] == pytest.approx(exact.pvalue)
        differences = own - values[0]
        assert row["difference"] == pytest.approx(differences.mean())
        assert row["standard_error"] == pytest.approx(differences.std(ddof=1) / math.sqrt(5))
    # Differences 1, 2, 3: mean 2, error 1/sqrt(3), t = 2 sqrt(3), p = 1 - t/sqrt(2 + t^2) with two degrees of freedom.
    (row,) = paired(of_values("test_nll", sgd=(0.0, 0.0, 0.0), sam=(1.0, 2.0, 3.0)), outcome="test_nll")
    t = 2 * math.sqrt(3)
    assert row["p_value"] == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


def test_pairs_are_by_seed_not_by_order():
    rows = [make_row("sgd", s, test_nll=float(s)) for s in (0, 1, 2, 3)]
    rows += [make_row("sam", s, test_nll=s + 1 + 0.01 * s) for s in (3, 1, 2, 7)]
    (row,) = paired(rows, outcome="test_nll")
    assert row["seeds"] == 3 and row["missing"] == 2
    assert row["difference"] == pytest.approx(1.02)


def test_budgets_are_families_of_their_own():
    rng = np.random.default_rng(2)
    rows = [
        make_row(m, s, budget=b, test_nll=rng.normal())
        for m in ("sgd", "sam", "asam") for b in ("gradients", "epochs") for s in range(4)
    ]  # fmt: skip
    both = paired(rows, outcome="test_nll")
    assert len(both) == 4 and [row for row in both if row["budget"] == "epochs"] == paired(
        rows, outcome="test_nll", budget="epochs"
    )
    for budget in ("gradients", "epochs"):
        own = [row for row in both if row["budget"] == budget]
        assert [row["p_holm"] for row in own] == holm([row["p_value"] for row in own])
    assert paired(rows, outcome="test_nll", reference="ivon") == []


def test_differences_without_spread_give_no_t_test():
    rows = of_values("test_nll", sgd=(0.1, 0.2, 0.3), sam=(0.1, 0.2, 0.3), asam=(0.2, 0.3, 0.4), ivon=(0.5,))
    same, shifted, one = paired(rows, outcome="test_nll")
    assert same["p_value"] == 1.0 and same["difference"] == 0.0
    assert shifted["p_value"] is None and shifted["p_holm"] is None and shifted["p_sign_flip"] == 0.25
    assert one["p_value"] is None and one["standard_error"] is None and one["seeds"] == 1 and one["missing"] == 2


def test_replaces_tells_no_loss_from_not_known():
    noise = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    base = np.full(5, 0.10)

    def verdict(difference):
        rows = of_values("test_nll", mean_field=base, variational_sam_a=base + difference)
        (row,) = [row for row in replaces(rows) if row["outcome"] == "test_nll"]
        return row

    assert verdict(-0.02 + 1e-3 * noise)["verdict"] == "better"
    assert verdict(0.02 + 1e-3 * noise)["verdict"] == "worse"
    assert verdict(0.004 + 1e-3 * noise)["verdict"] == "worse, within margin"
    assert verdict(1e-3 * noise)["verdict"] == "no loss beyond margin"
    assert verdict(3e-2 * noise)["verdict"] == "unresolved"
    # One method: t_(4, 0.95) = 2.131847 and standard error 1e-3 sqrt(2.5 / 5).
    assert verdict(1e-3 * noise)["gain_low"] == pytest.approx(-2.131847e-3 * math.sqrt(0.5), rel=1e-6)


def test_replaces_knows_which_way_is_better():
    rows = of_values(
        "test_accuracy", mean_field=(0.90, 0.91, 0.92), variational_sam_b=(0.95, 0.96, 0.9702), sam=(1.0,) * 3
    )
    found = [row for row in replaces(rows) if row["outcome"] == "test_accuracy"]
    assert [(row["method"], row["verdict"]) for row in found] == [("variational_sam_b", "better")]
    assert found[0]["gain"] > 0 and replaces([]) == []


# --- rank correlations


def test_monotone_data_have_rank_correlation_one():
    rows = []
    for rank, (method, seed) in enumerate(itertools.product(ORDER[:6], range(3))):
        own = {"test_accuracy": 0.9 + 0.001 * rank, "certificate": 1 - 0.01 * rank}
        rows.append(make_row(method, seed, **own, **dict.fromkeys(MEASURES, math.exp(-rank))))
    found = [row for row in rank_correlations(rows, resamples=200) if row["target"] != "gap"]
    assert len(found) == 2 * (5 * 2 + 1)
    for row in found:
        for name in ("rho", "rho_low", "rho_high", "tau", "tau_low", "tau_high"):
            assert row[name] == pytest.approx(1.0), row
        assert row["count"] == (18 if row["over"] == "networks" else 6)


def test_rank_correlations_against_scipy_with_ties(study):
    rows = [
        {**row, "certificate": round(row["certificate"], 3)}  # ties
        for row in study
        if row["stage"] == "final" and row["budget"] == "gradients"
    ]
    for found in rank_correlations(rows, resamples=0):
        kept = [row for row in rows if not row["flag"]]
        pairs = {}
        for row in kept:
            pairs.setdefault(row["method"], []).append((value(row, found["measure"]), value(row, found["target"])))
        blocks = [np.array(own) for own in pairs.values()]
        x, y = np.concatenate([b if found["over"] == "networks" else b.mean(0, keepdims=True) for b in blocks]).T
        assert found["rho"] == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-9)
        assert found["tau"] == pytest.approx(stats.kendalltau(x, y).statistic, rel=1e-9)
        assert found["rho_low"] is None and found["left_out"] == 1 and found["methods"] == 14


def test_a_weight_is_a_copy():
    """The bootstrap's weights give what scipy gives when the points are repeated."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=8), rng.integers(0, 4, size=8).astype(float)
    weights = rng.multinomial(8, np.full(8, 1 / 8), size=5)
    rho, tau = correlations._rank_statistics(x, y, weights.astype(float))
    for index, counts in enumerate(weights):
        a, b = np.repeat(x, counts), np.repeat(y, counts)
        assert rho[index] == pytest.approx(stats.spearmanr(a, b).statistic)
        assert tau[index] == pytest.approx(stats.kendalltau(a, b).statistic)


def test_the_bootstrap_draws_methods_not_networks():
    """Seeds of a method that are copies add no information: the interval stays as wide as with one seed a method."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(8, 2))

    def interval(seeds):
        rows = [make_row(m, s, sharpness_worst=a, test_accuracy=1 - 0.01 * (a + b))
                for m, (a, b) in zip(ORDER, values.tolist(), strict=False) for s in range(seeds)]  # fmt: skip
        row = next(r for r in rank_correlations(rows) if r["measure"] == "sharpness_worst" and r["over"] == "networks")
        return row["rho_low"], row["rho_high"]

    assert interval(1) == pytest.approx(interval(5), abs=1e-12)
    assert interval(1)[1] - interval(1)[0] > 0.3


def test_too_few_points_give_no_correlation():
    rows = of_values("test_nll", sgd=(1.0,), sam=(2.0,))
    for row in rank_correlations(rows):
        assert row["rho_low"] is None
    assert all(row["rho"] is None for row in rank_correlations([make_row()]))
    assert rank_correlations([]) == []


# --- tables


def test_only_a_resolved_best_is_bold():
    close = markdown(of_values("test_accuracy", sgd=(0.90, 0.92, 0.94), sam=(0.92, 0.90, 0.95)), resamples=0)
    clear = markdown(of_values("test_accuracy", sgd=(0.90, 0.92, 0.94), sam=(0.95, 0.97, 0.9901)), resamples=0)
    assert "**" not in close
    assert "**97.00 ± 1.16**" in clear and clear.count("**") == 2


def test_markdown_of_a_study(study):
    text = markdown(study, resamples=50)
    for heading in (
        "At the mean, equal gradients",
        "At the mean, equal epochs",
        "Averaged over posterior samples, equal epochs",
        "Against sgd, equal epochs",
        "Against mean_field, equal gradients",
        "SAM-like updates in place of the reparametrisation trick",
        "Rank correlations",
    ):
        assert heading in text
    assert "1/16 = 0.0625 with 5 pairs (2^5 = 32 patterns)" in text
    assert "1 of 5 seeds: diverged" in text and "nan" not in text and "None" not in text
    for block in text.split("\n\n"):
        table = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in table}) <= 1, block
    assert markdown(study, resamples=50) == text


def test_a_certificate_is_rounded_up():
    assert "| 0.1001 |" in markdown([make_row(certificate=0.10001)])


def test_rows_with_holes_do_not_crash():
    bare = [{"stage": "final", "method": m, "seed": s, "flag": None} for m in ("sgd", "unheard_of") for s in range(2)]
    holed = [make_row(m, 0, test_nll=None, certificate=math.nan) for m in ("mean_field", "variational_sam_a")]
    for rows in (bare, holed, []):
        assert summarise(rows) is not None
        assert isinstance(markdown(rows), str)
        assert replaces(rows) is not None


# --- figures


def is_a_small_png(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return path.stat().st_size <= 120_000 and pixels.std() > 5 and min(pixels.shape) > 200


def test_figures_of_a_study(study, tmp_path):
    one = [row for row in study if row["budget"] == "gradients"]
    for draw in (figures.accuracy_against_radius, figures.curves, figures.sharpness_scatter):
        path = tmp_path / f"{draw.__name__}.png"
        draw(one, path)
        assert is_a_small_png(path), draw.__name__


def test_figures_take_what_json_gives_back(study, tmp_path):
    """An infinite kappa comes back as null, one seed has no error, a row may lack columns."""
    plain = runs.check_rows([row for row in study if row["seed"] == 0], fields=FIELDS)
    for draw in (figures.accuracy_against_radius, figures.curves):
        draw(plain, tmp_path / "a.png")
        assert is_a_small_png(tmp_path / "a.png")
    bare = {
        "stage": "final",
        "method": "unheard_of",
        "seed": 0,
        "flag": "diverged",
        "test_accuracy": 0.5,
        "certificate": 1.0,
    }
    figures.sharpness_scatter([bare], tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_the_random_end_of_kappa_is_at_ninety_degrees():
    found = [interpolations._angle({"kappa": kappa}) for kappa in (0.0, 1.0, math.inf, None)]
    assert found == pytest.approx([0.0, 45.0, 90.0, 90.0])


def test_a_collapsed_point_is_shown_on_the_edge(study):
    panel = runs.figures.blank_figure(3, 3).subplots()
    heights = [98.0, 98.1, 98.2, 98.3, 10.0]
    drawing.draw(panel, [(float(i), y, 0.0, y < 50) for i, y in enumerate(heights)], "sam")
    drawing.focus(panel, heights)
    low, high = panel.get_ylim()
    assert 97 < low < 98 and 98.3 < high < 99
    assert any(line.get_marker() == "v" and line.get_ydata()[0] == low for line in panel.lines)


def test_reliability_prints_the_ece(tmp_path, monkeypatch):
    # 30 of 40 at confidence 0.9 with accuracy 0.8, 10 at 0.5 with 0.7: 0.75 * 0.1 + 0.25 * 0.2 = 12.5 %.
    drawn = []
    monkeypatch.setattr(calibration, "save_png", lambda figure, path, **_: drawn.append(figure))
    triple = (np.array([0, 10, 30]), np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.7, 0.8]))
    figures.reliability({"sgd": triple, "mean_field": {"mean": triple, "averaged": triple}}, tmp_path / "a.png")
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert sorted(texts) == ["ECE averaged 12.50 %", "ECE mean 12.50 %", "ECE mean 12.50 %"]


def test_reliability_and_learning_curves_are_written(tmp_path):
    rng = np.random.default_rng(5)
    centres = np.linspace(0.05, 0.95, 10)
    bins = {m: {"mean": (np.arange(10), centres, centres**2), "averaged": None} for m in ORDER}
    figures.reliability(bins, tmp_path / "a.png")
    history = {}
    for method in ORDER[:-1]:
        epoch = np.tile(np.arange(6.0), (3, 1))
        values = [epoch, 2 * np.exp(-epoch) + 0.1, 1 - np.exp(-epoch - 0.1) + 0.01 * rng.normal(size=epoch.shape)]
        history[method] = np.stack(values, axis=-1)
    history["ivon"] = dict(zip(("epoch", "train_loss", "validation_accuracy"), values, strict=True))
    history["ivon"]["train_loss"] = np.full((3, 6), np.nan)
    figures.learning_curves(history, tmp_path / "b.png")
    assert is_a_small_png(tmp_path / "a.png") and is_a_small_png(tmp_path / "b.png")


def test_figures_without_rows_say_so(tmp_path):
    for draw in (figures.accuracy_against_radius, figures.curves, figures.sharpness_scatter):
        with pytest.raises(ValueError, match="no rows of stage"):
            draw([], tmp_path / "a.png")
    for draw in (figures.reliability, figures.learning_curves):
        with pytest.raises(ValueError, match="no rows of"):
            draw({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="history of sgd"):
        figures.learning_curves({"sgd": np.zeros((3, 4))}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
