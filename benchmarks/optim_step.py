"""What one step of each optimiser costs, as multiples of the base optimiser's step, and what noise costs.

    python benchmarks/optim_step.py [--net mlp resnet] [--batch 256] [--repeats 15] [--torch]

All timings of one line are interleaved within one run and the median of the repeats is taken; only the ratios mean
something. `mlp` is 784-600-600-10, `resnet` a residual network of eight convolutions on 16x16x3 images. The data are
random. `allowed` is the bound that pbjax sets itself: 2.05 base steps for SAM, and 1.15 base steps plus one draw of P
normals, measured in the same run with the same kind of key, for the members with one gradient. `--torch` also times
ivon-opt and SGD in PyTorch on the same net and batch (pip install torch ivon-opt; not among pbjax's dependencies).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pbjax import optim
from pbjax.models import mlp

# A call is a scan of so many steps, as training is: buffers are then reused rather than allocated. One step for the
# residual net: XLA's CPU convolutions leave the thread pool inside a loop.
STEPS = {"mlp": 10, "resnet": 1}


class ResNet(nn.Module):
    """Three residual blocks of widths 16, 32, 64 with group normalisation."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(16, (3, 3))(x)
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            y = nn.Conv(width, (3, 3), (stride, stride))(nn.relu(nn.GroupNorm(4)(x)))
            y = nn.Conv(width, (3, 3))(nn.relu(nn.GroupNorm(4)(y)))
            x = y + (x if stride == 1 and x.shape[-1] == width else nn.Conv(width, (1, 1), (stride, stride))(x))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


def problem(net: str, batch: int) -> tuple[Callable[..., jax.Array], Any, tuple[jax.Array, jax.Array]]:
    """Loss, params and one batch."""
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 10, batch))
    if net == "mlp":
        inputs = jnp.asarray(rng.random((batch, 784), np.float32))
        model = mlp((600, 600, 10), activation="relu")
        params = model.init(jax.random.key(0), inputs[:1])
        apply: Callable[..., Any] = model.apply
    else:
        inputs = jnp.asarray(rng.random((batch, 16, 16, 3), np.float32))
        module = ResNet()
        params = module.init(jax.random.key(0), inputs[:1])["params"]
        apply = lambda weights, rows: module.apply({"params": weights}, rows)  # noqa: E731

    def loss(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, inputs), labels).mean()

    return loss, params, (inputs, labels)


def steps_of(tx: Any, loss: Any, extra: str, steps_per_call: int) -> Callable[..., Any]:
    """So many training steps `(params, state, batch, key) -> (params, state)`; `extra` says how grad_fn is called."""

    def step(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        def grad_fn(p: Any, *_: Any) -> Any:
            return jax.grad(loss)(p, *batch)

        arguments = {"ours": {"grad_fn": grad_fn, "key": key}, "optax": {"grad_fn": grad_fn}, "base": {}}[extra]
        updates, state = tx.update(grad_fn(params), state, params, **arguments)
        return optax.apply_updates(params, updates), state

    def steps(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> tuple[Any, None]:
            return step(*carry, batch, key), None

        return jax.lax.scan(body, (params, state), jax.random.split(key, steps_per_call))[0]

    return steps


def measure(net: str, batch: int, repeats: int, implementation: str) -> dict[str, Any]:
    """Median milliseconds of every step and draw, and ratios."""
    loss, params, data = problem(net, batch)
    count = STEPS[net]
    base = optax.sgd(0.1, momentum=0.9)
    n = 60_000
    chains: dict[str, tuple[Any, str]] = {
        "base": (base, "base"),
        "adam": (optax.adam(1e-3), "base"),
        "sam": (optax.chain(optim.sam(0.05), base), "ours"),
        "asam": (optax.chain(optim.asam(0.5), base), "ours"),
        "random_sam": (optax.chain(optim.random_sam(0.05), base), "ours"),
        "mean_field": (optax.chain(optim.mean_field(0.05, n=n), base), "ours"),
        "mean_field_natural": (
            optax.chain(optim.mean_field(0.05, n=n, scale_update=optim.natural_gradient()), base), "ours",
        ),
        "variational_sam": (optax.chain(optim.variational_sam(0.05, n=n), base), "ours"),
        "mix_sam": (optax.chain(optim.mix_sam(0.05), base), "ours"),
        "gsam": (optax.chain(optim.gsam(0.05), base), "ours"),
        "optax_sam": (
            optax.contrib.sam(
                base, optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), sync_period=2, opaque_mode=True
            ), "optax",
        ),
    }  # fmt: skip
    for name in ("ivon", "bsam"):
        if hasattr(optim, name):
            chains[name] = (getattr(optim, name)(0.1, n=n), "ours")
    key = jax.random.key(1, impl=implementation)
    seeds = 16
    keys = jax.random.split(key, seeds)
    calls: dict[str, Callable[[], Any]] = {}
    for name, (tx, extra) in chains.items():
        step = jax.jit(steps_of(tx, loss, extra, count))
        state = jax.tree.map(jnp.array, tx.init(params))
        calls[name] = lambda step=step, state=state: step(params, state, data, key)
    # Seeds as grouped convolutions are another question than the optimiser's; it is asked of the dense net.
    for name in ("base", "sam", "mean_field") if net == "mlp" else ():
        tx, extra = chains[name]
        many = jax.jit(jax.vmap(steps_of(tx, loss, extra, count), in_axes=(0, 0, None, 0)))
        copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), params)
        states = jax.vmap(tx.init)(copies)
        calls[f"{name}_x{seeds}"] = lambda many=many, copies=copies, states=states: many(copies, states, data, keys)
    leaves = jax.tree.leaves(params)

    def draws(key: jax.Array, draw: Callable[..., jax.Array]) -> Any:
        def body(_: Any, key: jax.Array) -> tuple[Any, None]:
            split = jax.random.split(key, len(leaves))
            return [draw(k, leaf.shape, leaf.dtype) for k, leaf in zip(split, leaves, strict=True)], None

        return jax.lax.scan(body, leaves, jax.random.split(key, count))[0]

    for kind in dict.fromkeys(("threefry2x32", "rbg", "unsafe_rbg", implementation)):
        draw = jax.jit(lambda key: draws(key, jax.random.normal))
        draw_key = jax.random.key(2, impl=kind)
        calls[f"draw_{kind}"] = lambda draw=draw, k=draw_key: draw(k)
    draw = jax.jit(lambda key: draws(key, optim.standard_normal))
    calls["draw_standard_normal"] = lambda draw=draw: draw(jax.random.key(2))

    def timed(call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        return 1e3 * (time.perf_counter() - begin) / count

    for call in calls.values():
        timed(call)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(timed(call))
    median = {name: statistics.median(values) for name, values in taken.items()}
    one, noise = median["base"], median[f"draw_{implementation}"]
    allowed = {"sam": 2.05, "random_sam": 1.15 + noise / one, "mean_field": 1.15 + noise / one,
               "mean_field_natural": 1.15 + noise / one, "ivon": 1.15 + noise / one}  # fmt: skip
    return {
        "net": net, "params": sum(leaf.size for leaf in leaves), "batch": batch, "key": implementation,
        "ms": {name: round(value, 3) for name, value in median.items()},
        "over_base": {name: round(value / one, 3) for name, value in median.items() if name != "base"},
        "allowed": {name: round(value, 3) for name, value in allowed.items()},
        "sam_over_optax_sam": round(median["sam"] / median["optax_sam"], 3),
        f"{seeds}_seeds_over_one": {
            name: round(median[f"{name}_x{seeds}"] / median[name], 2)
            for name in ("base", "sam", "mean_field")
            if f"{name}_x{seeds}" in median
        },
    }  # fmt: skip


def measure_torch(batch: int, repeats: int) -> dict[str, float]:
    """ivon-opt and SGD in PyTorch on 784-600-600-10, milliseconds a step."""
    import ivon  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    layers = torch.nn
    net = layers.Sequential(
        layers.Linear(784, 600), layers.ReLU(), layers.Linear(600, 600), layers.ReLU(), layers.Linear(600, 10)
    )
    inputs, labels = torch.rand(batch, 784), torch.randint(0, 10, (batch,))
    optimizers = {
        "torch_sgd": torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9),
        "torch_ivon": ivon.IVON(net.parameters(), lr=0.0, ess=60_000),
    }

    def backward() -> None:
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), labels).backward()

    def step(name: str) -> float:
        optimizer = optimizers[name]
        begin = time.perf_counter()
        if name == "torch_ivon":
            with optimizer.sampled_params(train=True):
                backward()
        else:
            backward()
        optimizer.step()
        return 1e3 * (time.perf_counter() - begin)

    taken: dict[str, list[float]] = {name: [] for name in optimizers}
    for repeat in range(repeats + 3):
        for name in optimizers:
            taken[name] += [step(name)] if repeat >= 3 else [step(name)][:0]
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def main() -> None:
    """Command line; one JSON line a net and kind of key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=("mlp", "resnet"), default=["mlp", "resnet"])
    parser.add_argument("--batch", type=int, default=256, help="of the dense net; the residual net takes an eighth")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--keys", nargs="+", default=["threefry2x32", "rbg"])
    parser.add_argument("--torch", action="store_true", help="also time ivon-opt in PyTorch")
    arguments = parser.parse_args()
    print(json.dumps({"jax": jax.__version__, "device": jax.devices()[0].device_kind}), flush=True)
    for net in arguments.net:
        for implementation in arguments.keys:
            print(
                json.dumps(
                    measure(net, arguments.batch // (1 if net == "mlp" else 8), arguments.repeats, implementation)
                ),
                flush=True,
            )
    if arguments.torch:
        print(json.dumps(measure_torch(arguments.batch, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
