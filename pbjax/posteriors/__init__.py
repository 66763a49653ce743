"""Gaussian posteriors over network weights: densities, divergences, training on a bound, evaluation."""

from pbjax.posteriors import full_covariance
from pbjax.posteriors.estimators import direct_estimator, local_apply, local_estimator
from pbjax.posteriors.evaluation import PosteriorRisk, posterior_risk
from pbjax.posteriors.family import MEAN_FIELD, Family
from pbjax.posteriors.fresh_weights import FreshRisk, fresh_weights_risk
from pbjax.posteriors.full_covariance import FullGaussian
from pbjax.posteriors.gap import VariationalGap, variational_gap
from pbjax.posteriors.gaussian import Gaussian, init, kl, log_density, sample
from pbjax.posteriors.grid import GridResult, train_grid
from pbjax.posteriors.objectives import OBJECTIVES, make_objective
from pbjax.posteriors.prior import fan_in_prior
from pbjax.posteriors.scales import ScaleFit, fit_scales
from pbjax.posteriors.training import TrainingMetrics, cosine, train

__all__ = [
    "MEAN_FIELD",
    "OBJECTIVES",
    "Family",
    "FreshRisk",
    "FullGaussian",
    "Gaussian",
    "GridResult",
    "PosteriorRisk",
    "ScaleFit",
    "TrainingMetrics",
    "VariationalGap",
    "cosine",
    "direct_estimator",
    "fan_in_prior",
    "fit_scales",
    "fresh_weights_risk",
    "full_covariance",
    "init",
    "kl",
    "local_apply",
    "local_estimator",
    "log_density",
    "make_objective",
    "posterior_risk",
    "sample",
    "train",
    "train_grid",
    "variational_gap",
]
