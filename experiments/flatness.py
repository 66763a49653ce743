"""Which of two minima is the better one when flatness counts? Four surfaces over two parameters.

A loss has a sharp minimum with the least value and a flat one that is slightly higher. Averaging the loss over Gaussian
noise (mean-field variational inference) and taking its worst value on a disc (sharpness-aware minimisation) are two
notions of flatness; the experiment finds the minima of both and of SAM's one-step approximation.

    python experiments/flatness.py --config figure

The loss and the question are those of Ujvary et al., "Rethinking sharpness-aware minimization as variational
inference", 2022 (arXiv 2210.10452).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from experiments._flatness import figure, surfaces
from experiments._flatness.minima import Point, critical_points, minima
from pbjax import precision, runs
from pbjax.runs.atomic import write_file
from pbjax.runs.results import Field

NAME = "flatness"
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / NAME
FIELDS = {
    "surface": Field("text"), "basin": Field("text"), "theta_0": Field("number"), "theta_1": Field("number"),
    "value": Field("number"), "minimum": Field("text"), "curvature_low": Field("number", nullable=True),
    "curvature_high": Field("number", nullable=True), "attained": Field("text"),
}  # fmt: skip
COLUMNS = ("surface", "basin", "theta_0", "theta_1", "value", "minimum")


def compute(config: Any) -> dict[str, tuple[Any, list[Point]]]:
    """Values on the grid [G, H] and minima, least first, of every surface."""
    grid, radius = config.grid, config.radius
    loss = surfaces.on_grid(surfaces.loss, grid)
    critical = critical_points(loss)
    found: dict[str, tuple[Any, list[Point]]] = {"loss": (loss, sorted(critical[:2], key=lambda point: point.value))}
    perturbed = {
        "mean_field": surfaces.mean_field(radius, nodes=config.nodes),
        "exact_sam": surfaces.exact_sam(radius),
        "one_step_sam": surfaces.one_step_sam(radius),
    }
    for name, surface in perturbed.items():
        values = surfaces.on_grid(surface, grid)
        found[name] = values, minima(surface, values, critical, jumps_with=radius if name == "one_step_sam" else None)
    return found


def rows(found: dict[str, tuple[Any, list[Point]]]) -> list[dict[str, Any]]:
    """One row a minimum."""
    return [
        {
            "surface": name, "basin": point.basin, "theta_0": point.place[0], "theta_1": point.place[1],
            "value": point.value, "minimum": "local" if rank else "global",
            "curvature_low": None if point.curvatures is None else point.curvatures[0],
            "curvature_high": None if point.curvatures is None else point.curvatures[-1],
            "attained": "yes" if point.attained else "as a limit",
        }
        for name, (_, points) in found.items()
        for rank, point in enumerate(points)
    ]  # fmt: skip


def summary(config: Any, table: list[dict[str, Any]], seconds: float) -> str:
    """The text of summary.md."""
    made = runs.provenance()
    return f"""# flatness, config {runs.config_hash(config)}

`python experiments/{" ".join(made["command"])}`

rho = {config.radius:g}, grid {config.grid[0]} x {config.grid[1]}; {seconds:.0f} s on {made["host"]["cpu_count"]} \
{made["device"]["platform"]} cores ({made["host"]["machine"]}); finished {made["time"]}.

{runs.markdown_table(table, columns=(*COLUMNS, "curvature_low", "curvature_high", "attained"))}
Curvatures are eigenvalues of the Hessian of the loss at its minima. One-step SAM has no direction at a critical point
of the loss and jumps there: its value is the infimum nearby, approached and not attained, at the saddle as well.
Where theta_1 is below rho the step can cross the infinite ridge of the loss at theta_1 = 0, which makes the valley at
the bottom of its panel; exact SAM is infinite there. Mean field is by quadrature and not by draws.

jax {made["versions"]["jax"]}, float64; commit {(made["git"] or {}).get("commit", "none")}.
"""


def run(config: Any, out: Path) -> None:
    """The whole experiment in one run directory."""
    begin = time.perf_counter()
    with runs.RunDirectory(out, experiment=NAME, config=config) as directory:
        found = compute(config)
        sigma = rf"$\sigma = {config.radius:g}/\sqrt{{2}}$"
        rho = rf"$\rho = {config.radius:g}$"
        titles = ("A  loss", f"B  mean field, {sigma}", f"C  exact SAM, {rho}", f"D  one-step SAM, {rho}")
        figure.four_panels(
            *surfaces.axes(config.grid), dict(zip(titles, found.values(), strict=True)),
            directory.figures / "flatness.png",
        )  # fmt: skip
        table = rows(found)
        directory.write_results(table, fields=FIELDS)
        write_file(directory.path / "summary.md", summary(config, table, time.perf_counter() - begin).encode())
        runs.print_results(table, columns=COLUMNS, title="Minima of the four surfaces")
        print(f"results and figure in {directory.path}")


@runs.command_line_errors()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    precision.make_exact_the_default()
    runs.start(NAME, runs.load_configs(CONFIGS), run, argv, default="figure")


if __name__ == "__main__":
    main()
