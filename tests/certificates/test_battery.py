"""One battery that every certificate has to pass, whatever its route."""

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest

from pbjax import certificates
from pbjax.certificates import Certificate, gibbs_asymptotic, gibbs_chains, gibbs_iid, gibbs_plugin, mean_field
from pbjax.evidence import SampleStatistics

BETAS = np.array([0.0, 20.0, 60.0, 150.0, 300.0])
CHAINS = 2000  # enough for route (iii) to say something here


def statistics(mean, scale, chains=CHAINS):
    """Numbers as from ``chains`` chains of 10 independent draws, with a spread of ``scale`` between draws."""
    offsets = np.linspace(-1, 1, chains)
    offsets = offsets / offsets.std() * scale / math.sqrt(10)
    return SampleStatistics(
        mean=np.asarray(mean),
        variance=np.full(len(mean), scale**2),
        standard_error=np.full(len(mean), scale / math.sqrt(10 * chains)),
        chain_means=np.clip(np.asarray(mean)[:, None] + offsets, 0, 1),
        num_draws=np.full(len(mean), 10 * chains),
    )


ENERGY = statistics([0.6, 0.4, 0.3, 0.25, 0.22], 0.02)
RISK = statistics([0.5, 0.2, 0.1, 0.06, 0.05], 0.02)
SETTINGS = {"n": 3000, "delta": 0.05}

GIBBS = {
    "plugin": gibbs_plugin,
    "iid": gibbs_iid,
    "asymptotic": gibbs_asymptotic,
    "asymptotic, between chains": partial(gibbs_asymptotic, between_chains=True),
    "chains": gibbs_chains,
}


def ladder(route, *, energy=ENERGY, risk=None, betas=BETAS, **settings) -> list[Certificate]:
    loss = "smooth_bounded_cross_entropy" if risk is None else "zero_one"
    return GIBBS[route](betas, energy, risk=risk, loss=loss, **{**SETTINGS, **settings})


def the_mean_field(**settings) -> list[Certificate]:
    given = {"empirical_mean": 0.08, "num_draws": 10_000, "kl": 100.0, **SETTINGS, **settings}
    return [mean_field(given.pop("empirical_mean"), given.pop("num_draws"), given.pop("kl"), loss="zero_one", **given)]


def the_test_set(**settings) -> list[Certificate]:
    given = {"errors": 200, **SETTINGS, **settings}
    return [certificates.test_set(given.pop("errors"), **given)]


EVERY = {
    **{route: partial(ladder, route) for route in GIBBS},
    **{f"{route}, 0-1": partial(ladder, route, risk=RISK) for route in GIBBS},
    "mean field": the_mean_field,
    "test set": the_test_set,
    "test set, chernoff": partial(the_test_set, tail="chernoff", errors=200.5),
}


def values(made):
    return np.array([certificate.value for certificate in made])


@pytest.fixture(params=sorted(EVERY))
def make(request):
    return EVERY[request.param]


def test_value_in_range_and_not_vacuous_here(make):
    made = make()
    assert all(isinstance(certificate, Certificate) for certificate in made)
    assert np.all((values(made) >= 0) & (values(made) <= 1))
    assert values(made).min() < 0.6
    for certificate in made:
        assert certificate.value >= certificate.empirical_risk
        assert certificate.assumption
        assert certificate.flag is None
        if certificate.kl is not None:
            assert certificate.kl_low <= certificate.kl <= certificate.kl_high


@pytest.mark.parametrize("union", [1, 7])
def test_ledger_sums_to_delta(make, union):
    for certificate in make(union=union, delta=0.037):
        assert certificate.delta == 0.037
        assert math.isclose(sum(certificate.delta_ledger.values()), 0.037, rel_tol=1e-12)
        assert all(share > 0 for share in certificate.delta_ledger.values())
        assert ("union" in certificate.delta_ledger) == (union > 1)


def test_a_union_costs_what_a_smaller_delta_costs(make):
    single, split, smaller = values(make()), values(make(union=10)), values(make(delta=0.005))
    np.testing.assert_allclose(split, smaller, rtol=1e-12)
    assert np.all(split >= single)
    assert np.any(split > single)


def test_more_examples_or_more_delta_never_hurt(make):
    for more in ({"n": 3100}, {"n": 30_000}, {"delta": 0.06}, {"delta": 0.5}):
        changed, base = values(make(**more)), values(make())
        if "n" in more and "errors" in make().__iter__().__next__().inputs:
            continue  # the same count among more examples is another error rate
        assert np.all(changed <= base), more
        assert np.any(changed < base), more


def test_certificate_is_plain_data(make):
    for certificate in make(union=2):
        json.dumps(dataclasses.asdict(certificate), allow_nan=True)
        row = certificate.row()
        assert {"method", "loss", "beta", "empirical_risk", "kl", "kl_low", "kl_high", "n", "delta", "certificate",
                "assumption", "delta_ledger", "standard_error", "flag"} == set(row)  # fmt: skip
        assert row["certificate"] == certificate.value
        with pytest.raises(dataclasses.FrozenInstanceError):
            certificate.value = 0.0


@pytest.mark.parametrize(
    "bad", [{"delta": 0.0}, {"delta": 1.0}, {"n": 0}, {"union": 0}, {"delta": math.nan}], ids=lambda bad: str(bad)
)
def test_bad_settings_are_refused(make, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        make(**bad)


ROUTES = [(route, risk) for route in GIBBS for risk in (None, RISK)]


@pytest.fixture(params=ROUTES, ids=lambda case: case[0] + (", 0-1" if case[1] is not None else ""))
def route(request):
    return partial(ladder, request.param[0], risk=request.param[1])


def spoil(statistics, rung, **fields):
    changed = {}
    for name, value in fields.items():
        array = np.array(getattr(statistics, name), dtype=float)
        array[rung] = value
        changed[name] = array
    return statistics._replace(**changed)


@pytest.mark.parametrize("rung", [0, 2])
def test_a_nan_makes_every_certificate_that_uses_it_vacuous(route, rung):
    broken = spoil(ENERGY, rung, mean=np.nan, chain_means=np.nan, standard_error=np.nan, variance=np.nan)
    made, sound = values(route(energy=broken)), values(route())
    assert np.all(made[max(rung - 1, 0) :] == 1.0)
    np.testing.assert_allclose(made[: max(rung - 1, 0)], sound[: max(rung - 1, 0)])


def test_a_nan_in_the_certified_risk_is_vacuous_at_its_own_rung():
    for name in GIBBS:
        broken = spoil(RISK, 2, mean=np.nan, chain_means=np.nan, standard_error=np.nan, variance=np.nan)
        made, sound = values(ladder(name, risk=broken)), values(ladder(name, risk=RISK))
        assert made[1] == 1.0
        np.testing.assert_allclose(np.delete(made, 1), np.delete(sound, 1))


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_higher_earlier_energy_never_gives_a_smaller_value(route, rung):
    worse = ENERGY._replace(
        mean=ENERGY.mean + 0.05 * (np.arange(5) == rung),
        chain_means=np.clip(ENERGY.chain_means + 0.05 * (np.arange(5) == rung)[:, None], 0, 1),
    )
    later = slice(rung, None)  # certificates of the rungs above
    assert np.all(values(route(energy=worse))[later] >= values(route())[later])
    assert np.any(values(route(energy=worse))[later] > values(route())[later])


def test_a_higher_risk_never_gives_a_smaller_value():
    for name in GIBBS:
        worse = RISK._replace(mean=RISK.mean + 0.05, chain_means=np.clip(RISK.chain_means + 0.05, 0, 1))
        assert np.all(values(ladder(name, risk=worse)) > values(ladder(name, risk=RISK)))


def test_fewer_or_noisier_draws_never_give_a_smaller_value(route):
    few = statistics(ENERGY.mean, 0.04, chains=CHAINS // 4)
    few_risk = statistics(RISK.mean, 0.04, chains=CHAINS // 4)
    base = route()
    rough = route(energy=few, **({} if base[0].loss.startswith("smooth") else {"risk": few_risk}))
    if base[0].route == "gibbs_plugin":
        np.testing.assert_array_equal(values(rough), values(base))
    else:
        assert np.all(values(rough) >= values(base))
        assert np.any(values(rough) > values(base))
    assert np.all(np.array([c.standard_error for c in rough]) > np.array([c.standard_error for c in base]))


@pytest.mark.parametrize("rung", [0, 1, 4])
def test_a_larger_error_at_one_rung_never_gives_a_smaller_value(rung):
    worse = spoil(ENERGY, rung, standard_error=0.02)
    for risk in (None, RISK):
        changed, base = values(ladder("asymptotic", energy=worse, risk=risk)), values(ladder("asymptotic", risk=risk))
        assert np.all(changed >= base)
        assert np.any(changed > base)


def test_plug_in_is_below_the_routes(route):
    made = route()
    plugin = ladder("plugin", risk=None if made[0].loss.startswith("smooth") else RISK)
    assert np.all(values(plugin) <= values(made))


def test_looking_at_fewer_rungs_costs_less_and_the_others_are_vacuous(route):
    every, some = route(), route(rungs_inspected=[2])
    assert [c.value for i, c in enumerate(some) if i != 1] == [1.0] * 3
    assert "not among" in some[0].flag
    if every[0].route == "gibbs_plugin":
        assert some[1].value == every[1].value
    else:
        assert some[1].value < every[1].value


def test_flags_of_earlier_rungs_are_inherited(route):
    made = route(flags=["", None, "R-hat 1.20", False, True])
    assert [c.flag for c in made] == [
        None,
        "rung 2: R-hat 1.20",
        "rung 2: R-hat 1.20",
        "rung 2: R-hat 1.20; rung 4: failed its diagnostics",
    ]
    assert np.array_equal(values(made), values(route()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"betas": np.array([1.0, 2.0, 3.0, 4.0, 5.0])}, "start at 0"),
        ({"betas": np.array([0.0])}, "shapes|one rung"),
        ({"flags": ["", ""]}, "flags"),
        ({"rungs_inspected": [0]}, "rungs_inspected"),
        ({"rungs_inspected": []}, "rungs_inspected"),
        ({"energy": ENERGY._replace(mean=ENERGY.mean + 0.5)}, r"energy.mean must be in \[0, 1\]"),
        ({"energy": ENERGY._replace(standard_error=-ENERGY.standard_error)}, "standard_error"),
        ({"energy": ENERGY._replace(num_draws=0)}, "num_draws"),
        ({"energy": ENERGY._replace(mean=ENERGY.mean[:3])}, "shapes"),
    ],
)
def test_bad_ladders_are_refused(route, change, words):
    with pytest.raises(ValueError, match=words):
        route(**change)


def test_a_certificate_cannot_be_made_out_of_range_or_unbalanced():
    [good] = the_test_set()
    with pytest.raises(ValueError, match="lies in"):
        dataclasses.replace(good, value=math.nan)
    with pytest.raises(ValueError, match="sum to delta"):
        dataclasses.replace(good, delta=0.1)
