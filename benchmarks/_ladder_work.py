"""What pbjax and its peers do alike in `benchmarks/ladder.py`: data, network, loss, prior, positions, temperatures."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CEILING = 4.0


@dataclasses.dataclass(frozen=True)
class Work:
    """What every peer does once when told to: one move of every replica."""

    who: str = "pbjax"
    """A name in `PEERS`."""
    widths: tuple[int, ...] = (196, 50, 10)
    """Network."""
    rows: int = 60_000
    """Rows."""
    rungs: int = 5
    """Inverse temperatures."""
    chains: int = 4
    """Chains a rung."""
    leapfrogs: int = 8
    """Leapfrog steps a move."""
    step_size: float = 1e-3
    """Of every rung, in units of the prior's standard deviation."""
    rows_per_chunk: int = 2000
    """Rows at once: pbjax and PyTorch."""

    @property
    def replicas(self) -> int:
        """Rungs times chains."""
        return self.rungs * self.chains


class Made:
    """Arrays that are the same for all: data, prior scales, positions, inverse temperatures."""

    def __init__(self, work: Work) -> None:
        """Random data: times do not depend on what is seen."""
        generator = np.random.default_rng(0)
        self.inputs = generator.random((work.rows, work.widths[0]), np.float32)
        self.labels = generator.integers(0, work.widths[-1], work.rows)
        layers = list(itertools.pairwise(work.widths))
        self.scale = np.concatenate([np.full(b + a * b, a**-0.5, np.float32) for a, b in layers])
        self.positions = generator.normal(size=(work.replicas, self.scale.size)).astype(np.float32)
        self.rungs = np.geomspace(10.0, 60_000.0, work.rungs).astype(np.float32)
        self.betas = np.repeat(self.rungs, work.chains)


def fingerprint(potential: Any, gradient: Any) -> dict[str, Any]:
    """What the parent compares: potentials [R], and norms and projections of gradients [R, p]."""
    gradient = np.asarray(gradient, np.float64)
    directions = np.random.default_rng(1).normal(size=(gradient.shape[1], 3))
    return {
        "potential": np.asarray(potential, np.float64).tolist(),
        "norm": np.linalg.norm(gradient, axis=1).tolist(),
        "projections": (gradient @ directions).tolist(),
    }


def risk(work: Work, scale: jax.Array, z: jax.Array, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The empirical risk from its definition, examples in rows, float32."""
    w, hidden, begin = z * scale, None, 0
    for a, b in itertools.pairwise(work.widths):
        bias, kernel = w[begin : begin + b], w[begin + b : begin + b + a * b].reshape(a, b)
        begin += b + a * b
        hidden = (inputs if hidden is None else jnp.tanh(hidden)) @ kernel + bias
    floor = math.exp(-CEILING)
    shift = math.log1p(-floor)
    assert hidden is not None
    right = jnp.take_along_axis(jax.nn.softmax(hidden), labels[:, None], axis=1)[:, 0]
    return jnp.mean(-jnp.log(floor + (1 - 2 * floor) * right) + shift) / (CEILING + shift)
