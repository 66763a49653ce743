"""PAC-Bayes risk certificates, posteriors and the experiments around them, in JAX.

The rooms are loaded on first use, so `import pbjax` costs next to nothing and does not import flax, orbax or
matplotlib before something needs them. `pbjax.load(run)` reads a network and its certificate from a run directory.

Example:
    >>> import pbjax
    >>> round(float(pbjax.bounds.kl_inverse(0.02, 0.05)), 6)
    0.098572
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pbjax import bounds as bounds
    from pbjax import calibration as calibration
    from pbjax import certificates as certificates
    from pbjax import certify as certify
    from pbjax import data as data
    from pbjax import evidence as evidence
    from pbjax import formal as formal
    from pbjax import losses as losses
    from pbjax import models as models
    from pbjax import optim as optim
    from pbjax import posteriors as posteriors
    from pbjax import precision as precision
    from pbjax import replicas as replicas
    from pbjax import runs as runs
    from pbjax import sampling as sampling
    from pbjax import sharpness as sharpness
    from pbjax.runs.networks import load as load

__all__ = [
    "__version__",
    "bounds",
    "calibration",
    "certificates",
    "certify",
    "data",
    "evidence",
    "formal",
    "load",
    "losses",
    "models",
    "optim",
    "posteriors",
    "precision",
    "replicas",
    "runs",
    "sampling",
    "sharpness",
]

_ROOMS = tuple(name for name in __all__ if name not in ("__version__", "load"))

try:
    __version__ = version("pbjax")
except PackageNotFoundError:  # a checkout on PYTHONPATH that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"pbjax.{name}")
    if name == "load":
        return import_module("pbjax.runs.networks").load
    raise AttributeError(f"module 'pbjax' has no attribute {name!r}; its rooms are {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
