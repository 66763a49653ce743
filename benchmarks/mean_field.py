"""A mean-field posterior trained on a PAC-Bayes bound: pbjax against the same in PyTorch.

    python -m benchmarks.mean_field [--quick] [--budget 40]

Counted: seconds of an epoch, and the certificate that both reach in the same time (at the rates just measured) and in
the same steps. Net 784-600-600-10 with ReLU, batches of 250 from a fresh permutation an epoch, one draw of all weights
a step, f_quad of the cross-entropy bounded at 1e-4, SGD with momentum 0.95 at the rate of `posteriors.cosine` over each
one's own steps, prior and start N(w_0, 0.03^2) at the same random w_0. pbjax holds ln sigma and PyTorch rho with
sigma = ln(1 + e^rho), as the PBB code does: at sigma = 0.03 the two are the same coordinate to 2 %. Both compute in
float32, pbjax with exact products, in turn in this process. Unfair to PyTorch: it steps from Python, as its users do,
where pbjax compiles the whole training into one program; the compile time stands apart and is not in the equal time.

The certificate is PAC-Bayes-kl of the 0-1 error over all training rows by fresh weights for every row, inside a bound
for those draws, delta = 0.025 and 0.01, by the same code for both. The peer is written from the definition because
pacbb 0.1.2, wheel and source alike, lacks the subpackages that it imports. Data: MNIST where TFDS_DATA_DIR has it, else
random images with random labels of that shape, on which a certificate says nothing and times mean the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks import _torch_mean_field as peer
from benchmarks._measuring import Figure, interleaved, report
from pbjax import bounds, losses, posteriors, precision
from pbjax.data import DataNotFoundError, load
from pbjax.models import mlp

CLAIM = "Mean-field training on a bound"
WIDTHS = (600, 600, 10)
SCALE, DELTA, DELTA_DRAWS, P_MIN, MOMENTUM = 0.03, 0.025, 0.01, 1e-4, 0.95
WHO = {"pbjax": "pbjax", "PyTorch": "PyTorch, from the definition of PBB"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    batch_size: int = 250
    """Rows a step."""
    learning_rate: float = 0.1
    """Peak, of SGD with momentum 0.95."""
    timed_steps: int = 60
    """Steps of a timed call; the seconds of an epoch are scaled from it."""
    repeats: int = 4
    """Interleaved runs."""
    budget: float = 40.0
    """Seconds that each may train."""
    quick: bool = False
    """Few rows, steps and runs, and a small net."""


def rows(quick: bool) -> tuple[str, np.ndarray, np.ndarray]:
    """Name, inputs [n, 784] and labels."""
    n = 1000 if quick else 60_000
    try:
        found = load("mnist", flatten=True)
        return "MNIST", np.asarray(found.train_inputs, np.float32)[:n], np.asarray(found.train_labels, np.int32)[:n]
    except DataNotFoundError:
        rng = np.random.default_rng(0)
        return "random images", rng.random((n, 784), np.float32), rng.integers(0, 10, n).astype(np.int32)


def momentum_sgd(rate: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser of both."""
    return optax.sgd(rate, momentum=MOMENTUM)


def main(options: Options) -> None:
    """Measures and prints."""
    precision.make_exact_the_default()
    widths = WIDTHS
    if options.quick:
        options = dataclasses.replace(options, batch_size=50, timed_steps=4, repeats=2, budget=0.5)
        widths = (20, 10)
    name, inputs, labels = rows(options.quick)
    n = len(inputs)
    model = mlp(widths, activation="relu")
    params = model.init(jax.random.key(0), jnp.zeros((1, 784), jnp.float32))
    prior = posteriors.init(params, scale=SCALE)
    data = (jnp.asarray(inputs), jnp.asarray(labels))

    def loss(params: Any, batch: Any) -> jax.Array:
        return losses.bounded_cross_entropy(model.apply(params, batch[0]), batch[1], p_min=P_MIN, reduction="mean")

    def train(steps: int) -> Any:
        return posteriors.train(
            jax.random.key(1), loss, prior, prior, data, objective="quadratic", n=n, delta=DELTA,
            learning_rate=options.learning_rate, num_steps=steps, batch_size=options.batch_size,
            optimiser=momentum_sgd, num_records=1,
        )[0]  # fmt: skip

    def certificate(q: posteriors.Gaussian) -> float:
        risk = posteriors.fresh_weights_risk(
            jax.random.key(2), q, losses.zero_one, *data, apply=model.apply, repeats=1, activation="relu"
        )
        return float(
            bounds.two_stage(
                risk.mean, risk.num_pairs, posteriors.kl(q, prior), n=n, delta=DELTA, delta_monte_carlo=DELTA_DRAWS
            )
        )

    def start_torch() -> peer.Training:
        layers = [params[f"Dense_{index}"] for index in range(len(widths))]
        return peer.Training(
            [(np.asarray(layer["kernel"]), np.asarray(layer["bias"])) for layer in layers], inputs, labels, scale=SCALE,
            delta=DELTA, p_min=P_MIN, batch_size=options.batch_size, learning_rate=options.learning_rate,
            momentum=MOMENTUM,
        )  # fmt: skip

    def from_torch(training: peer.Training) -> posteriors.Gaussian:
        means, log_scales = training.posterior()
        tree = lambda leaves: {  # noqa: E731
            f"Dense_{index}": {"kernel": jnp.array(leaves[2 * index]), "bias": jnp.array(leaves[2 * index + 1])}
            for index in range(len(widths))
        }
        return posteriors.Gaussian(tree(means), tree(log_scales))

    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    case = f"{name}, 784-{'-'.join(map(str, widths))}, {weights:,} weights, batch {options.batch_size}"
    calls: dict[str, Any] = {"pbjax": lambda: train(options.timed_steps)}
    if peer.available():
        timed = start_torch()
        calls["PyTorch"] = lambda: timed.steps(options.timed_steps)
    taken = interleaved(calls, options.repeats)
    epochs = options.timed_steps / (n // options.batch_size)
    ours = taken["pbjax"].median
    report(
        [
            Figure(CLAIM, case, WHO[who], "seconds an epoch", *timing.each(epochs), unit="s",
                   over_pbjax=None if who == "pbjax" else timing.median / ours,
                   compile_seconds=timing.compile_seconds if who == "pbjax" else None,
                   note=f"scaled from {options.timed_steps} steps" + ("" if who == "pbjax" else f"; {peer.pacbb()}"))
            for who, timing in taken.items()
        ]
    )  # fmt: skip

    steps = {who: max(20, round(options.budget / timing.median * options.timed_steps)) for who, timing in taken.items()}
    fewest = min(steps.values())
    reached: dict[str, float] = {}
    for quantity, counts in (
        (f"certificate after {options.budget:g} s", steps),
        ("certificate after the same steps", dict.fromkeys(steps, fewest)),
    ):
        for who, count in counts.items():
            if who == "pbjax":
                q = train(count)
            else:
                training = start_torch()
                training.steps(count)
                q = from_torch(training)
            value = reached[who] = certificate(q)
            kl = float(posteriors.kl(q, prior))
            told = {quantity: value, quantity.replace("certificate", "KL in nats"): kl,
                    quantity.replace("certificate", "steps"): float(count)}  # fmt: skip
            report([Figure(CLAIM, case, WHO[who], name, number, number, number) for name, number in told.items()])
    if max(reached.values()) - min(reached.values()) > 0.05:
        raise SystemExit(f"the same steps give certificates too far apart to be those of one algorithm: {reached}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
