"""Sharpness-aware minimisation and variational inference as one family of optax transformations."""

from pbjax.optim.own_loop import Member, complete_grad_fn, perturbed_value_and_grad
from pbjax.optim.sam import sam
from pbjax.optim.sharpness_aware import PerturbationMetrics, PerturbationState, sharpness_aware

__all__ = [
    "Member", "PerturbationMetrics", "PerturbationState", "complete_grad_fn", "perturbed_value_and_grad", "sam",
    "sharpness_aware",
]  # fmt: skip
