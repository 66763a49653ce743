"""The four surfaces on a small grid: values by other means, the table of minima, and the order that swaps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as parquet
import pytest

from experiments import flatness
from experiments._flatness import surfaces
from tests.experiments.processes import same_rows, whole_and_killed

# surface and basin: place and value to be met, within 0.05 in place and 5e-4 in value; exact SAM's own minima were not
# known beforehand and are checked below on a fine grid of their own.
TABLE = {
    ("loss", "sharp"): ((-15.94, 13.46), 0.4939),
    ("loss", "flat"): ((19.85, 29.95), 0.5108),
    ("mean_field", "sharp"): ((-11.45, 17.89), 0.5672),
    ("mean_field", "flat"): ((19.56, 30.43), 0.5271),
    ("one_step_sam", "sharp"): ((-15.94, 13.46), 0.5315),
    ("one_step_sam", "flat"): ((19.85, 29.95), 0.5209),
}
RHO = 8.0


def test_a_killed_run_has_the_rows_of_an_undisturbed_one(tmp_path):
    # Too quick to be met between its chunks: killed as soon as it has a directory.
    runs = whole_and_killed("flatness", tmp_path, "--config", "smoke", "--grid", "20", "20", sign="config.json")
    assert same_rows(runs.whole, runs.resumed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("flatness") / "run"
    flatness.main(["--config", "smoke", "--out", str(out)])
    return out, {(row["surface"], row["basin"]): row for row in json.loads((out / "results.json").read_text())["rows"]}


def test_minima_are_those_of_the_table(finished):
    _, rows = finished
    for key, (place, value) in TABLE.items():
        row = rows[key]
        np.testing.assert_allclose([row["theta_0"], row["theta_1"]], place, atol=0.05, err_msg=str(key))
        assert abs(row["value"] - value) < (5e-4 if key[0] == "mean_field" else 6e-5), key


def test_curvatures_tell_the_sharp_basin_from_the_flat_one(finished):
    _, rows = finished
    for basin, expected in (("sharp", (0.0019, 0.0040)), ("flat", (0.00033, 0.00068))):
        found = [rows["loss", basin][name] for name in ("curvature_low", "curvature_high")]
        np.testing.assert_allclose(found, expected, rtol=0.03)


@pytest.mark.parametrize("surface", ["mean_field", "exact_sam", "one_step_sam"])
def test_flatness_swaps_the_order_of_the_two_minima(finished, surface):
    _, rows = finished
    assert rows["loss", "sharp"]["value"] < rows["loss", "flat"]["value"]
    assert rows[surface, "flat"]["value"] < rows[surface, "sharp"]["value"]
    least = {name: min((row["value"], basin) for (s, basin), row in rows.items() if s == name) for name, _ in rows}
    assert least["loss"][1] == "sharp" and least[surface][1] == "flat"
    for (name, basin), row in rows.items():
        assert (row["minimum"] == "global") == (basin == least[name][1])


def test_each_basin_has_one_minimum_and_one_step_sam_a_third_beside_the_saddle(finished):
    out, rows = finished
    assert parquet.read_table(out / "results.parquet").num_rows == len(rows) == 9  # no two rows of the same name
    assert {basin for surface, basin in rows if surface == "one_step_sam"} == {"sharp", "flat", "saddle"}
    assert [row["attained"] for (surface, _), row in rows.items() if surface == "one_step_sam"] == ["as a limit"] * 3


def test_exact_sam_minima_are_least_on_a_fine_grid_about_them(finished):
    _, rows = finished
    largest = jax.jit(jax.vmap(surfaces.exact_sam(RHO)))
    for basin in ("sharp", "flat"):
        row = rows["exact_sam", basin]
        near = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41)), -1).reshape(-1, 2) ** 3
        values = largest(jnp.asarray(row["theta_0"] + near[:, 0]), jnp.asarray(row["theta_1"] + near[:, 1]))
        assert float(values.min()) > row["value"] - 1e-8
        assert float(values.min()) < row["value"] + 1e-6


def test_figure_and_summary_are_written(finished):
    out, _ = finished
    assert (out / "figures" / "flatness.png").stat().st_size < 300_000
    text = (out / "summary.md").read_text()
    assert text.startswith("# flatness, config ") and "| mean_field | flat | 19.56 |" in text


def test_loss_is_the_formula_away_from_the_singularity_and_infinite_on_it():
    def by_hand(x, y):
        total = 0.0
        for m, s, a, b in ((20, 30, 0.7, 1.8), (-20, 10, 0.3, 1.2)):
            energy = ((x - m) ** 2 + y**2) / (2 * s**2) + np.log(s) - np.log(abs(y))
            total += a * np.exp(-energy / b**2)
        return -np.log(total)

    for x, y in ((-16.0, 13.0), (5.0, -20.0), (39.0, 0.01)):
        assert float(surfaces.loss(jnp.float64(x), jnp.float64(y))) == pytest.approx(by_hand(x, y), rel=1e-12)
    assert float(surfaces.loss(jnp.float64(3.0), jnp.float64(0.0))) == np.inf


def test_mean_field_quadrature_meets_draws_and_finer_nodes():
    points = np.array([[-11.45, 17.89], [19.56, 30.43], [-28.0, 0.5], [38.0, 44.0], [0.0, 0.0]])
    coarse, fine = (jax.jit(surfaces.mean_field(RHO, nodes=nodes)) for nodes in (400, 600))
    draws = RHO / np.sqrt(2) * np.random.default_rng(0).normal(size=(40_000, 2))
    for point in points:
        place = jnp.asarray(point)
        value = float(coarse(place[0], place[1]))
        assert value == pytest.approx(float(fine(place[0], place[1])), abs=1e-7)
        sample = np.asarray(jax.vmap(surfaces.loss)(*jnp.asarray(point + draws).T))
        # Five standard errors: a false alarm once in 1.7 million a point.
        assert abs(sample.mean() - value) < 5 * sample.std() / np.sqrt(len(draws))


def test_the_largest_value_on_the_disc_lies_on_its_edge_and_is_found():
    """No point of a dense sample of the disc, inside or on the edge, exceeds what the refined edge gives."""
    generator = np.random.default_rng(0)
    centres = np.stack([generator.uniform(-30, 40, 60), generator.uniform(RHO + 0.1, 45, 60)], -1)
    angle, length = generator.uniform(0, 2 * np.pi, 20_000), RHO * np.sqrt(generator.uniform(0, 1, 20_000))
    length[::2] = RHO
    disc = np.stack([length * np.cos(angle), length * np.sin(angle)], -1)
    found = np.asarray(jax.jit(jax.vmap(surfaces.exact_sam(RHO)))(*jnp.asarray(centres).T))
    over = jax.jit(jax.vmap(lambda c: jnp.max(jax.vmap(surfaces.loss)(*(c[None] + jnp.asarray(disc)).T))))
    sampled = np.asarray(over(jnp.asarray(centres)))
    assert np.all(sampled <= found + 1e-12)
    assert np.all(sampled > found - 1e-5)
    assert float(surfaces.exact_sam(RHO)(jnp.float64(0.0), jnp.float64(7.9))) == np.inf


def test_one_step_sam_near_a_minimum_comes_as_low_as_its_limit_and_no_lower(finished):
    _, rows = finished
    angles = np.linspace(0, 2 * np.pi, 2000)
    for basin in ("sharp", "flat", "saddle"):
        row = rows["one_step_sam", basin]
        near = 1e-3 * np.stack([np.cos(angles), np.sin(angles)], -1)
        values = np.asarray(
            jax.vmap(surfaces.one_step_sam(RHO))(
                jnp.asarray(row["theta_0"] + near[:, 0]), jnp.asarray(row["theta_1"] + near[:, 1])
            )
        )
        # A place 1e-3 from the critical point moves the value by at most the slope there, 0.02, times that.
        assert row["value"] - 2e-5 < values.min() < row["value"] + 2e-4


@pytest.mark.parametrize("option", ["radius", "nodes", "grid"])
def test_bad_settings_are_refused_in_one_line(option, capsys):
    with pytest.raises(SystemExit) as stop:
        flatness.main([f"--{option}", *(["5", "5"] if option == "grid" else ["-1"])])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith(f"error: {option} = ") and len(said.strip().splitlines()) == 1
