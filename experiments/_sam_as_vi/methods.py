"""The methods under comparison: how each is built from numbers that may differ from replica to replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pbjax import optim
from pbjax.posteriors import cosine


class Hyper(NamedTuple):
    """What differs between the replicas of one program; every leaf has the replicas on its leading axis.

    Attributes:
        learning_rate: peak of the schedule.
        radius: rho, or the radius at which a learned scale starts; what it multiplies is the method's own affair.
        kappa: noise weight of MixSAM; the others do not read it.
    """

    learning_rate: jax.Array
    radius: jax.Array
    kappa: jax.Array


class Setting(NamedTuple):
    """What the replicas of a group share.

    Attributes:
        n: training rows.
        parameters: P, weights that are perturbed.
        momentum: of the base optimiser and of the natural-gradient ones.
        weight_decay: 1/(n sigma_p^2), the prior's pull for an example.
        decoupled_weight_decay: AdamW's own.
        samples: draws a step of the methods with noise.
        scale_rate: Adam's rate on ln sigma where a scale is learned.
    """

    n: int
    parameters: int
    momentum: float
    weight_decay: float
    decoupled_weight_decay: float
    samples: int
    scale_rate: float


class Method(NamedTuple):
    """One method.

    Attributes:
        build: `build(hyper, setting, schedule) -> transformation`, schedule being `schedule(count) -> rate`.
        once: gradients a step whatever the number of samples.
        each: gradients a step for every sample.
        learning_rate: default peak rate.
        rates: rates that a search tries.
        radius: default radius; 0 where there is none.
        radii: radii that a search tries.
        scale: of the Gaussian that it holds around the weights.
    """

    build: Callable[[Hyper, Setting, Any], optax.GradientTransformation]
    once: int
    each: int
    learning_rate: float
    rates: tuple[float, ...]
    radius: float = 0.0
    radii: tuple[float, ...] = (0.0,)
    scale: Literal["none", "fixed", "learned"] = "none"

    @property
    def has_radius(self) -> bool:
        """Whether `radius` means anything."""
        return self.radius > 0

    @property
    def gaussian(self) -> bool:
        """Whether there is a Gaussian to draw from."""
        return self.scale != "none"


def _base(hyper: Hyper, setting: Setting, schedule: Any, *, decay: bool = True) -> optax.GradientTransformation:
    """SGD with momentum. With a learned scale the prior's pull is the decay, and there is no other."""
    step = optax.sgd(schedule, momentum=setting.momentum, nesterov=True)
    return optax.chain(optax.add_decayed_weights(setting.weight_decay), step) if decay else step


def _sgd(hyper: Hyper, setting: Setting, schedule: Any) -> optax.GradientTransformation:
    return _base(hyper, setting, schedule)


def _adamw(hyper: Hyper, setting: Setting, schedule: Any) -> optax.GradientTransformation:
    return optax.adamw(schedule, weight_decay=setting.decoupled_weight_decay)


def _adversarial(member: Callable[[Hyper, Setting], Any]) -> Callable[..., optax.GradientTransformation]:
    def build(hyper: Hyper, setting: Setting, schedule: Any) -> optax.GradientTransformation:
        return optax.chain(member(hyper, setting), _base(hyper, setting, schedule))

    return build


def _variational(member: Callable[..., Any], **options: Any) -> Callable[..., optax.GradientTransformation]:
    def build(hyper: Hyper, setting: Setting, schedule: Any) -> optax.GradientTransformation:
        samples = {} if member is optim.variational_sam else {"samples": setting.samples}
        perturbed = member(
            hyper.radius, n=setting.n, prior=(setting.n * setting.weight_decay) ** -0.5,
            scale_update=optim.reparametrised(optax.adam(setting.scale_rate)), **samples, **options,
        )  # fmt: skip
        return optax.chain(perturbed, _base(hyper, setting, schedule, decay=False))

    return build


def _ivon(hyper: Hyper, setting: Setting, schedule: Any) -> optax.GradientTransformation:
    # The radius sets where the scale starts, as for mean_field: n (h_0 + delta) = P / radius^2.
    start = setting.parameters / (setting.n * jnp.square(hyper.radius)) - setting.weight_decay
    return optim.ivon(
        schedule, n=setting.n, hess_init=jnp.maximum(start, 1e-3), beta1=setting.momentum, beta2=0.9999,
        weight_decay=setting.weight_decay, samples=setting.samples,
    )  # fmt: skip


def _bsam(hyper: Hyper, setting: Setting, schedule: Any) -> optax.GradientTransformation:
    return optim.bsam(
        schedule, n=setting.n, radius=hyper.radius, beta1=setting.momentum,
        prior_precision=setting.n * setting.weight_decay,
    )  # fmt: skip


SGD_RATES = (0.05, 0.1, 0.2, 0.4)
RADII = (0.05, 0.1, 0.2, 0.5)
NOISE_RADII = (1.0, 3.0, 10.0, 30.0)
# A learned scale forgets where it started within an epoch or two.
LEARNED_RADII = (1.0, 10.0)
# Along the worst direction a length of 1 ruins a small network that noise of the same length does not touch.
WORST_LEARNED_RADII = (0.1, 1.0, 10.0)
# These two average gradients where SGD's momentum adds them up.
SLOW_RATES = (0.5, 1.0, 2.0, 4.0)

METHODS: Mapping[str, Method] = {
    "sgd": Method(_sgd, 1, 0, 0.1, SGD_RATES),
    "adamw": Method(_adamw, 1, 0, 5e-3, (1e-3, 2e-3, 5e-3, 1e-2)),
    "sam": Method(_adversarial(lambda h, s: optim.sam(h.radius)), 2, 0, 0.1, SGD_RATES, 0.1, RADII),
    "asam": Method(_adversarial(lambda h, s: optim.asam(h.radius)), 2, 0, 0.1, SGD_RATES, 1.0, (0.2, 0.5, 1.0, 2.0)),
    "random_sam": Method(
        _adversarial(lambda h, s: optim.random_sam(h.radius, samples=s.samples)), 0, 1, 0.1, SGD_RATES, 1.0,
        NOISE_RADII, "fixed",
    ),
    "mix_sam": Method(
        _adversarial(lambda h, s: optim.mix_sam(h.radius, kappa=h.kappa, samples=s.samples)), 1, 1, 0.1, SGD_RATES,
        0.1, RADII,
    ),
    "mean_field": Method(_variational(optim.mean_field), 0, 1, 0.1, SGD_RATES, 1.0, LEARNED_RADII, "learned"),
    "variational_sam_a": Method(
        _variational(optim.variational_sam, form="a"), 2, 0, 0.1, SGD_RATES, 1.0, WORST_LEARNED_RADII, "learned"
    ),
    "variational_sam_b": Method(
        _variational(optim.variational_sam, form="b"), 2, 0, 0.1, SGD_RATES, 1.0, WORST_LEARNED_RADII, "learned"
    ),
    "mean_field_then_sam": Method(
        _variational(optim.mean_field_then_sam), 0, 2, 0.1, SGD_RATES, 0.1, RADII, "learned"
    ),
    "gsam": Method(_adversarial(lambda h, s: optim.gsam(h.radius)), 2, 0, 0.1, SGD_RATES, 0.1, RADII),
    "friendly_sam": Method(_adversarial(lambda h, s: optim.friendly_sam(h.radius)), 2, 0, 0.1, SGD_RATES, 0.1, RADII),
    "bsam": Method(_bsam, 2, 0, 1.0, SLOW_RATES, 0.1, (0.01, 0.1, 0.5), "learned"),
    "ivon": Method(_ivon, 0, 1, 1.0, SLOW_RATES, 3.0, NOISE_RADII, "learned"),
}  # fmt: skip
"""All methods by name. `variational_sam` takes one adversarial point a step, so `samples` does not act on it."""


def schedule(rate: jax.Array, total_steps: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """A short linear rise and half a cosine to zero over the steps of the run."""
    return lambda count: rate * cosine(jnp.asarray(count, jnp.float32) / total_steps)


def build(method: str, hyper: Hyper, setting: Setting, total_steps: jax.Array) -> optax.GradientTransformationExtraArgs:
    """The transformation of one replica; every number in it may be traced."""
    made = METHODS[method].build(hyper, setting, schedule(hyper.learning_rate, total_steps))
    return optax.with_extra_args_support(made)


def gradients_per_step(method: str, samples: int) -> int:
    """Gradients of a step."""
    return METHODS[method].once + METHODS[method].each * samples
