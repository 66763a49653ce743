"""PAC-Bayes, Monte-Carlo and test-set bounds: numbers in, numbers out; jit, vmap and grad all work.

Every returned bound is rounded to the safe side and is 1.0, never NaN, where it says nothing.
"""

from pbjax.bounds.bernoulli import bernoulli_kl, kl_inverse, kl_inverse_lower
from pbjax.bounds.bounded_mean import betting, empirical_bernstein
from pbjax.bounds.fixed_parameter import catoni, catoni_grid
from pbjax.bounds.held_out import test_set
from pbjax.bounds.monte_carlo import Interval, sampled_risk, two_stage
from pbjax.bounds.pac_bayes import best_lambda, free_energy, lambda_bound, mcallester, pac_bayes_kl, quadratic

__all__ = [
    "Interval",
    "bernoulli_kl",
    "best_lambda",
    "betting",
    "catoni",
    "catoni_grid",
    "empirical_bernstein",
    "free_energy",
    "kl_inverse",
    "kl_inverse_lower",
    "lambda_bound",
    "mcallester",
    "pac_bayes_kl",
    "quadratic",
    "sampled_risk",
    "test_set",
    "two_stage",
]
