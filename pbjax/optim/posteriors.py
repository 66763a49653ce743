"""The Gaussian that a member of the family has learned (or holds fixed) around the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pbjax._checks import check_n
from pbjax.optim import _trees as trees
from pbjax.optim.bsam import BsamState
from pbjax.optim.ivon import IvonState
from pbjax.optim.member import find_state
from pbjax.optim.perturbation import PerturbationState
from pbjax.optim.vogn import VognState
from pbjax.posteriors import Gaussian, sample


def posterior(opt_state: Any, params: Any) -> Gaussian:
    """N(params, sigma^2) with the sigma found in an optimiser's state, wherever it stands in there.

    Args:
        opt_state: optax state that holds one member with a posterior: `mean_field`, `mean_field_then_sam`,
            `variational_sam`, `random_sam`, `ivon`, `bsam`, `vogn`.
        params: parameter pytree, the mean.

    Returns:
        A `Gaussian` in float32 at least, which `pbjax.posteriors` and `pbjax.certificates` take. Leaves that a mask
        keeps from being perturbed have log-scale -inf: a point mass, whose KL to any Gaussian is infinite, so certify
        over the others.

    Raises:
        ValueError: no posterior in the state, or more than one.

    Example:
        >>> import jax.numpy as jnp
        >>> from pbjax.optim import random_sam
        >>> params = jnp.zeros(4)
        >>> round(float(jnp.exp(posterior(random_sam(0.1).init(params), params).log_scale[0])), 3)
        0.05
    """
    kinds = (PerturbationState, *WITH_POSTERIOR)
    states = [state for state in find_state(opt_state, kinds) if jax.tree.leaves(_log_scales(state, params))]
    if len(states) != 1:
        raise ValueError(
            f"opt_state holds {len(states)} posteriors: it must hold one, of mean_field, mean_field_then_sam, "
            "variational_sam, random_sam, ivon, bsam or vogn (sam and the other adversarial ones have none)"
        )
    log_scale = _log_scales(states[0], params)
    mean = jax.tree.map(trees.wide, jax.tree.map(jnp.asarray, params))

    def hidden(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    def spread(s: Any, w: Any) -> Any:
        if hidden(s):  # optax.masked keeps the leaf from the member: a point mass, as with a mask of its own
            return jax.tree.map(lambda leaf: jnp.full_like(leaf, -jnp.inf), w)
        return jnp.broadcast_to(s, w.shape).astype(w.dtype)

    return Gaussian(mean, jax.tree.map(spread, log_scale, mean, is_leaf=hidden))


def averaged_prediction(
    key: jax.Array, opt_state: Any, params: Any, predict: Callable[[Any], Any], *, samples: int
) -> Any:
    """Mean of `predict` over draws from the posterior, one draw at a time in a scan.

    Args:
        key: typed PRNG key.
        opt_state: as in `posterior`.
        params: parameter pytree, the mean.
        predict: `predict(params) -> array or pytree of arrays`; average probabilities, not logits.
        samples: number of draws, >= 1.

    Returns:
        What `predict` returns, averaged, in float32 at least.

    Raises:
        ValueError: no posterior in the state, or samples below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pbjax.optim import random_sam
        >>> params = jnp.zeros(2)
        >>> state = random_sam(0.1).init(params)
        >>> averaged_prediction(jax.random.key(0), state, params, lambda w: jnp.ones(3) + 0 * w[0], samples=4).tolist()
        [1.0, 1.0, 1.0]
    """
    check_n(samples, name="samples")
    q = posterior(opt_state, params)

    def body(total: Any, key: jax.Array) -> tuple[Any, None]:
        prediction = predict(trees.cast_like(sample(key, q), params))
        return jax.tree.map(lambda t, p: t + p.astype(t.dtype) / samples, total, prediction), None

    shapes = jax.eval_shape(predict, params)
    # A thousand half-precision terms would not add up.
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
    return jax.lax.scan(body, zeros, jax.random.split(key, samples))[0]


def _log_scales(state: Any, params: Any) -> Any:
    return state.log_scale if isinstance(state, PerturbationState) else state.log_scales(params)


# States of the whole optimisers, which compute their scales from their precisions.
WITH_POSTERIOR: list[type] = [BsamState, IvonState, VognState]
