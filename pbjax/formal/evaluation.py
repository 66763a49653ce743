"""Loss of a language model on a list of sequences, weighted as their law weights them, without dropout."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax._checks import check_n, concrete
from pbjax.formal._tokens import check_sequences
from pbjax.formal.objectives import nats_per_sequence
from pbjax.models import LanguageModel

__all__ = ["Evaluation", "evaluate_loss"]


class Evaluation(NamedTuple):
    """Loss of a model on sequences.

    Attributes:
        loss: nats a position, PAD included, scalar; the floor is entropy / positions.
        nats_per_sequence: nats a sequence, scalar; minus the entropy of the law it is the divergence from that law.
    """

    loss: jax.Array
    nats_per_sequence: jax.Array


def evaluate_loss(
    model: LanguageModel,
    params: Any,
    sequences: ArrayLike,
    *,
    log_weights: ArrayLike | None = None,
    rows: ArrayLike | None = None,
    batch_size: int = 256,
) -> Evaluation:
    r"""Cross-entropy of a model under a law on listed sequences, $\sum_i w_i \sum_j \ell_{ij}$, no dropout.

    With all sequences of a language and their log-probabilities as `log_weights` this is exact: minus the entropy it is
    the divergence from the data law. Equal weights suit sequences that were drawn from it.

    Args:
        model: a `LanguageModel`.
        params: its parameters.
        sequences: tokens [N, t + 1] with SOS first.
        log_weights: $\log w_i$ up to a constant, shape [N]; None weights all alike.
        rows: batch rows [N] of the sequences, for models that read them; 0 to N - 1 by default.
        batch_size: sequences at once; it bounds memory and changes nothing else.

    Returns:
        `Evaluation(loss, nats_per_sequence)`.

    Raises:
        ValueError: shapes that disagree, tokens outside the vocabulary, or weights that are NaN, infinite or all zero;
            under `jit` such weights give NaN.

    Example:
        >>> from pbjax.models import transformer
        >>> model = transformer(5, width=4, heads=2, feed_forward=8, layers=1)
        >>> sequences = jnp.array([[0, 3, 4, 1, 2, 2], [0, 3, 3, 4, 4, 1]])
        >>> evaluation = evaluate_loss(model, model.init(jax.random.key(0)), sequences)
        >>> round(float(evaluation.nats_per_sequence / evaluation.loss), 4)
        5.0
    """
    tokens = check_sequences("sequences", sequences, model)
    check_n(batch_size, name="batch_size")
    count, positions = tokens.shape[0], tokens.shape[1] - 1
    rows = jnp.arange(count) if rows is None else jnp.asarray(rows)
    log_weights = jnp.zeros(count, jnp.float32) if log_weights is None else jnp.asarray(log_weights)
    if rows.shape != (count,) or log_weights.shape != (count,):
        raise ValueError(f"rows {rows.shape} and log_weights {log_weights.shape}: both must have shape ({count},)")

    known = concrete(log_weights)
    if known is not None and not (np.all(known < np.inf) and np.any(np.isfinite(known))):
        raise ValueError(
            f"log_weights go from {known.min()} to {known.max()}: none may be NaN or +inf, and one must be finite; "
            "a law gives -inf to every string that it cannot give"
        )

    def batch(at: tuple[jax.Array, jax.Array]) -> jax.Array:
        some, places = at
        return nats_per_sequence(model.apply(params, some[:, :-1], rows=places), some[:, 1:])

    size = min(batch_size, count)
    # The last batch is filled up with the first sequences, whose second results are cut off again.
    padded = jnp.arange(-(-count // size) * size) % count
    nats = jax.lax.map(batch, (tokens[padded].reshape(-1, size, positions + 1), rows[padded].reshape(-1, size)))
    nats = nats.reshape(-1)[:count]
    weights = jax.nn.softmax(log_weights).astype(nats.dtype)
    total = jnp.where(weights == 0, 0, weights * nats).sum()
    return Evaluation(total / positions, total)
