"""`pbjax.load`: networks, certificates and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pbjax
from pbjax import certificates, models
from pbjax.runs import Field, RunDirectory, RunError, keep_networks

MODEL = {"builder": "mlp", "widths": [4, 3], "activation": "relu"}
FIELDS = {"certificate": Field("number")}
SETTINGS = {"n": 100, "delta": 0.05}


@dataclasses.dataclass(frozen=True)
class Example:
    delta: float = 0.05


def networks():
    keys = jax.random.split(jax.random.key(0), 4).reshape(2, 2)
    init = jax.vmap(lambda key: models.build(**MODEL).init(key, jnp.zeros((1, 5))))
    return {"first": init(keys[0]), "last": init(keys[1])}


@pytest.fixture
def run(tmp_path):
    """Two networks a seed; "last" of seed 7 has the best certificate of the 0-1 error, "first" has none."""
    heat = certificates.heat_single([9.0, 5.0], [0.1, 0.1], loss="zero_one", **SETTINGS)
    other = certificates.heat_single([2.0, 1.0], [0.1, 0.2], loss="surrogate", **SETTINGS)
    held_out = [certificates.test_set(errors, **SETTINGS) for errors in (0, 1)]
    rows = [
        {**made.row(record=True), "seed": seed} for seed, made in zip((3, 7) * 3, heat + other + held_out, strict=True)
    ]
    with RunDirectory(tmp_path / "run", experiment="demo", config=Example()) as directory:
        keep_networks(
            directory, networks(), model=MODEL, inputs={"shape": (5,)}, seeds=(3, 7), rows=rows,
            about=lambda row, name: name == "last",
        )  # fmt: skip
        directory.write_results(rows, fields=FIELDS)
    return tmp_path / "run"


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_best_certified_network_is_loaded_unless_another_is_named(run):
    found = pbjax.load(run)
    assert (found.name, found.seed, found.inputs) == ("last", 7, {"shape": [5]})
    same(found.params, jax.tree.map(lambda leaf: leaf[1], networks()["last"]))
    assert found.certificate is not None and found.certificate.route == "heat_single"  # not the held-out bound
    assert found.certificate.inputs["heat"] == 5.0
    assert [(c.route, c.loss) for c in found.certificates] == [
        ("heat_single", "zero_one"), ("heat_single", "surrogate"), ("test_set", "zero_one")
    ]  # fmt: skip
    assert [row["seed"] for row in found.rows] == [7, 7, 7]
    assert found.apply(found.params, jnp.zeros((2, 5))).shape == (2, 3)
    assert pbjax.load(run, loss="surrogate", seed=3).certificate.inputs["heat"] == 2.0
    bare = pbjax.load(run, name="first", seed=3)
    assert bare.certificate is None and bare.certificates == []
    same(bare.params, jax.tree.map(lambda leaf: leaf[0], networks()["first"]))


def test_what_cannot_be_loaded_says_why(run):
    with pytest.raises(RunError, match="no network name = None, seed = 4; it has first 3, first 7, last 3, last 7"):
        pbjax.load(run, seed=4)
    file = run / "model.json"
    described = json.loads(file.read_text())
    for changed, word in (
        ({**described, "model": {"builder": "oracle"}}, "builder = 'oracle': choose one of mlp"),
        ({**described, "model": {"builder": "mlp", "depth": 3}}, "mlp does not take these arguments"),
        ({**described, "model": {**MODEL, "widths": [4, 4]}}, "does not fit this program"),
        ({"model": MODEL}, "cannot be read as the description of a model"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=word):
            pbjax.load(run)
    file.unlink()
    with pytest.raises(RunError, match=r"keeps a network without model\.json"):
        pbjax.load(run)
    (run / "network").rename(run / "moved")
    with pytest.raises(RunError, match="keeps no network"):
        pbjax.load(run)
