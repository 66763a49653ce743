"""The documents tell the truth: their code runs, their links lead somewhere, their commands exist."""

import doctest
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
NAMES = [path.relative_to(CHECKOUT).as_posix() for path in DOCUMENTS]


def python_blocks(text: str) -> list[str]:
    """The fenced Python of a document, each block moved down to its own line so that a traceback points at it."""
    fences = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, fence.start(1)) + fence.group(1) for fence in fences]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_python_blocks_run_from_top_to_bottom(document: Path):
    text = document.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "document"}
    for block in python_blocks(text):
        exec(compile(block, str(document), "exec"), namespace)
    functions = {name: value for name, value in namespace.items() if getattr(value, "__module__", None) == "document"}
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for name, function in functions.items():
        for example in finder.find(function, name, globs=dict(namespace), module=False):
            runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_prompts_give_what_they_show(document: Path):
    outside_blocks = re.sub(
        r"^```python\n.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    test = doctest.DocTestParser().get_doctest(outside_blocks, {}, document.name, str(document), 0)
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_to_files_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_make_commands_exist(document: Path):
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    commands = re.findall(r"(?:^    |`)make ((?:[a-z-]+ ?)+)", document.read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands:
        assert set(command.split()) <= targets, f"{document.name}: make {command}"
