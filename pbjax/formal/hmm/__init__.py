"""Mixtures of hidden Markov models: in-context learning with exact probabilities, and why test loss does not give it.

`random_mixture` makes a GINC-like p, `log_conditional` is its Bayes-optimal predictor, `in_context_accuracy` says how
well that learns from the examples of a prompt. A `Neighbour` q_N learns from fewer than N examples and then stops, at a
divergence KL(p || q_N) of at most `kl_bound`: in-context learning is epsilon-non-identifiable.

Example:
    >>> import jax
    >>> from pbjax.formal import hmm
    >>> p = hmm.random_mixture(jax.random.key(0), delimiter_probability=0.1)
    >>> q = hmm.Neighbour(start=6, eta=0.01, symbols=4, law="prior")
    >>> bound = hmm.kl_bound(hmm.delimiter_bound(p), q.eta, start=q.start)
    >>> found = hmm.monte_carlo_kl(p, jax.random.key(1), neighbour=q, length=60, count=50)
    >>> bool(0 < found.value < bound < 1e-5)
    True
"""

from pbjax.formal.hmm.divergence import METHODS, KLEstimate, exact_kl, format_log_prob, kl_bound, monte_carlo_kl
from pbjax.formal.hmm.in_context import (
    Accuracy,
    LabelledPrompts,
    exact_in_context_accuracy,
    in_context_accuracy,
    predict,
    sample_prompts,
)
from pbjax.formal.hmm.inference import Sequences, log_concept_posterior, log_conditional, log_prob, sample_sequences
from pbjax.formal.hmm.model import HMM, Mixture, delimiter_bound, make_mixture, random_mixture
from pbjax.formal.hmm.neighbour import LAWS, Neighbour, neighbour_log_conditional, neighbour_log_prob

__all__ = [
    "HMM",
    "LAWS",
    "METHODS",
    "Accuracy",
    "KLEstimate",
    "LabelledPrompts",
    "Mixture",
    "Neighbour",
    "Sequences",
    "delimiter_bound",
    "exact_in_context_accuracy",
    "exact_kl",
    "format_log_prob",
    "in_context_accuracy",
    "kl_bound",
    "log_concept_posterior",
    "log_conditional",
    "log_prob",
    "make_mixture",
    "monte_carlo_kl",
    "neighbour_log_conditional",
    "neighbour_log_prob",
    "predict",
    "random_mixture",
    "sample_prompts",
    "sample_sequences",
]
