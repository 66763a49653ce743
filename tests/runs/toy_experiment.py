"""A small experiment of two phases, run as a process of its own by the tests that kill it."""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from pbjax.runs import (
    NOT_HASHED,
    Phases,
    RunDirectory,
    RunOptions,
    command_line_errors,
    replica_mesh,
    replicate,
    shard_replicas,
    start,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(RunOptions):
    """A random walk."""

    delta: float = 0.05
    """Confidence."""
    seeds: tuple[int, ...] = (0,)
    """One walk each."""
    num_chunks: int = 8
    """Chunks of the walk."""
    chunk_seconds: float = dataclasses.field(default=0.0, metadata=NOT_HASHED)
    """Pause after each chunk, so that a signal can meet it."""
    fill_disk_at: int = dataclasses.field(default=-1, metadata=NOT_HASHED)
    """Chunk after which the disk is filled up."""

    def validate(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"delta = {self.delta}: must lie in (0, 1)")


CONFIGS = {"toy": ToyConfig(), "other": ToyConfig(delta=0.1)}


def step_chunk(state):
    # Exact operations: the same bits on any number of devices.
    def move(key, walk):
        key, noise = jax.random.split(key)
        walk = 0.5 * walk + jax.random.uniform(noise, walk.shape, minval=-1.0)
        return key, walk, walk.max()

    def body(state, _):
        keys, walks, largest = jax.vmap(move)(state["key"], state["walk"])
        return {"key": keys, "walk": walks, "moves": state["moves"] + 1}, largest

    return jax.lax.scan(body, state, None, length=50)


def place_on_mesh(state):
    """Four walks over all devices, what they share on each of them."""
    mesh = replica_mesh(num_replicas=4)
    spread = shard_replicas(mesh, {name: state[name] for name in ("key", "walk")})
    return spread | {"moves": replicate(mesh, state["moves"])}


def fill_disk(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def run_toy(config, out: Path) -> None:
    with RunDirectory(out, experiment="toy", config=config) as run:
        phases = Phases(run, every_seconds=config.checkpoint_seconds)

        def sample(phase):
            def on_chunk(index, means):
                phase.log(chunk=index, mean=means.mean(), unknown=float("nan"))
                time.sleep(config.chunk_seconds)
                if index == config.fill_disk_at:
                    fill_disk(out)

            keys = jax.random.split(jax.random.key(config.seeds[0]), 4)
            state = {"key": keys, "walk": jnp.zeros((4, 25)), "moves": jnp.zeros((), int)}
            state, means = phase.run_chunks(
                step_chunk, place_on_mesh(state), num_chunks=config.num_chunks, on_chunk=on_chunk
            )
            return {"last": state["walk"], "means": means}

        def summarise(phase):
            risk = abs(float(walk["means"].mean())) % 1.0
            phase.log(risk=risk)
            return {"risk": risk}

        walk = phases.run("sample", sample)
        summary = phases.run("summary", summarise)
        row = dict.fromkeys(["beta", "test_risk", "kl", "kl_low", "kl_high", "r_hat", "ess", "flag", "seconds"])
        row |= {"method": "test_set", "loss": "zero_one", "empirical_risk": summary["risk"], "n": 10}
        row |= {"delta": config.delta, "certificate": 1.0, "assumption": "none", "delta_ledger": {"all": config.delta}}
        row |= {"standard_error": float(walk["last"].sum()), "seed": config.seeds[0]}
        run.write_results([row])


@command_line_errors()
def main(argv=None) -> None:
    jax.config.update("jax_enable_x64", True)
    start("toy", CONFIGS, run_toy, argv, default="toy")


if __name__ == "__main__":
    main(sys.argv[1:])
