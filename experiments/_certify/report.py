"""From the end points of the chains to rows, curves, figures and the saved networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments._certify import figures, summary
from experiments._certify.problem import Problem, data_options, model_options
from pbjax import certificates, runs
from pbjax.certificates import Certificate
from pbjax.certify import Target, heat_certificates
from pbjax.runs.results import ROW_FIELDS, Field
from pbjax.runs.sweep import write_summary
from pbjax.runs.tables import print_results

FIELDS = {
    **ROW_FIELDS,
    "seed": Field("integer", nullable=True),
    "heat": Field("number", nullable=True),
    "stop": Field("text"),
    "gradients": Field("integer"),
    "pilot_gradients": Field("integer"),
    "pilot_rows": Field("integer"),
    "acceptance": Field("number", nullable=True),
    "tries": Field("integer"),
    "prior_rows": Field("integer"),
    "matmul_precision": Field("text"),
}
"""Columns of a row: `seed` is null where a certificate is of all networks; `heat` is W, its mean, or null (importance
weights, held-out bound); `stop` is the end of the chains or the best stop of a chain; `prior_rows` are training rows
that the prior saw and `n` the ones certified; `matmul_precision` is that of leapfrog steps, all else being float32."""


def num_stops(config: Any, beta: np.ndarray) -> int:
    """Stops at which single networks are certified together."""
    return len(beta) if config.every_stop else 1


def single_networks(
    config: Any, stops: Any, loss: str, *, n: int, flag: str | None = None
) -> list[list[Certificate]]:  # fmt: skip
    """Certificates of every chain at every stop, [chunks][S]: all together with `every_stop`, else each stop alone."""
    heat, risk, slack = (np.asarray(x, np.float64) for x in (stops["heat"], stops["risks"][loss], stops["slack"]))
    chunks, seeds = heat.shape
    beta = np.repeat(np.asarray(stops["beta"], np.float64), seeds).reshape(chunks, seeds)
    name = config.surrogate if loss == "surrogate" else loss
    blocks = [slice(None)] if config.every_stop else [slice(chunk, chunk + 1) for chunk in range(chunks)]
    made: list[Certificate] = []
    for block in blocks:
        made += certificates.heat_single(
            heat[block].ravel(), risk[block].ravel(), slack=slack[block].ravel(), beta=beta[block].ravel(), n=n,
            delta=config.delta / 2, loss=name, union=config.tries, flag=flag,
        )  # fmt: skip
    return [made[chunk * seeds : (chunk + 1) * seeds] for chunk in range(chunks)]


def best_stops(config: Any, stops: Any, *, n: int) -> np.ndarray:
    """The chunk after which each chain's 0-1 certificate is least, [S]; the last one if only the end is certified."""
    values = np.array([[c.value for c in row] for row in single_networks(config, stops, "zero_one", n=n)])
    return values.argmin(axis=0) if config.every_stop else np.full(values.shape[1], len(values) - 1)


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
    """Every certificate of the networks at the end, single networks at their best stop, and held-out bounds."""
    stops, spent, flag = made["stops"], _gradients_at_stops(chosen, made), _flag(made["stops"])
    losses = {"zero_one": "zero_one", config.surrogate: "surrogate"}
    common = {
        "pilot_gradients": chosen["gradients"], "pilot_rows": chosen["rows"], "tries": config.tries,
        "prior_rows": len(problem.prior_rows), "matmul_precision": config.matmul_precision,
        "seconds": chosen["seconds"] + made["seconds"], "r_hat": None, "ess": None,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    last = len(spent) - 1
    for certificate in heat_certificates(
        stops["heat"][-1], stops["log_weight"][-1], {name: stops["risks"][own][-1] for name, own in losses.items()},
        beta=float(stops["beta"][-1]), n=target.n, delta=config.delta, surrogate=config.surrogate,
        slack=stops["slack"][-1], tries=config.tries, flag=flag,
    ):  # fmt: skip
        if certificate.route == "heat_single":
            continue  # below, with all stops that share their delta
        ideal = certificate.route == "ais_free_energy"
        rows.append(
            {
                **certificate.row(record=True), **common, "stop": "end", "seed": None, "gradients": int(spent[-1]),
                "acceptance": acceptance.mean(), "heat": None if ideal else certificate.inputs["heat"],
                "test_risk": None if ideal else stops["held_out"][losses[certificate.loss]][-1].mean(),
                "ess": certificate.inputs["effective_sample_size"] if ideal else None,
            }
        )  # fmt: skip
    singles = {own: single_networks(config, stops, own, n=target.n, flag=flag) for own in losses.values()}
    count, looked = problem.dataset.num_test, num_stops(config, stops["beta"]) * len(config.seeds)
    for index, seed in enumerate(config.seeds):
        for stop, at in {"end": last, **({"best": int(made["best"][index])} if config.every_stop else {})}.items():
            here = {"seed": seed, "stop": stop, "gradients": int(spent[at]), "acceptance": acceptance[index]}
            for own, made_of in singles.items():
                certificate, test = made_of[at][index], stops["held_out"][own][at][index]
                heat = certificate.inputs["heat"]
                rows.append({**certificate.row(record=True), **common, **here, "heat": heat, "test_risk": test})
            test = float(stops["held_out"]["zero_one"][at][index])
            certificate = certificates.test_set(
                round(test * count), n=count, delta=config.delta / 2, beta=float(stops["beta"][at]),
                union=config.tries * looked,
            )  # fmt: skip
            risk = float(stops["risks"]["zero_one"][at][index])
            rows.append(
                {
                    **certificate.row(record=True), **common, **here, "heat": None, "empirical_risk": risk,
                    "test_risk": test,
                }
            )  # fmt: skip
    return rows


def _gradients_at_stops(chosen: Any, made: Any) -> np.ndarray:
    """What a chain had cost at the end of every chunk."""
    spent = 1 + np.cumsum(np.asarray(chosen["schedule"].num_integration_steps))
    ends = (np.arange(len(made["stops"]["beta"])) + 1) * made["moves_per_chunk"]
    return spent[np.minimum(ends, len(spent)) - 1]


def make_curve(config: Any, target: Target, chosen: Any, made: Any) -> list[dict[str, Any]]:
    """Where every chunk left every chain, with the certificate of a network stopped there.

    With `every_stop` the certificates of all points hold together; without it each would have held alone.
    """
    stops, spent = made["stops"], _gradients_at_stops(chosen, made)
    values = single_networks(config, stops, "zero_one", n=target.n)
    return [
        {
            "seed": seed, "gradients": int(spent[chunk]), "beta": float(stops["beta"][chunk]),
            "heat": float(stops["heat"][chunk][index]),
            "surrogate": float(stops["risks"]["surrogate"][chunk][index]),
            "zero_one": float(stops["risks"]["zero_one"][chunk][index]),
            "test_zero_one": float(stops["held_out"]["zero_one"][chunk][index]),
            "acceptance": float(stops["acceptance"][chunk][index]),
            "certificate_if_stopped_here": values[chunk][index].value,
        }
        for chunk in range(len(spent))
        for index, seed in enumerate(config.seeds)
    ]  # fmt: skip


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
    runs.keep_networks(
        directory, made["networks"], model=model_options(config, problem.dataset.num_classes),
        inputs={"shape": problem.dataset.train_inputs.shape[1:], "data": data_options(config)}, seeds=config.seeds,
        rows=rows, about=lambda row, name: row["stop"] == name,
    )  # fmt: skip
    directory.write_results(
        rows, fields=FIELDS, sections={"curve": curve, "schedule": record, "timing": spent}
    )  # fmt: skip
    figures.along_the_run(curve, directory.figures / "run.png", n=target.n)
    figures.certificate_against_gradients(
        curve, rows, directory.figures / "certificate.png", together=config.every_stop
    )
    write_summary(directory.path, summary.summary)
    print_results(
        rows, title=f"delta = {config.delta / 2:g} a loss, {config.tries} tries",
        columns=("method", "loss", "seed", "stop", "empirical_risk", "test_risk", "heat", "certificate", "acceptance"),
    )  # fmt: skip
    for text in dict.fromkeys(row["assumption"] for row in rows):
        methods = dict.fromkeys(row["method"] for row in rows if row["assumption"] == text)
        print(f"{', '.join(methods)}: {text}")
    print(f"results, figures and networks in {directory.path}")
