"""What metrics.jsonl says, shown in TensorBoard or Weights & Biases while the run works."""

import importlib
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pbjax.runs.errors import RunError

Kind = Literal["tensorboard", "wandb"]
_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
_MOST = 64  # entries of a list that get a curve of their own; of longer ones the mean is shown


@runtime_checkable
class Mirror(Protocol):
    """Something that shows the lines of a log."""

    def begin(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Shows a log from its first line on, and forgets what was shown before."""

    def append(self, line: Mapping[str, Any]) -> None:
        """Shows one more line."""

    def close(self) -> None:
        """Nothing more will come."""


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, as curves of them are called.

    Args:
        line: names -> values. Text, null and the counters `chunk` and `step` make no curve.

    Returns:
        "<phase>/<name>" -> number; entry i of a list of at most 64 is "<phase>/<name>/<i>", a longer one is its mean.

    Example:
        >>> scalars({"phase": "sample", "chunk": 3, "loss": 0.5, "acceptance": [0.8, None], "flag": None})
        {'sample/loss': 0.5, 'sample/acceptance/0': 0.8}
    """
    prefix = f"{line['phase']}/" if "phase" in line else ""
    found: dict[str, float] = {}
    for name, value in line.items():
        if name in ("phase", "chunk", "step"):
            continue
        if isinstance(value, Sequence) and not isinstance(value, str):
            entries = {f"{name}/{i}": entry for i, entry in enumerate(value)}
            if len(entries) > _MOST:
                known = [entry for entry in value if isinstance(entry, numbers.Real)]
                entries = {name: sum(known) / len(known) if known else None}
        else:
            entries = {name: value}
        for key, entry in entries.items():
            if isinstance(entry, numbers.Real) and not isinstance(entry, bool):
                found[f"{prefix}{key}"] = float(entry)
    return found


class _TensorBoard:
    """Event files in a folder. They are made anew from the log when a run resumes, so they never disagree with it."""

    def __init__(self, module: Any, folder: Path) -> None:
        self._module, self._folder = module, folder
        self._writer: Any = None
        self._count = 0

    def begin(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.close()
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer, self._count = self._module.SummaryWriter(str(self._folder)), 0
        for line in lines:
            self.append(line)

    def append(self, line: Mapping[str, Any]) -> None:
        self._count += 1
        step = next((int(line[name]) for name in ("step", "chunk") if name in line), self._count)
        for name, value in scalars(line).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Wandb:
    """A run named after its config; a resumed one goes on under the same name, line by line of the log."""

    def __init__(self, module: Any, folder: Path, *, experiment: str, name: str, fields: Mapping[str, Any]) -> None:
        self._module, self._run, self._count = module, None, 0
        self._about = {
            "id": f"{experiment}-{name}", "name": f"{experiment} {name}", "group": experiment, "config": dict(fields),
            "dir": str(folder), "resume": "allow",
        }  # fmt: skip

    def begin(self, lines: Iterable[Mapping[str, Any]]) -> None:
        if self._run is None:
            self._run = self._module.init(**self._about)
        # Steps that it knows already are dropped there: a line computed again says the same.
        self._count = 0
        for line in lines:
            self.append(line)

    def append(self, line: Mapping[str, Any]) -> None:
        self._count += 1
        if self._run is not None:
            self._run.log(scalars(line), step=self._count)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def check_mirrors(kinds: Iterable[Kind]) -> None:
    """Refuses mirrors whose package is not installed.

    Args:
        kinds: of `Kind`.

    Raises:
        RunError: with what to install.

    Example:
        >>> check_mirrors(())
    """
    for kind in kinds:
        _load(kind)


def _load(kind: Kind) -> Any:
    try:
        return importlib.import_module(_MODULES[kind])
    except ImportError:
        raise RunError(
            f"--mirror {kind} needs the package {_MODULES[kind]}: pip install 'pbjax[{kind}]', or leave {kind} out"
        ) from None


def open_mirror(kind: Kind, folder: Path, *, experiment: str, name: str, fields: Mapping[str, Any]) -> Mirror:
    """A mirror of the log of one run; `begin` starts it.

    Args:
        kind: "tensorboard" (event files in folder/tensorboard) or "wandb" (project from WANDB_PROJECT).
        folder: the run directory.
        experiment: name of the experiment.
        name: hash of the config.
        fields: of the config.

    Returns:
        A `Mirror`.

    Raises:
        RunError: its package is not installed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> mirror = open_mirror("tensorboard", folder, experiment="demo", name="0123456789ab", fields={})
        >>> mirror.begin([{"phase": "pilot", "chunk": 0, "loss": 0.5}])
        >>> mirror.close()
        >>> len(list((folder / "tensorboard").iterdir()))
        1
    """
    module = _load(kind)
    if kind == "tensorboard":
        return _TensorBoard(module, folder / "tensorboard")
    return _Wandb(module, folder, experiment=experiment, name=name, fields=fields)
