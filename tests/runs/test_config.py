"""The command line: which flags there are, what a bad one says, and what the hash depends on."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pbjax.runs import NOT_HASHED, RunOptions, command_line_errors, config_hash, load_configs, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(RunOptions):
    """An experiment on the gap."""

    delta: float = 0.05
    """Failure probability of the certificates."""
    n: int = 10
    seeds: tuple[int, ...] = (0,)
    rungs: tuple[float, ...] = (0.0, 1.0)
    centre: float | None = None
    activation: str = "tanh"
    secret: int = dataclasses.field(default=0, metadata=NOT_HASHED)

    def validate(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"delta = {self.delta}:\n must lie in (0, 1)")


CONFIGS = {"digits": Example(), "smoke": Example(n=3)}


def read(*argv):
    return parse("demo", CONFIGS, list(argv), default="digits")


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        read(*argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


def test_fields_are_flags_and_replace_the_chosen_config():
    config, out = read("--config", "smoke", "--seeds", "0", "1", "2", "--data_dir", "somewhere", "--delta", "0.1")
    assert config == Example(n=3, seeds=(0, 1, 2), data_dir=Path("somewhere"), delta=0.1)
    assert out == Path("runs") / "demo" / config_hash(config)
    assert read("--config=smoke")[0].n == 3
    assert read()[0] == Example()
    assert read("--data-dir", "x", "--out", "here")[1] == Path("here")


def test_hash_leaves_out_what_does_not_change_results():
    base = config_hash(Example())
    for same in ({"out": Path("a")}, {"data_dir": Path("b")}, {"log_level": "quiet"}, {"secret": 3}):
        assert config_hash(dataclasses.replace(Example(), **same)) == base
    others = [{"delta": 0.1}, {"n": 11}, {"seeds": (1,)}, {"centre": 0.0}, {"activation": "relu"}]
    assert len({base, *(config_hash(dataclasses.replace(Example(), **change)) for change in others)}) == 6


def test_hash_does_not_tell_integers_from_floats_in_float_fields():
    written = dataclasses.replace(Example(), rungs=(0, 1), centre=1)
    parsed, _ = read("--rungs", "0", "1", "--centre", "1")
    assert isinstance(parsed.centre, float)
    assert config_hash(written) == config_hash(parsed)


def test_hash_is_the_same_in_every_process():
    # Names of earlier runs must stay valid, so the value itself is fixed here.
    @dataclasses.dataclass(frozen=True)
    class Fixed:
        delta: float = 0.05
        seeds: tuple[int, ...] = (0,)

    assert config_hash(Fixed()) == "421baf2d2658"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--config", "nope"], "--config nope: unknown config; choose one of digits, smoke"),
        (["--config"], "--config needs the name"),
        (["--detla", "0.1"], "--delta"),
        (["--unknown", "3"], "--unknown"),
        (["stray"], "stray"),
        (["--delta", "abc"], "abc"),
        (["--delta"], "--delta"),
        (["--seeds", "1", "x"], "x"),
        (["--log-level", "loud"], "loud"),
        (["--delta", "1.5"], "delta = 1.5: must lie in (0, 1)"),
    ],
)
def test_bad_flag_is_one_line_that_names_it(capsys, argv, named):
    assert named in refused(capsys, *argv)


def test_help_lists_configs_and_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--config", "smoke", "--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for text in ("digits", "smoke", "An experiment on the gap.", "--delta", "Failure probability", "--data-dir"):
        assert text in said


def test_configs_of_a_checkout_are_found_from_any_directory(tmp_path):
    folder = tmp_path / "checkout" / "configs" / "demo"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text(
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Config:\n    n: int = 1\n"
    )
    for name, n in (("big", 100), ("small", 2)):
        text = f'"""The {name} one.\n\nMore."""\nfrom configs.demo import Config\nconfig = Config(n={n})\n'
        (folder / f"{name}.py").write_text(text)
    script = tmp_path / "checkout" / "experiments" / "demo.py"
    script.parent.mkdir()
    script.write_text(
        textwrap.dedent("""
        from pathlib import Path
        from pbjax.runs import load_configs, parse
        configs = load_configs(Path(__file__).parents[1] / "configs" / "demo")
        config, out = parse("demo", configs, default="small")
        print(list(configs), config.n)
        """)
    )
    root = Path(__file__).parents[2]
    keywords = {"cwd": "/", "env": {"PYTHONPATH": str(root), "PATH": ""}, "capture_output": True, "text": True}
    run = subprocess.run([sys.executable, script, "--config", "big", "--help"], **keywords)
    assert run.returncode == 0, run.stderr
    assert "The big one." in run.stdout
    assert "More." not in run.stdout


def test_another_package_of_that_name_is_reported(tmp_path):
    (tmp_path / "json" / "demo").mkdir(parents=True)
    (tmp_path / "json" / "demo" / "small.py").write_text("config = 1\n")
    with pytest.raises(ValueError, match="another package called json comes first"):
        load_configs(tmp_path / "json" / "demo")


def test_a_folder_without_configs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a directory of configs"):
        load_configs(tmp_path / "none")
    (tmp_path / "configs" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no configs"):
        load_configs(tmp_path / "configs" / "empty")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("n = 0:\n must be positive"), "error: n = 0: must be positive"),
        (OSError(28, "No space left on device", "results.json"), "the disk is full while writing results.json"),
        (PermissionError(13, "Permission denied", "/readonly"), "cannot use /readonly: permission denied"),
    ],
)
def test_errors_become_one_line_and_status_2(capsys, error, text):
    with pytest.raises(SystemExit) as stop, command_line_errors():
        raise error
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert text in said
    assert said.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(TypeError), command_line_errors():
        raise TypeError("not the user's fault")
