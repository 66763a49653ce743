"""The networks that a run keeps: parameters, a plain description of the model, and which rows certify which network.

RUN/network/   parameters (orbax), several networks on a leading axis
RUN/model.json how to build the model, what its inputs are, and the rows of every network
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax.certificates import Certificate, from_record
from pbjax.runs.atomic import json_bytes, write_file
from pbjax.runs.checkpoint import CheckpointStore
from pbjax.runs.directory import RunDirectory
from pbjax.runs.errors import RunError
from pbjax.runs.results import RECORDS, join_records
from pbjax.runs.sweep import read_results

FOLDER, DESCRIPTION = "network", "model.json"


class Network(NamedTuple):
    """A network that a run kept, with what is certified of it.

    Attributes:
      apply: `apply(params, inputs [n, ...]) -> logits [n, k]`.
      params: its parameters.
      certificate: the least of its certificates for the loss asked for; None where it has none.
      certificates: all of its certificates.
      name: which of the run's networks, such as "best" or "end".
      seed: of the run.
      rows: the rows of results.json that are about it.
      inputs: what `apply` takes: "shape" of one example, and "data", the arguments of `pbjax.data.load` that make such
        inputs, options of pixels and normalisation among them.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any
    certificate: Certificate | None
    certificates: list[Certificate]
    name: str
    seed: int
    rows: list[dict[str, Any]]
    inputs: dict[str, Any]


def keep_networks(
    directory: RunDirectory,
    networks: Mapping[str, Any],
    *,
    model: Mapping[str, Any],
    inputs: Mapping[str, Any],
    seeds: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    about: Callable[[Mapping[str, Any], str], bool],
) -> None:
    """Keeps the networks of a run so that `load` finds them without the experiment's code.

    Args:
      directory: of the run.
      networks: name -> parameters with a leading axis [S].
      model: arguments of `pbjax.models.build`.
      inputs: see `Network`.
      seeds: of the S networks of each name.
      rows: those of the results, in their order.
      about: about(row, name) says whether a row certifies the network of that name and of the row's seed.

    Raises:
      OSError: the files cannot be written.

    Example:
      >>> import dataclasses, tempfile
      >>> from pbjax import certificates, models
      >>> from pbjax.runs import Field
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     delta: float = 0.05
      >>> described = {"builder": "mlp", "widths": [2]}
      >>> params = models.build(**described).init(jax.random.key(0), jnp.zeros((1, 3)))
      >>> rows = [{**certificates.test_set(3, n=100, delta=0.05).row(record=True), "seed": 0}]
      >>> folder = tempfile.mkdtemp() + "/run"
      >>> with RunDirectory(folder, experiment="demo", config=Example()) as run:
      ...     keep_networks(
      ...         run, {"end": jax.tree.map(lambda x: x[None], params)}, model=described, inputs={"shape": [3]},
      ...         seeds=[0], rows=rows, about=lambda row, name: True)
      ...     run.write_results(rows, fields={"certificate": Field("number")})
      >>> found = load(folder)
      >>> found.apply(found.params, jnp.ones((5, 3))).shape, round(found.certificate.value, 4)
      ((5, 2), 0.0757)
    """
    places = {
        name: [
            {"seed": int(seed), "rows": [i for i, r in enumerate(rows) if r.get("seed") == seed and about(r, name)]}
            for seed in seeds
        ]
        for name in networks
    }
    CheckpointStore(directory.home / FOLDER, directory.config_hash, keep=1).save(0, dict(networks))
    description = {"model": dict(model), "inputs": dict(inputs), "networks": places}
    write_file(directory.path / DESCRIPTION, json_bytes(description))


def _describe(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of results.json, and model.json."""
    record, file = read_results(run), run / DESCRIPTION
    if not file.is_file():
        reason = "keeps no network" if not (run / FOLDER).is_dir() else f"keeps a network without {DESCRIPTION}"
        raise RunError(f"{run} {reason}; run its config again with an experiment that keeps networks, say certify")
    try:
        described = json.loads(file.read_bytes())
        if not {"model", "inputs", "networks"} <= set(described):
            raise KeyError("model, inputs or networks")
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} cannot be read as the description of a model ({type(error).__name__})") from None
    return record, described


def _stacked(shapes: Any, size: int) -> Any:
    return jax.tree.map(lambda leaf: np.zeros((size, *leaf.shape), leaf.dtype), shapes)


def load(run: str | Path, *, name: str | None = None, seed: int | None = None, loss: str = "zero_one") -> Network:
    """A network that a finished run kept, ready to be applied, with its certificate.

    Without `name` and `seed`: the network with the least certificate for `loss`. Choosing it is paid for where the
    certificates of all networks hold together, as those by `heat_single` do. Held-out bounds (`test_set`) decide, and
    stand as `certificate`, only where a network has no other; they are among `certificates`.

    Args:
      run: run directory.
      name: which of its networks, such as "best" or "end"; None for any.
      seed: of the network; None for any.
      loss: the certified loss by which the network and its `certificate` are chosen.

    Returns:
      The network.

    Raises:
      RunError: the run is not finished, keeps no network, or has none of this name and seed.

    Example:
      >>> load("runs/nowhere")
      Traceback (most recent call last):
      ...
      pbjax.runs.errors.RunError: runs/nowhere holds no run; give the directory of a finished one (with results.json)
    """
    from pbjax import models  # flax is loaded when a model is built, not before

    path = Path(run)
    record, described = _describe(path)
    records = join_records(record[RECORDS]) if RECORDS in record else [None] * len(record["rows"])
    found = []
    for own, entries in described["networks"].items():
        for place, entry in enumerate(entries):
            if (name is not None and own != name) or (seed is not None and entry["seed"] != seed):
                continue
            made = [from_record(kept) for kept in (records[row] for row in entry["rows"]) if kept is not None]
            candidates = [certificate for certificate in made if certificate.loss == loss]
            best = min(candidates, key=lambda c: (c.route == "test_set", c.value), default=None)
            order = (best is None or best.route == "test_set", math.inf if best is None else best.value)
            found.append((order, own, place, entry, best, made))
    if not found:
        there = ", ".join(f"{own} {e['seed']}" for own, entries in described["networks"].items() for e in entries)
        raise RunError(f"{path} keeps no network name = {name}, seed = {seed}; it has {there}")
    _, own, place, entry, best, made = min(found, key=lambda entry: entry[0])
    model = models.build(**described["model"])
    example = jax.ShapeDtypeStruct((1, *described["inputs"]["shape"]), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), example)
    template = {other: _stacked(shapes, len(entries)) for other, entries in described["networks"].items()}
    kept = CheckpointStore(path / FOLDER, record["config_hash"]).latest(template)
    if kept is None:
        raise RunError(f"{path / FOLDER} is empty; run its config again")
    return Network(
        apply=lambda params, inputs: model.apply(params, jnp.asarray(inputs)),
        params=jax.tree.map(lambda leaf: jnp.asarray(leaf[place]), kept.tree[own]),
        certificate=best,
        certificates=made,
        name=own,
        seed=int(entry["seed"]),
        rows=[record["rows"][row] for row in entry["rows"]],
        inputs=dict(described["inputs"]),
    )
