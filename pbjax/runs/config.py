"""Configs: frozen dataclasses and their hash."""

import dataclasses
import enum
import hashlib
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pbjax.runs.atomic import to_plain
from pbjax.runs.errors import RunError

Config = TypeVar("Config")


NOT_HASHED: Mapping[str, Any] = types.MappingProxyType({"hash": False})
"""Field metadata for what does not change the results: `dataclasses.field(default=None, metadata=NOT_HASHED)`."""

HASHED_IF_CHANGED: Mapping[str, Any] = types.MappingProxyType({"hash": "if changed"})
"""Field metadata for a field with a default that came after runs were recorded: at its default it leaves hashes as they
were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Fields that every experiment's config shares; none of them changes the results or the hash.

    Attributes:
      out: run directory.
      data_dir: folder of data sets.
      log_level: how much is said while it runs.
      checkpoint_seconds: shortest time between two checkpoints · seconds · >= 0.
      compilation_cache: folder where compiled programs are kept for the next process.
      profile: whether a trace of one chunk of every phase is written.
      mirror: where the lines of metrics.jsonl are shown, too.
    """

    out: Path | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Run directory; by default runs/<experiment>/<hash of the config>. The same command resumes an unfinished run."""
    data_dir: Path | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Folder of prepared data sets; by default the environment variable TFDS_DATA_DIR."""
    log_level: Literal["quiet", "info", "debug"] = dataclasses.field(default="info", metadata=NOT_HASHED)
    """quiet prints results and warnings only; info adds progress; debug adds what was restored and saved."""
    checkpoint_seconds: float = dataclasses.field(default=30.0, metadata=NOT_HASHED)
    """Shortest time between two checkpoints in seconds; 0 saves after every chunk."""
    compilation_cache: Path | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Folder where compiled programs are kept, so that the next run and a resumed one need not compile; the environment
    variable JAX_COMPILATION_CACHE_DIR does the same. One folder for each kind of machine."""
    profile: bool = dataclasses.field(default=False, metadata=NOT_HASHED)
    """Write a JAX trace of one chunk of every phase to <out>/profile/<phase>, for TensorBoard or Perfetto."""
    coordinator: str | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """HOST:PORT of process 0 of a run of several processes; that port and the next must be free. Not under srun."""
    num_processes: int | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Processes of the run. Each is started with the same command but for --process-id; srun says both."""
    process_id: int | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Which of them this one is, from 0."""
    mirror: tuple[Literal["tensorboard", "wandb"], ...] = dataclasses.field(default=(), metadata=NOT_HASHED)
    """Show the lines of metrics.jsonl there, too: tensorboard writes event files to <out>/tensorboard, wandb takes its
    project from WANDB_PROJECT. Each needs its extra, for example pip install 'pbjax[tensorboard]'."""


class Configs(dict[str, Any]):
    """The configs of one experiment by name, with the first line of each one's module docstring.

    Attributes:
      descriptions: name -> one line.
    """

    def __init__(self, configs: Mapping[str, Any], descriptions: Mapping[str, str] | None = None) -> None:
        super().__init__(configs)
        self.descriptions = dict(descriptions or {})


def load_configs(package: str | Path) -> Configs:
    """Imports every `configs/<experiment>/NAME.py` of a checkout and collects what they call `config`.

    Configs are not part of the wheel. The checkout (two levels above `package`) is put on `sys.path`, so config files
    may import from each other and from `experiments`.

    Args:
      package: the directory `configs/<experiment>`; any current directory will do when it comes from `__file__`.

    Returns:
      name -> frozen dataclass instance, sorted by name, with descriptions.

    Raises:
      ValueError: the directory holds no config, a file lacks `config`, or another package is called `configs`.
    """
    directory = Path(package).resolve()
    if not directory.is_dir():
        raise ValueError(f"{package} is not a directory of configs; run the experiment from a checkout")
    root = directory.parents[1]
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    configs, descriptions = {}, {}
    for path in sorted(directory.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        name = f"{directory.parent.name}.{directory.name}.{path.stem}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            module = None
        if module is None or Path(module.__file__ or "").resolve() != path:
            found = sys.modules.get(directory.parent.name)
            raise ValueError(
                f"{path} is not what Python imports as {name}: another package called {directory.parent.name} comes "
                f"first ({getattr(found, '__file__', None)}); remove it from PYTHONPATH or the environment"
            )
        if not hasattr(module, "config"):
            raise ValueError(f"{path} does not define `config`; give it a frozen dataclass of that name")
        configs[path.stem] = module.config
        descriptions[path.stem] = (inspect.getdoc(module) or "").partition("\n")[0]
    if not configs:
        raise ValueError(f"{directory} holds no configs; add NAME.py with a frozen dataclass called `config`")
    return Configs(configs, descriptions)


def _canonical(value: Any, hint: Any) -> Any:
    # 1 and 1.0 are the same float field, whether it was written in a file or parsed from a flag.
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if isinstance(value, int) and not isinstance(value, bool) and float in arguments and int not in arguments:
            return float(value)
        inner = [argument for argument in arguments if argument is not type(None)]
        return _canonical(value, inner[0]) if len(inner) == 1 and value is not None else _canonical(value, None)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return hashed_fields(value)
    if isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        elif len(arguments) != len(value):
            arguments = (arguments[0] if len(arguments) == 1 else None,) * len(value)
        return [_canonical(item, inner) for item, inner in zip(value, arguments, strict=True)]
    return value


def _counts(field: dataclasses.Field[Any], value: Any) -> bool:
    how = field.metadata.get("hash", True)
    return value != field.default if how == HASHED_IF_CHANGED["hash"] else bool(how)


def hashed_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that its results depend on, in plain form.

    Args:
      config: a dataclass instance.

    Returns:
      name -> plain value, without the fields whose metadata says `NOT_HASHED`, and without those of `HASHED_IF_CHANGED`
      that stand at their default.
    """
    hints = typing.get_type_hints(type(config))
    return {
        field.name: to_plain(_canonical(getattr(config, field.name), hints.get(field.name)))
        for field in dataclasses.fields(config)
        if _counts(field, getattr(config, field.name))
    }


def _restored(value: Any, hint: Any) -> Any:
    """The inverse of `_canonical` and `to_plain` for a field of this annotation."""
    arguments = typing.get_args(hint)
    if value is None:
        return None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return _restored(value, inner[0]) if len(inner) == 1 else value
    if isinstance(value, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        items = [_restored(v, arguments[i] if i < len(arguments) else None) for i, v in enumerate(value)]
        return items if typing.get_origin(hint) is list else tuple(items)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _restored(item, hints.get(name)) for name, item in value.items()})
    if isinstance(hint, type) and issubclass(hint, Path | enum.Enum):
        return hint(value)
    if hint in (bool, int, float, str) and not isinstance(value, float | int if hint is float else hint):
        raise TypeError(f"{value!r} is not of type {hint.__name__}")
    return value


def restore_config(configs: Iterable[Config], fields: Mapping[str, Any]) -> Config:
    """The config whose plain fields stand in config.json.

    Args:
      configs: configs of the experiment; the first one that has all of these fields says which dataclass it is. Fields
        that are not stored, because they change no result or are newer than the run, have their defaults.
      fields: name -> plain value, as `hashed_fields` made them.

    Returns:
      A config with these fields.

    Raises:
      RunError: none of the configs has all of them, or a value is not one that its field can have.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     seeds: tuple[int, ...] = (0,)
      ...     delta: float = 0.05
      >>> restore_config([Example()], {"seeds": [0, 1]})
      Example(seeds=(0, 1), delta=0.05)
    """
    kinds: list[Any] = list(dict.fromkeys(type(config) for config in configs))
    known = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    place = next((place for place, names in enumerate(known) if set(fields) <= names), None)
    if place is None:
        strange = min((sorted(set(fields) - names) for names in known), key=len)
        raise RunError(f"the run has {', '.join(strange)}, which no config has any more; check out the run's commit")
    hints = typing.get_type_hints(kinds[place])
    try:
        config = kinds[place](**{name: _restored(value, hints.get(name)) for name, value in fields.items()})
        validate(config)
        found = hashed_fields(config)
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"the run's config cannot be used here ({error}); check out the run's commit") from None
    wrong = [name for name, value in fields.items() if found.get(name) != value]
    if wrong:
        raise RunError(f"the run's {', '.join(wrong)} cannot be restored from config.json; check out the run's commit")
    return config


def config_hash(config: Any) -> str:
    """The name of a config: two runs with equal hashes compute the same numbers.

    hash = first 12 hexadecimal digits of SHA-256 of the canonical JSON of `hashed_fields(config)`

    Args:
      config: a dataclass instance. Fields with metadata `{"hash": False}` (`out`, `data_dir`, logging) are left out.

    Returns:
      12 hexadecimal digits.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     delta: float = 0.05
      >>> len(config_hash(Example())), config_hash(Example()) == config_hash(Example(0.01))
      (12, False)
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"a config is an instance of a dataclass, got {config!r}")
    canonical = json.dumps(hashed_fields(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def validate(config: Any) -> None:
    """Calls `config.validate()` where there is one.

    Args:
      config: a dataclass instance; its `validate` raises ValueError with the value and the remedy.

    Raises:
      ValueError: the config is not usable.
    """
    check = getattr(config, "validate", None)
    if callable(check):
        check()
