"""Sharpness-aware minimisation and variational inference as one family of optax transformations.

Every member replaces the incoming gradient by the one at a perturbed mean, and stands in `optax.chain` before the first
preconditioner; `ivon`, `bsam` and `vogn` are whole optimisers. `sharpness_aware` is the general constructor.
"""

from pbjax.optim.asam import asam
from pbjax.optim.bsam import BsamState, bsam
from pbjax.optim.combinations import Combination, perturbed_only, surrogate_gap, weighted
from pbjax.optim.directions import Direction, along_gradient, along_momentum, at_random, away_from_mean, mixture
from pbjax.optim.fisher_sam import fisher_sam
from pbjax.optim.friendly_sam import friendly_sam
from pbjax.optim.geometry import Metric, adaptive, euclidean, filter_norm, fisher, sparse
from pbjax.optim.gsam import gsam, radius_after_learning_rate
from pbjax.optim.guard import skip_nonfinite
from pbjax.optim.ivon import IvonState, ivon
from pbjax.optim.look_sam import LookSAMState, look_sam
from pbjax.optim.m_sam import m_sam
from pbjax.optim.mean_field import mean_field
from pbjax.optim.mean_field_then_sam import mean_field_then_sam
from pbjax.optim.member import Member
from pbjax.optim.mix_sam import mix_sam
from pbjax.optim.momentum_sam import momentum_sam
from pbjax.optim.noise import standard_normal
from pbjax.optim.own_loop import complete_grad_fn, perturbed_value_and_grad
from pbjax.optim.perturbation import PerturbationMetrics, PerturbationState
from pbjax.optim.posteriors import averaged_prediction, posterior
from pbjax.optim.preconditioners import ShampooState, scale_by_shampoo, scale_by_squared_weights
from pbjax.optim.random_sam import random_sam
from pbjax.optim.sam import sam
from pbjax.optim.scales import LearnedScale, ScaleUpdate, learned_scale, natural_gradient, reparametrised
from pbjax.optim.sharpness_aware import sharpness_aware
from pbjax.optim.sparse_sam import norm_only, sparse_sam
from pbjax.optim.variational_sam import variational_sam
from pbjax.optim.vogn import VognState, vogn
from pbjax.optim.weight_perturbation import weight_perturbation

__all__ = [
    "BsamState", "Combination", "Direction", "IvonState", "LearnedScale", "LookSAMState", "Member", "Metric",
    "PerturbationMetrics", "PerturbationState", "ScaleUpdate", "ShampooState", "VognState", "adaptive",
    "along_gradient", "along_momentum", "asam", "at_random", "averaged_prediction", "away_from_mean", "bsam",
    "complete_grad_fn", "euclidean", "filter_norm", "fisher", "fisher_sam", "friendly_sam", "gsam", "ivon",
    "learned_scale", "look_sam", "m_sam", "mean_field", "mean_field_then_sam", "mix_sam", "mixture", "momentum_sam",
    "natural_gradient", "norm_only", "perturbed_only", "perturbed_value_and_grad", "posterior",
    "radius_after_learning_rate", "random_sam", "reparametrised", "sam", "scale_by_shampoo",
    "scale_by_squared_weights", "sharpness_aware", "skip_nonfinite", "sparse", "sparse_sam", "standard_normal",
    "surrogate_gap", "variational_sam", "vogn", "weight_perturbation", "weighted",
]  # fmt: skip
