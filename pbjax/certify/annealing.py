"""Arrays in, network and certificate out."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pbjax import _checks
from pbjax.certificates import Certificate
from pbjax.certificates.heat_law import Limit
from pbjax.certify.paths import Stop, advance, begin
from pbjax.certify.routes import heat_certificates
from pbjax.certify.schedules import pilot_rows, pilot_schedule
from pbjax.certify.target import SURROGATE, make_target
from pbjax.posteriors import Gaussian
from pbjax.posteriors.energy import Apply, ExampleLoss, Rows
from pbjax.precision import EXACT, Matmul
from pbjax.sampling import AnnealingSchedule


class Certified(NamedTuple):
    """Networks with their certificates.

    Attributes:
        params: parameters of C networks, each leaf with a leading axis [C].
        certificates: every route and loss, from `heat_certificates`.
        stop: heats, risks and acceptance of the chains.
        schedule: what the chains ran.
    """

    params: Any
    certificates: list[Certificate]
    stop: Stop
    schedule: AnnealingSchedule

    @property
    def network(self) -> Any:
        """Parameters of the first network, fixed in advance: the one to use."""
        return jax.tree.map(lambda leaf: leaf[0], self.params)

    @property
    def certificate(self) -> Certificate:
        """The certificate of `network`: 0-1 error, one network."""
        return next(made for made in self.certificates if (made.loss, made.route) == ("zero_one", "heat_single"))


def by_annealing(
    key: jax.Array,
    apply: Apply,
    prior: Gaussian,
    inputs: Any,
    labels: Any,
    *,
    gradients: int = 2000,
    beta: float | int | None = None,
    chains: int = 1,
    delta: float = 0.05,
    tries: int = 1,
    limit: Limit = "kl",
    parameter: float | None = None,
    surrogate: ExampleLoss = SURROGATE,
    schedule: AnnealingSchedule | None = None,
    rows_per_chunk: int = 2000,
    columns: Any = None,
    matmul_precision: Matmul = EXACT,
) -> Certified:
    """Train by annealing and certify what comes out: no held-out rows, no assumption that chains have converged.

    Chains start at exact draws from the prior and climb a frozen ladder of inverse temperatures by Hamiltonian Monte
    Carlo; their heat W, hardly more than the KL of a posterior, is what a certificate costs (docs/heat.md).

    Args:
        key: typed PRNG key, used for nothing else.
        apply: `apply(params, inputs [n, ...]) -> logits [n, k]`.
        prior: Gaussian over `params`, from before the rows were seen, or from other rows.
        inputs: the certified rows, [n, ...]; mapped, if at all, by constants that do not come from them.
        labels: int [n].
        gradients: full gradients a chain may take; more make the certificate tighter.
        beta: total inverse temperature of the last rung; n if left out.
        chains: C networks, side by side in one program.
        delta: failure probability of everything · in (0, 1); half for the 0-1 error, half for the surrogate.
        tries: everything ever tried on these rows, this run among it · >= 1; costs log(tries)/n.
        limit: as in `heat_certificates`; "betting" is the tightest with hundreds of chains.
        parameter: as in `heat_certificates`.
        surrogate: per-example loss in [0, 1] whose mean is the energy.
        schedule: one that was fixed beforehand; `gradients` and `beta` are then its own. If left out, a pilot with a
            key of its own chooses one (`pilot_schedule`), on a tenth of the rows where there are many.
        rows_per_chunk: rows in memory at once.
        columns: as in `make_target`.
        matmul_precision: as in `make_target`.

    Returns:
        `Certified`. Switch x64 on (`jax.config.update("jax_enable_x64", True)`) before: in float32 rounding is charged
        at many nats.

    Raises:
        ValueError: for unusable arrays, a delta outside (0, 1), a count below 1, an unknown limit or a parameter that
            is not positive.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
        >>> prior = Gaussian(jnp.zeros((2, 2)), jnp.ones((2, 2)))
        >>> made = by_annealing(jax.random.key(0), lambda w, x: x @ w, prior, x, x.argmax(1), gradients=200)
        >>> made.network.shape, made.certificate.route, bool(0 < made.certificate.value < 0.5)
        ((2, 2), 'heat_single', True)

    References:
        docs/heat.md, theorems 1 to 4; docs/certify.md for Flax, NNX and others.
    """
    _checks.check_delta(delta)
    for name, value in (("chains", chains), ("tries", tries)):
        _checks.check_range(name, value, low=1.0, open_high=True, whole=True)
    of_rows = partial(
        make_target, apply, prior, surrogate=surrogate, rows_per_chunk=rows_per_chunk, columns=columns,
        matmul_precision=matmul_precision,
    )  # fmt: skip
    target = of_rows(inputs, labels)
    certify = partial(heat_certificates, n=target.n, delta=delta, tries=tries, limit=limit, parameter=parameter)
    none = np.zeros(chains)
    certify(none, none, {"zero_one": none}, beta=1.0)  # settings that cannot be used are refused before a chain runs
    if schedule is None:
        last = float(target.n) if beta is None else float(beta)
        pilot_key = jax.random.fold_in(key, chains)  # the chains fold in 0 .. chains - 1
        some = pilot_rows(target.n)
        quick = of_rows(np.asarray(inputs)[some], np.asarray(labels)[some])
        schedule, _ = pilot_schedule(pilot_key, quick, beta=last, gradients=gradients)

    @partial(jax.jit, static_argnames="moves")
    def run(keys: jax.Array, schedule: AnnealingSchedule, rows: Rows, moves: int) -> tuple[Any, Stop]:
        _, stop = advance(begin(keys, target, rows), schedule, rows, target=target, moves=moves)
        return jax.vmap(target.to_params)(stop.position), stop

    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(chains))
    params, stop = run(keys, schedule, target.rows, schedule.num_moves)
    stop = jax.tree.map(np.asarray, stop)
    certificates = certify(stop.heat, stop.log_weight, stop.risks, beta=float(stop.beta), slack=stop.slack)
    return Certified(params, certificates, stop, schedule)
