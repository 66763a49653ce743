"""summary.md of a finished run: what was run, the best row of every method, every rung, the gap on every rung.

python -m experiments._gibbs_gap.summary RUN_DIRECTORY    # writes it again from results.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pbjax.runs.sweep import write_summary
from pbjax.runs.tables import markdown_table

METHOD_COLUMNS = (
    "seed",
    "loss",
    "method",
    "beta",
    "empirical_risk",
    "test_risk",
    "kl",
    "certificate",
    "standard_error",
    "r_hat",
    "ess",
)


def best_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """For every seed, loss and method the row of least certificate, unflagged rows first."""
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["loss"], row["seed"], row["method"])
        rank = (bool(row["flag"]), row["certificate"])
        if key not in best or rank < (bool(best[key]["flag"]), best[key]["certificate"]):
            best[key] = row
    return [best[key] for key in sorted(best, key=lambda key: (*key[:2], best[key]["certificate"]))]


def _number(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    body = [header, ("---:",) * len(header), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in body)


def _ladder(record: Mapping[str, Any]) -> str:
    header = (
        "seed", "beta", "L", "s.e.", "0-1", "test 0-1", "−log Z right", "trapezium", "left", "acceptance", "step",
        "R-hat L", "ESS L", "R-hat 0-1", "ESS 0-1", "R-hat log p", "ESS log p", "flag",
    )  # fmt: skip
    exchanged = "exchange" in record
    if exchanged:
        header = (*header[:-1], "swap up", header[-1])
    return _table(
        header,
        (
            (
                str(rung["seed"]), f"{rung['beta']:.0f}", _number(rung["mean_energy"], 4),
                _number(rung["standard_error_energy"], 5), _number(rung["mean_zero_one"], 4),
                _number(rung["mean_test_zero_one"], 4), _number(rung["neg_log_z_right"], 1),
                _number(rung["neg_log_z_trapezium"], 1), _number(rung["neg_log_z_left"], 1),
                _number(rung["acceptance"], 2), _number(rung["step_size"], 3),
                *(
                    cell
                    for name in ("energy", "zero_one", "test_log_likelihood")
                    for cell in (_number(rung[f"r_hat_{name}"], 3), _number(rung[f"ess_{name}"], 0))
                ),
                *((_number(rung["swap_acceptance"], 2),) if exchanged else ()),
                rung["flag"] or "",
            )
            for rung in record["ladder"]
        ),
    )  # fmt: skip


def _exchange(record: Mapping[str, Any]) -> str:
    if "exchange" not in record:
        return ""
    header = ("seed", "round trips", "replicas that met both ends")
    lines = ((str(x["seed"]), str(x["round_trips"]), str(x["replicas_at_both_ends"])) for x in record["exchange"])
    return f"Replica exchange, bottom to top to bottom:\n\n{_table(header, lines)}\n"


def _gap(record: Mapping[str, Any]) -> str:
    header = ("seed", "beta", "E_Q L", "KL(Q‖P)", "gap", "low", "high", "learning rate", "initial scale")
    return _table(
        header,
        (
            (
                str(gap["seed"]), f"{gap['beta']:.0f}", _number(gap["mean_field_risk"], 4),
                _number(gap["mean_field_kl"], 1), _number(gap["gap"], 4), _number(gap["gap_low"], 4),
                _number(gap["gap_high"], 4), f"{gap['learning_rate']:g}", f"{gap['initial_scale']:g}",
            )
            for gap in record["gap"]
        ),
    )  # fmt: skip


def summary(record: Mapping[str, Any]) -> str:
    """The text of summary.md.

    Args:
        record: of `pbjax.runs.sweep.read_results`.

    Returns:
        Markdown.
    """
    rows, fields, made = record["rows"], record["config"], record["provenance"]
    seconds = {row["method"]: row["seconds"] for row in rows if row["seconds"] is not None}
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    changed = ", ".join(f"{name} = {value}" for name, value in fields.items())
    return f"""# gibbs_gap, config {record["config_hash"]}

`python {" ".join(made["command"])}`

n = {rows[0]["n"]:,}; {made["host"]["cpu_count"]} {made["device"]["platform"]} cores ({made["host"]["machine"]});
Gibbs posterior {_number(seconds.get("gibbs_asymptotic"), 0)} s, mean field {_number(seconds.get("mean_field"), 0)} s,
finished {made["time"]}.

## Best row of every method

delta = {rows[0]["delta"]:g} for each loss. † marks a number that a diagnostic objects to.

{markdown_table(best_rows(rows), columns=METHOD_COLUMNS)}
## The ladder

{_ladder(record)}
{_exchange(record)}## The gap of mean field, KL(Q‖Q_beta)/beta

E_Q L + KL(Q‖P)/beta − (−log Z)/beta for the mean-field posterior trained at each rung, with −log Z by the trapezium;
low and high take the left and the right sum.

{_gap(record)}
## Settings

{changed}

{versions}; commit {(made["git"] or {}).get("commit", "none")}.
"""


if __name__ == "__main__":
    write_summary(sys.argv[1], summary)
