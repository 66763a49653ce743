"""Every benchmark in turn, and the table of what was measured.

    python -m benchmarks                          # all, and docs/results/benchmarks.md
    python -m benchmarks --only leapfrog bounds   # some; figures of the others stay in the table
    python -m benchmarks --quick                  # few repeats, small sizes: does it run? Writes no table

Every benchmark runs in a process of its own and prints its figures as JSON lines. They are kept in
docs/results/benchmarks.json, one column a device, and the table is written from that file. A benchmark that fails, as
one whose peers do other work must, costs its own figures only; the others run, and the status is 1.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
NAMES = (
    "leapfrog", "ladder", "bounds", "mean_field", "optim_step", "rule_extrapolation", "seeds", "convolution", "growth",
    "checkpointing",
)  # fmt: skip
PACKAGES = ("jax", "numpyro", "blackjax", "torch", "pacbb", "ivon-opt", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run."""

    only: tuple[str, ...] = NAMES
    """Benchmarks."""
    quick: bool = False
    """Few repeats and small sizes, to see that everything runs; no table is written."""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Asked in a process that ends: JAX here would keep most of an accelerator's memory from the benchmarks.
    ask = "import jax; device = jax.devices()[0]; print(device.platform, device.device_kind)"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    kind, device = told.strip().split(" ", 1)
    return {
        "device": f"{cores} cores, {platform.machine()}" if kind == "cpu" else device,
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
    }


def run(name: str, *, quick: bool) -> tuple[list[dict[str, Any]], float] | None:
    """Figures of one benchmark, and its seconds; None if it failed."""
    begin, figures = time.monotonic(), []
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("{"):
                figures.append(json.loads(line))
    return None if process.returncode else (figures, time.monotonic() - begin)


def shown(value: float) -> str:
    """Three significant digits, without exponents where a reader needs none."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return digits
    return f"{value:.2e}"


def cell(figure: dict[str, Any] | None) -> str:
    """Median, range, ratio and compile time."""
    if figure is None:
        return "–"
    unit = f" {figure['unit']}" if figure.get("unit") else ""
    text = f"{shown(figure['median'])}{unit}"
    if figure["low"] != figure["high"]:
        text += f" ({shown(figure['low'])} to {shown(figure['high'])})"
    if figure.get("over_pbjax") is not None:
        text += f"; ratio {shown(figure['over_pbjax'])}"
    if figure.get("compile_seconds") is not None:
        text += f"; compiled in {shown(figure['compile_seconds'])} s"
    return text


def table(kept: dict[str, Any]) -> str:
    """The page: one table a claim, one column a device."""
    devices = list(kept)
    lines = [
        "# Benchmarks", "",
        "Written by `make bench` (`python -m benchmarks`); the figures are also in benchmarks.json. Each is the median",
        "of interleaved repeats after a first call, with the least and the greatest. A ratio is the time of that line",
        "over the time of pbjax for the same work within the same run: above 1, pbjax is faster.", "",
    ]  # fmt: skip
    for device, made in kept.items():
        # Benchmarks that were measured on one day with the same versions share a line.
        lots: dict[str, list[str]] = {}
        for name, where in made["measured"].items():
            told = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
            lots.setdefault(f"{where['date']}, Python {where['python']}, {told}", []).append(name)
        for told, names in lots.items():
            minutes = sum(made["measured"][name]["seconds"] for name in names) / 60
            which = "" if len(lots) == 1 else f"; {', '.join(names)}"
            lines += [f"- **{device}**: {told}; {minutes:.0f} minutes{which}"]
    by_key: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for device, made in kept.items():
        for figures in made["figures"].values():
            for figure in figures:
                key = tuple(figure.get(name, "") for name in ("claim", "case", "quantity", "who", "note"))
                by_key.setdefault(key, {})[device] = figure
    for claim in dict.fromkeys(key[0] for key in by_key):
        lines += ["", f"## {claim}", "", "| work | measure | who | " + " | ".join(devices) + " |"]
        lines += ["| --- " * (3 + len(devices)) + "|"]
        notes: list[str] = []
        for (_, case, quantity, who, note), found in (item for item in by_key.items() if item[0][0] == claim):
            mark = ""
            if note:
                notes = notes if note in notes else [*notes, note]
                mark = f" [{notes.index(note) + 1}]"
            cells = " | ".join(cell(found.get(device)) for device in devices)
            lines += [f"| {case} | {quantity} | {who}{mark} | {cells} |"]
        if notes:
            lines += [""] + [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Run, keep, write the table."""
    if unknown := [name for name in options.only if name not in NAMES]:
        raise SystemExit(f"{unknown[0]}: no such benchmark; there are {', '.join(NAMES)}")
    facts = machine()
    file = RESULTS / "benchmarks.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    here = kept.setdefault(facts.pop("device"), {"measured": {}, "figures": {}})
    failed = []
    for name in options.only:
        print(f"== {name}", flush=True)
        if (made := run(name, quick=options.quick)) is None:
            failed.append(name)
            continue
        here["figures"][name], seconds = made
        here["measured"][name] = {"date": datetime.date.today().isoformat(), "seconds": round(seconds), **facts}
        if not options.quick:
            file.write_text(json.dumps(kept, indent=1) + "\n")
            (RESULTS / "benchmarks.md").write_text(table(kept))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
