"""blackjax, imported without starting JAX's devices: processes of one run must be able to meet before they exist.

One of its functions has `jnp.log(2.0)` as a default argument, which is computed when the module is imported and would
claim the devices of this process alone. During the import the logarithm of a Python float is numpy's.
"""

from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import optax  # noqa: F401  (blackjax imports it; it should see the real function)

_log = jnp.log


def _log_of_constants(x: Any, /) -> Any:
    return np.log(x) if isinstance(x, float) else _log(x)


with mock.patch.object(jnp, "log", _log_of_constants):
    import blackjax  # noqa: F401
