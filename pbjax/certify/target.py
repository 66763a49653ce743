"""What an annealed certificate is about: rows, a prior, the energy of the chains and the losses that are certified."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from pbjax import losses
from pbjax.posteriors import Gaussian
from pbjax.posteriors.energy import Apply, ExampleLoss, Rows, chunk_rows, energy, mean_losses
from pbjax.posteriors.gibbs import whiten
from pbjax.precision import EXACT, Matmul, bind, with_fast_forces, with_matmul

SURROGATE = partial(losses.smooth_bounded_cross_entropy, ceiling=4.0)


class Target(NamedTuple):
    """A prior, a network and n labelled rows, as annealed chains want them. Only `rows` are arrays.

    Attributes:
        dimension: number of parameters d.
        n: number of rows; the prior knows none of them.
        rows: the rows in chunks; arguments of `energy` and `risks`, so that a compiled program holds no copy.
        to_params: z float32 [d] -> parameters, the prior being N(0, I) in z.
        energy: (z, rows) -> L, the mean surrogate, float64 under x64; its forces may be fast (`pbjax.precision`).
        risks: (z, rows) -> {"surrogate": mean surrogate, "zero_one": mean 0-1 error}, one forward pass, over any rows.
    """

    dimension: int
    n: int
    rows: Rows
    to_params: Callable[[jax.Array], Any]
    energy: Callable[[jax.Array, Rows], jax.Array]
    risks: Callable[[jax.Array, Rows], dict[str, jax.Array]]

    def on(self, rows: Rows) -> Callable[[jax.Array], jax.Array]:
        """The energy on some rows, as `pbjax.sampling` takes it.

        Args:
            rows: `Target.rows`, traced where a compiled program is not to hold a copy.

        Returns:
            z [d] -> L.
        """
        return bind(self.energy, rows)


def make_target(
    apply: Apply,
    prior: Gaussian,
    inputs: Any,
    labels: Any,
    *,
    surrogate: ExampleLoss = SURROGATE,
    rows_per_chunk: int = 2000,
    columns: Any = None,
    matmul_precision: Matmul = EXACT,
) -> Target:
    """Join a network, a prior and rows.

    Args:
        apply: `apply(params, inputs [n, ...]) -> logits [n, k]`, differentiable in `params`.
        prior: Gaussian over the parameters, fixed before the rows were seen (or on other rows).
        inputs: [n, ...] float.
        labels: int [n].
        surrogate: `surrogate(logits, labels, *, axis) -> [n]`, in [0, 1]; its mean is the energy.
        rows_per_chunk: rows that are in memory at once with their activations, for all chains; 500 to 4,000 suits CPUs,
            10,000 and more an accelerator.
        columns: `Model.columns` of a network of `pbjax.models` that has them: the same function, faster.
        matmul_precision: of the matrix products behind leapfrog steps, on an accelerator: "float32", "tensorfloat32" or
            "bfloat16". L, its heat and the risks are float32 whatever it is (`pbjax.precision`).

    Returns:
        A `Target`.

    Raises:
        ValueError: no rows, lengths that differ, a chunk size below 1, a prior whose two trees differ in shape, or an
            unknown precision.

    Example:
        >>> import jax.numpy as jnp
        >>> prior = Gaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
        >>> target = make_target(lambda w, x: x @ w, prior, np.eye(2), np.array([0, 2]))
        >>> target.dimension, target.n, round(float(target.energy(jnp.zeros(6, jnp.float32), target.rows)), 3)
        (6, 2, 0.267)
    """
    shapes = [jax.tree.map(np.shape, tree) for tree in (prior.mean, prior.log_scale)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"prior.mean has shapes {shapes[0]} and prior.log_scale {shapes[1]}: give both the same")
    rows = chunk_rows(inputs, labels, rows_per_chunk=rows_per_chunk, columns=columns is not None)
    whitening = whiten(prior.mean, prior.log_scale)
    certified = {"surrogate": surrogate, "zero_one": losses.zero_one}
    if columns is None:
        mean_surrogate = energy(apply, surrogate)
    else:
        mean_surrogate = energy(columns.apply, surrogate, columns=True, prepare=columns.prepare)

    def energy_of(z: jax.Array, rows: Rows) -> jax.Array:
        return mean_surrogate(whitening.to_params(z), rows=rows)

    def risks(z: jax.Array, rows: Rows) -> dict[str, jax.Array]:
        params = whitening.to_params(z)
        if columns is None:
            return mean_losses(apply, certified, params, rows=rows)
        return mean_losses(columns.apply, certified, columns.prepare(params), rows=rows, columns=True)

    return Target(
        whitening.dimension, int(rows.count), rows, whitening.to_params, with_fast_forces(energy_of, matmul_precision),
        with_matmul(EXACT, risks),
    )  # fmt: skip
