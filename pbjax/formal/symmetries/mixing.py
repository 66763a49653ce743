"""Channels inside a head mixed where they are written and unmixed where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pbjax._checks import check_finite, check_range, concrete
from pbjax.formal.symmetries._layout import attention_layers, head_shape, layer_keys
from pbjax.models.positions import POSITIONS

PARTS = ("query_key", "value_output")


class Mixing(NamedTuple):
    r"""$(W_Q, W_K, W_V, W_O) \mapsto (W_Q M, W_K M^{-\top}, W_V N, N^{-1} W_O)$ in every head, biases like columns.

    Scores $q^\top k$ and what the heads write stay. $T^{-\top}$ is the same map with $M^{-\top}$ and $N^{-\top}$, which
    is T again for orthogonal M and N: SGD does not notice those, while Adam, which works channel by channel, does.

    Attributes:
        query_key: `{layer: M [h, c, c]}` for h heads of c channels; layers that are not named stay as they are.
        value_output: `{layer: N [h, c, c]}`, likewise.
    """

    query_key: Any
    value_output: Any

    def transform(self, params: Any) -> Any:
        """T w, a tree of the same structure and dtypes."""
        return _mix(params, self, self.inverted())

    def inverse(self, params: Any) -> Any:
        """T^-1 w."""
        return _mix(params, self.inverted(), self)

    def gradient(self, gradient: Any) -> Any:
        """The gradient at T w from the one at w, T^-T g."""
        return _mix(gradient, _transposed(self.inverted()), _transposed(self))

    def inverted(self) -> Mixing:
        """The mixing with M^-1 and N^-1."""
        return jax.tree.map(jnp.linalg.inv, self)


def mixing(
    query_key: Mapping[str, Any] | None = None, value_output: Mapping[str, Any] | None = None, *, positions: str
) -> Mixing:
    r"""The map that mixes channels by given matrices.

    Rotary positions turn queries and keys behind the projections, pair of channels by pair of channels and each at
    another speed: there $(R_i M^\top q)^\top R_j M^{-1} k = (R_i q)^\top R_j k$ needs an M that commutes with all
    rotations, and those are the ones of 2 x 2 blocks $((a, -b), (b, a))$ on the diagonal.

    Args:
        query_key: `{"Layer_i": M [h, c, c]}`, invertible.
        value_output: `{"Layer_i": N [h, c, c]}`, invertible.
        positions: those of `models.transformer`; parameters do not tell.

    Returns:
        A `Mixing`.

    Raises:
        ValueError: matrices that are not square, not finite or singular in their precision; unknown positions; rotary
            ones with an M that does not commute with the rotations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pbjax.models import transformer
        >>> params = transformer(5, width=2, heads=1, feed_forward=4, layers=1).init(jax.random.key(0))
        >>> swap = mixing({"Layer_0": jnp.array([[[0.0, 1.0], [1.0, 0.0]]])}, positions="none")
        >>> moved, kernel = swap.transform(params)["Layer_0"]["Query"]["kernel"], params["Layer_0"]["Query"]["kernel"]
        >>> bool((moved == kernel[:, ::-1]).all())
        True

    References:
        Su et al., "RoFormer: enhanced transformer with rotary position embedding", Neurocomputing 2024.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions = {positions!r}: choose one of {', '.join(POSITIONS)}")
    made = Mixing(*({name: jnp.asarray(m) for name, m in (part or {}).items()} for part in (query_key, value_output)))
    for part, matrices in zip(PARTS, made, strict=True):
        for name, matrix in matrices.items():
            _check_matrix(f"{part} of {name}", matrix)
            if positions == "rotary" and part == "query_key":
                _check_commutes(f"{part} of {name}", matrix)
    return made


def draw_mixing(
    key: jax.Array,
    params: Any,
    *,
    heads: int,
    strength: ArrayLike,
    positions: str,
    parts: tuple[str, ...] = PARTS,
) -> Mixing:
    r"""Symmetric positive matrices of a given condition number for every head, $M = U\,\mathrm{diag}(s)\,U^\top$.

    U is Haar-distributed, $\log s$ has its ends at $\pm\frac12 \log \kappa$ and is uniform between them. An orthogonal
    factor is left out because gradient descent does not notice it. Where positions are rotary, only multiples of the
    identity on pairs of channels are symmetric and commute with the rotations: there each pair has its s.

    Args:
        key: key of `jax.random`.
        params: of `models.transformer`.
        heads: h, as the transformer was made with; parameters do not tell.
        strength: the condition number kappa >= 1; 1 is the identity.
        positions: those of the transformer; parameters do not tell either.
        parts: which of `PARTS` are mixed.

    Returns:
        A `Mixing`, in the dtype of the weights.

    Raises:
        ValueError: a strength below 1 or not finite, unknown parts or positions, parameters of another model, heads
            that do not divide the width; a strength above 1 where heads have a single channel, or a single pair under
            rotary positions, as such matrices have condition number 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pbjax.models import transformer
        >>> params = transformer(5, width=4, heads=2, feed_forward=6, layers=1).init(jax.random.key(0))
        >>> drawn = draw_mixing(jax.random.key(1), params, heads=2, strength=10.0, positions="none")
        >>> jnp.linalg.cond(drawn.query_key["Layer_0"]).round(3).tolist()
        [10.0, 10.0]
    """
    layers, channels = head_shape(params, heads)
    if positions not in POSITIONS:
        raise ValueError(f"positions = {positions!r}: choose one of {', '.join(POSITIONS)}")
    if not set(parts) <= set(PARTS):
        raise ValueError(f"parts = {parts}: choose from {', '.join(PARTS)}")
    if jnp.ndim(strength):
        raise ValueError(f"strength has shape {jnp.shape(strength)}: it must be one number; vmap for more")
    remedy = "a condition number is finite and at least 1, which is the identity"
    check_range("strength", strength, low=1.0, open_high=True, remedy=remedy)
    made: dict[str, dict[str, jax.Array]] = {part: {} for part in PARTS}
    for part, part_key in zip(PARTS, jax.random.split(key), strict=True):
        paired = positions == "rotary" and part == "query_key"
        free = channels // 2 if paired else channels
        value = concrete(strength)
        if part in parts and free < 2 and (value is None or value > 1):
            what = "a single pair of channels under rotary positions" if paired else "a single channel"
            remedy = "make them wider, or leave this part out of `parts`"
            raise ValueError(f"strength = {strength}: {part} of heads with {what} has condition number 1; {remedy}")
        for name, layer_key in layer_keys(part_key, layers).items():
            if part in parts:
                dtype = params[name]["Query"]["bias"].dtype
                made[part][name] = _draw(layer_key, jnp.asarray(strength, dtype), heads, free, channels // free)
    return Mixing(**made)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _draw(key: jax.Array, condition: jax.Array, heads: int, free: int, repeats: int) -> jax.Array:
    """[h, free * repeats, free * repeats]; with repeats, each singular value on so many channels and no rotation."""
    basis_key, value_key, order_key = jax.random.split(key, 3)
    between = jax.random.uniform(value_key, (heads, max(free - 2, 0)), condition.dtype, -0.5, 0.5)
    ends = jnp.broadcast_to(jnp.asarray([-0.5, 0.5][:free], condition.dtype), (heads, min(free, 2)))
    # M - 1 and not M, so that a condition number of 1 is the identity to the last bit.
    excess = jnp.expm1(jnp.concatenate([ends, between], axis=1) * jnp.log(condition))
    identity = jnp.eye(free * repeats, dtype=condition.dtype)[None]
    if repeats > 1:
        excess = jnp.repeat(jax.random.permutation(order_key, excess, axis=1, independent=True), repeats, axis=1)
        return identity + excess[:, :, None] * identity
    basis = jax.random.orthogonal(basis_key, free, (heads,), condition.dtype)
    return identity + jnp.einsum("hij,hj,hkj->hik", basis, excess, basis, precision="highest")


def _transposed(mixed: Mixing) -> Mixing:
    return jax.tree.map(lambda matrix: jnp.swapaxes(matrix, -1, -2), mixed)


def _mix(params: Any, forth: Mixing, back: Mixing) -> Any:
    """The action of M and N (`forth`), whose inverses are `back`."""
    widths = {name: params[name]["Query"]["bias"].shape[-1] for name in attention_layers(params)}
    for part, matrices in zip(PARTS, forth, strict=True):
        for name, matrix in matrices.items():
            if name not in widths:
                raise ValueError(f"{part} names {name!r}: these params have heads in {', '.join(widths) or 'no layer'}")
            if matrix.shape[0] * matrix.shape[1] != widths[name]:
                raise ValueError(f"{part} of {name} has shape {matrix.shape}: h c must be the width {widths[name]}")
    changed = dict(params)
    for name, m in forth.query_key.items():
        layer, inverse = changed[name], jnp.swapaxes(back.query_key[name], -1, -2)
        changed[name] = {**layer, "Query": _columns(layer["Query"], m), "Key": _columns(layer["Key"], inverse)}
    for name, m in forth.value_output.items():
        layer = changed[name]
        out = {**layer["Out"], "kernel": _rows(layer["Out"]["kernel"], back.value_output[name])}
        changed[name] = {**layer, "Value": _columns(layer["Value"], m), "Out": out}
    return changed


def _columns(dense: Any, matrix: jax.Array) -> Any:
    """Kernel [d, h c] and bias [h c] times the matrix [h, c, c] of each head."""

    def times(array: jax.Array) -> jax.Array:
        by_head = array.reshape(*array.shape[:-1], *matrix.shape[:2])
        return jnp.einsum("...hi,hij->...hj", by_head, matrix, precision="highest").reshape(array.shape)

    return {name: times(dense[name]).astype(dense[name].dtype) for name in ("kernel", "bias")}


def _rows(kernel: jax.Array, matrix: jax.Array) -> jax.Array:
    """The matrix [h, c, c] of each head times kernel [h c, d]."""
    by_head = kernel.reshape(*matrix.shape[:2], -1)
    return jnp.einsum("hij,hjd->hid", matrix, by_head, precision="highest").reshape(kernel.shape).astype(kernel.dtype)


def _check_matrix(name: str, matrix: jax.Array) -> None:
    if matrix.ndim != 3 or matrix.shape[1] != matrix.shape[2]:
        raise ValueError(f"{name} has shape {matrix.shape}: give a square matrix for each head, [h, c, c]")
    check_finite(name, matrix)
    values = concrete(matrix)
    if values is None:
        return
    condition = np.linalg.cond(values.astype(np.float64)).max(initial=1.0)
    if not condition < 1 / jnp.finfo(matrix.dtype).eps:
        raise ValueError(f"{name} has condition number {condition:.3g}: it is singular in {matrix.dtype}")


def _check_commutes(name: str, matrix: jax.Array) -> None:
    values = concrete(matrix)
    if values is None:
        return
    if matrix.shape[-1] % 2:
        raise ValueError(f"{name} has shape {matrix.shape}: rotary positions turn pairs of channels")
    # Turns every pair at a speed of its own: what commutes with it commutes with the rotations of all positions.
    turn = np.kron(np.diag(np.arange(1.0, matrix.shape[-1] // 2 + 1)), [[0.0, -1.0], [1.0, 0.0]])[None]
    rest = np.abs(values @ turn - turn @ values).max(initial=0.0)
    if rest > 1e-5 * np.abs(values).max(initial=0.0):
        blocks = "take 2 x 2 blocks ((a, -b), (b, a)) on the diagonal, as draw_mixing does"
        raise ValueError(f"{name} does not commute with rotary positions (by {rest:.3g}): {blocks}")
