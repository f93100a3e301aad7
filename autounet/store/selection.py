"""What was chosen after training, as data: which networks vote, what is done to their masks, and how good that was."""

from dataclasses import dataclass
from shlex import quote
from typing import Literal

from planners.errors import UserError

SELECTION_SCHEMA = 1

PresetName = Literal["fast", "balanced", "best"]
StepKind = Literal["keep_largest", "drop_small", "fill_holes"]


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
    target: str  # the name of a class
    minimum_mm3: float = 0.0
    gain: float = 0.0  # mean Dice, on held-out cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A way to slide the networks, with what it cost and gained on the validation cases."""

    name: PresetName
    step_fraction: float
    mirror: bool
    folds: int  # how many of the folds vote; 0: all
    dice: float | None = None
    seconds_per_case: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One configuration or ensemble that was tried on out-of-fold predictions."""

    name: str
    configurations: tuple[str, ...]
    dice: float
    low: float  # of the 95 % interval over patients
    high: float
    p_against_best: float | None = None
    within_noise: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScore:
    """Out-of-fold Dice of one class or region, with its interval over patients."""

    name: str
    cases: int
    dice: float
    low: float
    high: float


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
    temperature: float = 1.0
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
        if not self.scores:
            good = "Not validated: no case was held out of the training of a fold."
        else:
            parts = ", ".join(f"{s.name} {s.dice:.3f} ({s.low:.3f} to {s.high:.3f})" for s in self.scores[:6])
            more = f", and {len(self.scores) - 6} more" if len(self.scores) > 6 else ""
            good = f"Out-of-fold Dice over {self.cases} case{'s' if self.cases != 1 else ''}: mean {self.mean_dice:.3f}; {parts}{more}."
        return good, f"Chosen: {self.why}", f"Predict with: autounet predict {quote(str(model))} IMAGES MASKS"
