"""The Hessian of the loss through its products with vectors: trace and top eigenvalue."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pbjax._checks import check_range
from pbjax.sharpness.rise import Estimate, Loss, mean_of
from pbjax.sharpness.rows import mean_over_rows

# Accelerators round the factors of a float32 product to fewer digits unless told otherwise; an orthogonal basis and the
# difference of large terms in v^T H v need all of them.
EXACT = jax.lax.Precision.HIGHEST

__all__ = ["Lanczos", "hessian_vector_product", "hutchinson_trace", "top_eigenvalue"]


class Lanczos(NamedTuple):
    """Result of a Lanczos iteration.

    Attributes:
        value: the largest Ritz value; at most the top eigenvalue.
        residual: within this distance of the value lies an eigenvalue of the Hessian, up to rounding (in float32 about
            1e-6 of the largest Ritz value in size). That it is the top one is not guaranteed: it fails where the
            start was almost orthogonal to its eigenvector, or the iterations were too few.
        vector: pytree like the params, the Ritz vector of norm 1.
        ritz_values: [iterations], all Ritz values in ascending order; after an early end those of the steps before it,
            the rest NaN first.
    """

    value: jax.Array
    residual: jax.Array
    vector: Any
    ritz_values: jax.Array


def hessian_vector_product(
    loss: Loss, params: Any, batch: Any, vector: Any, *, rows_per_chunk: int | None = None
) -> Any:
    r"""$H v$ with $H = \nabla^2 L(w)$, by forward over reverse differentiation.

    Cost: the work of at most three gradients, one of which does not depend on v and is shared by the products in a loop
    where the compiler sees it.

    Args:
        loss: `loss(params, batch) -> scalar`; the mean over rows if these come in chunks.
        params: parameter pytree w.
        batch: what the loss takes.
        vector: pytree v like the params.
        rows_per_chunk: rows evaluated at once, >= 1, out of a batch that is a pytree of arrays with n rows; None takes
            the batch whole.

    Returns:
        Pytree like the params.

    Raises:
        ValueError: rows_per_chunk below 1, or arrays of different length in the batch.

    Example:
        >>> import jax.numpy as jnp
        >>> cubic = lambda w, _: w[0] ** 2 * w[1]
        >>> hessian_vector_product(cubic, jnp.array([1.0, 2.0]), None, jnp.array([1.0, 0.0])).tolist()
        [4.0, 2.0]

    References:
        Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994.
    """

    def product(rows: Any) -> Any:
        return jax.jvp(jax.grad(lambda params: loss(params, rows)), (params,), (vector,))[1]

    return mean_over_rows(product, batch, rows_per_chunk)


def _flat_product(
    loss: Loss, params: Any, batch: Any, rows_per_chunk: int | None
) -> tuple[jax.Array, Any, Callable[[jax.Array], jax.Array]]:
    centre, unravel = ravel_pytree(params)

    def flat_loss(flat: jax.Array, rows: Any) -> jax.Array:
        return loss(unravel(flat), rows)

    def product(vector: jax.Array) -> jax.Array:
        return hessian_vector_product(flat_loss, centre, batch, vector, rows_per_chunk=rows_per_chunk)

    return centre, unravel, product


def hutchinson_trace(
    key: jax.Array, loss: Loss, params: Any, batch: Any, *, probes: int, rows_per_chunk: int | None = None
) -> Estimate:
    r"""Trace of the Hessian, $E\, v^\top H v$ over random signs v.

    The variance of a probe is $2 \sum_{i \ne j} H_{ij}^2$: none for a diagonal Hessian.

    Cost: one Hessian-vector product a probe.

    Args:
        key: typed PRNG key.
        loss: `loss(params, batch) -> scalar`.
        params: parameter pytree.
        batch: what the loss takes.
        probes: >= 2.
        rows_per_chunk: as for `hessian_vector_product`.

    Returns:
        `Estimate`, in the unit of the loss over that of the params squared.

    Raises:
        ValueError: fewer than 2 probes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> quadratic = lambda w, _: 0.5 * jnp.sum(jnp.array([1.0, 2.0]) * w**2)
        >>> float(hutchinson_trace(jax.random.key(0), quadratic, jnp.ones(2), None, probes=2).value)
        3.0

    References:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989.
    """
    check_range("probes", probes, low=2, open_high=True, whole=True)  # one has no standard error
    centre, _, product = _flat_product(loss, params, batch, rows_per_chunk)

    def probe(key: jax.Array) -> jax.Array:
        signs = jax.random.rademacher(key, centre.shape, centre.dtype)
        return jnp.vdot(signs, product(signs), precision=EXACT)

    return mean_of(jax.lax.map(probe, jax.random.split(key, probes)))


def top_eigenvalue(
    key: jax.Array, loss: Loss, params: Any, batch: Any, *, iterations: int, rows_per_chunk: int | None = None
) -> Lanczos:
    """Largest eigenvalue of the Hessian (not the largest in size) by Lanczos with full re-orthogonalisation.

    Cost: one Hessian-vector product an iteration; iterations + 1 vectors of the size of the params are held.

    Args:
        key: typed PRNG key of the random start.
        loss: `loss(params, batch) -> scalar`.
        params: parameter pytree of P scalars.
        batch: what the loss takes.
        iterations: >= 1; those beyond P change nothing.
        rows_per_chunk: as for `hessian_vector_product`.

    Returns:
        `Lanczos`.

    Raises:
        ValueError: no iteration.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> quadratic = lambda w, _: 0.5 * jnp.sum(jnp.array([1.0, 2.0, 5.0]) * w**2)
        >>> made = top_eigenvalue(jax.random.key(0), quadratic, jnp.ones(3), None, iterations=3)
        >>> round(float(made.value), 4), bool(made.residual < 1e-3)
        (5.0, True)

    References:
        Golub and Van Loan, "Matrix computations", chapter 10; Ghorbani et al., "An investigation into neural net
        optimization via Hessian eigenvalue density", ICML 2019.
    """
    check_range("iterations", iterations, low=1, open_high=True, whole=True)
    centre, unravel, product = _flat_product(loss, params, batch, rows_per_chunk)
    start = jax.random.normal(key, centre.shape, centre.dtype)
    basis = jnp.zeros((iterations + 1, centre.size), centre.dtype).at[0].set(start / jnp.linalg.norm(start))

    def step(basis: jax.Array, index: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        image = product(basis[index])
        diagonal = jnp.vdot(image, basis[index], precision=EXACT)
        size = jnp.linalg.norm(image)
        # Twice is enough: rounding then leaves no overlap with the vectors before. Rows yet to come are zero.
        for _ in range(2):
            overlaps = jnp.matmul(basis, image, precision=EXACT)
            image = image - jnp.matmul(overlaps, basis, precision=EXACT)
        left = jnp.linalg.norm(image)
        # What is left of an invariant subspace is rounding; from here on all vectors are zero.
        alive = left > 30 * jnp.finfo(centre.dtype).eps * jnp.maximum(size, jnp.abs(diagonal))
        basis = basis.at[index + 1].set(jnp.where(alive, image / jnp.where(alive, left, 1.0), 0.0))
        return basis, (diagonal, jnp.where(alive, left, 0.0), left)

    basis, (diagonal, off, left) = jax.lax.scan(step, basis, jnp.arange(iterations))
    used = jnp.concatenate([jnp.ones(1, bool), jnp.cumprod(off[:-1] > 0).astype(bool)])
    # Steps after an early end become eigenvalues below all others, and are not taken for one.
    low = -(jnp.abs(diagonal).max() + 2 * off.max(initial=0.0) + 1.0) * 2
    between = jnp.where(used[1:], off[:-1], 0.0)
    matrix = jnp.diag(jnp.where(used, diagonal, low)) + jnp.diag(between, 1) + jnp.diag(between, -1)
    values, vectors = jnp.linalg.eigh(matrix)
    top = vectors[:, -1]
    last = used.sum() - 1
    vector = jnp.matmul(top, basis[:-1], precision=EXACT)
    return Lanczos(
        values[-1],
        left[last] * jnp.abs(top[last]),
        unravel(vector / jnp.linalg.norm(vector)),
        jnp.where(jnp.arange(iterations) < iterations - used.sum(), jnp.nan, values),
    )
