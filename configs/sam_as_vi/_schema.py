"""The fields of the SAM-as-VI study; every one is a flag of its command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments._sam_as_vi.methods import METHODS
from pbjax.runs import RunOptions, require, require_at_least, require_positive, require_seeds


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamAsVi(RunOptions):
    """Sharpness-aware and variational optimisers on one network and data set, many seeds in one program."""

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"] = "mnist"
    """Data set; all but digits need a data folder."""
    other_dataset: Literal["none", "mnist", "fashion_mnist"] = "fashion_mnist"
    """Data set whose test images should look strange to the network (AUROC of the largest probability)."""
    pool: int | None = 2
    """Side of the squares of pixels that are averaged; 2 makes 28x28 images 14x14."""
    limit: int | None = None
    """Number of training rows to keep, validation rows among them; all by default."""
    validation_rows: int = 10_000
    """Rows held out of the training set, for choosing rates and radii."""
    shift: tuple[float, ...] = (0.0,)
    """Pixel value that becomes 0, one number or one a channel, in units of the file."""
    scale: tuple[float, ...] | None = None
    """Divisor of the shifted pixels, one number or one a channel; the largest pixel value by default."""

    model: Literal["mlp", "small_cnn", "resnet_frn", "wide_resnet"] = "mlp"
    """Network."""
    hidden: tuple[int, ...] = (100,)
    """Widths of the hidden layers of the mlp."""
    activation: Literal["relu", "tanh", "softplus", "swish", "gelu"] = "relu"
    """Activation of the mlp and of the small_cnn."""
    channels: tuple[int, int] = (12, 24)
    """Channels of the small_cnn's two convolutions."""
    depth: int = 20
    """Depth of the residual networks: 6n + 2 (resnet_frn), 6n + 4 (wide_resnet)."""
    width: int = 16
    """Channels of the first stage (resnet_frn), or the widening factor (wide_resnet)."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to compare."""
    budgets: tuple[Literal["gradients", "epochs"], ...] = ("gradients", "epochs")
    """gradients: a method with two gradients a step gets half the steps; epochs: all get the same steps."""
    epochs: float = 20.0
    """Passes over the training rows of a method with one gradient a step."""
    batch_size: int = 128
    """Rows a step."""
    momentum: float = 0.9
    """Momentum of SGD (Nesterov) and of ivon and bsam."""
    weight_decay: float = 1e-4
    """1/(n sigma_p^2): coupled decay of the point methods and the prior of the variational ones."""
    weight_decays: dict[str, float] = dataclasses.field(default_factory=dict)
    """The same by method, where it is not weight_decay."""
    decoupled_weight_decay: float = 0.01
    """AdamW's own decay."""
    scale_rate: float = 0.01
    """Adam's rate on the logarithm of learned scales."""
    samples: int = 1
    """Draws a step of the methods with noise."""
    label_smoothing: float = 0.0
    """Mass on the wrong classes in training."""
    crop: int = 0
    """Padding of the random crop; 0 for none."""
    flip: bool = False
    """Mirror images at random."""
    cutout: int = 0
    """Side of the square that is cut out; 0 for none."""
    learning_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    """Peak rates by method, where they are not the defaults; a search replaces them."""
    radii: dict[str, float] = dataclasses.field(default_factory=dict)
    """Radii by method, where they are not the defaults; a search replaces them."""
    kappa: float = 1.0
    """Noise weight of mix_sam."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds; each has its own initial weights, batches and noise, the same under every method."""

    tune: bool = False
    """Search rates and radii first, on validation rows, with training on the prior's rows only."""
    tune_seeds: tuple[int, ...] = (100,)
    """Seeds of the search, none of them a seed of the study."""

    curve_methods: tuple[str, ...] = ()
    """Methods whose radius is varied; empty for none."""
    curve_radii: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
    """Radii of those curves."""
    curve_kappas: tuple[float, ...] = ()
    """Values of kappa for mix_sam; empty for none."""
    curve_samples: tuple[int, ...] = ()
    """Draws a step for mean_field and random_sam at equal steps; empty for none."""

    prior_share: float = 0.5
    """Share of the training rows that the prior knows, and of the steps that see no others."""
    prior_scale_range: tuple[float, float] = (0.003, 0.3)
    """Least and greatest prior scale of the declared grid."""
    prior_scale_count: int = 20
    """Size of that grid; the certificate pays for it."""
    delta: float = 0.05
    """Failure probability of a network's certificate."""
    ceiling: float = 4.0
    """Largest loss in nats, before scaling to [0, 1], of the surrogate that the scales are trained on."""
    certificate_steps: int = 600
    """Steps that train the posterior's scales."""
    certificate_repeats: int = 4
    """Fresh weight draws for every certified row."""
    certificate_rows_at_once: int = 100
    """Rows with weights of their own held at a time (networks other than the mlp)."""

    measures: tuple[Literal["sharpness", "certificate"], ...] = ("sharpness", "certificate")
    """What is measured beside predictions; on large networks these cost more than a short training."""
    posterior_samples: int = 32
    """Draws of averaged predictions."""
    bins: int = 15
    """Bins of the calibration error."""
    sharpness_rows: int = 2000
    """Training rows that sharpness is measured on."""
    sharpness_micro_batch: int = 100
    """m of worst-case sharpness."""
    sharpness_ascent_steps: int = 5
    """Steps of its ascent."""
    worst_radius: float = 0.1
    """Euclidean radius of worst-case sharpness."""
    adaptive_radius: float = 0.5
    """Radius of adaptive worst-case sharpness, in units of |w| + 0.01."""
    average_radius: float = 1.0
    """Radius sigma sqrt(P) of average-case sharpness."""
    sharpness_samples: int = 32
    """Draws of average-case sharpness."""
    hutchinson_probes: int = 32
    """Probes of the Hessian's trace."""
    lanczos_iterations: int = 20
    """Iterations for the Hessian's top eigenvalue."""

    replicas_at_once: int = 5
    """Most networks that train side by side on a device; the others follow. On CPUs it is lowered to a divisor of their
    number that leaves up to eight groups for as many devices. All of them suit an accelerator."""
    chunks_per_pass: int = 1
    """Chunks into which a pass over the prior's rows is cut: checkpoints and progress come between chunks."""

    def validate(self) -> None:
        """Refuses values that no run could use."""
        known = ", ".join(METHODS)
        for field in ("methods", "curve_methods", "learning_rates", "radii", "weight_decays"):
            for name in getattr(self, field):
                require(name in METHODS, f"{field}: {name!r} is not a method; choose from {known}")
        require(len(self.methods) >= 1, f"methods is empty; choose from {known}")
        require(len(set(self.methods)) == len(self.methods), f"methods = {self.methods}: give each method once")
        for name in self.curve_methods:
            require(METHODS[name].has_radius, f"curve_methods: {name} has no radius")
        require(len(self.budgets) >= 1, "budgets is empty: give gradients, epochs or both")
        for field in ("learning_rates", "radii", "weight_decays"):
            for name, value in getattr(self, field).items():
                require(value > 0, f"{field} {name} = {value}: must be positive")
        require_positive(
            self, "epochs", "weight_decay", "scale_rate", "ceiling", "worst_radius", "adaptive_radius", "average_radius"
        )
        require(0 <= self.momentum < 1, f"momentum = {self.momentum}: must lie in [0, 1)")
        require(0 < self.delta < 1, f"delta = {self.delta}: must lie in (0, 1), for example 0.05")
        require(0 < self.prior_share < 1, f"prior_share = {self.prior_share}: must lie in (0, 1), for example 0.5")
        require(0 <= self.label_smoothing < 1, f"label_smoothing = {self.label_smoothing}: must lie in [0, 1)")
        low, high = self.prior_scale_range
        require(0 < low < high, f"prior_scale_range = {self.prior_scale_range}: need 0 < least < greatest")
        require_at_least(
            self, validation_rows=1, batch_size=1, samples=1, prior_scale_count=2, certificate_steps=10,
            certificate_repeats=1, certificate_rows_at_once=1, posterior_samples=1, bins=1, sharpness_rows=1,
            sharpness_micro_batch=1, sharpness_ascent_steps=1, sharpness_samples=2, hutchinson_probes=2,
            lanczos_iterations=1, replicas_at_once=1, chunks_per_pass=1, crop=0, cutout=0, kappa=0,
        )  # fmt: skip
        require(
            self.certificate_steps % 10 == 0, f"certificate_steps = {self.certificate_steps}: must be a multiple of 10"
        )
        require(
            self.sharpness_rows % self.sharpness_micro_batch == 0,
            f"sharpness_micro_batch = {self.sharpness_micro_batch}: must divide sharpness_rows = {self.sharpness_rows}",
        )
        require_seeds(self)
        if self.tune:
            require_seeds(self, name="tune_seeds")
            shared = set(self.tune_seeds) & set(self.seeds)
            require(not shared, f"tune_seeds = {self.tune_seeds}: must have none of seeds = {self.seeds}")
        require(all(radius > 0 for radius in self.curve_radii), f"curve_radii = {self.curve_radii}: must be positive")
        require(all(k >= 0 for k in self.curve_kappas), f"curve_kappas = {self.curve_kappas}: must not be negative")
        require(all(s >= 1 for s in self.curve_samples), f"curve_samples = {self.curve_samples}: must be at least 1")
