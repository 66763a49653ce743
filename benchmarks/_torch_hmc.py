"""Hamiltonian Monte Carlo over a ladder in PyTorch, written from the definition: a peer, eager and batched.

All replicas are one leading axis of the products. Rows are taken in blocks, each with a backward pass of its own, so
that activations do not grow with the data set; `rows_per_block` is the peer's to tune.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

CEILING = 4.0


def make_moves(
    inputs: np.ndarray, labels: np.ndarray, scale: np.ndarray, widths: tuple[int, ...], *, rows_per_block: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The gradient of the empirical risk and one move of Hamiltonian Monte Carlo, of all replicas.

    Args:
      inputs: float32 [n, d].
      labels: [n].
      scale: float32 [p], the prior's standard deviations: bias and kernel of each layer in turn.
      widths: of all layers, inputs first.
      rows_per_block: rows of one backward pass.

    Returns:
      `gradient(z [r, p]) -> (L [r], dL/dz [r, p])` and
      `move(z, at, betas, step_size, leapfrogs) -> (z, at, acceptance)`, where `at` is the gradient's result at z.
    """
    x, y, s = torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(scale)
    blocks = list(zip(x.split(rows_per_block), y.split(rows_per_block), strict=True))
    floor = math.exp(-CEILING)
    shift = math.log1p(-floor)

    def logits(w: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        hidden, begin = None, 0
        for a, b in itertools.pairwise(widths):
            bias, kernel = w[:, begin : begin + b], w[:, begin + b : begin + b + a * b].reshape(-1, a, b)
            begin += b + a * b
            product = torch.einsum("ni,rio->rno", rows, kernel) if hidden is None else torch.tanh(hidden) @ kernel
            hidden = product + bias[:, None, :]
        assert hidden is not None
        return hidden

    def gradient(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        w = (z * s).requires_grad_()
        total = torch.zeros(len(z))
        for rows, targets in blocks:
            probabilities = torch.softmax(logits(w, rows), dim=-1)
            right = probabilities.gather(2, targets.expand(len(z), -1)[:, :, None])[:, :, 0]
            losses = (-torch.log(floor + (1 - 2 * floor) * right) + shift) / (CEILING + shift)
            part = losses.sum(1)
            part.sum().backward()
            total += part.detach()
        assert w.grad is not None
        return total / len(x), w.grad * s / len(x)

    def move(z: Any, at: Any, betas: Any, step_size: float, leapfrogs: int) -> tuple[Any, Any, Any]:
        def slope(z: torch.Tensor, at: Any) -> torch.Tensor:
            return z + betas[:, None] * at[1]

        def hamiltonian(z: torch.Tensor, r: torch.Tensor, at: Any) -> torch.Tensor:
            return 0.5 * (z.square().sum(1) + r.square().sum(1)) + betas * at[0]

        r = torch.randn_like(z)
        before = hamiltonian(z, r, at)
        new, new_at = z, at
        for _ in range(leapfrogs):
            r = r - 0.5 * step_size * slope(new, new_at)
            new = new + step_size * r
            new_at = gradient(new)
            r = r - 0.5 * step_size * slope(new, new_at)
        acceptance = torch.exp((before - hamiltonian(new, r, new_at)).clamp(max=0.0)).nan_to_num(0.0)
        taken = torch.rand(len(z)) < acceptance
        at = (torch.where(taken, new_at[0], at[0]), torch.where(taken[:, None], new_at[1], at[1]))
        return torch.where(taken[:, None], new, z), at, acceptance

    return gradient, move
