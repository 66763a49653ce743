"""The same moves of Hamiltonian Monte Carlo over a ladder, by pbjax and by its peers: one process each.

`benchmarks/ladder.py` starts `python -m benchmarks._ladder_peers --who NAME` for every name in `PEERS` and tells it
when to work. The peers are used as their documentation does, with the network and the loss written from their
definitions, examples in rows and the whole data set at once; what their interfaces allow to make them faster is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import _measuring as measuring
from benchmarks._ladder_work import Made, Work, fingerprint, risk
from benchmarks.leapfrog import make_energy
from pbjax import precision

SEED = 2


Call = Callable[[], Any]
"""One move of every replica; returns the mean acceptance probability."""


def own_energy(work: Work) -> tuple[Callable[..., jax.Array], Any]:
    """`energy(z, data)` of pbjax, and its data, which are those of `Made`."""
    _, energy, data = make_energy(work.widths, work.rows, work.rows_per_chunk)
    return energy, data


def _jax_fingerprint(made: Made, energy: Callable[..., jax.Array], *data: Any) -> dict[str, Any]:
    def potential(z: jax.Array, beta: jax.Array, *data: Any) -> jax.Array:
        return 0.5 * jnp.vdot(z, z) + beta * energy(z, *data)

    both = jax.jit(lambda z, betas, *data: jax.lax.map(
        lambda one: jax.value_and_grad(potential)(one[0], one[1], *data), (z, betas)
    ))  # fmt: skip
    return fingerprint(*both(jnp.asarray(made.positions), jnp.asarray(made.betas), *data))


def pbjax(work: Work, made: Made) -> tuple[Call, dict[str, Any]]:
    """All replicas in one program, `pbjax.sampling.hmc`, as experiments run it: losses summed in float64."""
    precision.make_exact_the_default()
    from pbjax.sampling import hmc

    energy, data = own_energy(work)
    betas, sizes = jnp.asarray(made.betas), jnp.full((work.replicas,), work.step_size)

    @jax.jit
    def move(key: jax.Array, state: Any, data: Any) -> Any:
        state, info = hmc.step(
            key, state, betas=betas, step_sizes=sizes, num_integration_steps=work.leapfrogs,
            energy=partial(energy, data=data),
        )  # fmt: skip
        return state, jnp.mean(info.acceptance)

    state = hmc.init(jnp.asarray(made.positions), betas, partial(energy, data=data))
    keys = iter(jax.random.split(jax.random.key(SEED), 1000))

    def call() -> jax.Array:
        nonlocal state
        state, acceptance = move(next(keys), state, data)
        return acceptance

    return call, _jax_fingerprint(made, energy, data)


def _strong(state: Any) -> Any:
    """The state with the types that a move returns: weak ones would compile the move twice."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: x if is_key(x) else jnp.asarray(x, x.dtype), state)


def _numpyro_moves(work: Work, starts: list[tuple[Any, tuple[Any, ...], Any]]) -> Call:
    """One move of every start's chains, by its kernel, jitted here without the loop of `MCMC.run` around it.

    Args:
      work: what to do.
      starts: (kernel, arguments of its model, first positions with chains leading); the first kernel moves all.
    """
    states = [
        _strong(kernel.init(jax.random.split(jax.random.key(SEED + index), len(first["z"])), 0, first, arguments))
        for index, (kernel, arguments, first) in enumerate(starts)
    ]
    move = jax.jit(lambda state, arguments: _strong(starts[0][0].sample(state, arguments, {})))

    def call() -> float:
        accepted = []
        for index, (_, arguments, _) in enumerate(starts):
            states[index] = move(states[index], arguments)
            if not bool((states[index].num_steps == work.leapfrogs).all()):
                raise RuntimeError(f"numpyro made {states[index].num_steps} leapfrog steps, not {work.leapfrogs}")
            accepted.append(float(states[index].accept_prob.mean()))
        return float(np.mean(accepted))

    return call


def _numpyro_options(work: Work) -> dict[str, Any]:
    return {
        "step_size": work.step_size, "num_steps": work.leapfrogs, "trajectory_length": None,
        "adapt_step_size": False, "adapt_mass_matrix": False,
    }  # fmt: skip


def numpyro_rungs(work: Work, made: Made) -> tuple[Call, dict[str, Any]]:
    """A model with the risk as a factor; the chains of a rung vectorised, rungs one after another, compiled once."""
    import numpyro
    from numpyro.infer import HMC

    scale, data = jnp.asarray(made.scale), (jnp.asarray(made.inputs), jnp.asarray(made.labels))

    def model(inputs: Any, labels: Any, beta: Any) -> None:
        z = numpyro.sample("z", numpyro.distributions.Normal(0.0, 1.0).expand([scale.size]).to_event(1))
        numpyro.factor("risk", -beta * risk(work, scale, z, inputs, labels))

    positions = made.positions.reshape(work.rungs, work.chains, -1)
    starts = [
        (HMC(model, **_numpyro_options(work)), (*data, jnp.asarray(beta)), {"z": jnp.asarray(z)})
        for beta, z in zip(made.rungs, positions, strict=True)
    ]
    return _numpyro_moves(work, starts), _jax_fingerprint(made, partial(risk, work, scale), *data)


def _numpyro_at_once(work: Work, made: Made, energy: Callable[..., Any], *data: Any) -> tuple[Call, dict[str, Any]]:
    from numpyro.infer import HMC

    def potential(position: Any) -> jax.Array:
        z, beta = position["z"], jax.lax.stop_gradient(position["beta"])
        return 0.5 * jnp.vdot(z, z) + beta * energy(z, *data)

    # The inverse temperature is a coordinate that no force moves and whose mass holds it still.
    mass = jnp.ones(1 + made.scale.size).at[0].set(1e-30)  # flat, "beta" before "z"
    kernel = HMC(potential_fn=potential, inverse_mass_matrix=mass, **_numpyro_options(work))
    start = {"z": jnp.asarray(made.positions), "beta": jnp.asarray(made.betas)}
    return _numpyro_moves(work, [(kernel, (), start)]), _jax_fingerprint(made, energy, *data)


def numpyro_at_once(work: Work, made: Made) -> tuple[Call, dict[str, Any]]:
    """All replicas vectorised as chains, the inverse temperature in the state."""
    data = (jnp.asarray(made.inputs), jnp.asarray(made.labels))
    return _numpyro_at_once(work, made, partial(risk, work, jnp.asarray(made.scale)), *data)


def numpyro_own_energy(work: Work, made: Made) -> tuple[Call, dict[str, Any]]:
    """The same on the energy of pbjax: what is left is the kernel."""
    energy, data = own_energy(work)
    return _numpyro_at_once(work, made, energy, data)


def blackjax_loop(work: Work, made: Made) -> tuple[Call, dict[str, Any]]:
    """One jitted kernel a rung, one run a chain, in Python loops."""
    import blackjax

    scale, data = jnp.asarray(made.scale), (jnp.asarray(made.inputs), jnp.asarray(made.labels))
    positions = made.positions.reshape(work.rungs, work.chains, -1)
    steps, states = [], []
    for beta, starts in zip(made.rungs, positions, strict=True):

        def log_density(z: jax.Array, beta: float = float(beta)) -> jax.Array:
            return -0.5 * jnp.vdot(z, z) - beta * risk(work, scale, z, *data)

        kernel = blackjax.hmc(log_density, work.step_size, jnp.ones(scale.size), work.leapfrogs)
        steps.append(jax.jit(kernel.step))
        states.append([kernel.init(jnp.asarray(z)) for z in starts])
    key = jax.random.key(SEED)

    def call() -> float:
        nonlocal key
        accepted = []
        for rung, step in enumerate(steps):
            for chain, state in enumerate(states[rung]):
                key, now = jax.random.split(key)
                states[rung][chain], info = step(now, state)
                if int(info.num_integration_steps) != work.leapfrogs:
                    raise RuntimeError(f"blackjax made {info.num_integration_steps} leapfrog steps")
                accepted.append(float(info.acceptance_rate))
        return float(np.mean(accepted))

    return call, _jax_fingerprint(made, partial(risk, work, scale), *data)


def torch_leapfrog(work: Work, made: Made) -> tuple[Call, dict[str, Any]]:
    """All replicas batched, eager, rows in blocks."""
    import torch

    from benchmarks import _torch_hmc

    torch.manual_seed(SEED)
    gradient, move = _torch_hmc.make_moves(
        made.inputs, made.labels, made.scale, work.widths, rows_per_block=work.rows_per_chunk
    )
    z, betas = torch.from_numpy(made.positions), torch.from_numpy(made.betas)
    at = gradient(z)
    potential = 0.5 * z.square().sum(1) + betas * at[0]
    told = fingerprint(potential.numpy(), (z + betas[:, None] * at[1]).numpy())

    def call() -> float:
        nonlocal z, at
        z, at, acceptance = move(z, at, betas, work.step_size, work.leapfrogs)
        return float(acceptance.mean())

    return call, told


PEERS: dict[str, Callable[[Work, Made], tuple[Call, dict[str, Any]]]] = {
    "pbjax": pbjax,
    "numpyro, a run for each rung": numpyro_rungs,
    "numpyro, all rungs as chains": numpyro_at_once,
    "numpyro, all rungs as chains, energy of pbjax": numpyro_own_energy,
    "blackjax, a run for each chain": blackjax_loop,
    "PyTorch, all replicas batched": torch_leapfrog,
}


def main(work: Work) -> None:
    """Waits for the parent."""

    def make() -> tuple[Call, dict[str, Any]]:
        if work.who == "product":
            product, flops = measuring.product_call(times=8)
            return product, {"flops": flops}
        return PEERS[work.who](work, Made(work))

    measuring.serve(make)


if __name__ == "__main__":
    main(tyro.cli(Work, description=__doc__))
