"""The fields of the certify experiment; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pbjax.precision import Matmul
from pbjax.runs import NOT_HASHED, RunOptions, require, require_at_least, require_positive, require_seeds
from pbjax.sampling import plan_pilot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certify(RunOptions):
    """A network and its certificate by annealed chains: no convergence assumed, no rows held out."""

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    """Data set; all but digits are read from --data-dir."""
    pool: int | None = None
    """Side of the squares of pixels that are averaged; 2 makes 28x28 images 14x14."""
    limit: int | None = None
    """Number of training rows to keep; all by default."""
    shuffle_labels: int | None = None
    """Seed of a permutation of the labels: the control in which nothing can be learnt."""

    model: Literal["mlp", "cnn"] = "mlp"
    """A multilayer perceptron, or convolutions of stride 2 and a linear layer."""
    hidden: tuple[int, ...] = (16,)
    """mlp: widths of the hidden layers."""
    channels: tuple[int, ...] = (12, 24)
    """cnn: output channels of the convolutions."""
    kernel: int = 3
    """cnn: side of the kernels."""
    activation: Literal["tanh", "softplus", "swish", "gelu", "relu"] = "tanh"
    """Smooth ones keep the leapfrog at second order."""
    surrogate: Literal["smooth_bounded_cross_entropy", "bounded_cross_entropy"] = "smooth_bounded_cross_entropy"
    """The loss whose mean is the energy L; certified beside the 0-1 error."""
    ceiling: float = 4.0
    """Largest loss of smooth_bounded_cross_entropy in nats before scaling to [0, 1]."""
    p_min: float = 1e-4
    """Smallest probability of bounded_cross_entropy."""

    prior_scale: float = 4.0
    """Prior N(centre, prior_scale^2 / fan-in) in every layer; the chains see it as N(0, I)."""
    prior_fraction: float = 0.0
    """Part of the training rows that the prior's centre is trained on; the rest is certified. 0 centres it at zero."""
    prior_steps: int = 2000
    """Steps of Adam, cosine schedule, that train the centre."""
    prior_learning_rate: float = 3e-3
    """Their peak learning rate."""
    prior_batch_size: int = 128
    """Their rows a step."""

    beta: float = 1.0
    """Last inverse temperature as a multiple of the certified rows n: beta n is the total one."""
    gradients: int = 3000
    """Full gradients that each chain may take."""
    schedule: Literal["pilot", "cubic"] = "pilot"
    """Where ladder, step sizes and trajectory lengths come from: a pilot run with a key of its own, or written down."""
    num_integration_steps: int | None = None
    """Most leapfrog steps a move. By default with a pilot a thirtieth of the budget within 4 to 96, written down 8."""
    pilot_gradients: int | None = None
    """pilot: gradients over the pilot's rows that a pilot chain may take; by default as many as the run's chains."""
    pilot_rows: int | None = None
    """pilot: rows that it sees; by default a tenth, but 2,000 if there are as many."""
    pilot_chains: int = 1
    """pilot: its chains; more make a less noisy schedule."""
    pilot_seed: int = 0
    """pilot: its seed, of a stream that no reported chain uses."""
    target_acceptance: float = 0.8
    """pilot: acceptance that the step sizes are chosen for."""
    step_size: float = 1.0
    """cubic: step of the first rung, times d^(1/4)."""
    stiffness: float = 200.0
    """cubic: inverse temperature from which on steps shrink as its square root."""
    jitter: float = 0.1
    """Each move draws its step size from step * [1 - jitter, 1 + jitter]."""
    seeds: tuple[int, ...] = (0,)
    """One chain and one network each, all in one program; all are certified together."""

    delta: float = 0.05
    """Failure probability of everything a route says: half for the surrogate, half for the 0-1 error."""
    tries: int = 1000
    """Networks, prior scales, losses and routes ever tried on these rows; every certificate pays log(tries)/n."""

    every_stop: bool = True
    """Certify single networks after every chunk, sharing delta, so that the best may be taken; else at the end only."""
    chunks: int = 40
    """Parts of the run: checkpoints, progress and points of the curves stand between them."""
    rows_per_chunk: int = 2000
    """Rows of data in memory at once with their activations, for all seeds."""
    data_shards: int = dataclasses.field(default=1, metadata=NOT_HASHED)
    """Devices among which the rows of every chain are split; the results change by rounding only."""
    replicas_at_once: int | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Chains side by side on a device, a divisor of their number; the others follow. None: on CPUs as few as leave up
    to eight groups for as many devices, on accelerators all that a device holds."""
    matmul_precision: Matmul = "float32"
    """Of the matrix products behind leapfrog steps, on an accelerator; L, heat and certificates: float32."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        require(0 < self.delta < 1, f"delta = {self.delta}: must lie in (0, 1), for example 0.05")
        require(
            0 <= self.prior_fraction < 1,
            f"prior_fraction = {self.prior_fraction}: must lie in [0, 1); what is left of the rows is certified",
        )
        require_positive(self, "prior_scale", "beta", "step_size", "stiffness", "prior_learning_rate")
        require_at_least(
            self, tries=1, chunks=1, rows_per_chunk=1, data_shards=1, prior_steps=1, prior_batch_size=1,
            kernel=1, pilot_chains=1, pilot_seed=0,
        )  # fmt: skip
        steps = self.num_integration_steps
        require(steps is None or steps >= 1, f"num_integration_steps = {steps}: must be at least 1")
        least = 1 + (steps or (8 if self.schedule == "cubic" else 4))
        require(
            self.gradients >= least,
            f"gradients = {self.gradients}: the start takes one and a move {least - 1}; give at least {least}",
        )
        require(self.pilot_rows is None or self.pilot_rows >= 1, f"pilot_rows = {self.pilot_rows}: must be at least 1")
        require(0 < self.target_acceptance < 1, f"target_acceptance = {self.target_acceptance}: must lie in (0, 1)")
        if self.schedule == "pilot":
            plan_pilot(
                self.gradients, pilot_gradients=self.pilot_gradients, num_integration_steps=self.num_integration_steps
            )
        require(0 <= self.jitter < 1, f"jitter = {self.jitter}: must lie in [0, 1)")
        for name in ("hidden", "channels"):
            widths = getattr(self, name)
            require(all(width >= 1 for width in widths), f"{name} = {widths}: widths must be positive integers")
        require(len(self.channels) >= 1, "channels is empty: give at least one, for example --channels 12 24")
        require_seeds(self)
