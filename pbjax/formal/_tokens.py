"""Rows of tokens at the door: refused where a model cannot read or predict them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pbjax._checks import check_range
from pbjax.models import LanguageModel


def check_sequences(name: str, sequences: ArrayLike, model: LanguageModel, *, ranks: tuple[int, ...] = (2,)) -> Any:
    """Sequences as int32, of which a model reads all but the last token and predicts all but the first.

    Args:
        name: how the message calls them.
        sequences: tokens [..., t + 1].
        model: the model.
        ranks: the numbers of axes that are allowed.

    Raises:
        ValueError: a wrong rank, dtype or length, or a token outside the vocabulary.
    """
    tokens = check_tokens(name, sequences, model, ranks=ranks)
    check_positions(name, tokens.shape[-1] - 1, model)
    return tokens


def check_tokens(name: str, tokens: ArrayLike, model: LanguageModel, *, ranks: tuple[int, ...] = (2,)) -> jax.Array:
    """Tokens as int32, refused by rank, dtype, emptiness or vocabulary."""
    tokens = jnp.asarray(tokens)
    if tokens.ndim not in ranks or 0 in tokens.shape or not jnp.issubdtype(tokens.dtype, jnp.integer):
        wanted = " or ".join(str(rank) for rank in ranks)
        raise ValueError(
            f"{name} has shape {tokens.shape} and dtype {tokens.dtype}: it must hold integer tokens on {wanted} axes "
            "and may not be empty"
        )
    known = f"the model's vocabulary is 0..{model.vocabulary_size - 1}"
    check_range(name, tokens, low=0, high=model.vocabulary_size - 1, remedy=known)
    return tokens.astype(jnp.int32)


def check_positions(name: str, positions: int, model: LanguageModel) -> None:
    """Refuses more positions than the model has, or none."""
    if positions < 1:
        raise ValueError(f"{name} has rows of {positions + 1} tokens: a model needs one to read and one to predict")
    if model.max_positions is not None and positions > model.max_positions:
        raise ValueError(f"{name} needs {positions} positions: the model has {model.max_positions}")
