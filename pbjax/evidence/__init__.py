"""Evidence of the Gibbs posterior: −log Z and KL along a ladder of inverse temperatures, with brackets and errors.

Arrays in, estimates out: this room proposes rungs and judges a ladder, ``pbjax.sampling`` runs it. All sums are
cumulative, so one call serves every rung. The estimates work under jit, vmap and grad; ladders are made on the host.
"""

from pbjax.evidence.checks import (
    Hysteresis,
    Transition,
    VariationalCheck,
    first_order_transition,
    gap_identity,
    hysteresis,
    violates_variational_bound,
)
from pbjax.evidence.importance import (
    Bracket,
    ImportanceEstimate,
    bidirectional_bracket,
    effective_sample_size,
    importance_estimate,
)
from pbjax.evidence.integration import (
    EvidenceEstimate,
    ThermodynamicIntegration,
    VarianceForm,
    thermodynamic_integration,
    thermodynamic_integration_with_errors,
    variance_form,
)
from pbjax.evidence.ladder import NextRung, Refinement, isotonic_decreasing, next_rung, place_rungs, refine
from pbjax.evidence.statistics import SampleStatistics, independent_statistics, merge_rungs

__all__ = [
    "Bracket",
    "EvidenceEstimate",
    "Hysteresis",
    "ImportanceEstimate",
    "NextRung",
    "Refinement",
    "SampleStatistics",
    "ThermodynamicIntegration",
    "Transition",
    "VarianceForm",
    "VariationalCheck",
    "bidirectional_bracket",
    "effective_sample_size",
    "first_order_transition",
    "gap_identity",
    "hysteresis",
    "importance_estimate",
    "independent_statistics",
    "isotonic_decreasing",
    "merge_rungs",
    "next_rung",
    "place_rungs",
    "refine",
    "thermodynamic_integration",
    "thermodynamic_integration_with_errors",
    "variance_form",
    "violates_variational_bound",
]
