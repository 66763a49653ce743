"""Risk certificates: a value with its assumption, its budget of failure probability, and the numbers it came from.

Three routes certify a sampled Gibbs posterior under different assumptions (``gibbs_iid``, ``gibbs_asymptotic``,
``gibbs_chains``; pbjax's own). Beside them stand a plug-in value without guarantee (``gibbs_plugin``), the two-stage
certificate of a mean-field posterior (``mean_field``) and the held-out bound (``test_set``).

A certificate never under-states: every rounding is upwards, a vacuous or broken one is 1.0, and ``delta_ledger`` sums
to the budget. Two losses certified together take half of delta each.
"""

from pbjax.certificates.certificate import Certificate
from pbjax.certificates.gibbs import gibbs_asymptotic, gibbs_chains, gibbs_iid, gibbs_plugin
from pbjax.certificates.references import mean_field, test_set

__all__ = [
    "Certificate",
    "gibbs_asymptotic",
    "gibbs_chains",
    "gibbs_iid",
    "gibbs_plugin",
    "mean_field",
    "test_set",
]
