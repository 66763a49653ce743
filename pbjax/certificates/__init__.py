"""Risk certificates: a value with its assumption, its budget of failure probability, and the numbers it came from.

Three routes certify a sampled Gibbs posterior under different assumptions (``gibbs_iid``, ``gibbs_asymptotic``,
``gibbs_chains``; pbjax's own). Beside them stand a plug-in value without guarantee (``gibbs_plugin``), the two-stage
certificate of a mean-field posterior (``mean_field``) and the held-out bound (``test_set``).

Annealed chains (``pbjax.sampling.path_chunk``) need no convergence at all: their heat certifies the networks that
came out (``heat_single``, ``heat_mean``) or the law that they came from (``heat_law_rigorous``,
``heat_law_asymptotic``), and their importance weights the exact Gibbs posterior (``ais_free_energy``).

A certificate never under-states: every rounding is upwards, a vacuous or broken one is 1.0, and ``delta_ledger`` sums
to the budget. Two losses certified together take half of delta each.

Each one keeps all of its inputs: ``recompute`` makes it again from its record, years later or by somebody else.
"""

from pbjax.certificates.annealed_importance import ais_free_energy
from pbjax.certificates.certificate import Certificate, from_record
from pbjax.certificates.gibbs import gibbs_asymptotic, gibbs_chains, gibbs_iid, gibbs_plugin
from pbjax.certificates.heat import heat_mean, heat_single
from pbjax.certificates.heat_law import heat_law_asymptotic, heat_law_rigorous
from pbjax.certificates.recomputing import recompute, recompute_all
from pbjax.certificates.references import mean_field, test_set

__all__ = [
    "Certificate",
    "ais_free_energy",
    "from_record",
    "gibbs_asymptotic",
    "gibbs_chains",
    "gibbs_iid",
    "gibbs_plugin",
    "heat_law_asymptotic",
    "heat_law_rigorous",
    "heat_mean",
    "heat_single",
    "mean_field",
    "recompute",
    "recompute_all",
    "test_set",
]
