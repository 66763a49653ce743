"""The command line of an experiment: tyro on a frozen dataclass, and one line for what it cannot read."""

import contextlib
import inspect
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from pbjax.runs import hosts
from pbjax.runs.config import Config, config_hash, validate
from pbjax.runs.errors import fail, one_line
from pbjax.runs.mesh import use_cores


def take_option(flag: str, value: str, argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes an option that is no field of a config off a command line.

    Args:
      flag: its name, with dashes.
      value: what follows it, for the message.
      argv: arguments.

    Returns:
      (its value, None without it, the last one if it stands there twice; the other arguments).

    Raises:
      SystemExit: status 2 after one line, when nothing follows it.

    Example:
      >>> take_option("--config", "a name", ["--delta", "0.1", "--config", "smoke"])
      ('smoke', ['--delta', '0.1'])
    """
    found, rest, position = None, [], 0
    while position < len(argv):
        argument = argv[position]
        if argument == flag:
            if position + 1 == len(argv) or argv[position + 1].startswith("-"):
                fail(f"{flag} needs {value}; --help lists every option")
            found, position = argv[position + 1], position + 1
        elif argument.startswith(f"{flag}="):
            found = argument.removeprefix(f"{flag}=")
        else:
            rest.append(argument)
        position += 1
    return found, rest


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


def use_compilation_cache(folder: Path | None) -> None:
    """Keeps compiled programs for the next process.

    Args:
      folder: made when missing; None changes nothing.

    Example:
      >>> use_compilation_cache(None)
    """
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def parse_options(
    kind: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    default: Config | None = None,
    description: str | None = None,
) -> Config:
    """Reads a command line into a dataclass, with one line and status 2 for what it cannot read.

    Args:
      kind: the dataclass; each field is an option.
      argv: arguments without the program's name; None for those of the process.
      prog: the program, for `--help`.
      default: an instance whose values stand where no option is given; None for the defaults of the fields.
      description: shown by `--help`; None for the docstring of `kind`.

    Returns:
      An instance.

    Raises:
      SystemExit: status 0 after `--help`; status 2 after one line that names what is wrong.

    Example:
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example:
      ...     delta: float = 0.05
      >>> parse_options(Example, ["--delta", "0.1"], prog="demo")
      Example(delta=0.1)
    """
    said = io.StringIO()
    arguments = sys.argv[1:] if argv is None else list(argv)
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=prog, description=description, **given)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        fail(_one_line_of_box(said.getvalue()))


def parse(
    experiment: str,
    configs: Mapping[str, Config],
    argv: Sequence[str] | None = None,
    *,
    default: str,
    join: bool = True,
) -> tuple[Config, Path]:
    """Reads a command line: `--config NAME` picks a config, every other flag replaces one of its fields.

    A process makes devices of its cores (`use_cores`) and one of several joins the others (`hosts.start`) here, because
    JAX must not have been used before.

    Args:
      experiment: its name, as in `experiments/<name>.py`.
      configs: name -> frozen dataclass instance; `load_configs` makes it. Its `description` field or attribute, or
        the first line of the config's module docstring, is shown by `--help`.
      argv: arguments without the program's name; None for those of the process.
      default: name of the config used without `--config`.
      join: join the other processes of the run, if there are any.

    Returns:
      The config, validated, and the run directory: its `out`, or runs/<experiment>/<hash>.

    Raises:
      SystemExit: status 0 after `--help`; status 2 after one line that names what is wrong.

    Example:
      >>> import dataclasses
      >>> from pbjax.runs import RunOptions
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example(RunOptions):
      ...     delta: float = 0.05
      ...     seeds: tuple[int, ...] = (0,)
      >>> config, out = parse("demo", {"small": Example()}, ["--seeds", "1", "2"], default="small")
      >>> config.seeds, out.parts[:2], out.name == config_hash(config)
      ((1, 2), ('runs', 'demo'), True)
    """
    words = sys.argv[1:] if argv is None else list(argv)
    name, rest = take_option("--config", "the name of a config", words)
    name = default if name is None else name
    if name not in configs:
        fail(f"--config {name}: unknown config; choose one of {', '.join(configs)}")
    chosen = configs[name]
    if {"-h", "--help"} & set(rest):
        width = max(map(len, configs))
        print(f"{experiment}: configs for --config (default {default})\n")
        for other, config in configs.items():
            print(f"  {other:<{width}}  {_describe(other, config, configs)}".rstrip())
        print("\n--verify RUN runs the config of a finished run again, in a temporary folder, and compares the rows.")
        print(f"\nEvery field of {name} is an option:\n", flush=True)
    config = parse_options(type(chosen), rest, prog=f"{experiment}.py [--config NAME]", default=chosen, description="")
    try:
        validate(config)
    except ValueError as error:
        fail(one_line(error))
    use_compilation_cache(getattr(config, "compilation_cache", None))
    use_cores()
    if join:
        try:
            config = hosts.start(config, identity=f"{experiment} {config_hash(config)}")
        except (ValueError, OSError) as error:
            fail(one_line(error))
    out = getattr(config, "out", None)
    return config, Path(out) if out is not None else Path("runs") / experiment / config_hash(config)
