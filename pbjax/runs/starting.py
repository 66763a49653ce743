"""From a command line to a run: a new one, one that goes on, or a stored one again (`--verify`)."""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pbjax.runs.command_line import parse, parse_options, take_option, use_compilation_cache
from pbjax.runs.config import Config, hashed_fields, restore_config
from pbjax.runs.errors import fail
from pbjax.runs.mesh import use_cores
from pbjax.runs.sweep import read_results


def start(
    experiment: str,
    configs: Mapping[str, Config],
    run: Callable[[Any, Path], None],
    argv: Sequence[str] | None = None,
    *,
    default: str,
) -> None:
    """Runs what a command line asks for: `parse`, then the experiment; or, with `--verify RUN`, a stored run again.

    `--verify RUN` takes the config of a finished run from RUN/config.json, runs it in a temporary folder (or in
    `--out`), and prints what differs in config, provenance and rows, as `pbjax runs compare` does. Flags that change no
    result, such as `--data-dir` and `--log-level`, may stand beside it. RUN itself is only read.

    Args:
      experiment: its name, as in `experiments/<name>.py`.
      configs: name -> frozen dataclass instance; `load_configs` makes it.
      run: run(config, directory), the whole experiment.
      argv: arguments without the program's name; None for those of the process.
      default: name of the config used without `--config`.

    Raises:
      SystemExit: status 0 after `--help`; after `--verify` status 0 when the rows are equal bit for bit in all columns
        but timings, 1 when not; status 2 after one line that names what is wrong.
      RunError: RUN is no finished run of this experiment, or has fields that its configs no longer have.

    Example:
      >>> import dataclasses
      >>> from pbjax.runs import RunOptions
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Example(RunOptions):
      ...     delta: float = 0.05
      >>> start("demo", {"few": Example()}, lambda config, out: print(config.delta), ["--delta", "0.1"], default="few")
      0.1
    """
    words = sys.argv[1:] if argv is None else list(argv)
    stored, rest = take_option("--verify", "the directory of a finished run", words)
    if stored is None or {"-h", "--help"} & set(words):
        config, out = parse(experiment, configs, rest, default=default)
        run(config, out)
        return
    raise SystemExit(_again(experiment, configs, run, Path(stored), rest))


def _again(
    experiment: str, configs: Mapping[str, Any], run: Callable[[Any, Path], None], path: Path, rest: Sequence[str]
) -> int:
    """The stored config once more; the exit status of the comparison."""
    from pbjax.runs.commands import CompareRuns, compare_runs  # it imports this room

    record = read_results(path)
    if record["experiment"] != experiment:
        fail(f"--verify {path} is a run of {record['experiment']}, not of {experiment}; use that experiment's script")
    if take_option("--config", "a name", rest)[0] is not None:
        fail("--verify takes the config from the run that it verifies; leave out --config")
    stored = restore_config(configs.values(), record["config"])
    config = parse_options(
        type(stored), rest, prog=f"{experiment}.py --verify {path}", default=stored, description=""
    )  # fmt: skip
    before, after = hashed_fields(stored), hashed_fields(config)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        fail(f"--verify runs the stored config; leave out the flags of {', '.join(changed)}")
    if config.out is not None and config.out.resolve() == path.resolve():
        fail(f"--out {config.out} is the run that is verified; leave it out, or give another folder")
    use_compilation_cache(getattr(config, "compilation_cache", None))
    use_cores()
    with tempfile.TemporaryDirectory(prefix="pbjax-verify-") as folder:
        out = Path(folder) / path.resolve().name if config.out is None else config.out
        run(dataclasses.replace(config, out=out), out)
        return compare_runs(CompareRuns(path, out))
