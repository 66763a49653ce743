"""Networks as pure functions: `Model(init, apply, columns)` around Flax Linen modules, and language models.

Nothing else in pbjax imports flax; every other room sees a parameter pytree and `apply(params, inputs) -> logits`.
"""

from pbjax.models.convolution import FilterResponseNorm, patch_convolution
from pbjax.models.convolutional import small_cnn
from pbjax.models.language_model import LanguageModel
from pbjax.models.mlp import ACTIVATIONS, MLP, Columns, Model, mlp
from pbjax.models.residual import resnet_frn, wide_resnet
from pbjax.models.transformer import transformer

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Columns",
    "FilterResponseNorm",
    "LanguageModel",
    "Model",
    "mlp",
    "patch_convolution",
    "resnet_frn",
    "small_cnn",
    "transformer",
    "wide_resnet",
]
