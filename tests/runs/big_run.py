"""A run whose arrays are far larger than the program: prints its expected and its real peak, in bytes."""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp

from pbjax.runs import Phases, RunDirectory, RunOptions
from pbjax.runs.provenance import provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    delta: float = 0.05


def chunk(state, data):
    # Temporaries of the size of the data; they cannot be fused away, because the product needs them whole.
    hidden = jnp.tanh(data * state["scale"])
    return {"walk": state["walk"] + 1.0, "scale": state["scale"] * 1.01}, (hidden @ hidden.T)[:, :200]


def main(out):
    with RunDirectory(out, experiment="big", config=Config()) as run:
        phases = Phases(run, every_seconds=0)
        state = {"walk": jnp.zeros(20_000_000), "scale": jnp.float32(1.0)}
        data = jnp.ones((2000, 40_000), jnp.float32)

        def sample(phase):
            jitted = jax.jit(chunk, donate_argnums=0)
            return {"sum": float(phase.run_chunks(jitted, state, num_chunks=4, arguments=(data,))[1].sum())}

        phases.run("sample", sample)
        print(json.dumps([run.expected_memory["sample"], provenance()["memory"]["host_peak_bytes"]]))


if __name__ == "__main__":
    main(sys.argv[1])
