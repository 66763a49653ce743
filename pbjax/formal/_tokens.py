"""Rows of tokens at the door: refused where a model cannot read or predict them."""

from typing import Any

from jax.typing import ArrayLike

from pbjax.models import LanguageModel
from pbjax.models.language_model import check_tokens


def check_sequences(name: str, sequences: ArrayLike, model: LanguageModel, *, axes: tuple[int, ...] = (2,)) -> Any:
    """Sequences as int32, of which a model reads all but the last token and predicts all but the first.

    Args:
        name: how the message calls them.
        sequences: tokens [..., t + 1].
        model: the model.
        axes: the numbers of axes that are allowed.

    Raises:
        ValueError: a wrong rank, dtype or length, or a token outside the vocabulary.
    """
    tokens = check_tokens(sequences, vocabulary_size=model.vocabulary_size, name=name, axes=axes)
    check_positions(name, tokens.shape[-1] - 1, model)
    return tokens


def check_positions(name: str, positions: int, model: LanguageModel) -> None:
    """Refuses more positions than the model has, or none."""
    if positions < 1:
        raise ValueError(f"{name} has rows of {positions + 1} tokens: a model needs one to read and one to predict")
    if model.max_positions is not None and positions > model.max_positions:
        raise ValueError(f"{name} needs {positions} positions: the model has {model.max_positions}")
