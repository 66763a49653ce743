"""Formal languages and what language models make of them: samplers, oracles, prompts, extensions, metrics.

A prompt of probability zero may be continued in any way at no cost in test loss. `languages` has the exact laws,
`all_prompts` the prompts, `extend` five ways to continue them, `completion_metrics` what a continuation keeps.
"""

from pbjax.formal import languages
from pbjax.formal.extensions import extend, extension_r1, extension_r2_completion
from pbjax.formal.metrics import (
    Metrics,
    Rates,
    RuleClassMass,
    completion_metrics,
    rule_class_mass,
    string_log_prob,
)
from pbjax.formal.prompts import Prompts, all_prompts, excess
from pbjax.formal.vocabulary import EOS, PAD, SOS, Vocabulary

__all__ = [
    "EOS",
    "PAD",
    "SOS",
    "Metrics",
    "Prompts",
    "Rates",
    "RuleClassMass",
    "Vocabulary",
    "all_prompts",
    "completion_metrics",
    "excess",
    "extend",
    "extension_r1",
    "extension_r2_completion",
    "languages",
    "rule_class_mass",
    "string_log_prob",
]
