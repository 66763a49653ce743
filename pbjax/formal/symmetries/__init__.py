r"""Maps on parameters that leave the function as it is and change how it learns.

Each is a linear map T of the parameters, known by a small pytree: scales of hidden neurons (`Rescaling`), matrices that
mix the channels inside a head (`Mixing`), orders of neurons and heads (`Permutation`). So it can be drawn, jitted,
vmapped and stored, and `transform`, `inverse` and `gradient` are pure functions of a parameter tree:

$$f(T w) = f(w), \qquad \nabla L(T w) = T^{-\top} \nabla L(w)$$

A step of gradient descent at T w, seen from w, is $-\eta\,(T^\top T)^{-1} \nabla L(w)$: the same step only where T is
orthogonal, as permutations are. They are the control that must change nothing, under SGD and under Adam; scales and
mixings are what the loss cannot see and fine-tuning can. With dropout that holds in law only, because masks belong to
places and not to neurons.
"""

from pbjax.formal.symmetries.mixing import PARTS, Mixing, draw_mixing, mixing
from pbjax.formal.symmetries.permutation import Permutation, draw_permutation, permutation
from pbjax.formal.symmetries.rescaling import DRAWS, Rescaling, draw_rescaling, rescaling

__all__ = [
    "DRAWS",
    "PARTS",
    "Mixing",
    "Permutation",
    "Rescaling",
    "draw_mixing",
    "draw_permutation",
    "draw_rescaling",
    "mixing",
    "permutation",
    "rescaling",
]
