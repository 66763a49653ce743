"""The phases of the experiment: moments of the prior, a pilot along the path, a ladder from it, adaptation, samples."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._gibbs_gap.problem import FUNCTIONALS, Problem
from pbjax import evidence, runs
from pbjax.precision import bind, force_of
from pbjax.replicas import Replicas
from pbjax.runs.mesh import lay_out_replicas, replicate, shard_data, shard_replicas
from pbjax.runs.progress import Progress
from pbjax.sampling import (
    AnnealState,
    HMCSettings,
    LadderState,
    adapt_chunk,
    anneal_chunk,
    freeze,
    init_ladder,
    sample_chunk,
    standard_error,
    summarise_exchange,
)


def settings(config: Any) -> HMCSettings:
    """Kernel settings of a config."""
    return HMCSettings(config.num_integration_steps, config.jitter, config.target_acceptance)


def keys(config: Any, stream: str) -> jax.Array:
    """One key per seed, [S], for a named use."""
    number = ("prior", "pilot", "pilot_moves", "ladder", "mean_field", "evaluation").index(stream)
    return jnp.stack([jax.random.fold_in(jax.random.key(seed), number) for seed in config.seeds])


def chain_positions(config: Any, stream: str, *, dimension: int) -> jax.Array:
    """Exact prior draws, one per chain: float32 [S * C, d], seeds varying slowest."""
    draws = jax.vmap(lambda key: jax.random.normal(key, (config.chains, dimension), jnp.float32))(keys(config, stream))
    return draws.reshape(-1, dimension)


def budget(config: Any) -> dict[str, int]:
    """Gradients of the energy by phase, all chains counted; evaluations of L alone are not."""
    chains = len(config.seeds) * config.chains
    leapfrogs = config.num_integration_steps
    pilot = config.pilot_rungs * config.pilot_moves * chains * leapfrogs
    replicas = (config.rungs - 1) * chains
    return {
        "pilot_up": pilot + chains,
        "pilot_down": pilot,
        "adapt": (config.adapt_moves * leapfrogs + 1) * replicas,
        "sample": config.draws * leapfrogs * replicas,
    }


def lay_out(config: Any) -> Replicas:
    """The ladder's replicas on the devices there are."""
    count = (config.rungs - 1) * config.chains * len(config.seeds)
    return lay_out_replicas(count, at_once=config.replicas_at_once, data_shards=config.data_shards)


def measure_gradient(config: Any, problem: Problem) -> float:
    """Seconds of one gradient of one replica, measured at the size of the ladder."""
    replicas = (config.rungs - 1) * config.chains * len(config.seeds)
    z = jax.random.normal(jax.random.key(0), (replicas, problem.whitening.dimension), jnp.float32)
    gradient = jax.jit(lambda z, data: jax.vmap(jax.grad(force_of(bind(problem.energy, data))))(z))
    jax.block_until_ready(gradient(z, problem.data))
    begin = time.perf_counter()
    jax.block_until_ready(gradient(z, problem.data))
    return (time.perf_counter() - begin) / replicas


def sample_prior(config: Any, problem: Problem, phase: runs.Phase) -> dict[str, Any]:
    """The rung beta = 0: independent exact draws, functionals [F, 1, S * C, D]."""
    begin = time.perf_counter()

    def chunk(state: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        split = jax.vmap(jax.random.split)(state)
        z = jax.vmap(lambda key: jax.random.normal(key, (config.chains, problem.whitening.dimension), jnp.float32))(
            split[:, 1]
        )
        values = jax.vmap(lambda x: problem.observe(x, data), out_axes=1)(z.reshape(-1, z.shape[-1]))
        return split[:, 0], values

    _, values = phase.run_chunks(chunk, keys(config, "prior"), num_chunks=config.draws, arguments=(problem.data,))
    return {"functionals": np.moveaxis(values, 0, -1)[:, None], "seconds": time.perf_counter() - begin}


def make_walk(config: Any, problem: Problem) -> Any:
    """The pilot's chunk, one rung of a list given as data: compiled once for both directions."""

    def chunk(carry: tuple[AnnealState, jax.Array], betas: jax.Array, data: Any) -> tuple[Any, Any]:
        state, index = carry
        state, trace = anneal_chunk(
            state,
            jax.lax.dynamic_slice_in_dim(betas, index, 1),
            energy=bind(problem.energy, data),
            settings=settings(config),
            moves=config.pilot_moves,
        )
        return (state, index + 1), jax.tree.map(lambda x: x[0], trace)

    return jax.jit(chunk, donate_argnums=0)


def anneal(
    walk: Any, problem: Problem, start: AnnealState, betas: np.ndarray, phase: runs.Phase, progress: Progress
) -> dict[str, Any]:
    """One walk of the pilot through `betas`; a chunk is a rung."""
    begin = time.perf_counter()

    def tell(index: int, trace: Any) -> None:
        row = {
            "beta": float(betas[index]), "mean_energy": float(trace.mean), "acceptance": float(trace.acceptance),
            "step_size": float(trace.step_size),
        }  # fmt: skip
        phase.log(rung=index, **row)
        progress.table([row], title=f"{phase.name}, rung {index + 1} of {len(betas)}")

    (state, _), trace = phase.run_chunks(
        walk, (start, jnp.zeros((), jnp.int32)), num_chunks=len(betas), arguments=(jnp.asarray(betas), problem.data),
        on_chunk=tell,
    )  # fmt: skip
    return {"state": state, "trace": trace, "seconds": time.perf_counter() - begin}


def place_ladder(config: Any, prior: Any, up: Any, down: Any, betas: np.ndarray) -> dict[str, np.ndarray]:
    """Rungs where the pilot's curve asks for them, with warm starts and step sizes from the nearest pilot rung.

    The first half of every seed's chains starts from the way up (cooling), the second half from the way down
    (heating): if the two directions disagree, R-hat says so.
    """
    down_mean, down_step = down["trace"].mean[::-1], down["trace"].step_size[::-1]
    means = np.concatenate([[prior["functionals"][0].mean()], (up["trace"].mean + down_mean) / 2])
    ladder = evidence.place_rungs(
        np.concatenate([[0.0], betas]), means, num_rungs=config.rungs, beta_max=config.beta_max
    )[1:]
    nearest = np.abs(np.log(ladder)[:, None] - np.log(betas)[None]).argmin(1)
    from_up = up["trace"].position[nearest]
    from_down = down["trace"].position[::-1][nearest]
    is_up = (np.arange(from_up.shape[1]) % config.chains) < config.chains // 2
    positions = np.where(is_up[None, :, None], from_up, from_down)
    log_steps = np.interp(np.log(ladder), np.log(betas), np.log(np.sqrt(up["trace"].step_size * down_step)))
    curvature = (up["trace"].curvature[nearest] + down["trace"].curvature[::-1][nearest]) / 2
    if config.precondition:
        # The prior alone has curvature 1, which also keeps a coordinate that the pilot hardly saw from a huge step.
        inverse_mass = 1.0 / np.maximum(curvature, 1.0)
        log_steps = np.full(len(ladder), np.log(1.0 / curvature.shape[1] ** 0.25))
    else:
        inverse_mass = np.ones_like(curvature)
    return {
        "betas": ladder, "positions": positions, "log_steps": log_steps, "is_up": is_up,
        "inverse_mass": inverse_mass.astype(np.float32),
    }  # fmt: skip


def place_on_mesh(config: Any, problem: Problem, state: LadderState) -> tuple[Replicas, LadderState, Any]:
    """Replicas over the devices, the data on all of them or its rows over `data_shards`, everything else on all."""
    replicas = lay_out(config)
    assert replicas.mesh is not None
    data = shard_data(replicas.mesh, problem.data, axis=1 if problem.model.columns is None else -1)
    state = replicate(replicas.mesh, state)._replace(kernel=shard_replicas(replicas.mesh, state.kernel))
    return replicas, state, data


def adapt(
    config: Any, problem: Problem, ladder: dict[str, np.ndarray], phase: runs.Phase, progress: Progress
) -> dict[str, Any]:
    """Step sizes of every rung, tuned on moves that are thrown away and double as burn-in."""
    begin = time.perf_counter()
    betas = jnp.asarray(ladder["betas"])
    state = jax.jit(
        lambda key, z, data: init_ladder(
            key,
            z,
            betas=betas,
            energy=bind(problem.energy, data),
            step_sizes=jnp.exp(jnp.asarray(ladder["log_steps"])),
            num_functionals=len(FUNCTIONALS),
            inverse_mass=jnp.asarray(ladder["inverse_mass"]),
            exchange=config.exchange,
        )
    )(keys(config, "ladder")[0], jnp.asarray(ladder["positions"]), problem.data)

    replicas, state, data = place_on_mesh(config, problem, state)

    def chunk(state: LadderState, betas: jax.Array, data: Any) -> tuple[LadderState, Any]:
        return adapt_chunk(
            state, betas, energy=bind(problem.energy, data), settings=settings(config),
            moves=config.moves_per_chunk, total_moves=config.adapt_moves, replicas=replicas,
        )  # fmt: skip

    def tell(index: int, acceptance: Any) -> None:
        rates = np.asarray(acceptance).mean(0)
        phase.log(chunk=index, acceptance=rates)
        rows = [{"beta": float(b), "acceptance": float(a)} for b, a in zip(ladder["betas"], rates, strict=True)]
        progress.table(rows, title="adaptation")

    state, _ = phase.run_chunks(
        chunk, state, num_chunks=config.adapt_moves // config.moves_per_chunk, arguments=(betas, data), on_chunk=tell
    )  # fmt: skip
    return {"state": freeze(state, total_moves=config.adapt_moves), "seconds": time.perf_counter() - begin}


def sample(
    config: Any, problem: Problem, ladder: dict[str, np.ndarray], start: LadderState, phase: runs.Phase,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Draws at frozen step sizes: functionals [F, K, S * C, D], acceptance and divergences [K]."""
    begin = time.perf_counter()
    replicas, state, data = place_on_mesh(config, problem, jax.tree.map(jnp.asarray, start))

    def chunk(state: LadderState, betas: jax.Array, data: Any) -> tuple[LadderState, Any]:
        state, (draws, _) = sample_chunk(
            state, betas, energy=bind(problem.energy, data), observe=lambda z: problem.observe(z, data),
            settings=settings(config), draws=config.moves_per_chunk, replicas=replicas,
        )  # fmt: skip
        return state, draws

    def tell(index: int, draws: Any) -> None:
        means = dict(zip(FUNCTIONALS, np.asarray(draws.functionals).mean(axis=(2, 3)), strict=True))
        acceptance = np.asarray(draws.acceptance).mean(axis=(1, 2))
        phase.log(chunk=index, acceptance=acceptance, **means)
        rows = [
            {
                "beta": float(beta), "mean_energy": float(means["energy"][k]), "zero_one": float(means["zero_one"][k]),
                "test_zero_one": float(means["test_zero_one"][k]), "acceptance": float(acceptance[k]),
                "step_size": float(step[k]),
            }
            for k, beta in enumerate(ladder["betas"])
        ]  # fmt: skip
        progress.table(rows, title="rungs, last chunk")

    step = np.exp(np.asarray(start.log_step))
    state, draws = phase.run_chunks(
        chunk, state, num_chunks=config.draws // config.moves_per_chunk,
        arguments=(jnp.asarray(ladder["betas"]), data), on_chunk=tell,
    )  # fmt: skip
    joined = jax.tree.map(lambda x: np.concatenate(list(x), axis=-1), draws)
    return {
        "functionals": joined.functionals,
        "acceptance": joined.acceptance.mean(axis=(1, 2)),
        "divergences": joined.divergent.sum(axis=(1, 2)),
        "step_size": step,
        "streamed_error": np.asarray(standard_error(state.statistics)),
        "last": np.asarray(state.kernel.position).reshape(len(step), -1, problem.whitening.dimension),
        "exchange": None if state.exchange is None else summarise_exchange(state.exchange),
        "seconds": time.perf_counter() - begin,
    }
