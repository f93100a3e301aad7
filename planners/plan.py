"""The plan: every decision of a run as one frozen value, checked once, when it is made.

Axes: `plan.axis_order` says which canonical axis (z up, y front, x right) comes first, second and
third in the arrays that the pipeline works on. Everything named `_zyx` below is in that working
order; two-dimensional configurations keep three numbers, the first of them 1 (or the distance of slices).
"""

from dataclasses import dataclass
from math import inf, prod
from typing import Literal

from planners.bounds import mirrored_axes, share
from planners.errors import UserError
from planners.fingerprint import Modality, SidePair, Triple, TripleMm
from planners.hardware import Accelerator, Precision
from planners.labels import Labels

PLAN_SCHEMA = 1
MAX_EDGE = 16_384  # voxels of a patch; no machine trains on more
MAX_STAGES, MAX_FEATURES, MAX_KERNEL = 16, 4096, 15

Scheme = Literal["ct", "zscore", "percentile", "rescale", "rgb", "none"]
TermKind = Literal["dice", "cross_entropy", "topk", "focal", "tversky", "skeleton_recall", "border_cross_entropy"]
StepKind = Literal[
    "rotation", "scaling", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma", "mirror"
]  # fmt: skip
Backend = Literal["native", "batchgenerators", "auto"]
RunsOn = Literal["auto", "threads", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPlan:
    """How one channel is normalised. The numbers are the dataset's foreground statistics."""

    name: str
    modality: Modality
    scheme: Scheme
    mask_outside: bool = False  # statistics inside the non-zero mask only, zero outside
    clip_low: float = 0.0
    clip_high: float = 0.0
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """Spline orders. A thick axis (more than three times coarser) is treated apart when asked."""

    image_order: int = 3
    label_order: int = 1
    logits_order: int = 1
    thick_axis: Literal["auto", "never"] = "auto"
    thick_axis_order: int = 0  # order along the thick axis, for images, labels and logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A U-Net by its stages, finest first."""

    kind: Literal["plain", "residual"]
    dimensions: Literal[2, 3]
    features: tuple[int, ...]
    strides_zyx: tuple[Triple, ...]  # the first is (1, 1, 1)
    kernels_zyx: tuple[Triple, ...]
    encoder_blocks: tuple[int, ...]  # convolutions (plain) or residual blocks per stage
    decoder_convolutions: tuple[int, ...]
    deep_supervision: bool = True
    checkpointed_stages: int = 0  # this many of the finest stages are computed again in the backward pass

    def __post_init__(self) -> None:
        stages = len(self.features)
        lengths = (len(self.strides_zyx), len(self.kernels_zyx), len(self.encoder_blocks), len(self.decoder_convolutions) + 1)
        if any(length != stages for length in lengths):
            raise UserError(
                f"{stages} stages of features, but strides, kernels, encoder and decoder lists of {lengths}", "give one entry a stage"
            )
        counts = (*self.features, *self.encoder_blocks, *self.decoder_convolutions)
        steps = [number for triple in (*self.strides_zyx, *self.kernels_zyx) for number in triple]
        if not 1 <= stages <= MAX_STAGES or not all(1 <= n <= MAX_FEATURES for n in counts) or not all(1 <= n <= MAX_KERNEL for n in steps):
            raise UserError(
                f"a network of features {self.features}, strides {self.strides_zyx} and kernels {self.kernels_zyx} cannot be built",
                f"use at most {MAX_STAGES} stages, {MAX_FEATURES} features, and strides and kernels of 1 to {MAX_KERNEL}",
            )
        if not 0 <= self.checkpointed_stages <= stages:
            raise UserError(
                f"{self.checkpointed_stages} of {stages} stages cannot be computed again", "name as many as there are, or fewer"
            )

    @property
    def divisor_zyx(self) -> Triple:
        """A patch edge must be a multiple of this."""
        z, y, x = (prod(stride[axis] for stride in self.strides_zyx) for axis in range(3))
        return z, y, x


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One term of the loss."""

    kind: TermKind
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The sum of its terms, over the levels of deep supervision (weights finest first, sum 1)."""

    terms: tuple[LossTerm, ...] = (LossTerm(kind="dice"), LossTerm(kind="cross_entropy"))
    batch_dice: bool = False
    level_weights: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One augmentation: how often, and the range its parameter is drawn from."""

    kind: StepKind
    probability: float
    channel_probability: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        share(f"{self.kind}: the probability", self.probability)
        share(f"{self.kind}: the probability of a channel", self.channel_probability)
        if self.low > self.high:
            raise UserError(f"{self.kind}: the range {self.low} to {self.high} runs backwards", "write the smaller number as low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """In this order. Angles in radians."""

    steps: tuple[Step, ...]
    in_plane_only: bool = False  # rotate and scale about the first axis only
    mirror_axes: tuple[int, ...] = ()  # working axes that may be flipped
    swap_sides: bool = False  # a flip across the sides' axis exchanges left and right labels
    backend: Backend = "native"  # who does it; "auto": a short probe at the start of a fold says who is faster
    runs_on: RunsOn = "auto"  # "threads" of the processor or the "device" that trains; "auto": on an accelerator a short probe says

    def __post_init__(self) -> None:
        mirrored_axes(self.mirror_axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Where patches are taken."""

    foreground_fraction: float = 0.33
    rule: Literal["last_of_batch", "probability"] = "last_of_batch"
    balance: Literal["class_in_case", "class_over_cases", "component"] = "class_in_case"

    def __post_init__(self) -> None:
        share("the share of foreground patches", self.foreground_fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the weights are found. Fractions are of the whole length, however it is given."""

    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    shape: Literal["poly", "warmup_stable_decay"] = "poly"
    warmup_fraction: float = 0.0
    decay_fraction: float = 0.0
    iterations: int = 250_000
    iterations_per_epoch: int = 250
    seconds: float | None = None  # per fold and configuration; the decay then starts by the clock
    stop_at_plateau: bool = False
    clip_norm: float = 12.0
    ema_decay: float | None = None
    precision: Precision = "float32"
    patch_growth_stages: int = 1

    def __post_init__(self) -> None:
        share("the warm-up and the decay", self.warmup_fraction + self.decay_fraction)
        share("the momentum", self.momentum)
        share("the decay of the average", self.ema_decay or 0.0)
        whole = (self.iterations, self.iterations_per_epoch, self.patch_growth_stages)
        if min(whole) < 1 or self.learning_rate <= 0 or self.clip_norm <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise UserError(
                f"a schedule of {self.iterations} iterations at a rate of {self.learning_rate} for {self.seconds} s trains nothing",
                "use positive numbers",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """How a trained network is slid over an image."""

    step_fraction: float = 0.5
    sigma_fraction: float = 0.125
    peak: Literal["middle", "nnunet"] = "middle"  # of a tile's importance; nnU-Net's lies half a voxel behind the middle of an even edge
    mirror_axes: tuple[int, ...] = ()
    precision: Precision = "float32"
    skip_air: bool = False  # tiles that hold nothing but air are background without asking the network

    def __post_init__(self) -> None:
        mirrored_axes(self.mirror_axes)
        if not 0 < self.step_fraction <= 1 or self.sigma_fraction <= 0:
            raise UserError(
                f"tiles every {self.step_fraction} of a patch with a weight of width {self.sigma_fraction} leave gaps", "use 0.5 and 0.125"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Predicted peaks, in bytes, of one training step and of one tile of prediction."""

    training_bytes: int = 0
    inference_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One network and the data it sees."""

    name: str  # 2d, 3d_fullres, 3d_lowres, 3d_cascade
    spacing_zyx_mm: TripleMm
    median_shape_zyx: Triple
    patch_zyx: Triple
    batch_size: int
    accumulate: int = 1  # micro-batches per step; the batch above is the whole
    resampling: Resampling = Resampling()
    architecture: Architecture
    loss: Loss = Loss()
    augmentation: Augmentation
    sampling: Sampling = Sampling()
    schedule: Schedule = Schedule()
    inference: Inference = Inference()
    previous: str | None = None  # the configuration whose masks are further input channels
    memory: MemoryEstimate = MemoryEstimate()

    def __post_init__(self) -> None:
        if max(self.patch_zyx) > MAX_EDGE:
            raise UserError(
                f"configuration {self.name}: the patch {self.patch_zyx} is larger than {MAX_EDGE}", "choose a patch that a machine can hold"
            )
        for edge, divisor in zip(self.patch_zyx, self.architecture.divisor_zyx, strict=True):
            if edge < 1 or edge % divisor:
                raise UserError(
                    f"configuration {self.name}: the patch {self.patch_zyx} is no multiple of {self.architecture.divisor_zyx}",
                    "choose a patch that the strides divide",
                )
        if self.batch_size < 1 or self.accumulate < 1 or self.batch_size % self.accumulate:
            raise UserError(
                f"configuration {self.name}: a batch of {self.batch_size} in {self.accumulate} parts", "choose parts that divide the batch"
            )
        if not all(0 < mm < inf for mm in self.spacing_zyx_mm):
            raise UserError(f"configuration {self.name}: the spacing {self.spacing_zyx_mm} mm is not positive", "correct the spacing")

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.architecture.dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Whole volumes scored while training."""

    cases: int = 3
    every_fraction: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """Cross-validation. count 0 means leave one group out."""

    count: int = 5
    train: tuple[int, ...] = (0, 1, 2, 3, 4)
    seed: int = 12345


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a decision fell as it did: one sentence with the numbers it came from."""

    decision: str
    chosen: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every decision of a run."""

    schema: int = PLAN_SCHEMA
    planner: str
    dataset: str
    dimensions: Literal[2, 3]
    orientation: Literal["canonical", "stored"] = "canonical"
    axis_order: Triple = (0, 1, 2)  # working axis i is canonical (or stored) axis axis_order[i]
    channels: tuple[ChannelPlan, ...]
    labels: Labels
    side_pairs: tuple[SidePair, ...] = ()
    configurations: tuple[Configuration, ...]
    train: tuple[str, ...]  # which configurations, in the order of training
    folds: Folds = Folds()
    validation: Validation = Validation()
    target: Accelerator = "cpu"
    reasons: tuple[Reason, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != PLAN_SCHEMA:
            raise UserError(f"the plan has schema {self.schema}, this version reads {PLAN_SCHEMA}", "run `autounet plan` again")
        names = [c.name for c in self.configurations]
        unknown = [n for n in (*self.train, *(c.previous for c in self.configurations if c.previous)) if n not in names]
        if unknown:
            raise UserError(f"the plan names the configuration {unknown[0]}, it has {', '.join(names)}", "correct the name")
        if sorted(self.axis_order) != [0, 1, 2]:
            raise UserError(f"axis_order {self.axis_order} is no order of three axes", "use each of 0, 1, 2 once")

    def configuration(self, name: str) -> Configuration:
        """The configuration of that name."""
        for configuration in self.configurations:
            if configuration.name == name:
                return configuration
        known = ", ".join(c.name for c in self.configurations)
        raise UserError(f"the plan has no configuration {name}", f"choose one of {known}")
