"""Risks of a posterior on a whole data set, over many weight draws."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax.posteriors.family import MEAN_FIELD, Family
from pbjax.posteriors.gaussian import wide_dtype

__all__ = ["PosteriorRisk", "posterior_risk"]


class PosteriorRisk(NamedTuple):
    """Monte-Carlo estimate of ``E_Q L``.

    Attributes:
        mean: dict of scalars, one for each loss: the average over draws of the risk on all rows.
        standard_error: dict of scalars, sample standard deviation over draws divided by ``sqrt(num_draws)``.
        num_draws: number of independent draws ``m``, for ``pbjax.bounds.sampled_risk``.
    """

    mean: dict[str, jax.Array]
    standard_error: dict[str, jax.Array]
    num_draws: int


def posterior_risk(
    key: jax.Array,
    gaussian: Any,
    losses_fn: Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]],
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    num_draws: int,
    draws_per_chunk: int = 32,
    rows_per_chunk: int = 256,
    family: Family = MEAN_FIELD,
) -> PosteriorRisk:
    """Average risks over independent draws, each draw seeing the whole data set.

    ``(1/m) sum_j (1/n) sum_i loss(w_j, x_i, y_i)``, ``w_j ~ Q`` independent

    A draw of its own for every batch of rows would not do: the Monte-Carlo inversion of a certificate counts draws of
    the risk on all rows. Draw ``j`` depends on ``key`` and ``j`` only, so chunk sizes change nothing but speed and
    rounding.

    Args:
        key: a random key.
        gaussian: posterior of the given family.
        losses_fn: ``(params, inputs [r, ...], labels [r]) -> {name: per-example losses [r]}``.
        inputs: array ``[n, ...]``.
        labels: array ``[n]``.
        num_draws: draws ``m``, >= 1.
        draws_per_chunk: draws evaluated together as one wide matrix product.
        rows_per_chunk: rows evaluated together; their activations should fit the cache.
        family: ``MEAN_FIELD`` or ``full_covariance.family(params)``.

    Returns:
        ``PosteriorRisk``; sums are kept in float64 when x64 is enabled.

    Raises:
        ValueError: for a count below 1, or inputs and labels of different lengths.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pbjax.posteriors.gaussian import Gaussian
        >>> losses = lambda w, inputs, labels: {"squared": (w * inputs - labels) ** 2}
        >>> q = Gaussian(jnp.zeros(()), jnp.zeros(()))
        >>> risk = posterior_risk(jax.random.key(0), q, losses, jnp.ones(3), jnp.zeros(3), num_draws=4000)
        >>> bool(abs(risk.mean["squared"] - 1.0) < 5 * risk.standard_error["squared"])
        True
    """
    counts = {"num_draws": num_draws, "draws_per_chunk": draws_per_chunk, "rows_per_chunk": rows_per_chunk}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    if len(inputs) != len(labels) or len(inputs) == 0:
        raise ValueError(f"need as many labels as inputs and at least one, got {len(labels)} and {len(inputs)}")
    mean, standard_error = _posterior_risk(
        key,
        gaussian,
        inputs,
        labels,
        losses_fn=losses_fn,
        num_draws=num_draws,
        draws_per_chunk=min(draws_per_chunk, num_draws),
        rows_per_chunk=min(rows_per_chunk, len(inputs)),
        family=family,
    )
    return PosteriorRisk(mean, standard_error, num_draws)


@partial(jax.jit, static_argnames=("losses_fn", "num_draws", "draws_per_chunk", "rows_per_chunk", "family"))
def _posterior_risk(
    key: jax.Array,
    gaussian: Any,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    losses_fn: Any,
    num_draws: int,
    draws_per_chunk: int,
    rows_per_chunk: int,
    family: Family,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    n = inputs.shape[0]
    whole = n // rows_per_chunk
    chunked = jax.tree.map(
        lambda leaf: leaf[: whole * rows_per_chunk].reshape(whole, rows_per_chunk, *leaf.shape[1:]), (inputs, labels)
    )
    remainder = jax.tree.map(lambda leaf: leaf[whole * rows_per_chunk :], (inputs, labels))

    def sums(draws: Any, rows: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        per_example = jax.vmap(lambda params: losses_fn(params, *rows))(draws)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=1, dtype=wide_dtype()), per_example)

    def risks(chunk: jax.Array) -> dict[str, jax.Array]:
        """Risks ``[draws_per_chunk]`` of consecutive draws on all rows."""
        indices = chunk * draws_per_chunk + jnp.arange(draws_per_chunk)
        draws = jax.vmap(lambda index: family.sample(jax.random.fold_in(key, index), gaussian))(indices)

        def add(total: Any, rows: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, sums(draws, rows)), None

        first = jax.tree.map(lambda leaf: leaf[0], chunked)
        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(partial(sums, draws), first))
        total, _ = jax.lax.scan(add, start, chunked)
        if n % rows_per_chunk:
            total, _ = add(total, remainder)
        return jax.tree.map(lambda leaf: leaf / n, total)

    chunks = -(-num_draws // draws_per_chunk)
    values = jax.lax.map(risks, jnp.arange(chunks))
    values = jax.tree.map(lambda leaf: leaf.reshape(-1)[:num_draws], values)
    mean = jax.tree.map(jnp.mean, values)
    spread = jax.tree.map(lambda leaf: jnp.std(leaf, ddof=1 if num_draws > 1 else 0), values)
    return mean, jax.tree.map(lambda leaf: leaf / num_draws**0.5 if num_draws > 1 else leaf + jnp.inf, spread)
