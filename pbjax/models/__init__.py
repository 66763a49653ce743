"""Networks as pure functions: `Model(init, apply, columns)` around Flax Linen modules.

Nothing else in pbjax imports flax; every other room sees a parameter pytree and `apply(params, inputs) -> logits`.
"""

from pbjax.models.mlp import ACTIVATIONS, MLP, Columns, Model, mlp

__all__ = ["ACTIVATIONS", "MLP", "Columns", "Model", "mlp"]
