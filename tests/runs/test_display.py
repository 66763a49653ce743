"""Progress, tables, figures and the mesh."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pbjax.runs import Progress, figures, markdown_table, print_results, replica_mesh, replicate, shard_replicas
from pbjax.runs.tables import format_value


def make_rows(**change):
    rows = [
        {"method": method, "loss": loss, "beta": beta, "certificate": 0.5, "test_risk": 0.3, "seed": seed, "flag": None}
        for method in ("gibbs_asymptotic", "mean_field", "something_new")
        for loss in ("zero_one", "smooth_bounded_cross_entropy")
        for beta in (0.0, 1.0, 100.0)
        for seed in (0, 1)
    ]
    rows.append({"method": "test_set", "loss": "zero_one", "beta": None, "certificate": 0.1, "seed": 0, "flag": None})
    rows[4] |= change
    return rows


def small_png(path):
    assert path.stat().st_size <= 150_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        return np.asarray(image.convert("RGB"))


def test_certificates_figure_shows_flags(tmp_path):
    figures.certificates_by_temperature(make_rows(), tmp_path / "a.png")
    figures.certificates_by_temperature(make_rows(flag="r_hat"), tmp_path / "b.png")
    assert not np.array_equal(small_png(tmp_path / "a.png"), small_png(tmp_path / "b.png"))
    with pytest.raises(ValueError, match="rows is empty"):
        figures.certificates_by_temperature([], tmp_path / "c.png")


def test_energy_figure(tmp_path):
    betas = np.array([0.0, 1.0, 10.0, 100.0])
    mean = 1 / (1 + betas)
    keywords = {"standard_error": mean / 50, "left": betas, "trapezium": betas * 0.9, "right": betas * 0.8}
    figures.energy_ladder(betas, mean, **keywords, path=tmp_path / "a.png", flagged=betas > 50, test_mean=mean)
    small_png(tmp_path / "a.png")
    with pytest.raises(ValueError, match="one value a rung"):
        figures.energy_ladder(betas, mean[:2], **keywords, path=tmp_path / "b.png")


def test_trace_figure_stays_small_and_takes_bad_values(tmp_path):
    draws = np.random.default_rng(0).normal(size=(12, 8, 5000))
    r_hat = np.full(12, 1.01)
    r_hat[3], r_hat[5] = 1.2, np.nan
    figures.trace_and_r_hat(draws, r_hat, betas=np.r_[0.0, np.geomspace(1, 1e4, 11)], path=tmp_path / "a.png")
    small_png(tmp_path / "a.png")
    figures.trace_and_r_hat(draws[:1, :1, :3], np.array([np.nan]), betas=np.array([0.0]), path=tmp_path / "b.png")


def test_rosenbrock_figure(tmp_path):
    samples = np.random.default_rng(0).normal(size=(3000, 2))
    figures.rosenbrock(
        lambda x, y: -(x**2) - (y - x**2) ** 2, samples, mean=[0.0, 0.0], scale=[0.5, 0.5], path=tmp_path / "a.png"
    )
    small_png(tmp_path / "a.png")


def test_a_flagged_number_is_never_shown_without_its_flag():
    rows = make_rows(flag="r_hat 1.3", certificate=0.25)
    for columns in (None, ["beta", "certificate"], ["beta"]):
        lines = markdown_table(rows, columns=columns).splitlines()
        assert "flag" in lines[0]
        assert [line for line in lines if "r_hat 1.3" in line and "†" in line]
        shown = io.StringIO()
        print_results(rows, columns=columns, console=Console(file=shown, width=60))
        assert "r_hat 1.3" in shown.getvalue()
        assert "1 of 37 rows are flagged" in shown.getvalue()
    assert "flag" not in markdown_table(make_rows())


def test_bounds_are_rounded_to_the_safe_side():
    assert format_value("certificate", 0.20001) == "0.2001"
    assert format_value("certificate", 0.2) == "0.2001"  # the float 0.2 is above 1/5
    assert format_value("certificate", 0.25) == "0.2500"
    assert format_value("kl_low", 1.99) == "1.9"
    assert format_value("kl_high", 1.91) == "2.0"
    assert format_value("ess", float("nan")) == "–"


def test_plain_progress_says_where_it_is_and_how_long():
    log = io.StringIO()
    with Progress("demo", work={"pilot": 1.0, "sample": 3.0}, every_seconds=0.0, stream=log) as progress:
        progress.skip("pilot")
        progress.phase("sample", 4, 2)
        progress.table([{"beta": 1.0, "r_hat": 1.01, "flag": None}, {"beta": 9.0, "r_hat": 1.2, "flag": "r_hat"}])
        progress.advance()
    said = log.getvalue()
    assert "pilot: done before" in said
    assert "resumed at chunk 2 of 4" in said
    assert "sample 3/4, 81% of the run" in said
    assert "beta  r hat  flag" in said
    quiet = io.StringIO()
    with Progress("demo", log_level="quiet", every_seconds=0.0, stream=quiet) as progress:
        progress.phase("sample", 1)
        progress.advance()
        progress.note("text")
    assert quiet.getvalue() == ""


def test_live_progress_draws_bars_and_table(monkeypatch):
    for variable in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(variable, raising=False)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    with Progress("demo", work={"sample": 1.0}, stream=screen) as progress:
        progress.phase("sample", 4)
        progress.table([{"beta": 1.0, "r_hat": 1.01}], title="rungs")
        progress.advance(4)
    assert "100%" in screen.getvalue()
    assert "rungs" in screen.getvalue()


@pytest.mark.parametrize("count", [1, 4])
def test_mesh_spreads_replicas_and_copies_data(count):
    mesh = replica_mesh(jax.devices()[:count])
    assert dict(mesh.shape) == {"replica": count, "data": 1}
    chains = shard_replicas(mesh, {"x": jnp.arange(8.0).reshape(8, 1), "key": jax.random.split(jax.random.key(0), 8)})
    data = replicate(mesh, {"inputs": np.arange(3.0)[None, :]})
    assert len(chains["x"].sharding.device_set) == count
    assert data["inputs"].sharding.is_fully_replicated
    total = jax.jit(lambda a, b: a["x"] * b["inputs"])(chains, data)
    assert np.array_equal(total, np.arange(8.0)[:, None] * np.arange(3.0)[None, :])


def test_mesh_and_replica_counts_that_do_not_fit():
    assert replica_mesh(num_replicas=6).shape["replica"] == 3
    assert replica_mesh(num_replicas=7).shape["replica"] == 1
    assert shard_replicas(replica_mesh(), jnp.zeros((6, 2))).sharding.is_fully_replicated
    with pytest.raises(ValueError, match=r"\['x'\] has no axis of replicas to be spread"):
        shard_replicas(replica_mesh(), {"x": jnp.zeros(())})
    with pytest.raises(ValueError, match="num_replicas = 0"):
        replica_mesh(num_replicas=0)
