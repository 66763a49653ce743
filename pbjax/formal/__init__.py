"""Formal languages and what language models make of them: samplers, oracles, prompts, extensions, training, metrics.

A prompt of probability zero may be continued in any way at no cost in test loss. `languages` has the exact laws,
`all_prompts` the prompts, `extend` five ways to continue them, `completion_metrics` what a continuation keeps.
`make_training` trains a language model on a law, on completions of prompts, or on both at a chosen loss; `decode` and
`evaluate_loss` read it. `hmm` has mixtures of hidden Markov models, for in-context learning, `symmetries` maps of the
parameters that leave a network's function as it is.
"""

from pbjax.formal import hmm, languages, symmetries
from pbjax.formal.decoding import decode
from pbjax.formal.evaluation import Evaluation, evaluate_loss
from pbjax.formal.extensions import EXTENSIONS, extend, extension_r1, extension_r2_completion, follows
from pbjax.formal.metrics import (
    Metrics,
    Rates,
    RuleClassMass,
    completion_metrics,
    rule_class_mass,
    string_log_prob,
)
from pbjax.formal.objectives import (
    COMPLETION_REGIMES,
    Regime,
    completion_loss,
    nats_per_sequence,
    pinned_loss,
    regime,
    sequence_loss,
)
from pbjax.formal.prompts import Prompts, all_prompts, excess
from pbjax.formal.training import Training, TrainingMetrics, TrainingState, inverse_square_root, make_training
from pbjax.formal.vocabulary import EOS, PAD, SOS, Vocabulary

__all__ = [
    "COMPLETION_REGIMES",
    "EOS",
    "EXTENSIONS",
    "PAD",
    "SOS",
    "Evaluation",
    "Metrics",
    "Prompts",
    "Rates",
    "Regime",
    "RuleClassMass",
    "Training",
    "TrainingMetrics",
    "TrainingState",
    "Vocabulary",
    "all_prompts",
    "completion_loss",
    "completion_metrics",
    "decode",
    "evaluate_loss",
    "excess",
    "extend",
    "extension_r1",
    "extension_r2_completion",
    "follows",
    "hmm",
    "inverse_square_root",
    "languages",
    "make_training",
    "nats_per_sequence",
    "pinned_loss",
    "regime",
    "rule_class_mass",
    "sequence_loss",
    "string_log_prob",
    "symmetries",
]
