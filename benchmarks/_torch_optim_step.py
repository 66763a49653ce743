"""Steps of SGD, SAM and IVON in PyTorch on 784-600-600-10: what a step costs there, in a process of its own.

    python -m benchmarks._torch_optim_step 256 9

Arguments are the batch and the repeats. SAM is written from its definition: gradient, ascent by the radius along it,
gradient there, back, the base optimiser's step with the second gradient. IVON is the package ivon-opt. Prints the
seconds of every repeat, ten steps each, in one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import ivon
import torch

from benchmarks._measuring import interleaved

STEPS = 10
RADIUS = 0.05


def make_net() -> torch.nn.Module:
    """The net, always with the same weights."""
    torch.manual_seed(0)
    layers = torch.nn
    return layers.Sequential(
        layers.Linear(784, 600), layers.ReLU(), layers.Linear(600, 600), layers.ReLU(), layers.Linear(600, 10)
    )


def ascend(params: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Moves to w + radius g/|g| and returns w."""
    with torch.no_grad():
        kept = [p.detach().clone() for p in params]
        gradients = [p.grad for p in params if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
        torch._foreach_add_(params, torch._foreach_mul(gradients, RADIUS / (norm + 1e-12)))
    return kept


def make_steps(batch: int) -> dict[str, Callable[[], None]]:
    """Ten steps of each; the learning rate is small, so that random labels are not learnt."""
    inputs, labels = torch.rand(batch, 784), torch.randint(0, 10, (batch,))
    made: dict[str, Callable[[], None]] = {}
    for name in ("sgd", "sam", "ivon"):
        net = make_net()
        params = list(net.parameters())
        optimiser = (
            ivon.IVON(params, lr=1e-3, ess=60_000) if name == "ivon" else torch.optim.SGD(params, lr=1e-3, momentum=0.9)
        )

        def backward(net: torch.nn.Module = net) -> None:
            net.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs), labels).backward()

        def step(name: str = name, params: list = params, optimiser=optimiser, backward=backward) -> None:
            if name == "ivon":
                with optimiser.sampled_params(train=True):
                    backward()
            else:
                backward()
            if name == "sam":
                kept = ascend(params)
                backward()
                with torch.no_grad():
                    torch._foreach_copy_(params, kept)
            optimiser.step()

        made[name] = lambda step=step: [step() for _ in range(STEPS)][-1]
    return made


def main(batch: int, repeats: int) -> None:
    """Times and prints."""
    taken = interleaved(make_steps(batch), repeats)
    each = {name: [seconds / STEPS for seconds in timing.seconds] for name, timing in taken.items()}
    print(json.dumps({"version": torch.__version__, "seconds": each}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
