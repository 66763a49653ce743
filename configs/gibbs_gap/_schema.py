"""The fields of the gibbs_gap experiment; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pbjax.precision import Matmul
from pbjax.runs import (
    HASHED_IF_CHANGED,
    NOT_HASHED,
    RunOptions,
    require,
    require_at_least,
    require_positive,
    require_seeds,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GibbsGap(RunOptions):
    """Certificates of the Gibbs posterior by HMC beside those of mean-field variational inference."""

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10"] = "digits"
    """Data set; all but digits are read from --data-dir."""
    binary: bool = False
    """Classes 0-4 against 5-9 instead of ten classes."""
    pool: int | None = None
    """Side of the squares of pixels that are averaged; 2 makes 28x28 images 14x14."""
    limit: int | None = None
    """Number of training rows to keep; all by default."""
    shuffle_labels: int | None = None
    """Seed of a permutation of the labels: the control in which nothing can be learnt."""

    hidden: tuple[int, ...] = (16,)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "softplus", "swish", "gelu", "relu"] = "tanh"
    """Smooth ones keep the leapfrog at second order; relu is for comparison."""
    surrogate: Literal["smooth_bounded_cross_entropy", "bounded_cross_entropy"] = "smooth_bounded_cross_entropy"
    """The loss whose mean is the energy L, for both methods."""
    ceiling: float = 4.0
    """Largest loss of smooth_bounded_cross_entropy in nats before scaling to [0, 1]."""
    p_min: float = 1e-4
    """Smallest probability of bounded_cross_entropy."""

    prior_scale: float = 4.0
    """Prior N(0, prior_scale^2 / fan-in), the same for both methods."""
    prior_scale_grid: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Prior scales that were or may be tried on this data; delta is divided by their number."""
    prior_centre: Literal["zero", "random"] = "zero"
    """Centre of the prior: zero, or a random initialisation that never saw the data."""
    delta: float = 0.05
    """Failure probability of everything a method says: half for the surrogate, half for the 0-1 error."""

    rungs: int = 12
    """Rungs of the ladder, the prior at beta = 0 among them."""
    chains: int = 4
    """Chains on every rung, for every seed."""
    beta_min: float = 10.0
    """Lowest positive inverse temperature of the pilot; beta multiplies the mean loss, so n is already in it."""
    beta_max: float = 3200.0
    """Inverse temperature of the highest rung."""
    num_integration_steps: int = 16
    """Leapfrog steps a move."""
    precondition: bool = True
    """Diagonal mass matrix from the pilot's gradients, on every rung its own; else the identity."""
    exchange: bool = False
    """Neighbouring rungs of a chain offer each other their states after every move (deterministic even-odd swaps)."""
    jitter: float = 0.2
    """Each move draws its step size from step * [1 - jitter, 1 + jitter]."""
    matmul_precision: Matmul = dataclasses.field(default="float32", metadata=HASHED_IF_CHANGED)
    """Of the matrix products behind leapfrog steps, on an accelerator; accept steps and all else: float32."""
    target_acceptance: float = 0.8
    """Acceptance that the step sizes are tuned to before they are frozen."""
    pilot_rungs: int = 24
    """Rungs of the annealed pilot, geometric from beta_min to beta_max, walked up and down."""
    pilot_moves: int = 8
    """Moves on every rung of the pilot."""
    adapt_moves: int = 100
    """Moves on the final ladder that tune the step sizes and burn in; none of them is used."""
    draws: int = 400
    """Draws of every chain; every move is one."""
    moves_per_chunk: int = 20
    """Moves between two looks of the host: checkpoints, progress, signals."""
    max_r_hat: float = 1.05
    """A rung with R-hat of L at or above this is flagged."""
    min_ess: float = 50.0
    """A rung with fewer effective draws of L a chain is flagged."""
    rows_per_chunk: int = 2000
    """Rows of data in one block of the energy; the whole data set suits an accelerator."""
    data_shards: int = dataclasses.field(default=1, metadata=NOT_HASHED)
    """Devices among which the rows of every replica of the ladder are split; the results change by rounding only."""
    replicas_at_once: int | None = dataclasses.field(default=None, metadata=NOT_HASHED)
    """Chains of the ladder side by side on a device, a divisor of their number; the others follow. None: on CPUs as few
    as leave up to eight groups for as many devices, on accelerators all that a device holds."""

    mean_field_betas: tuple[float, ...] = (5000.0, 7000.0)
    """Inverse temperatures of mean-field training beside the rungs: its best beta may lie above the ladder."""
    learning_rates: tuple[float, ...] = (0.03, 0.1)
    """Peak learning rates (Adam, cosine) of mean-field training, searched for every rung."""
    initial_scales: tuple[float, ...] = (0.3, 1.0)
    """Initial posterior scales in units of the prior's, searched for every rung."""
    mean_field_steps: int = 3000
    """Steps of mean-field training."""
    batch_size: int | None = 256
    """Rows a step of mean-field training; all by default."""
    mean_field_samples: int = 1
    """Weight draws a step of mean-field training."""
    mean_field_evaluation_draws: int = 64
    """Draws, even, with which the runs of the search are compared."""
    mean_field_draws: int = 10_000
    """Draws m of the two-stage certificate of the best mean-field posterior."""
    mean_field_rung_draws: int = 2000
    """Draws of the mean-field posteriors of the other rungs."""
    full_covariance: bool = False
    """Also train a full-covariance Gaussian at the best beta: splits the gap into factorised and Gaussian parts."""
    full_covariance_steps: int = 4000
    """Steps of its training."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; their chains run as one program on a common ladder with common step sizes."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        require(0 < self.delta < 1, f"delta = {self.delta}: must lie in (0, 1), for example 0.05")
        require_positive(self, "prior_scale")
        require(
            self.prior_scale in self.prior_scale_grid,
            f"prior_scale = {self.prior_scale} is not in prior_scale_grid = {self.prior_scale_grid}; "
            "declare every scale that may be tried, the certificate pays for their number",
        )
        require(
            0 < self.beta_min < self.beta_max,
            f"beta_min = {self.beta_min}, beta_max = {self.beta_max}: need 0 < beta_min < beta_max",
        )
        require_at_least(
            self, rungs=3, chains=2, num_integration_steps=1, pilot_rungs=4, pilot_moves=2, adapt_moves=2, draws=4,
            moves_per_chunk=1, rows_per_chunk=1, data_shards=1, mean_field_steps=1, mean_field_samples=1,
            mean_field_draws=2, mean_field_rung_draws=2,
        )  # fmt: skip
        for name in ("adapt_moves", "draws"):
            value = getattr(self, name)
            require(
                value % self.moves_per_chunk == 0,
                f"{name} = {value}: must be a multiple of moves_per_chunk = {self.moves_per_chunk}",
            )
        require(0 <= self.jitter < 1, f"jitter = {self.jitter}: must lie in [0, 1)")
        require(0 < self.target_acceptance < 1, f"target_acceptance = {self.target_acceptance}: must lie in (0, 1)")
        require_seeds(self)
        require(all(width >= 1 for width in self.hidden), f"hidden = {self.hidden}: widths must be positive integers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rosenbrock(RunOptions):
    """The two-dimensional picture: HMC against a mean-field Gaussian on the Rosenbrock function."""

    curvature: float = 2.0
    """b of the energy (1 - x)^2 + b (y - x^2)^2, squashed to [0, 1]."""
    beta: float = 14.0
    """Inverse temperature of the target."""
    prior_scale: float = 2.0
    """Standard deviation of the prior N(0, prior_scale^2 I)."""
    chains: int = 4
    """Chains of HMC."""
    draws: int = 2000
    """Draws of every chain."""
    num_integration_steps: int = 10
    """Leapfrog steps a move."""
    mean_field_steps: int = 4000
    """Steps of mean-field training."""
    seeds: tuple[int, ...] = (0,)
    """Seeds."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        require_positive(self, "curvature", "beta", "prior_scale")
        require_at_least(self, chains=2, draws=8, num_integration_steps=1, mean_field_steps=1)
        require_seeds(self)
