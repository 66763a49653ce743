"""Writes the trace of the PyTorch package ivon-opt that pbjax.optim.ivon is held to, step by step.

    python -m venv torch-env && torch-env/bin/pip install torch ivon-opt==0.1.3
    torch-env/bin/python benchmarks/_ivon_trace.py > tests/optim/ivon_trace.json

A logistic regression with four weights, twenty steps under several settings. The standard normals that the package
draws are written down beside its params, momentum and Hessian after every step; numbers are float32 with nine digits,
which is exact. pbjax is not imported, and PyTorch is no dependency of pbjax.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ivon
import torch

STEPS = 20
WEIGHTS = 4
ROWS = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {"ess": 50.0},
    "quick_hessian": {"ess": 50.0, "beta2": 0.5, "hess_init": 0.5, "weight_decay": 0.1},
    "learning_rate_as_it_is": {"ess": 200.0, "beta2": 0.95, "hess_init": 0.1, "rescale_lr": False},
    "clipped": {"ess": 20.0, "beta2": 0.9, "hess_init": 0.2, "clip_radius": 0.3, "weight_decay": 1e-3},
    "squared_gradient": {"ess": 12.0, "beta2": 0.9, "hess_approx": "gradsq"},
    "three_samples": {"ess": 30.0, "beta2": 0.9, "beta1": 0.5, "mc_samples": 3},
    "squared_gradient_two_samples_schedule": {
        "ess": 12.0, "beta2": 0.9, "hess_approx": "gradsq", "mc_samples": 2, "schedule": True,
    },
}  # fmt: skip


def numbers(tensor: torch.Tensor) -> Any:
    """A float32 tensor as nested lists of the shortest decimals that read back as the same float32."""
    if tensor.ndim:
        return [numbers(row) for row in tensor.detach()]
    return float(f"{tensor.item():.9g}")


def trace(name: str, inputs: torch.Tensor, labels: torch.Tensor, start: torch.Tensor) -> dict[str, Any]:
    """One run of the package under the settings of that name."""
    settings = dict(SETTINGS[name])
    scheduled = settings.pop("schedule", False)
    rates = [0.3 / (1 + step) if scheduled else 0.2 for step in range(STEPS)]
    weights = torch.nn.Parameter(start.clone())
    optimizer = ivon.IVON([weights], lr=rates[0], **settings)
    noise: list[list[float]] = []
    draw = torch.randn

    def recorded(*shape: Any, **options: Any) -> torch.Tensor:
        drawn = draw(*shape, **options)
        noise.append(numbers(drawn))
        return drawn

    result: dict[str, Any] = {"settings": settings, "rates": rates, "params": [], "momentum": [], "hessian": []}
    torch.manual_seed(1)
    torch.randn = recorded
    try:
        for rate in rates:
            group = optimizer.param_groups[0]
            group["lr"] = rate
            for _ in range(settings.get("mc_samples", 1)):
                with optimizer.sampled_params(train=True):
                    optimizer.zero_grad()
                    torch.nn.functional.softplus(-labels * (inputs @ weights)).mean().backward()
            optimizer.step()
            result["params"].append(numbers(weights))
            result["momentum"].append(numbers(group["momentum"]))
            result["hessian"].append(numbers(group["hess"]))
    finally:
        torch.randn = draw
    return {**result, "noise": noise}


def main() -> None:
    """Writes the JSON to standard output."""
    torch.manual_seed(0)
    inputs = torch.randn(ROWS, WEIGHTS) * torch.tensor([0.3, 1.0, 2.0, 3.0])
    labels = torch.sign(inputs @ torch.tensor([2.0, -1.0, 0.5, 0.1]) + torch.randn(ROWS))
    start = torch.tensor([0.5, -1.0, 1.5, 0.0])
    runs = {name: trace(name, inputs, labels, start) for name in SETTINGS}
    made = {"package": "ivon-opt 0.1.3", "torch": torch.__version__, "inputs": numbers(inputs)}
    json.dump({**made, "labels": numbers(labels), "start": numbers(start), "runs": runs}, sys.stdout, indent=None)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
