"""From the end points of the chains to rows, curves, figures and the saved networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments._certify import figures, network, summary
from experiments._certify.problem import Problem
from pbjax import certificates, runs
from pbjax.certify import Target, heat_certificates
from pbjax.runs.results import ROW_FIELDS, Field
from pbjax.runs.tables import print_results

FIELDS = {
    **ROW_FIELDS,
    "seed": Field("integer", nullable=True),
    "heat": Field("number", nullable=True),
    "gradients": Field("integer"),
    "pilot_gradients": Field("integer"),
    "acceptance": Field("number", nullable=True),
    "tries": Field("integer"),
    "prior_rows": Field("integer"),
}
"""Columns of a row: `seed` is null where a certificate is of all networks; `heat` is W, its mean, or null (importance
weights, held-out bound); `prior_rows` are training rows that the prior saw and `n` the ones certified."""


def _flag(stops: Any) -> str | None:
    objections = []
    divergences = int(stops["divergences"].sum())
    if divergences:
        objections.append(f"{divergences} divergent moves")
    if float(stops["slack"][-1].max()) > 1.0:
        objections.append(f"rounding is charged at {float(stops['slack'][-1].max()):.3g} nats: enable x64")
    return ", ".join(objections) or None


def make_rows(
    config: Any, problem: Problem, target: Target, chosen: Any, made: Any, *, acceptance: np.ndarray
) -> list[dict[str, Any]]:
    """Every certificate of the networks at the end, and the held-out bound of each."""
    stops = made["stops"]
    last = {name: np.asarray(stops[name][-1]) for name in ("beta", "heat", "log_weight", "slack")}
    names = {"surrogate": config.surrogate, "zero_one": "zero_one"}
    risks = {names[name]: np.asarray(value[-1], np.float64) for name, value in stops["risks"].items()}
    held_out = {names[name]: np.asarray(value[-1], np.float64) for name, value in stops["held_out"].items()}
    common = {
        "gradients": chosen["schedule"].num_gradients, "pilot_gradients": chosen["gradients"], "tries": config.tries,
        "prior_rows": len(problem.prior_rows), "seconds": chosen["seconds"] + made["seconds"], "r_hat": None,
        "ess": None,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    singles = dict.fromkeys(risks, 0)
    for certificate in heat_certificates(
        last["heat"], last["log_weight"], risks, beta=float(last["beta"]), n=target.n, delta=config.delta,
        surrogate=config.surrogate, slack=last["slack"], tries=config.tries, flag=_flag(stops),
    ):  # fmt: skip
        loss, index = certificate.loss, None
        if certificate.route == "heat_single":
            index = singles[loss]
            singles[loss] += 1
        ideal = certificate.route == "ais_free_energy"
        rows.append(
            {
                **certificate.row(), **common,
                "seed": None if index is None else config.seeds[index],
                "heat": None if ideal else certificate.inputs["heat"],
                "acceptance": acceptance.mean() if index is None else acceptance[index],
                "test_risk": None if ideal else held_out[loss].mean() if index is None else held_out[loss][index],
                "ess": certificate.inputs["effective_sample_size"] if ideal else None,
            }
        )  # fmt: skip
    count = problem.dataset.num_test
    for index, seed in enumerate(config.seeds):
        certificate = certificates.test_set(
            round(float(held_out["zero_one"][index]) * count), n=count, delta=config.delta / 2,
            beta=float(last["beta"]), union=config.tries * len(config.seeds),
        )  # fmt: skip
        rows.append(
            {
                **certificate.row(), **common, "seed": seed, "heat": None, "acceptance": acceptance[index],
                "empirical_risk": risks["zero_one"][index], "test_risk": held_out["zero_one"][index],
            }
        )  # fmt: skip
    return rows


def make_curve(config: Any, target: Target, chosen: Any, made: Any) -> list[dict[str, Any]]:
    """Where every chunk left every chain, with the certificate that it would have had were this its only stop.

    One stop fixed beforehand is covered, the last one by the rows; picking the best point of the curve is not.
    """
    stops, steps = made["stops"], np.asarray(chosen["schedule"].num_integration_steps)
    spent = 1 + np.cumsum(steps)
    curve = []
    for chunk in range(len(stops["beta"])):
        moves = min((chunk + 1) * made["moves_per_chunk"], len(steps))
        alone = certificates.heat_single(
            stops["heat"][chunk], stops["risks"]["zero_one"][chunk], slack=stops["slack"][chunk], n=target.n,
            delta=config.delta / 2, loss="zero_one", union=config.tries,
        )  # fmt: skip
        for index, seed in enumerate(config.seeds):
            curve.append(
                {
                    "seed": seed, "moves": moves, "gradients": int(spent[moves - 1]),
                    "beta": float(stops["beta"][chunk]), "heat": float(stops["heat"][chunk][index]),
                    "surrogate": float(stops["risks"]["surrogate"][chunk][index]),
                    "zero_one": float(stops["risks"]["zero_one"][chunk][index]),
                    "test_zero_one": float(stops["held_out"]["zero_one"][chunk][index]),
                    "acceptance": float(stops["acceptance"][chunk][index]),
                    "certificate_if_stopped_here": alone[index].value,
                }
            )  # fmt: skip
    return curve


def timing(config: Any, chosen: Any, made: Any, seconds_per_gradient: float) -> dict[str, Any]:
    """How much of the run's time its gradients alone would have taken.

    The first chunk, which compiles, is left out of `share_of_gradients`.
    """
    steps = np.asarray(chosen["schedule"].num_integration_steps)
    loop = made["timing"] or {"chunks": 0, "first": 0.0, "total": 0.0}
    share = float("nan")
    if loop["chunks"] > 1 and loop["total"]:
        # The chunks computed in this process, without the first of them, are the last ones of the run.
        timed = int(steps[-(loop["chunks"] - 1) * made["moves_per_chunk"] :].sum())
        if loop["chunks"] * made["moves_per_chunk"] >= len(steps):
            timed = int(steps[made["moves_per_chunk"] :].sum())
        share = timed * seconds_per_gradient / loop["total"]
    return {
        "chains": len(config.seeds), "seconds_per_gradient_of_all_chains": seconds_per_gradient,
        "share_of_gradients": share, "first_chunk_seconds": loop["first"], "other_chunks_seconds": loop["total"],
        "schedule_seconds": chosen["seconds"], "chains_seconds": made["seconds"],
    }  # fmt: skip


def write(
    config: Any, problem: Problem, directory: runs.RunDirectory, target: Target, chosen: Any,
    seconds_per_gradient: float, made: Any,
) -> None:  # fmt: skip
    """Rows, curve, figures, networks and summary of a finished run; prints what was certified."""
    weights = np.full(len(made["stops"]["beta"]), float(made["moves_per_chunk"]))
    weights[-1] = chosen["schedule"].num_moves - weights[:-1].sum()
    acceptance = weights @ np.asarray(made["stops"]["acceptance"]) / weights.sum()
    rows = make_rows(config, problem, target, chosen, made, acceptance=acceptance)
    curve = make_curve(config, target, chosen, made)
    ladder = chosen["schedule"]
    record = {
        "beta": np.asarray(ladder.betas), "step_size": np.asarray(ladder.step_sizes),
        "num_integration_steps": np.asarray(ladder.num_integration_steps), "report": chosen.get("report"),
    }  # fmt: skip
    spent = timing(config, chosen, made, seconds_per_gradient)
    network.save(directory, made["params"])
    directory.write_results(
        rows, fields=FIELDS, sections={"curve": curve, "schedule": record, "timing": spent}
    )  # fmt: skip
    figures.along_the_run(curve, directory.figures / "run.png", n=target.n)
    figures.certificate_against_gradients(curve, rows, directory.figures / "certificate.png")
    summary.write(directory.path)
    print_results(
        rows, title=f"delta = {config.delta / 2:g} a loss, {config.tries} tries",
        columns=("method", "loss", "seed", "empirical_risk", "test_risk", "heat", "certificate", "acceptance"),
    )  # fmt: skip
    for text in dict.fromkeys(row["assumption"] for row in rows):
        methods = dict.fromkeys(row["method"] for row in rows if row["assumption"] == text)
        print(f"{', '.join(methods)}: {text}")
    print(f"results, figures and networks in {directory.path}")
