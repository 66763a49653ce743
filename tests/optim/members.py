"""The members of the family, each as the battery and the golden checks build it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax import optim

MICRO_BATCHES = 2
N = 50


def loss(params, inputs, labels):
    hidden = jnp.tanh(inputs @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None])
    return jnp.mean((hidden @ params["readout"]["kernel"] - labels) ** 2)


def make_params(key):
    first, second = jax.random.split(key)
    return {
        "Dense_0": {"kernel": jax.random.normal(first, (3, 4), jnp.float32), "bias": jnp.full(4, 0.1, jnp.float32)},
        "readout": {"kernel": jax.random.normal(second, (4,), jnp.float32)},
    }


PARAMS = make_params(jax.random.key(0))
INPUTS = jax.random.normal(jax.random.key(1), (8, 3), jnp.float32)
LABELS = jnp.sin(INPUTS.sum(axis=1))
BATCH = (INPUTS, LABELS)


def grad_fn(params, batch=BATCH):
    return jax.grad(loss)(params, *batch)


def part_grad_fn(params, part, batch=BATCH, count=MICRO_BATCHES):
    parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:])[part], batch)
    return jax.grad(loss)(params, *parts)


class Case(NamedTuple):
    """One member: `build(**overrides)` makes it, `arguments(batch)` what its update is called with beside the key."""

    build: Callable[..., Any]
    name: str = ""
    radius: str | None = "radius"
    parts: int = 0
    learned: bool = False
    random: bool = False
    two_gradients: bool = True

    def arguments(self, batch=BATCH):
        if self.parts:
            return {"grad_fn": lambda params, part: part_grad_fn(params, part, batch, self.parts)}
        return {"grad_fn": lambda params: grad_fn(params, batch)}


def with_defaults(constructor, **defaults):
    return lambda **overrides: constructor(**{**defaults, **overrides})


CASES = {
    "sam": Case(with_defaults(optim.sam, radius=0.1)),
    "asam": Case(with_defaults(optim.asam, radius=0.1)),
    "fisher_sam": Case(with_defaults(optim.fisher_sam, radius=0.1)),
    "random_sam": Case(with_defaults(optim.random_sam, radius=0.1), random=True, two_gradients=False),
    "random_sam_3": Case(with_defaults(optim.random_sam, radius=0.1, samples=3), random=True, two_gradients=False),
    "mix_sam": Case(with_defaults(optim.mix_sam, radius=0.1), random=True),
    "variational_sam_a": Case(with_defaults(optim.variational_sam, radius=0.1, n=N), learned=True),
    "variational_sam_b": Case(with_defaults(optim.variational_sam, radius=0.1, n=N, form="b"), learned=True),
    "mean_field": Case(
        with_defaults(optim.mean_field, radius=0.1, n=N), learned=True, random=True, two_gradients=False
    ),
    "mean_field_natural": Case(
        with_defaults(optim.mean_field, radius=0.1, n=N, scale_update=optim.natural_gradient(0.1), samples=2),
        learned=True, random=True, two_gradients=False,
    ),
    "mean_field_then_sam": Case(
        with_defaults(optim.mean_field_then_sam, radius=0.1, n=N, initial_radius=0.1), learned=True, random=True
    ),
    "gsam": Case(with_defaults(optim.gsam, radius=0.1)),
    "friendly_sam": Case(with_defaults(optim.friendly_sam, radius=0.1)),
    "momentum_sam": Case(with_defaults(optim.momentum_sam, radius=0.1), two_gradients=False),
    "look_sam": Case(with_defaults(optim.look_sam, radius=0.1, every=2)),
    "m_sam": Case(with_defaults(optim.m_sam, radius=0.1, micro_batches=MICRO_BATCHES), parts=MICRO_BATCHES),
    "sparse_sam": Case(with_defaults(optim.sparse_sam, radius=0.1)),
    "weight_perturbation": Case(with_defaults(optim.weight_perturbation, gamma=0.1), radius="gamma", random=True),
    "bsam": Case(
        with_defaults(optim.bsam, learning_rate=0.1, n=N, radius=0.1), learned=True, random=True, two_gradients=False
    ),
    "bsam_parts": Case(
        with_defaults(optim.bsam, learning_rate=0.1, n=N, radius=0.1, micro_batches=MICRO_BATCHES),
        learned=True, random=True, two_gradients=False, parts=MICRO_BATCHES,
    ),
    "ivon": Case(
        with_defaults(optim.ivon, learning_rate=0.1, n=N, beta2=0.9), radius="learning_rate", learned=True, random=True,
        two_gradients=False,
    ),
    "vogn": Case(
        with_defaults(optim.vogn, learning_rate=0.1, n=N, micro_batches=8, beta1=0.9, beta2=0.9),
        radius="learning_rate", learned=True, random=True, two_gradients=False, parts=8,
    ),
}  # fmt: skip
CASES = {name: case._replace(name=name) for name, case in CASES.items()}
