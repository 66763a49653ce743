"""What training needs to know about a family of posteriors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pbjax.posteriors import gaussian

__all__ = ["MEAN_FIELD", "Family"]


class Family(NamedTuple):
    """The functions of a variational family; its posteriors are pairs (location, spread).

    Attributes:
        sample: ``(key, q) -> params``, differentiable in ``q``.
        kl: ``(q, prior) -> scalar`` in nats.
        location: ``q -> params``, the centre of symmetry (for antithetic draws).
        rescale: ``(q, factor) -> q`` with its standard deviations multiplied by ``factor``.
        unconstrain: ``q -> raw``, a pair that an optimiser may move freely.
        constrain: the inverse, ``raw -> q``.
    """

    sample: Callable[[jax.Array, Any], Any]
    kl: Callable[[Any, Any], jax.Array]
    location: Callable[[Any], Any]
    rescale: Callable[[Any, Any], Any]
    unconstrain: Callable[[Any], Any]
    constrain: Callable[[Any], Any]


def _rescale(q: gaussian.Gaussian, factor: Any) -> gaussian.Gaussian:
    return gaussian.Gaussian(q.mean, jax.tree.map(lambda leaf: leaf + jnp.log(factor).astype(leaf.dtype), q.log_scale))


def _identity(q: Any) -> Any:
    return q


def _location(q: gaussian.Gaussian) -> Any:
    return q.mean


MEAN_FIELD = Family(gaussian.sample, gaussian.kl, _location, _rescale, _identity, _identity)
"""Diagonal Gaussians (``pbjax.posteriors.Gaussian``)."""
