"""Which sequences a step reads, as a function of keys and the number of the step alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pbjax._checks import check_range
from pbjax.formal._tokens import check_sequences
from pbjax.models import LanguageModel

# (replica's key, step's key, step) -> tokens of the batch and the rows at which they stand.
Batch = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
# (step's key, which set) -> the same for completions.
CompletionBatch = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def sequence_batches(model: LanguageModel, sequences: Any, batch_size: int | None, *, shuffle_rows: bool) -> Batch:
    """Batches of a training set: all of it, or the next part of a permutation that is drawn anew each epoch.

    Args:
        model: which must be able to read them.
        sequences: tokens [N, t + 1], or `draw(key) -> tokens [n, t + 1]`.
        batch_size: None for the whole set.
        shuffle_rows: random rows for the whole set.

    Raises:
        ValueError: sequences that the model cannot read, or a size outside 1 to N.
    """
    if callable(sequences):
        if batch_size is not None:
            raise ValueError(
                f"batch_size = {batch_size}: the function that draws sequences sets the size of its batches"
            )
        shape = jax.eval_shape(sequences, jax.random.key(0))
        check_sequences("sequences", jnp.zeros(shape.shape, shape.dtype), model)

        def fresh(key: jax.Array, step_key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
            tokens = jnp.asarray(sequences(step_key), jnp.int32)
            return tokens, jnp.arange(tokens.shape[0])

        return fresh
    data = check_sequences("sequences", sequences, model)
    total = data.shape[0]
    size = _size("batch_size", batch_size, total)

    def whole(key: jax.Array, step_key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.arange(total)
        return data, jax.random.permutation(step_key, rows) if shuffle_rows else rows

    def part(key: jax.Array, step_key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        epoch, place = jnp.divmod(step, total // size)
        # Steps are folded into the key as 0, 1, ...; epochs count down from the other end and never meet them.
        order = jax.random.permutation(jax.random.fold_in(key, -1 - epoch), total)
        return data[jax.lax.dynamic_slice_in_dim(order, place * size, size)], jnp.arange(size)

    return whole if size == total else part


def completion_batches(
    model: LanguageModel, completions: Any, batch_size: int | None
) -> tuple[jax.Array, CompletionBatch]:
    """Sets of completions [k, n, s + 1] and batches of them, drawn anew at each step or all n.

    Rows are those in the whole set also where a part is drawn, so that a batch estimates the loss of the whole.

    Args:
        model: which must be able to read them.
        completions: tokens [n, s + 1] or [k, n, s + 1].
        batch_size: None for all n.

    Raises:
        ValueError: completions that the model cannot read, or a size outside 1 to n.
    """
    sets = check_sequences("completions", completions, model, axes=(2, 3))
    sets = sets[None] if sets.ndim == 2 else sets
    total = sets.shape[1]
    size = _size("completion_batch_size", batch_size, total)

    def batch(step_key: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.arange(total)
        if size == total:
            return sets[chosen], rows
        rows = jax.random.permutation(step_key, rows)[:size]
        return sets[chosen, rows], rows

    return sets, batch


def _size(name: str, size: int | None, total: int) -> int:
    if size is None:
        return total
    check_range(name, size, low=1, high=total, whole=True, remedy=f"it must be a whole number from 1 to {total}")
    return int(size)
