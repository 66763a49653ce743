"""How sharp a minimum is: worst and average rise of the loss around the weights, and the Hessian's trace and top end.

Every measure takes a loss `loss(params, batch) -> scalar`, a mean over the rows of the batch, and is one traced
function: `vmap` over networks makes one program. docs/sharpness.md says which number means what.
"""

from pbjax.sharpness.curvature import Lanczos, hessian_vector_product, hutchinson_trace, top_eigenvalue
from pbjax.sharpness.rise import Estimate, average_case, gaussian_scale, worst_case

__all__ = [
    "Estimate",
    "Lanczos",
    "average_case",
    "gaussian_scale",
    "hessian_vector_product",
    "hutchinson_trace",
    "top_eigenvalue",
    "worst_case",
]
