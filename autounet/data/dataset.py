"""What was understood of a dataset folder: index.json. Paths are relative to the root, so the folder may move."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planners.errors import UserError
from planners.fingerprint import Modality, Triple, TripleMm
from planners.labels import Labels

INDEX_SCHEMA = 1

FileKind = Literal["image", "dicom", "rtstruct", "dicom_seg"]
LabelStyle = Literal["values", "masks", "rtstruct", "dicom_seg"]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One channel, or one label map: a file (for DICOM series a folder), and where in it."""

    path: str  # relative to the root, with forward slashes; empty for the root itself
    part: int | None = None  # which channel of the file; None: its only one
    section: int | None = None  # which slice of a stack of two-dimensional pictures; None: all of the file
    kind: FileKind = "image"
    series: str | None = None  # DICOM SeriesInstanceUID, where a folder holds more than one


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMask:
    """A file that holds one class only, as yes and no; where masks overlap the later one wins."""

    value: int
    file: ImageFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image with all its channels, and what is known of it."""

    id: str
    images: tuple[ImageFile, ...]  # one a channel, in the order of Dataset.channels
    label: ImageFile | None = None  # for label_style "masks" the first of them
    masks: tuple[ClassMask, ...] = ()
    group: str  # the patient; folds never cut through a group
    stratum: str = ""
    split: Literal["train", "test"] = "train"
    annotated: tuple[str, ...] | None = None  # classes that were looked for in this case; None: all
    shape_zyx: Triple | None = None  # as stored, from the header
    spacing_zyx_mm: TripleMm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """One input channel by name; the name may say what it is."""

    name: str
    modality: Modality = "unknown"
    said_by_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding: what was found where, what had been expected, what to do."""

    severity: Severity
    code: str
    case: str  # empty: the whole dataset
    found: str
    expected: str
    remedy: str

    def as_error(self) -> UserError:
        """The finding as something to raise."""
        return UserError(f"{self.found} (expected: {self.expected})", self.remedy, self.case)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHash:
    """SHA-256 of one file of the dataset (of a folder: of its files in the order of their names)."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the user decided about files that leave something open (autounet.toml)."""

    trust: Literal["sform", "qform", "stored"] | None = None
    spacing_zyx_mm: TripleMm | None = None
    unusual_geometry: bool = False
    fill_nonfinite: float | None = None
    follow_symlinks: bool = False
    resample_tilt: bool = False
    ignore_geometry: bool = False  # the image's header also holds for its label and channels
    palette_indices: bool = False  # of palette pictures the numbers behind the colours
    gray: bool = False  # colour pictures that hold gray only: their first channel is the image
    label_scale: float = 1.0  # stored label values times this are the values
    nearest_label: bool = False  # a stored value between two labels is the nearer one
    binary_label: bool = False  # whatever is not 0 is the one class, 1: masks that number objects


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFolds:
    """Folds that the dataset brought along (splits_final.json)."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A folder of images and masks, understood."""

    schema: int = INDEX_SCHEMA
    root: str  # absolute
    name: str
    layout: str
    why: str  # how the layout was recognised, and what was decided, in words
    dimensions: Literal[2, 3]
    cases: tuple[Case, ...]
    channels: tuple[ChannelSpec, ...]
    labels: Labels
    label_style: LabelStyle = "values"
    labels_said: bool = False  # the label table came with the data; a value outside it is then an error
    reading: Reading = Reading()
    given_folds: tuple[GivenFolds, ...] = ()
    fold_rule: Literal["grouped", "nnunet"] = "grouped"  # "nnunet": the reference's own folds, which know no patients
    problems: tuple[Problem, ...] = ()
    file_hashes: tuple[FileHash, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != INDEX_SCHEMA:
            raise UserError(f"the index has schema {self.schema}, this version reads {INDEX_SCHEMA}", "run `autounet check` again")
        for case in self.cases:
            if len(case.images) != len(self.channels):
                raise UserError(
                    f"{len(case.images)} images for {len(self.channels)} channels", "run `autounet check` on the dataset again", case.id
                )

    @property
    def folder(self) -> Path:
        """The root as a path."""
        return Path(self.root)

    @property
    def training(self) -> tuple[Case, ...]:
        """Cases with a label that may be trained on."""
        return tuple(c for c in self.cases if c.label is not None and c.split == "train")

    @property
    def broken(self) -> tuple[str, ...]:
        """Ids of cases that an error excludes."""
        return tuple(sorted(self.errors))

    @property
    def errors(self) -> dict[str, UserError]:
        """The first error of each case that an error excludes, by the ids of the cases."""
        found: dict[str, UserError] = {}
        for problem in sorted(self.problems, key=lambda p: p.case):
            if problem.severity == "error" and problem.case:
                found.setdefault(problem.case, problem.as_error())
        return found

    def case(self, case_id: str) -> Case:
        """The case of that id."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise UserError(f"the dataset has no case {case_id!r}", "look into index.json for the cases it has")
