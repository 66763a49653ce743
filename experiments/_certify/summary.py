"""summary.md of a finished run: what was run, every certificate, where the time went, the settings.

python -m experiments._certify.summary RUN_DIRECTORY    # writes it again from results.json
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pbjax.runs.provenance import shown_command
from pbjax.runs.sweep import write_summary
from pbjax.runs.tables import markdown_table

COLUMNS = (
    "seed", "loss", "method", "stop", "beta", "empirical_risk", "test_risk", "heat", "certificate", "acceptance", "ess",
)  # fmt: skip


def summary(record: Mapping[str, Any]) -> str:
    """The text of summary.md.

    Args:
        record: of `pbjax.runs.sweep.read_results`.

    Returns:
        Markdown.
    """
    rows, fields, made, spent = record["rows"], record["config"], record["provenance"], record["timing"]
    ladder = record["schedule"]
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    assumptions = {row["method"]: row["assumption"] for row in rows}
    seconds = spent["seconds_per_gradient_of_all_chains"]
    share = spent["share_of_gradients"]
    share = "not timed" if share is None else f"{share:.0%}"
    return f"""# certify, config {record["config_hash"]}

`python {shown_command(made["command"])}`

n = {rows[0]["n"]:,} certified rows, {rows[0]["prior_rows"]:,} for the prior; {len(ladder["beta"])} moves,
{rows[0]["gradients"]:,} gradients a chain after {rows[0]["pilot_gradients"]:,} of the pilot
over {rows[0]["pilot_rows"]:,} rows;
{spent["chains"]} chains in {spent["chains_seconds"]:.0f} s, {1e3 * seconds:.1f} ms a gradient of all chains by itself,
{share} of the time in gradients; {made["host"]["cpu_count"]} cores, {made["device"]["platform"]}
({made["host"]["machine"]}); finished {made["time"]}.

## Certificates

delta = {rows[0]["delta"]:g} for each loss, {rows[0]["tries"]:,} tries. Rows of one route and loss hold together.
`best` is the stop of least 0-1 certificate of a chain; `test_set` is what held-out rows would have bought.

{markdown_table(rows, columns=COLUMNS)}
## Assumptions

{"".join(f"* `{method}`: {text}.{chr(10)}" for method, text in assumptions.items())}
## Settings

{", ".join(f"{name} = {value}" for name, value in fields.items())}

{versions}; commit {(made["git"] or {}).get("commit", "none")}.
"""


if __name__ == "__main__":
    write_summary(sys.argv[1], summary)
