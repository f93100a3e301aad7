"""What was chosen after training, as data: which networks vote, what is done to their masks, and how good that was."""

from dataclasses import dataclass
from shlex import quote
from typing import Literal

from planners.errors import UserError

SELECTION_SCHEMA = 1

PresetName = Literal["fast", "balanced", "best"]
StepKind = Literal["keep_largest", "drop_small", "fill_holes", "sides"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One configuration of the ensemble, and its say."""

    configuration: str
    folds: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PostStep:
    """One repair of the masks of one class, which paid on cases that had no part in choosing it."""

    kind: StepKind
    target: str  # the name of a class; for `sides`, the one at the lower end of the axis
    minimum_mm3: float = 0.0
    partner: str = ""  # for `sides`, the class at the upper end
    axis: int = 2  # for `sides`, the canonical axis: 0 towards the head, 1 to the front, 2 to the right
    gain: float = 0.0  # mean Dice, on cases of folds that had no part in choosing it
    p: float | None = None  # of no gain, corrected for all classes that were tried

    @property
    def words(self) -> str:
        """What it does, and what it brings."""
        what = {
            "keep_largest": f"keep the largest piece of {self.target}",
            "drop_small": f"drop pieces of {self.target} below {self.minimum_mm3:.3g} mm³",
            "fill_holes": f"fill the holes of {self.target}",
            "sides": f"{self.target} and {self.partner} by the side they lie on",
        }[self.kind]
        return f"{what} (Dice {self.gain:+.4f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A way to slide the networks, with what it cost and gained on the validation cases."""

    name: PresetName
    step_fraction: float
    mirror: bool
    folds: int  # how many of the folds vote; 0: all
    dice: float | None = None  # of networks that had not seen the cases: one fold, however many vote later
    seconds_per_case: float | None = None  # with that many folds, on the machine that selected
    cases: int = 0  # it was measured on

    @property
    def words(self) -> str:
        """In a line."""
        folds = "all folds" if not self.folds else f"{self.folds} fold{'s' if self.folds > 1 else ''}"
        cost = "" if self.seconds_per_case is None else f", {self.seconds_per_case:.3g} s a case"
        dice = "" if self.dice is None else f", Dice {self.dice:.4f} by one fold on {self.cases} case{'s' if self.cases > 1 else ''}"
        return f"--{self.name:<9} step {self.step_fraction:g}, {'mirrored' if self.mirror else 'not mirrored'}, {folds}{cost}{dice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRange:
    """What a convolution is shown, but for the outermost values."""

    layer: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRanges:
    """Of one network."""

    configuration: str
    fold: int
    layers: tuple[LayerRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8:
    """What it takes to run the networks in 8 bits, and what that costs: one fold, not mirrored, on cases it had not seen."""

    members: tuple[MemberRanges, ...]
    dice: float | None = None
    dice_before: float | None = None  # of the same networks as the plan wants them
    cases: int = 0

    @property
    def words(self) -> str:
        """The cost in a line."""
        if self.dice is None or self.dice_before is None:
            return "what 8 bits cost could not be measured"
        on = f"{self.cases} held-out case{'s' if self.cases != 1 else ''}"
        return f"8 bits change the Dice by {self.dice - self.dice_before:+.4f}, to {self.dice:.4f}, by one fold on {on}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One configuration or ensemble that was tried on out-of-fold predictions."""

    name: str
    configurations: tuple[str, ...]
    weights: tuple[float, ...] = ()  # one a configuration; none: equal
    dice: float
    low: float  # of the 95 % interval over patients
    high: float
    p_against_best: float | None = None
    within_noise: bool = False
    first_share: float | None = None  # in what share of redrawn patients it is the best


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScore:
    """Out-of-fold Dice of one class or region, with its interval over patients."""

    name: str
    cases: int
    dice: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldScore:
    """Mean Dice of one fold's held-out cases: how much the division of the cases matters."""

    fold: int
    cases: int
    dice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one temperature does to the probabilities of voxels around the structures, on folds that had no part in fitting it."""

    nll_before: float  # nats a voxel
    nll_after: float
    ece_before: float
    ece_after: float
    voxels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """From the Dice that networks expect of their own mask to the one that out-of-fold cases had, and how far those lay off."""

    expected: tuple[float, ...]  # rising
    dice: tuple[float, ...]  # never falling; in between, straight lines
    below: float  # the interval reaches so far down (negative) …
    above: float  # … and so far up
    lowest: float = 0.0  # expected by any of the cases; below it nothing is known
    coverage: float = 0.9
    look_below: float = 0.0  # whoever may fall below this Dice is to be looked at …
    look_quantile: float = 0.1  # … which this share of the out-of-fold cases did
    cases: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Everything `predict` applies without being asked."""

    schema: int = SELECTION_SCHEMA
    members: tuple[Chosen, ...]
    why: str
    candidates: tuple[Candidate, ...] = ()
    scores: tuple[TargetScore, ...] = ()
    post_steps: tuple[PostStep, ...] = ()
    presets: tuple[Preset, ...] = ()
    int8: Int8 | None = None
    temperature: float = 1.0
    calibration: Calibration | None = None
    expectation: Expectation | None = None
    folds: tuple[FoldScore, ...] = ()
    mean_low: float | None = None  # of the 95 % interval of the mean over patients
    mean_high: float | None = None
    cases: int = 0
    failed_cases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != SELECTION_SCHEMA:
            raise UserError(f"the selection has schema {self.schema}, this version reads {SELECTION_SCHEMA}", "select again")
        if not self.members:
            raise UserError("nothing was selected: no network votes", "train at least one fold, then select again")

    @property
    def mean_dice(self) -> float | None:
        """Mean over classes, out of fold."""
        return sum(s.dice for s in self.scores) / len(self.scores) if self.scores else None

    def preset(self, name: PresetName) -> Preset | None:
        """The preset of that name, if it was measured."""
        return next((p for p in self.presets if p.name == name), None)

    def lines(self, model: object) -> tuple[str, ...]:
        """How good it is, how sure, and what to type next."""
        return self._good(), f"{self._sure()}Chosen: {self.why}", f"Predict with: autounet predict {quote(str(model))} IMAGES MASKS"

    def _good(self) -> str:
        if not self.scores:
            return "Not validated: no case was held out of the training of a fold."
        parts = ", ".join(f"{s.name} {s.dice:.3f} ({s.low:.3f} to {s.high:.3f})" for s in self.scores[:6])
        more = f", and {len(self.scores) - 6} more" if len(self.scores) > 6 else ""
        return f"Out-of-fold Dice over {self.cases} case{'s' if self.cases != 1 else ''}: mean {self.mean_dice:.3f}; {parts}{more}."

    def _sure(self) -> str:
        """The interval of the mean, the spread of the folds, and what was repaired."""
        said = []
        if self.scores and self.mean_low is not None and self.mean_high is not None:
            said.append(f"Sure to {self.mean_low:.3f} to {self.mean_high:.3f} (95 % over patients)")
        if len(self.folds) > 1:
            said.append(f"folds from {min(f.dice for f in self.folds):.3f} to {max(f.dice for f in self.folds):.3f}")
        said += [step.words for step in self.post_steps[:2]]
        return f"{'; '.join(said)}. " if said else ""
