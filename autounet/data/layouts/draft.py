"""What a layout hands over: cases with their files, before ids, headers and label values are looked at."""

from dataclasses import dataclass
from typing import Literal

from autounet.data.dataset import GivenFolds, ImageFile, LabelStyle, Problem
from planners.labels import Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A layout that this folder may have."""

    layout: str
    sure: float  # 0 to 1
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftMask:
    """A file that holds one class."""

    name: str
    file: ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCase:
    """One case as the names tell it; `images` are (channel, file)."""

    key: str
    images: tuple[tuple[str, ImageFile], ...]
    label: ImageFile | None = None
    masks: tuple[DraftMask, ...] = ()
    group: str | None = None
    stratum: str = ""
    split: Literal["train", "test"] = "train"
    annotated: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A folder read by one layout."""

    layout: str
    why: str
    cases: tuple[DraftCase, ...]
    channel_keys: tuple[str, ...] = ()  # declared, in order; empty: as found
    channel_names: tuple[str, ...] = ()  # of the channels above
    labels: Labels | None = None
    label_style: LabelStyle = "values"
    given_folds: tuple[GivenFolds, ...] = ()
    problems: tuple[Problem, ...] = ()
    in_one_file: bool = False  # the channels lie in one 4D file
    name: str = ""


def note(code: str, found: str, expected: str = "", remedy: str = "", case: str = "") -> Problem:
    """Something worth knowing."""
    return Problem(severity="note", code=code, case=case, found=found, expected=expected, remedy=remedy)


def warning(code: str, found: str, expected: str, remedy: str, case: str = "") -> Problem:
    """Something that may be wrong."""
    return Problem(severity="warning", code=code, case=case, found=found, expected=expected, remedy=remedy)


def error(code: str, found: str, expected: str, remedy: str, case: str = "") -> Problem:
    """Something that excludes a case."""
    return Problem(severity="error", code=code, case=case, found=found, expected=expected, remedy=remedy)
