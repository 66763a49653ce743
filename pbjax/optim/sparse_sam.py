r"""SAM on a part of the weights: normalisation parameters only, or those with the largest gradients."""

import re

import jax
from jax.typing import ArrayLike

from pbjax.optim import _trees as trees
from pbjax.optim.geometry import sparse
from pbjax.optim.member import Member
from pbjax.optim.sharpness_aware import Radius, sharpness_aware


def sparse_sam(radius: Radius = 0.05, *, density: ArrayLike = 0.5, mask: trees.Mask | None = None) -> Member:
    r"""$\epsilon = \rho\, m g/\|m g\|$, m the 0/1 mask of the weights with the largest squared batch gradient.

    Cost: two gradients and a sort of the gradient's magnitudes. State: a counter and three scalars.

    Args:
        radius: rho >= 0, or a schedule.
        density: share of the weights that is perturbed, in (0, 1]; 1 is SAM.
        mask: leaves that may be perturbed at all.

    Returns:
        An optax transformation, see `sharpness_aware`.

    Raises:
        ValueError: numbers out of range; a missing grad_fn at `update`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> tx, params = sparse_sam(0.1, density=0.5), jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))
        >>> used, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        >>> [round(float(u), 3) for u in used]
        [3.0, 4.1]

    References:
        Mi et al., "Make sharpness-aware minimization stronger: A sparsified perturbation approach", NeurIPS 2022.
    """
    return sharpness_aware(radius, metric=sparse(density), mask=mask)


def norm_only(params: trees.Params) -> trees.Params:
    """A mask of the normalisation parameters, as SAM-ON has it: leaves under a name with "norm" in it or the word "bn".

    Args:
        params: parameter pytree with named nodes.

    Returns:
        A pytree of bools; `sam(0.5, mask=norm_only)`.

    Example:
        >>> import jax.numpy as jnp
        >>> norm_only({"Dense_0": {"kernel": jnp.ones(2)}, "BatchNorm_0": {"scale": jnp.ones(2)}})
        {'BatchNorm_0': {'scale': True}, 'Dense_0': {'kernel': False}}

    References:
        Mueller et al., "Normalization layers are all that sharpness-aware minimization needs", NeurIPS 2023.
    """

    def named(path: tuple, leaf: jax.Array) -> bool:
        text = jax.tree_util.keystr(path).lower()
        return "norm" in text or re.search(r"(?<![a-z])bn(?![a-z])", text) is not None

    return jax.tree.map_with_path(named, params)
