"""Every route's certificates again from their own inputs: the same bits, and others when an input was changed."""

import json
import math
from functools import partial

import numpy as np
import pytest

from pbjax import certificates
from pbjax.certificates import (
    from_record,
    gibbs_asymptotic,
    gibbs_chains,
    gibbs_iid,
    gibbs_plugin,
    heat_law_asymptotic,
    heat_law_rigorous,
    heat_mean,
    heat_single,
    recompute,
    recompute_all,
)
from pbjax.certificates.recomputing import ROUTES
from pbjax.evidence import SampleStatistics

rng = np.random.default_rng(8)
SETTINGS = {"n": 3000, "delta": 0.05, "loss": "zero_one"}
BETAS = np.array([0.0, 20.0, 60.0, 150.0])


def statistics(mean, *, dependent=False):
    chain_means = np.clip(np.asarray(mean)[:, None] + rng.normal(0, 0.02, (4, 40)), 0, 1)
    return SampleStatistics(
        mean=np.asarray(mean),
        variance=np.full(4, 0.0004) + rng.uniform(0, 1e-5, 4),
        standard_error=np.full(4, 0.001) + rng.uniform(0, 1e-5, 4),
        chain_means=chain_means,
        num_draws=np.array([300, 4001, 4002, 303]),  # fewer than the effective number, 400, and more
        dependent_rungs=dependent,
    )


ENERGY, RISK = statistics([0.6, 0.4, 0.3, 0.25]), statistics([0.5, 0.2, 0.1, 0.06])
HEAT, LOSSES = rng.uniform(80, 120, 12), rng.uniform(0.05, 0.1, 12)
LADDER = {"flags": ["", None, "R-hat 1.2", True], "union": 3, **SETTINGS}
LAW = {"slack": rng.uniform(0, 0.01, 12), "beta": 3000.0, "union": 2, "monte_carlo_share": 0.4, **SETTINGS}
WEIGHTS = rng.dirichlet(np.ones(12))

MADE = {
    **{
        f"{function.__name__}{', 0-1' * (risk is not None)}{', between chains' * ('between_chains' in more)}": partial(
            function, BETAS, ENERGY._replace(dependent_rungs=risk is not None), risk=risk, **more, **LADDER
        )
        for function, more in (
            (gibbs_plugin, {}),
            (gibbs_iid, {"monte_carlo_share": 0.3}),
            (gibbs_asymptotic, {}),
            (gibbs_asymptotic, {"between_chains": True}),
            (gibbs_chains, {"rungs_inspected": [1, 3]}),
        )
        for risk in (None, RISK)
    },
    "mean_field": lambda: [
        certificates.mean_field(
            np.float32(0.08), 10_000, 100.0, union=5, beta=7.0, flag="x", draw_standard_error=1e-3,
            prior_data="the rest", monte_carlo_share=0.3, **SETTINGS,
        )
    ],
    "test_set": lambda: [certificates.test_set(200, union=2, beta=3.0, **SETTINGS)],
    "test_set, chernoff": lambda: [certificates.test_set(200.5, tail="chernoff", **SETTINGS)],
    "heat_single": partial(heat_single, HEAT, LOSSES, slack=0.01, union=1000, beta=BETAS[1], **SETTINGS),
    "heat_single, Catoni": partial(heat_single, HEAT[0], LOSSES[0], parameter=1.3, **SETTINGS),
    "heat_mean": lambda: [heat_mean(HEAT, LOSSES, slack=0.01, weights=WEIGHTS, beta=3000.0, parameter=1.3, **SETTINGS)],
    "heat_law_rigorous": lambda: [heat_law_rigorous(HEAT, LOSSES, limit="betting", **LAW)],
    "heat_law_asymptotic": lambda: [heat_law_asymptotic(HEAT, LOSSES, **LAW)],
    "ais_free_energy": partial(
        certificates.ais_free_energy, BETAS[1:], -rng.uniform(10, 20, (3, 12)), energy=rng.uniform(0.1, 0.3, (3, 12)),
        slack=rng.uniform(0, 0.01, (3, 12)), union=4, monte_carlo_share=0.2, **SETTINGS,
    ),
}  # fmt: skip


def through_json(certificate):
    return json.loads(json.dumps(certificate.record(), allow_nan=False))


def changed(value):
    """Another value of the same kind, by more than rounding; everywhere in a list."""
    if isinstance(value, list):
        return [changed(item) for item in value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.97 if value else 0.01
    return {None: 0.5, "binomial": "chernoff", "betting": "kl", "effective_sample_size": "between_chains"}.get(
        value, "-"
    )


def test_every_route_is_here():
    assert {name.partition(",")[0] for name in MADE} == set(ROUTES)


@pytest.fixture(scope="module", params=sorted(MADE))
def made(request):
    return MADE[request.param]()


def test_the_same_bits_after_json(made):
    records = [through_json(certificate) for certificate in made]
    for certificate, record, again in zip(made, records, recompute_all(records), strict=True):
        assert from_record(record).record() == certificate.record() == record
        assert again.record() == certificate.record()
        assert again.value == certificate.value
    assert recompute(made[0]).record() == made[0].record()


def shows(records):
    """Whether some certificate is refused, or another one than its record states."""
    found = zip(records, recompute_all(records), strict=True)
    return any(isinstance(again, ValueError) or again.record() != record for record, again in found)


def test_every_changed_input_shows(made):
    records = [through_json(certificate) for certificate in made]
    assert not shows(records)
    for name, value in records[-1]["inputs"].items():
        if name == "chains" and "effective_sample_size" in records[-1]["inputs"].values():
            continue  # how many there were, for the record: the effective numbers count
        assert changed(value) != value
        tampered = [
            {**record, "inputs": {**record["inputs"], name: changed(record["inputs"][name])}} for record in records
        ]
        assert shows(tampered), name
    # The temperature of a predictor is often only for the record, and is left out here.
    for name in ("value", "n", "delta", "empirical_risk", "kl", "kl_low", "kl_high", "standard_error"):
        if isinstance(records[-1][name], float | int) and records[-1][name] != 0:
            assert shows([{**record, name: changed(record[name])} for record in records]), name


def test_what_was_not_a_number_stays_none():
    broken = ENERGY._replace(mean=np.array([0.6, np.nan, 0.3, 0.25]), standard_error=np.full(4, np.nan))
    for route in (gibbs_plugin, gibbs_iid, gibbs_asymptotic, gibbs_chains):
        for certificate in route(BETAS, broken, risk=None, **SETTINGS):
            assert recompute(through_json(certificate)).record() == certificate.record()
    for certificate in (
        *heat_single([math.nan, 90.0], [0.1, 0.1], **SETTINGS),
        certificates.test_set(math.nan, n=9, delta=0.1),
    ):
        record = through_json(certificate)
        assert recompute(record).record() == record
    weights = certificates.ais_free_energy(100.0, [-math.inf, -5.0], **SETTINGS)
    assert recompute(through_json(weights[0])).inputs["log_weights"] == [[-math.inf, -5.0]]


def test_what_cannot_be_recomputed_says_why():
    [good] = MADE["test_set"]()
    record = good.record()
    with pytest.raises(ValueError, match="route = 'oracle': choose one of gibbs_plugin"):
        recompute({**record, "route": "oracle"})
    with pytest.raises(ValueError, match="lacks its input 'tail'"):
        recompute({**record, "inputs": {"errors": 1.0, "union": 1}})
    with pytest.raises(ValueError, match="inputs missing or unknown"):
        recompute({name: value for name, value in record.items() if name != "inputs"})
