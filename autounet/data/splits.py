"""Which cases are trained on and which are held out, fold by fold: by patient, balanced, and the same every time."""

from dataclasses import dataclass
from pathlib import Path

from autounet.data.dataset import Dataset

SPLITS_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Case ids."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """All folds, and by which rule they were made."""

    schema: int = SPLITS_SCHEMA
    rule: str  # grouped, leave_one_out, nnunet, given
    seed: int
    folds: tuple[Fold, ...]
