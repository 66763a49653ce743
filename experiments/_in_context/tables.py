"""The tables of summary.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pbjax import runs
from pbjax.runs import mean_and_error

Row = Mapping[str, Any]


def number(value: float | None, digits: int = 3, *, factor: float = 1.0, sign: bool = False) -> str:
    """Fixed decimals; an en dash for none.

    Args:
        value: a number or None.
        digits: decimals.
        factor: multiplies it.
        sign: whether a plus is written.

    Returns:
        Text.

    Example:
        >>> number(0.1234, 1, factor=100), number(None), number(0.5, 1, sign=True)
        ('12.3', '–', '+0.5')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{factor * value:{'+' if sign else ''}.{digits}f}"


def small(value: float | None) -> str:
    """Two significant digits with an exponent, for what falls geometrically.

    Args:
        value: a number or None.

    Returns:
        Text.

    Example:
        >>> small(0.000123), small(12345.0), small(float("inf"))
        ('1.2e-04', '1.2e+04', '∞')
    """
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else f"{value:.1e}"


def _over_seeds(rows: Sequence[Row], column: str, digits: int, *, factor: float = 1.0) -> str:
    values = [float(row[column]) for row in rows]
    mean, error, count = mean_and_error(values)
    text = number(mean, digits, factor=factor)
    return text if count < 2 else f"{text} ± {number(error * math.sqrt(count), digits, factor=factor)}"


def _table(lines: Sequence[dict[str, Any]]) -> str:
    return runs.markdown_table(lines, columns=[name for name in lines[0] if name != "flag"])


def neighbour_table(rows: Sequence[Row]) -> str:
    """One line a law and N.

    Args:
        rows: of part "neighbour".

    Returns:
        Markdown.
    """
    return _table([
        {
            "r": row["law"], "N": str(row["start"]),
            "KL(p‖q), nats": f"{small(row['kl'])} ± {small(row['standard_error'])}",
            "Σ P(format) log 1/η": small(row["format_bound"]), "ρ^N log(1/η)/(1−ρ)": small(row["bound"]),
            "q right after N−1 %": number(row["accuracy_before"], 1, factor=100),
            "after N %": number(row["accuracy_at"], 1, factor=100),
            "p after N %": number(row["p_accuracy_at"], 1, factor=100),
            "any test, at least": small(row["sequences_any_test"]), "paired losses": small(row["sequences_paired"]),
            "mean losses": small(row["sequences_mean_losses"]), "flag": row["flag"],
        }
        for row in rows
    ])  # fmt: skip


def enumerated_table(rows: Sequence[Row]) -> str:
    """One line a case, law and N.

    Args:
        rows: of part "enumerated".

    Returns:
        Markdown.
    """
    lines = []
    for row in rows:
        drawn = row.get("monte_carlo")
        lines.append({
            "case": row["case"], "r": row["law"], "N": str(row["start"]), "exact KL, nats": f"{row['kl']:.6g}",
            "bound with P(format)": f"{row['format_bound']:.6g}", "closed bound": f"{row['bound']:.6g}",
            "holds": "yes" if row["holds"] else "NO",
            "Monte Carlo": "–" if drawn is None else f"{drawn:.6g} ± {row['standard_error']:.1g}",
            "flag": row["flag"],
        })  # fmt: skip
    return _table(lines)


def accuracy_table(rows: Sequence[Row]) -> str:
    """One line a predictor and n.

    Args:
        rows: of part "accuracy".

    Returns:
        Markdown.
    """
    return _table([
        {
            "predictor": "p" if row["law"] == "none" else f"q, r = {row['law']}, N = {row['start']}",
            "n": str(row["examples"]), "exact %": number(row["exact"], 3, factor=100),
            "Monte Carlo %": f"{number(row['monte_carlo'], 3, factor=100)} ± "
            f"{number(row['standard_error'], 3, factor=100)}",
            "within 5 errors": "yes" if row["holds"] else "NO", "flag": row["flag"],
        }
        for row in rows
    ])  # fmt: skip


def shown_examples(start: int, examples: int) -> list[int]:
    """Numbers of examples that a table has columns for: 0, 1, N − 1, N and the most.

    Args:
        start: N.
        examples: n.

    Returns:
        Ascending, each once.

    Example:
        >>> shown_examples(4, 10), shown_examples(0, 1)
        ([0, 1, 3, 4, 10], [0, 1])
    """
    return sorted({0, min(1, examples), max(start - 1, 0), start, examples})


def network_table(rows: Sequence[Row], reference: Mapping[str, Any]) -> str:
    """One line a branch, mean ± standard deviation over seeds, and one a predictor that knows the law.

    Args:
        rows: of part "network".
        reference: from `pair.reference`.

    Returns:
        Markdown.
    """
    shown = shown_examples(rows[0]["start"], rows[0]["examples"])
    lines = []
    for branch in dict.fromkeys(row["branch"] for row in rows):
        own = [row for row in rows if row["branch"] == branch]
        flags = dict.fromkeys(str(row["flag"]) for row in own if runs.is_flagged(row))
        lines.append({
            "predictor": f"network, {branch}", "seeds": str(len(own)), "KL, nats a sequence": _over_seeds(own, "kl", 4),
            **{f"n = {i}, %": _over_seeds(own, f"accuracy_{i}", 1, factor=100) for i in shown},
            "from Bayes, nats": _over_seeds(own, "from_bayes_last", 3),
            "from the test example alone, nats": _over_seeds(own, "from_known_last", 3),
            "flag": ", ".join(flags) or None,
        })  # fmt: skip
    for name, label in (("bayes", "Bayes"), ("oracle", "told the concept"), ("known", "test example alone")):
        lines.append({
            "predictor": label, "seeds": "–", "KL, nats a sequence": "0" if name == "bayes" else "–",
            **{f"n = {i}, %": number(float(reference[name][i]), 1, factor=100) for i in shown},
            "from Bayes, nats": "0" if name == "bayes" else "–",
            "from the test example alone, nats": "0" if name == "known" else "–", "flag": None,
        })  # fmt: skip
    return _table(lines)


_OUTCOMES = {
    "kl": ("test loss, nats a sequence", 1.0, 4),
    "accuracy_last": ("accuracy after all examples, %", 100.0, 1),
    "accuracy_none": ("accuracy without examples, %", 100.0, 1),
}


def comparison_table(compared: Sequence[Row]) -> str:
    """Penalised less plain, one line an outcome.

    Args:
        compared: from `pair.compare`.

    Returns:
        Markdown.
    """
    lines = []
    for row in compared:
        label, factor, digits = _OUTCOMES[row["outcome"]]
        error = number(row["standard_error"], digits, factor=factor)
        lines.append({
            "outcome": label, "seeds": str(row["seeds"]), "plain": number(row["plain"], digits, factor=factor),
            "penalised": number(row["penalised"], digits, factor=factor),
            "difference": f"{number(row['difference'], digits, factor=factor, sign=True)} ± {error}",
            "spread over seeds": number(row["spread"], digits, factor=factor),
            "difference / spread": number(row["share"], 2),
            "without the farthest seed": number(row["share_without_farthest"], 2),
            "p": "–" if row["p_value"] is None else f"{row['p_value']:.3g}",
        })  # fmt: skip
    return _table(lines)


def seed_table(rows: Sequence[Row]) -> str:
    """One line a seed.

    Args:
        rows: of part "network".

    Returns:
        Markdown.
    """
    by_branch = {
        branch: {row["seed"]: row for row in rows if row["branch"] == branch}
        for branch in dict.fromkeys(row["branch"] for row in rows)
    }
    plain, penalised = by_branch["plain"], by_branch["penalised"]
    return _table([
        {
            "seed": str(seed),
            "KL plain": f"{number(own['kl'], 4)} ± {number(own['standard_error'], 4)}",
            "change of the test loss": f"{number(penalised[seed]['loss_change'], 4, sign=True)} ± "
            f"{number(penalised[seed]['loss_change_error'], 4)}",
            "accuracy plain %": number(own["accuracy_last"], 1, factor=100),
            "accuracy penalised %": number(penalised[seed]["accuracy_last"], 1, factor=100),
        }
        for seed, own in plain.items()
    ])  # fmt: skip
