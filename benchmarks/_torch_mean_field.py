"""A Gaussian posterior over a dense net trained on a PAC-Bayes bound in PyTorch, written from the definition.

As in the PBB papers' code: every layer holds means and rho with sigma = ln(1 + e^rho), a step draws all weights once,
w = mu + sigma eps, and descends f_quad of the bounded cross-entropy and the KL by SGD with momentum. The rate rises
over 2 % of the steps and falls to 0 by a half cosine, as that of pbjax.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np


def available() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def pacbb() -> str:
    """What importing the package pacbb says."""
    if importlib.util.find_spec("core") is None:
        return "pacbb is not installed"
    try:
        import core.model  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return f"pacbb cannot be imported: {error}"
    return "pacbb can be imported"


class Training:
    """Posterior and optimiser; `steps(count)` trains, `posterior()` gives means and log-scales as numpy arrays."""

    def __init__(
        self, means: list[tuple[np.ndarray, np.ndarray]], inputs: np.ndarray, labels: np.ndarray, *, scale: float,
        delta: float, p_min: float, batch_size: int, learning_rate: float, momentum: float,
    ) -> None:  # fmt: skip
        import torch  # pyright: ignore[reportMissingImports]

        self.torch, self.batch_size, self.p_min, self.learning_rate = torch, batch_size, p_min, learning_rate
        torch.manual_seed(0)
        rho = math.log(math.expm1(scale))
        leaves = [torch.from_numpy(np.array(leaf, np.float32)) for layer in means for leaf in layer]
        self.prior = [leaf.clone() for leaf in leaves]
        self.prior_scale = scale
        self.mean = [leaf.clone().requires_grad_() for leaf in leaves]
        self.rho = [torch.full_like(leaf, rho).requires_grad_() for leaf in leaves]
        self.inputs, self.labels = torch.from_numpy(np.array(inputs)), torch.from_numpy(labels.astype(np.int64))
        self.log_term = math.log(2 * math.sqrt(len(inputs)) / delta)
        self.optimiser = torch.optim.SGD([*self.mean, *self.rho], lr=learning_rate, momentum=momentum)
        self.order = self.batches()

    def batches(self) -> Any:
        """Indices of batches for ever, a fresh permutation an epoch, without its incomplete last batch."""
        while True:
            order = self.torch.randperm(len(self.inputs))
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                yield order[start : start + self.batch_size]

    def objective(self, rows: Any) -> Any:
        """f_quad on a batch."""
        torch = self.torch
        scales = [torch.nn.functional.softplus(rho) for rho in self.rho]
        weights = [mean + scale * torch.randn_like(mean) for mean, scale in zip(self.mean, scales, strict=True)]
        hidden = self.inputs[rows]
        for index in range(0, len(weights), 2):
            hidden = hidden @ weights[index] + weights[index + 1]
            if index + 2 < len(weights):
                hidden = torch.relu(hidden)
        log_probability = torch.log_softmax(hidden, dim=1).clamp(min=math.log(self.p_min))
        risk = torch.nn.functional.nll_loss(log_probability, self.labels[rows]) / math.log(1 / self.p_min)
        kl = sum(
            (torch.log(self.prior_scale / scale) + (scale**2 + (mean - prior) ** 2) / (2 * self.prior_scale**2) - 0.5)
            .sum()
            for mean, scale, prior in zip(self.mean, scales, self.prior, strict=True)
        )  # fmt: skip
        half = (kl + self.log_term) / (2 * len(self.inputs))
        return (torch.sqrt(risk + half) + torch.sqrt(half)) ** 2

    def steps(self, count: int) -> float:
        """So many steps; the last objective."""
        objective = None
        for step in range(count):
            rise, fall = min(step / count / 0.02, 1.0), max((step / count - 0.02) / 0.98, 0.0)
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * fall))
            self.optimiser.zero_grad()
            objective = self.objective(next(self.order))
            objective.backward()
            self.optimiser.step()
        return float(objective.detach()) if objective is not None else math.nan

    def posterior(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Means and log-scales, kernel and bias of every layer in turn."""
        log_scales = [self.torch.log(self.torch.nn.functional.softplus(rho)) for rho in self.rho]
        return [mean.detach().numpy() for mean in self.mean], [scale.detach().numpy() for scale in log_scales]
