"""What is written of a fold when it is trained and validated."""

from dataclasses import dataclass

RUN_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDice:
    """The mean Dice of one target over the held-out cases that have it."""

    target: str
    dice: float | None  # None: the class is in none of the cases and was predicted in none


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A fold that is trained and validated."""

    schema: int = RUN_SCHEMA
    configuration: str
    fold: int
    recipe: str
    iterations: int
    seconds: float
    execution: str
    loss: float | None
    waited_seconds: float  # the device had no batch
    train_cases: int
    validation: tuple[TargetDice, ...]
    validated: tuple[str, ...]
    failed_cases: tuple[str, ...] = ()
    ended_at_plateau: bool = False  # before its planned end, because nothing was gained any more
    held_bytes: int | None = None  # of memory while training, at most, program included; None: the device does not tell
