"""Networks as pure functions: `Model(init, apply, columns)` around Flax Linen modules, and language models.

Nothing else in pbjax imports flax; every other room sees a parameter pytree and `apply(params, inputs) -> logits`.
"""

from pbjax.models.building import BUILDERS, build
from pbjax.models.causal_linear import causal_linear
from pbjax.models.convolution import FilterResponseNorm, patch_convolution
from pbjax.models.convolutional import small_cnn
from pbjax.models.language_model import LanguageModel
from pbjax.models.mlp import ACTIVATIONS, MLP, Columns, Model, mlp
from pbjax.models.recurrent import lstm
from pbjax.models.residual import resnet_frn, wide_resnet
from pbjax.models.state_space import state_space
from pbjax.models.transformer import transformer

__all__ = [
    "ACTIVATIONS",
    "BUILDERS",
    "MLP",
    "Columns",
    "FilterResponseNorm",
    "LanguageModel",
    "Model",
    "build",
    "causal_linear",
    "lstm",
    "mlp",
    "patch_convolution",
    "resnet_frn",
    "small_cnn",
    "state_space",
    "transformer",
    "wide_resnet",
]
