"""The package as a stranger meets it: the wheel, what an import costs, who may import whom, what is documented."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import pbjax

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "pbjax"

# Which rooms a room may import: arrows go downwards only (docs/extending.md). `_checks` is open to all.
ROOM_MAY_IMPORT = {
    "bounds": set(),
    "calibration": set(),
    "certificates": {"bounds", "evidence"},
    "certify": {"certificates", "losses", "posteriors", "precision", "replicas", "sampling"},
    "data": set(),
    "evidence": set(),
    "formal": {"losses", "models", "optim"},
    "losses": set(),
    "models": set(),
    "optim": {"posteriors"},
    "posteriors": {"losses", "bounds"},
    "precision": set(),
    "replicas": {"_inlining"},  # the compiler's business, and of this room alone
    # `pbjax verify` recomputes certificates, `pbjax.load` builds models.
    "runs": {"certificates", "models", "replicas"},
    "sharpness": set(),
    "sampling": {"posteriors", "evidence", "precision", "replicas"},  # its diagnostics end in evidence.SampleStatistics
}

# A package that only some places may import: the rest of pbjax works, and starts fast, without it.
ONLY_IMPORTED_IN = {
    "blackjax": ("sampling",),
    "flax": ("models",),
    "matplotlib": ("runs",),
    "orbax": ("runs/checkpoint.py",),
    "pyarrow": ("runs",),
    "rich": ("runs",),
    "sklearn": ("data",),
    "submitit": ("runs/launching.py",),
    "tensorflow_datasets": ("data",),
    "tyro": ("runs",),
}

# Public functions without an example of their own, each with the reason.
NEEDS_NO_EXAMPLE: dict[str, str] = {
    "certify.advance": "docs/certify.md runs it",
    "certify.pilot_schedule": "a part of the example of by_annealing",
    "runs.load_configs": "it reads the folder of a checkout; the experiments call it",
    "sampling.adapt_chunk": "a part of the example of sample_chunk",
    "sampling.freeze": "a part of the example of sample_chunk",
    "sampling.second_pass": "a part of the example of pilot",
}

# Distributions whose import name is another.
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}

# Imported on request only, with a line that names the extra where it is missing.
OPTIONAL = {"submitit": "slurm"}

LEAN_ROOMS = ("losses", "bounds", "evidence", "certificates")


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    """Absolute dotted names that a module imports anywhere, relative imports resolved."""
    package = path.relative_to(CHECKOUT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names.add(stem)
            names.update(f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            names.update(str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))
    return names


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [CHECKOUT / name for name in listing.stdout.decode().split("\0") if name and (CHECKOUT / name).is_file()]


def run_python(*arguments: str, cwd: Path, python: Path | str = sys.executable) -> str:
    """Run an isolated interpreter (no PYTHONPATH, no current folder on its path); its output, or a failed test."""
    done = subprocess.run([str(python), "-I", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package_its_types_and_its_licence(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata_name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(metadata_name).decode()
    assert "pbjax/py.typed" in names
    assert {path.relative_to(CHECKOUT).as_posix() for path in module_files()} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"pbjax", metadata_name.split("/")[0]}
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_wheel_imports_outside_the_checkout(wheel: Path, tmp_path: Path):
    """Unpacked alone in a fresh environment that sees this one's dependencies but not its editable pbjax."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A folder added by a .pth file is searched, but the .pth files inside it (the editable install) are not read.
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(folders) + "\n")
    code = "import pbjax; print(pbjax.__version__, pbjax.__file__, float(pbjax.bounds.kl_inverse(0.0, 0.01)))"
    version, file, value = run_python("-c", code, cwd=tmp_path, python=home / "bin" / "python").split()
    assert Path(file).is_relative_to(home)
    assert version == tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert float(value) == pytest.approx(0.00995017, rel=1e-4)  # 1 - exp(-0.01)


@pytest.mark.slow
def test_wheel_installs_with_its_own_dependencies(wheel: Path, tmp_path: Path):
    """A truly bare environment: pip fetches every declared dependency and nothing else, then each room imports."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    pins = CHECKOUT / "constraints.txt"
    run_python("-m", "pip", "install", "--quiet", "--constraint", str(pins), str(wheel), cwd=tmp_path, python=python)
    code = "import pbjax; [getattr(pbjax, name) for name in pbjax.__all__]; print(pbjax.__file__)"
    assert Path(run_python("-c", code, cwd=tmp_path, python=python).strip()).is_relative_to(home)


def modules_after(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter after `code`."""
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {code}; print(*sys.modules)"
    return {name.split(".")[0] for name in run_python("-c", code, cwd=CHECKOUT).split()}


def test_importing_pbjax_loads_nothing_heavy():
    assert not modules_after("import pbjax") & {"jax", "numpy", *ONLY_IMPORTED_IN}


def test_bounds_and_certificates_need_jax_only():
    loaded = modules_after("import pbjax; " + "; ".join(f"pbjax.{room}" for room in LEAN_ROOMS))
    assert "jax" in loaded
    assert not loaded & set(ONLY_IMPORTED_IN)


def test_every_room_is_reachable_and_listed():
    for room in ROOM_MAY_IMPORT:
        assert inspect.ismodule(getattr(pbjax, room))
        assert room in dir(pbjax)
        assert room in pbjax.__all__
    assert {room_of(path) for path in module_files()} - {"__init__", "_checks", "_inlining"} == set(ROOM_MAY_IMPORT)


def test_an_unknown_room_is_an_attribute_error_that_lists_the_rooms():
    with pytest.raises(AttributeError, match="'no_such_room'; its rooms are bounds, calibration"):
        _ = pbjax.no_such_room


@pytest.mark.parametrize("room", sorted(ROOM_MAY_IMPORT))
def test_a_room_imports_only_rooms_below_it(room: str):
    allowed = {room, "_checks", *ROOM_MAY_IMPORT[room]}
    for path in module_files():
        if room_of(path) == room:
            found = {name.split(".")[1] for name in imported_names(path) if name.startswith("pbjax.")}
            assert found <= allowed, f"{path.relative_to(CHECKOUT)} imports {sorted(found - allowed)}"


def test_the_package_imports_no_experiment():
    for path in module_files():
        outside = {name.split(".")[0] for name in imported_names(path)} & {"experiments", "configs", "tests"}
        assert not outside, f"{path.relative_to(CHECKOUT)} imports {sorted(outside)}"


@pytest.mark.parametrize("dependency", sorted(ONLY_IMPORTED_IN))
def test_a_heavy_dependency_is_imported_in_its_place_only(dependency: str):
    for path in module_files():
        if dependency in {name.split(".")[0] for name in imported_names(path)}:
            place = path.relative_to(PACKAGE).as_posix()
            allowed = ONLY_IMPORTED_IN[dependency]
            assert any(place == only or place.startswith(f"{only}/") or place == f"{only}.py" for only in allowed), (
                f"pbjax/{place} imports {dependency}, which belongs to {', '.join(allowed)}"
            )


def test_no_experiment_imports_another():
    """An experiment is `experiments/<name>.py`, with helpers of its own in `experiments/_<name>/` if it needs them."""
    folder = CHECKOUT / "experiments"
    names = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    assert names, "there is no experiment"
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).parts[0].removesuffix(".py").lstrip("_")
        others = {private + name for name in names - {own} for private in ("", "_")}
        for name in imported_names(path):
            parts = name.removeprefix("experiments.").split(".")
            assert parts[0] not in others, f"{path.relative_to(CHECKOUT)} imports {name}"


def public_members(room: str) -> list[tuple[str, object]]:
    module = importlib.import_module(f"pbjax.{room}")
    assert hasattr(module, "__all__"), f"pbjax.{room} does not say what is public: give it __all__"
    return [(f"{room}.{name}", getattr(module, name)) for name in module.__all__]


@pytest.mark.parametrize("room", sorted(ROOM_MAY_IMPORT))
def test_public_functions_have_a_docstring_with_an_example(room: str):
    for name, member in public_members(room):
        if inspect.ismodule(member) or inspect.isclass(member) or not callable(member):
            continue
        text = inspect.getdoc(member) or ""
        assert text, f"pbjax.{name} has no docstring"
        assert (">>>" in text) != (name in NEEDS_NO_EXAMPLE), f"pbjax.{name}: an example, or a reason in this file"


@pytest.mark.parametrize("room", sorted(ROOM_MAY_IMPORT))
def test_public_records_describe_their_attributes(room: str):
    for name, member in public_members(room):
        is_record = inspect.isclass(member) and (hasattr(member, "_fields") or hasattr(member, "__dataclass_fields__"))
        if is_record:
            assert "Attributes:" in (inspect.getdoc(member) or ""), f"pbjax.{name} does not describe its attributes"


# Spelled in pieces so that this file does not match itself. An example may speak of the home of someone.
FORBIDDEN_TEXT = {
    "a package index": "index" + r"[-_]url|https?://[^\s\"']*/" + "simple|registry" + " = ",
    "a path of one machine": r"(?<![\w.~])/(?:work/|root/|(?:Users|home)/(?!someone/))",
}


@pytest.mark.parametrize("what", sorted(FORBIDDEN_TEXT))
def test_no_tracked_file_names(what: str):
    pattern = re.compile(FORBIDDEN_TEXT[what])
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert found is None, f"{path.relative_to(CHECKOUT)} names {what}: {found.group(0)!r}"


def distribution_name(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_declared_dependency_is_pinned():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = {distribution_name(line) for line in project["dependencies"]}
    declared |= {distribution_name(line) for extra in project["optional-dependencies"].values() for line in extra}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = {distribution_name(line) for line in lines if line and not line.lstrip().startswith("#")}
    assert declared - {"pbjax"} <= pins


def test_every_imported_package_is_declared():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    declared = {distribution_name(line) for line in project["dependencies"]}
    for name, extra in OPTIONAL.items():
        assert name in {distribution_name(line) for line in project["optional-dependencies"][extra]}
        declared.add(name)
    for path in module_files():
        outside = {name.split(".")[0] for name in imported_names(path)} - set(sys.stdlib_module_names) - {"pbjax"}
        missing = {DISTRIBUTION_OF.get(name, name) for name in outside} - declared
        assert not missing, (
            f"{path.relative_to(CHECKOUT)} imports {sorted(missing)}, which pyproject.toml does not declare"
        )


def test_the_changelog_knows_this_version():
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (CHECKOUT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (CHECKOUT / "CITATION.cff").read_text()
