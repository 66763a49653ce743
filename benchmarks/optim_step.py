"""What one step of each optimiser costs, as multiples of the base optimiser's step, and what noise costs.

    python -m benchmarks.optim_step [--quick] [--net mlp resnet] [--batch 256] [--repeats 9]

The base is SGD with momentum, the same in JAX for everything in JAX and PyTorch's own for everything in PyTorch; both
are what the user of an optimiser starts from. All timings of one net are interleaved and a ratio is taken within every
round; only ratios mean something. `mlp` is 784-600-600-10, `resnet` a residual network of eight convolutions on
16x16x3 images; the data are random. `asked of` is the bound that pbjax sets itself: 2.05 base steps for SAM, and 1.15
base steps plus one draw of P normals, measured in the same run with the same kind of key, for members with one
gradient.

Peers: `optax.contrib.sam` in its opaque mode, normalised, in the same program as pbjax's SAM; SAM in PyTorch, written
from the definition, and IVON by the package ivon-opt, on the same dense net and batch. PyTorch runs in a process of its
own right after, because its threads would disturb those of JAX: ratios to its own base are within one run, milliseconds
across the two are of one minute. Unfair to PyTorch: it steps from Python, as its users do, where JAX scans ten steps.
Without PyTorch its lines are left out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks._measuring import Figure, Timing, in_child, interleaved, report
from pbjax import optim
from pbjax.models import mlp

CLAIM = "Step of an optimiser"
BASE = "steps of SGD with momentum in JAX"
Net = Literal["mlp", "resnet"]
SHOWN = {"mlp": "784-600-600-10", "resnet": "residual, 8 convolutions"}

# A call is a scan of so many steps, as training is: buffers are then reused rather than allocated. One step for the
# residual net: XLA's CPU convolutions leave the thread pool inside a loop.
STEPS = {"mlp": 10, "resnet": 1}
SEEDS = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """What is timed."""

    net: tuple[Net, ...] = ("mlp", "resnet")
    """Networks."""
    batch: int = 256
    """Rows for the dense net; the residual net takes an eighth."""
    repeats: int = 9
    """Interleaved runs."""
    keys: tuple[str, ...] = ("threefry2x32", "rbg")
    """Kinds of random keys; the residual net takes the first alone."""
    quick: bool = False
    """A small batch, two runs, the dense net and a few optimisers alone."""


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


def problem(net: Net, batch: int) -> tuple[Callable[..., jax.Array], Any, tuple[jax.Array, jax.Array]]:
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


def transformations() -> dict[str, tuple[Any, str]]:
    """Every optimiser, and how its gradient function is handed to it."""
    base = optax.sgd(0.1, momentum=0.9)
    n = 60_000
    return {
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
        "ivon": (optim.ivon(0.1, n=n), "ours"),
        "bsam": (optim.bsam(0.1, n=n), "ours"),
        "gsam": (optax.chain(optim.gsam(0.05), base), "ours"),
        "optax_sam": (
            optax.contrib.sam(
                base, optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), sync_period=2, opaque_mode=True
            ), "optax",
        ),
    }  # fmt: skip


def relative(timing: Timing, base: Timing, by: float = 1.0) -> tuple[float, float, float]:
    """Median, least and greatest ratio, taken round by round, of `timing` to `by` times `base`."""
    ratios = [one / other / by for one, other in zip(timing.seconds, base.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def measure(net: Net, batch: int, repeats: int, implementation: str, names: Sequence[str]) -> list[Figure]:
    """Steps and draws of one net with one kind of key."""
    loss, params, data = problem(net, batch)
    count, made = STEPS[net], transformations()
    chains = {name: made[name] for name in names or made}
    key = jax.random.key(1, impl=implementation)
    keys = jax.random.split(key, SEEDS)
    calls: dict[str, Callable[[], Any]] = {}
    for name, (tx, extra) in chains.items():
        step = jax.jit(steps_of(tx, loss, extra, count))
        state = jax.tree.map(jnp.array, tx.init(params))
        calls[name] = lambda step=step, state=state: step(params, state, data, key)
    # Seeds as grouped convolutions are another question than the optimiser's; it is asked of the dense net.
    for name in ("base", "sam", "mean_field") if net == "mlp" and not names else ():
        tx, extra = chains[name]
        many = jax.jit(jax.vmap(steps_of(tx, loss, extra, count), in_axes=(0, 0, None, 0)))
        copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * SEEDS), params)
        states = jax.vmap(tx.init)(copies)
        calls[f"{name}_x{SEEDS}"] = lambda many=many, copies=copies, states=states: many(copies, states, data, keys)
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

    case = f"{SHOWN[net]}, {sum(leaf.size for leaf in leaves):,} weights, batch {batch}, {implementation} keys"
    taken = interleaved(calls, repeats)
    return figures_of(case, taken, count, implementation)


def figures_of(case: str, taken: dict[str, Timing], count: int, implementation: str) -> list[Figure]:
    """What is told of the timings of one net."""
    base = taken["base"]
    ours, sam = taken["sam"], taken["optax_sam"]
    noise = taken[f"draw_{implementation}"].median / base.median
    figures = [Figure(CLAIM, case, "optax, SGD with momentum", "milliseconds a step", *base.each(1e-3 * count),
                      unit="ms", compile_seconds=base.compile_seconds)]  # fmt: skip
    for name, timing in taken.items():
        if name.startswith("draw_"):
            figures.append(Figure(CLAIM, case, f"normals by {name[5:]}", "milliseconds a draw of one number a weight",
                                  *timing.each(1e-3 * count), unit="ms"))  # fmt: skip
        elif name.endswith(f"_x{SEEDS}"):
            one = name.removesuffix(f"_x{SEEDS}")
            who = "optax, SGD with momentum" if one == "base" else f"pbjax {one}"
            figures.append(
                Figure(CLAIM, case, who, f"{SEEDS} seeds in one program, steps of one", *relative(timing, taken[one]))
            )
        elif name != "base":
            peer = {"optax_sam": "optax.contrib.sam", "adam": "optax.adam"}.get(name)
            figures.append(
                Figure(CLAIM, case, peer or f"pbjax {name}", BASE, *relative(timing, base),
                       over_pbjax=sam.median / ours.median if timing is sam else None,
                       note="the ratio is to pbjax sam" if timing is sam else "",
                       compile_seconds=timing.compile_seconds)
            )  # fmt: skip
    for names, asked in ((("sam",), 2.05), (("random_sam", "mean_field", "mean_field_natural", "ivon"), 1.15 + noise)):
        figures += [
            Figure(CLAIM, case, f"asked of {name}", BASE, asked, asked, asked) for name in names if name in taken
        ]
    return figures


def measure_torch(batch: int, repeats: int, ours: Sequence[Figure]) -> list[Figure]:
    """SGD, SAM and IVON in PyTorch, beside the dense net in JAX."""
    told = in_child("benchmarks._torch_optim_step", str(batch), str(repeats))
    taken = {name: Timing(tuple(seconds), 0.0) for name, seconds in told["seconds"].items()}
    steps = {figure.who: figure.median for figure in ours if figure.quantity == BASE}
    base = next(figure for figure in ours if figure.quantity == "milliseconds a step")
    shown = {"sgd": "PyTorch SGD with momentum", "sam": "PyTorch SAM, from the definition", "ivon": "ivon-opt"}
    figures = []
    for name, timing in taken.items():
        milliseconds = base.median * (1.0 if name == "sgd" else steps[f"pbjax {name}"])
        figures.append(
            Figure(CLAIM, base.case, shown[name], "milliseconds a step", *timing.each(1e-3), unit="ms",
                   over_pbjax=1e3 * timing.median / milliseconds,
                   note="the ratio is to optax's SGD" if name == "sgd" else f"the ratio is to pbjax {name}")
        )  # fmt: skip
        if name != "sgd":
            figures.append(
                Figure(CLAIM, base.case, shown[name], "steps of SGD with momentum in PyTorch",
                       *relative(timing, taken["sgd"]))
            )  # fmt: skip
    return figures


def main(options: Options) -> None:
    """Measures and prints."""
    if options.quick:
        options = dataclasses.replace(options, net=options.net[:1], batch=16, repeats=2, keys=options.keys[:1])
    for net in options.net:
        for implementation in options.keys if net == "mlp" else options.keys[:1]:
            batch = options.batch // (1 if net == "mlp" else 8)
            few = ("base", "sam", "ivon", "optax_sam") if options.quick else ()
            figures = measure(net, batch, options.repeats, implementation, few)
            report(figures)
            first = (net, implementation) == ("mlp", options.keys[0])
            if first and all(importlib.util.find_spec(package) for package in ("torch", "ivon")):
                report(measure_torch(batch, options.repeats, figures))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
