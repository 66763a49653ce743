"""Models from a plain description, so that a file can say which network its numbers are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pbjax.models.convolutional import small_cnn
from pbjax.models.mlp import Model, mlp
from pbjax.models.residual import resnet_frn, wide_resnet

BUILDERS: Mapping[str, Callable[..., Model]] = {
    "mlp": mlp,
    "small_cnn": small_cnn,
    "resnet_frn": resnet_frn,
    "wide_resnet": wide_resnet,
}
"""What `build` knows, by name."""


def build(builder: str, **arguments: Any) -> Model:
    """A model from the name of its builder and plain arguments, as they come out of JSON.

    Args:
        builder: a key of `BUILDERS`.
        **arguments: of that function, by name; lists will do for tuples.

    Returns:
        The model.

    Raises:
        ValueError: an unknown builder, or arguments that it does not take.

    Example:
        >>> import jax
        >>> model = build(**{"builder": "mlp", "widths": [5, 3], "activation": "tanh"})
        >>> jax.eval_shape(model.init, jax.random.key(0), jax.numpy.zeros((1, 4)))["Dense_1"]["kernel"].shape
        (5, 3)
    """
    if builder not in BUILDERS:
        raise ValueError(f"builder = {builder!r}: choose one of {', '.join(BUILDERS)}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    try:
        return BUILDERS[builder](**given)
    except TypeError as error:
        raise ValueError(f"{builder} does not take these arguments ({error}); give those of pbjax.models") from None
