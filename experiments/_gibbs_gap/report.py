"""From draws to certificates, tables and figures."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._gibbs_gap import summary
from experiments._gibbs_gap.problem import FUNCTIONALS, Problem, data_options, model_options
from pbjax import certificates, evidence, posteriors, runs
from pbjax.runs import figures
from pbjax.runs.sweep import write_summary
from pbjax.runs.tables import print_results
from pbjax.sampling import Diagnostics, ExchangeSummary, flag_rungs, summarise

ROUTES = ("gibbs_plugin", "gibbs_iid", "gibbs_asymptotic", "gibbs_chains")


def _flags(
    config: Any, betas: np.ndarray, draws: np.ndarray, diagnostics: dict[str, Diagnostics], divergences: np.ndarray,
    is_up: np.ndarray,
) -> list[str]:  # fmt: skip
    """One text a rung, "" when nothing objects; draws [F, K, C, D] of one seed, rung 0 the prior."""
    texts = flag_rungs(
        diagnostics, max_r_hat=config.max_r_hat, min_ess=config.min_ess, divergences=divergences,
        names=("energy", "zero_one"),
    )  # fmt: skip
    both = [summarise(draws[0][:, side])[0] for side in (is_up, ~is_up) if side.sum() >= 2]
    if len(both) == 2:
        for rung in np.flatnonzero(evidence.hysteresis(betas, both[0], downward=both[1]).flagged):
            texts[rung] = ", ".join(filter(None, [texts[rung], "hysteresis"]))
    jumps = evidence.first_order_transition(betas, summarise(draws[0])[0]).flagged
    for rung in np.flatnonzero(jumps) + 1:
        texts[rung] = ", ".join(filter(None, [texts[rung], "jump of E[L] below this rung"]))
    return texts


def _gibbs_rows(
    config: Any, problem: Problem, betas: np.ndarray, summaries: dict[str, Any], diagnostics: dict[str, Diagnostics],
    flags: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    for loss in problem.losses:
        functional = "zero_one" if loss == "zero_one" else "energy"
        for route in ROUTES:
            for index, certificate in enumerate(
                getattr(certificates, route)(
                    betas, summaries["energy"], risk=None if functional == "energy" else summaries[functional],
                    n=problem.n, delta=config.delta / 2, loss=loss, union=len(config.prior_scale_grid), flags=flags,
                ),
                start=1,
            ):  # fmt: skip
                rows.append(
                    {
                        **certificate.row(record=True),
                        "test_risk": summaries[f"test_{functional}"].mean[index],
                        "r_hat": diagnostics[functional].r_hat[index],
                        "ess": diagnostics[functional].ess[index],
                    }
                )
    return rows


def _mean_field_rows(
    config: Any, problem: Problem, betas: np.ndarray, trained: dict[str, Any], seed: int, neg_log_z: Any
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Certificates of the mean-field posteriors of one seed, and the gap identity on every rung."""
    rows = []
    union = len(config.prior_scale_grid)
    for loss in problem.losses:
        best = trained["best"][loss]
        for rung, beta in enumerate(trained["betas"]):
            chosen = rung == best["rung"][seed]
            certificate = certificates.mean_field(
                best["risk"][seed] if chosen else trained["risk"][loss][seed, rung],
                config.mean_field_draws if chosen else config.mean_field_rung_draws,
                trained["kl"][seed, rung], n=problem.n, delta=config.delta / 2, loss=loss, union=union, beta=beta,
                draw_standard_error=(
                    best["risk_error"][seed] if chosen else trained["risk_error"][loss][seed, rung]
                ),
            )  # fmt: skip
            rows.append({**certificate.row(record=True), "test_risk": trained["test_risk"][loss][seed, rung]})
        if "full_covariance" in trained:
            full = trained["full_covariance"]
            certificate = certificates.mean_field(
                full["risk"][loss][seed], config.mean_field_draws, full["kl"][seed], n=problem.n,
                delta=config.delta / 2, loss=loss, union=union, beta=trained["betas"][full["rung"][seed]],
                draw_standard_error=full["risk_error"][loss][seed],
            )  # fmt: skip
            rows.append({**certificate.row(record=True), "method": "full_covariance", "test_risk": None})
    gaps = []
    for rung, beta in enumerate(betas[1:]):
        risk, kl = trained["risk"][config.surrogate][seed, rung], trained["kl"][seed, rung]
        error = trained["risk_error"][config.surrogate][seed, rung]
        value, low, high = (
            evidence.gap_identity(risk, kl, neg_log_z=side[rung + 1], beta=beta)
            for side in (neg_log_z.value.trapezium, neg_log_z.value.left, neg_log_z.value.right)
        )
        # The right sum is at most Lambda: a posterior below it convicts the estimate, not the ladder's width.
        check = posteriors.variational_gap(
            risk, kl, neg_log_z=neg_log_z.value.right[rung + 1], beta=beta, risk_error=error,
            neg_log_z_error=neg_log_z.standard_error.right[rung + 1],
        )  # fmt: skip
        gaps.append(
            {
                "beta": float(beta), "mean_field_risk": float(risk), "mean_field_kl": float(kl), "gap": float(value),
                "gap_low": float(low), "gap_high": float(high), "standard_error": float(check.standard_error),
                "violated": bool(check.violated), "learning_rate": float(trained["learning_rate"][seed, rung]),
                "initial_scale": float(trained["initial_scale"][seed, rung]),
            }
        )  # fmt: skip
    return rows, gaps


def _test_set_row(config: Any, problem: Problem, position: np.ndarray, beta: float, flag: str) -> dict[str, Any]:
    """The held-out bound of one returned network: the last state of the first chain on a rung fixed beforehand."""
    values = jax.jit(lambda z, data: problem.observe(z, data))(jnp.asarray(position), problem.data)
    named = dict(zip(FUNCTIONALS, np.asarray(values), strict=True))
    count = problem.dataset.num_test
    certificate = certificates.test_set(
        round(float(named["test_zero_one"]) * count), n=count, delta=config.delta / 2, beta=beta, flag=flag or None
    )
    return {**certificate.row(record=True), "test_risk": named["test_zero_one"], "empirical_risk": named["zero_one"]}


def write(
    config: Any, problem: Problem, directory: runs.RunDirectory, prior: Any, up: Any, down: Any, ladder: Any,
    adapted: Any, sampled: Any, trained: Any,
) -> None:  # fmt: skip
    """Rows, ladder, gaps, pilot and figures of a finished run; prints the best row of every method."""
    betas = np.concatenate([[0.0], ladder["betas"]])
    draws = np.concatenate([prior["functionals"], sampled["functionals"]], axis=1)
    divergences = np.concatenate([[0], sampled["divergences"]])
    gibbs_seconds = sum(phase["seconds"] for phase in (prior, up, down, adapted, sampled))
    rows, rungs, gaps, positions = [], [], [], []
    for index, seed in enumerate(config.seeds):
        chains = slice(index * config.chains, (index + 1) * config.chains)
        own = draws[:, :, chains]
        results = {name: summarise(own[f], dependent_rungs=config.exchange) for f, name in enumerate(FUNCTIONALS)}
        summaries = {name: result[0] for name, result in results.items()}
        diagnostics = {name: result[1] for name, result in results.items()}
        estimate = evidence.thermodynamic_integration_with_errors(betas, summaries["energy"])
        flags = _flags(config, betas, own, diagnostics, divergences, ladder["is_up"][chains])
        mean_field, gap = _mean_field_rows(config, problem, betas, trained, index, estimate)
        for rung, entry in enumerate(gap, start=1):
            if entry["violated"]:
                flags[rung] = ", ".join(filter(None, [flags[rung], "-log Z above a mean-field upper bound"]))
        gibbs = _gibbs_rows(config, problem, betas, summaries, diagnostics, flags)
        # The rung of the held-out row: the highest with every rung up to it fine; no test label takes part.
        fine = next((rung for rung, text in enumerate(flags) if text), len(betas)) - 1
        top = max(fine, 1)
        positions.append(sampled["last"][top - 1, index * config.chains])
        held_out = _test_set_row(config, problem, positions[-1], float(betas[top]), flags[top])
        for row in gibbs:
            row["seconds"] = gibbs_seconds
        for row in mean_field:
            row.update(seconds=trained["seconds"], r_hat=None, ess=None)
        held_out.update(seconds=None, r_hat=None, ess=None)
        same = {"seed": seed, "matmul_precision": config.matmul_precision}
        rows += [{**row, **same} for row in (*gibbs, *mean_field, held_out)]
        gaps += [{"seed": seed, **entry} for entry in gap]
        for rung, beta in enumerate(betas):
            rungs.append(
                {
                    "seed": seed, "beta": float(beta), "flag": flags[rung],
                    "step_size": float(sampled["step_size"][rung - 1]) if rung else None,
                    "acceptance": float(sampled["acceptance"][rung - 1]) if rung else None,
                    "divergences": int(divergences[rung]),
                    **_swaps(sampled["exchange"], rung, chains),
                    **{f"mean_{name}": float(np.asarray(summaries[name].mean)[rung]) for name in FUNCTIONALS},
                    "streamed_standard_error_energy": (
                        float(np.sqrt(np.mean(sampled["streamed_error"][0, rung - 1, chains] ** 2) / config.chains))
                        if rung
                        else None
                    ),
                    "standard_error_energy": float(np.asarray(summaries["energy"].standard_error)[rung]),
                    **{f"r_hat_{name}": float(diagnostics[name].r_hat[rung]) for name in FUNCTIONALS},
                    **{f"ess_{name}": float(diagnostics[name].ess[rung]) for name in FUNCTIONALS},
                    **{f"neg_log_z_{name}": float(getattr(estimate.value, name)[rung])
                       for name in ("left", "trapezium", "right")},
                    "neg_log_z_variance_form": float(estimate.variance_form.neg_log_z[rung]),
                }
            )  # fmt: skip
        if index == 0:
            _figures(config, directory, betas, own, summaries, diagnostics, estimate, flags)
    sections = {"ladder": rungs, "gap": gaps, "pilot": _pilot(up, down, config)}
    if config.exchange:
        sections["exchange"] = _round_trips(config, sampled["exchange"])
    runs.keep_networks(
        directory, {"held_out": jax.vmap(problem.whitening.to_params)(jnp.asarray(np.stack(positions)))},
        model=model_options(config, problem.dataset.num_classes),
        inputs={"shape": problem.dataset.train_inputs.shape[1:], "data": data_options(config)}, seeds=config.seeds,
        rows=rows, about=lambda row, name: row["method"] == "test_set",
    )  # fmt: skip
    directory.write_results(rows, sections=sections)
    figures.certificates_by_temperature(rows, directory.figures / "certificates.png")
    write_summary(directory.path, summary.summary)
    _say(config, directory, rows, rungs)


def _swaps(exchange: ExchangeSummary | None, rung: int, chains: slice) -> dict[str, float | None]:
    """Column of the ladder: how often a swap with the rung above is accepted, over the chains of one seed."""
    if exchange is None:
        return {}
    within = 1 <= rung <= len(exchange.acceptance)
    return {"swap_acceptance": float(exchange.acceptance[rung - 1, chains].mean()) if within else None}


def _round_trips(config: Any, exchange: ExchangeSummary) -> list[dict[str, int]]:
    """Round trips of the replicas between the lowest sampled rung and the highest, seed by seed."""
    by_seed = (np.reshape(x, (len(config.seeds), -1)).sum(1) for x in exchange[1:])
    return [
        {"seed": int(seed), "round_trips": int(trips), "replicas_at_both_ends": int(both)}
        for seed, trips, both in zip(config.seeds, *by_seed, strict=True)
    ]


def _pilot(up: Any, down: Any, config: Any) -> list[dict[str, float]]:
    betas = np.geomspace(config.beta_min, config.beta_max, config.pilot_rungs)
    return [
        {"beta": float(beta), "mean_energy_up": float(a), "mean_energy_down": float(b)}
        for beta, a, b in zip(betas, up["trace"].mean, down["trace"].mean[::-1], strict=True)
    ]


def _figures(
    config: Any, directory: runs.RunDirectory, betas: np.ndarray, draws: np.ndarray, summaries: dict[str, Any],
    diagnostics: dict[str, Diagnostics], estimate: Any, flags: list[str],
) -> None:  # fmt: skip
    """The ladder and the traces of the first seed."""
    figures.energy_ladder(
        betas, summaries["energy"].mean, standard_error=summaries["energy"].standard_error,
        left=estimate.value.left, trapezium=estimate.value.trapezium, right=estimate.value.right,
        path=directory.figures / "energy_ladder.png", test_mean=summaries["test_energy"].mean,
        flagged=np.array([bool(text) for text in flags]), loss_name=config.surrogate.replace("_", " "),
    )  # fmt: skip
    figures.trace_and_r_hat(
        draws[0], diagnostics["energy"].r_hat, betas=betas, path=directory.figures / "trace_and_r_hat.png",
        threshold=config.max_r_hat, name="L",
    )  # fmt: skip


def _say(config: Any, directory: runs.RunDirectory, rows: list[dict[str, Any]], rungs: list[dict[str, Any]]) -> None:
    for rung in rungs:
        if rung["flag"]:
            print(f"warning: seed {rung['seed']}, beta {rung['beta']:.4g}: {rung['flag']}", file=sys.stderr)
    print_results(
        summary.best_rows(rows),
        columns=(
            "method", "loss", "beta", "empirical_risk", "test_risk", "kl", "certificate", "r_hat", "ess", "seed",
        ),
        title=f"best of every method, delta = {config.delta / 2:g} a loss",
    )  # fmt: skip
    print(f"results and figures in {directory.path}")
