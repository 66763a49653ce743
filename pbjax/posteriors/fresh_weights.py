"""Risk of a posterior from independent pairs of weights and row: many draws for the price of few passes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_n
from pbjax.posteriors.estimators import local_apply
from pbjax.posteriors.gaussian import Gaussian, sample, wide_dtype

__all__ = ["FreshRisk", "fresh_weights_risk"]


class FreshRisk(NamedTuple):
    """Monte-Carlo estimate of ``E_Q L`` from draws that are used for one row each.

    Attributes:
        mean: scalar, the average loss over all pairs.
        standard_error: scalar, from the spread of the pairs; it counts the spread between rows too, which rows that
            are all used equally often do not add, so it is an upper bound of what the mean really varies by.
        num_pairs: number of independent pairs, for ``pbjax.bounds.sampled_risk``.
    """

    mean: jax.Array
    standard_error: jax.Array
    num_pairs: int


def fresh_weights_risk(
    key: jax.Array,
    gaussian: Gaussian,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    apply: Callable[[Any, jax.Array], jax.Array],
    repeats: int,
    rows_per_chunk: int = 1000,
    activation: str | None = None,
) -> FreshRisk:
    r"""Average loss over pairs (row, weights of its own), every row ``repeats`` times.

    $$\frac{1}{rn}\sum_{i=1}^{n}\sum_{j=1}^{r} \ell(f_{w_{ij}}(x_i), y_i), \qquad w_{ij} \sim Q \text{ independent}$$

    The pairs are independent with values in [0, 1], and the mean of their expectations is E_Q L exactly, as every row
    is used equally often. Hoeffding's Chernoff bound needs no equal expectations, so ``sampled_risk(mean, r n)`` holds:
    r n draws instead of the few whole passes that one could pay for.

    For a chain of dense layers the pair's logits are drawn layer by layer, which has the same law and costs two matrix
    products a layer; any other network gets its P weights drawn for every pair.

    Args:
        key: a random key.
        gaussian: the posterior, a diagonal Gaussian.
        loss: ``(logits [rows, classes], labels [rows]) -> [rows]``, in [0, 1].
        inputs: array ``[n, ...]``.
        labels: array ``[n]``.
        apply: ``(params, inputs [rows, ...]) -> logits [rows, classes]``; not read if ``activation`` is given.
        repeats: r, >= 1.
        rows_per_chunk: rows at a time; r n P normals are drawn, and rows_per_chunk P are held, without ``activation``.
        activation: of a chain of dense layers as ``local_apply`` takes it, None for other networks.

    Returns:
        ``FreshRisk``; sums are kept in float64 when x64 is enabled.

    Raises:
        ValueError: for counts below 1, or inputs and labels of different lengths.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pbjax.posteriors.gaussian import Gaussian
        >>> q = Gaussian(jnp.zeros(()), jnp.zeros(()))
        >>> wrong = lambda logits, labels: (logits[:, 0] < 0).astype(jnp.float32)
        >>> apply = lambda w, inputs: inputs * w
        >>> risk = fresh_weights_risk(
        ...     jax.random.key(0), q, wrong, jnp.ones((500, 1)), jnp.zeros(500, int), apply=apply, repeats=8
        ... )
        >>> risk.num_pairs, bool(abs(risk.mean - 0.5) < 5 * risk.standard_error)
        (4000, True)

    References:
        Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 1963, Theorem 1; Kingma et al.,
        "Variational dropout and the local reparameterization trick", NeurIPS 2015.
    """
    check_n(repeats, name="repeats")
    check_n(rows_per_chunk, name="rows_per_chunk")
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    if len(inputs) != len(labels) or len(inputs) == 0:
        raise ValueError(f"need as many labels as inputs and at least one, got {len(labels)} and {len(inputs)}")
    mean, error = _risk(
        key, gaussian, inputs, labels, loss=loss, apply=apply, repeats=repeats,
        rows_per_chunk=min(rows_per_chunk, len(inputs)), activation=activation,
    )  # fmt: skip
    return FreshRisk(mean, error, repeats * len(inputs))


@partial(jax.jit, static_argnames=("loss", "apply", "repeats", "rows_per_chunk", "activation"))
def _risk(
    key: jax.Array,
    gaussian: Gaussian,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    loss: Any,
    apply: Any,
    repeats: int,
    rows_per_chunk: int,
    activation: str | None,
) -> tuple[jax.Array, jax.Array]:
    n = inputs.shape[0]
    chunks = -(-n // rows_per_chunk)

    def logits(key: jax.Array, rows: jax.Array) -> jax.Array:
        if activation is not None:
            return local_apply(key, gaussian, inputs=rows, activation=activation)
        keys = jax.random.split(key, rows.shape[0])
        return jax.vmap(lambda key, row: apply(sample(key, gaussian), row[None])[0])(keys, rows)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        chunk = number % chunks
        # The last chunk overlaps the one before; what was seen there counts nothing.
        start = jnp.minimum(chunk * rows_per_chunk, n - rows_per_chunk)
        rows, targets = (jax.lax.dynamic_slice_in_dim(part, start, rows_per_chunk) for part in (inputs, labels))
        fresh = start + jnp.arange(rows_per_chunk) >= chunk * rows_per_chunk
        values = loss(logits(jax.random.fold_in(key, number), rows), targets).astype(wide_dtype())
        values = jnp.where(fresh, values, 0)
        return total + jnp.stack([values.sum(), jnp.square(values).sum()]), None

    total, _ = jax.lax.scan(add, jnp.zeros(2, wide_dtype()), jnp.arange(chunks * repeats))
    mean, square = total / (n * repeats)
    return mean, jnp.sqrt(jnp.maximum(square - mean**2, 0) / (n * repeats))
