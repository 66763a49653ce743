"""Configs: frozen dataclasses, their hash, and the command line that tyro makes of them."""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import io
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from pbjax.runs.atomic import to_plain
from pbjax.runs.errors import fail, one_line

Config = TypeVar("Config")


NOT_HASHED: Mapping[str, Any] = types.MappingProxyType({"hash": False})
"""Field metadata for what does not change the results: `dataclasses.field(default=None, metadata=NOT_HASHED)`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Fields that every experiment's config shares; none of them changes the results or the hash.

    Attributes:
      out: run directory.
      data_dir: folder of data sets.
      log_level: how much is said while it runs.
      checkpoint_seconds: shortest time between two checkpoints · seconds · >= 0.
    """

    out: Path | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Run directory; by default runs/<experiment>/<hash of the config>. The same command resumes an unfinished run."""
    data_dir: Path | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Folder of prepared data sets; by default the environment variable TFDS_DATA_DIR."""
    log_level: Literal["quiet", "info", "debug"] = dataclasses.field(default="info", metadata=NOT_HASHED)
    """quiet prints results and warnings only; info adds progress; debug adds what was restored and saved."""
    checkpoint_seconds: float = dataclasses.field(default=30.0, metadata=NOT_HASHED)
    """Shortest time between two checkpoints in seconds; 0 saves after every chunk."""


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


def hashed_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that its results depend on, in plain form.

    Args:
      config: a dataclass instance.

    Returns:
      name -> plain value, without the fields whose metadata says `{"hash": False}`.
    """
    hints = typing.get_type_hints(type(config))
    return {
        field.name: to_plain(_canonical(getattr(config, field.name), hints.get(field.name)))
        for field in dataclasses.fields(config)
        if field.metadata.get("hash", True)
    }


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


def _take_config_name(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    name, rest, position = None, [], 0
    while position < len(argv):
        argument = argv[position]
        if argument == "--config":
            if position + 1 == len(argv) or argv[position + 1].startswith("-"):
                fail("--config needs the name of a config; --help lists them")
            name, position = argv[position + 1], position + 1
        elif argument.startswith("--config="):
            name = argument.removeprefix("--config=")
        else:
            rest.append(argument)
        position += 1
    return name, rest


def _describe(name: str, config: Any, configs: Mapping[str, Any]) -> str:
    own = getattr(config, "description", None) or getattr(configs, "descriptions", {}).get(name)
    return str(own or inspect.getdoc(type(config)) or "").partition("\n")[0]


def _one_line_of_box(text: str) -> str:
    # tyro draws its errors as a box: title, message, rule, hints, rule, "for full helptext". The message is wanted,
    # and the names of the options that it proposes.
    lines = [line.strip().strip("╭╮╰╯│").strip() for line in text.splitlines()]
    body = [line for line in lines[1:] if line]
    sections: list[list[str]] = [[]]
    for line in body:
        if set(line) <= set("─"):
            sections.append([])
        else:
            sections[-1].append(line)
    message = " ".join(sections[0]) or " ".join(" ".join(lines).split())
    proposals = [
        line.split()[0].rstrip(",")
        for section in sections[1:]
        if section and section[0].startswith("Perhaps you meant")
        for line in section[1:]
        if line.startswith("--")
    ]
    if proposals:
        message += f" (perhaps you meant {' or '.join(proposals)})"
    return f"{message}; --help lists every option"


def parse(
    experiment: str,
    configs: Mapping[str, Config],
    argv: Sequence[str] | None = None,
    *,
    default: str,
) -> tuple[Config, Path]:
    """Reads a command line: `--config NAME` picks a config, every other flag replaces one of its fields.

    Args:
      experiment: its name, as in `experiments/<name>.py`.
      configs: name -> frozen dataclass instance; `load_configs` makes it. Its `description` field or attribute, or
        the first line of the config's module docstring, is shown by `--help`.
      argv: arguments without the program's name; None for those of the process.
      default: name of the config used without `--config`.

    Returns:
      The config, validated, and the run directory: its `out`, or runs/<experiment>/<hash>.

    Raises:
      SystemExit: status 0 after `--help`; status 2 after one line that names what is wrong.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example(RunOptions):
      ...     delta: float = 0.05
      ...     seeds: tuple[int, ...] = (0,)
      >>> config, out = parse("demo", {"small": Example()}, ["--seeds", "1", "2"], default="small")
      >>> config.seeds, out.parts[:2], out.name == config_hash(config)
      ((1, 2), ('runs', 'demo'), True)
    """
    name, rest = _take_config_name(sys.argv[1:] if argv is None else list(argv))
    name = default if name is None else name
    if name not in configs:
        fail(f"--config {name}: unknown config; choose one of {', '.join(configs)}")
    chosen = configs[name]
    if {"-h", "--help"} & set(rest):
        width = max(map(len, configs))
        print(f"{experiment}: configs for --config (default {default})\n")
        for other, config in configs.items():
            print(f"  {other:<{width}}  {_describe(other, config, configs)}".rstrip())
        print(f"\nEvery field of {name} is an option:\n", flush=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = tyro.cli(
                type(chosen), default=chosen, args=rest, prog=f"{experiment}.py [--config NAME]", description=""
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        fail(_one_line_of_box(said.getvalue()))
    try:
        validate(config)
    except ValueError as error:
        fail(one_line(error))
    out = getattr(config, "out", None)
    return config, Path(out) if out is not None else Path("runs") / experiment / config_hash(config)
