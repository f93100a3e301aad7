"""What was measured of a dataset: everything a planner may look at, and nothing else."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from planners.errors import UserError
from planners.labels import Labels

Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]
Modality = Literal["ct", "mr", "pet", "us", "xray", "em", "light", "rgb", "unknown"]

FINGERPRINT_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSize:
    """One case after the crop to its non-zero box, on canonical axes (z up, y front, x right)."""

    case: str
    shape_zyx: Triple
    spacing_zyx_mm: TripleMm
    stored_axes: Triple = (0, 1, 2)  # stored array axis i is canonical axis stored_axes[i]

    def __post_init__(self) -> None:
        if min(self.shape_zyx) < 1 or not all(0 < mm < inf for mm in self.spacing_zyx_mm):
            raise UserError(f"{self.shape_zyx} voxels of {self.spacing_zyx_mm} mm cannot be", "measure the dataset again", self.case)
        if sorted(self.stored_axes) != [0, 1, 2]:
            raise UserError(f"stored_axes {self.stored_axes} is no order of three axes", "measure the dataset again", self.case)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensities:
    """Of the foreground voxels of one channel, over all cases."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float

    def __post_init__(self) -> None:
        numbers = (self.mean, self.median, self.std, self.minimum, self.maximum, self.percentile_00_5, self.percentile_99_5)
        if not all(map(isfinite, numbers)) or self.std < 0 or self.minimum > self.maximum or self.percentile_00_5 > self.percentile_99_5:
            raise UserError(
                f"intensities of {numbers} (mean, median, deviation, extremes, percentiles) cannot be", "measure the dataset again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Equal bins from low to high; counts summed over cases, so drift can be seen at prediction."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSeen:
    """One input channel."""

    name: str
    modality: Modality
    confidence: float  # 0 to 1: how sure the guess of the modality is; 1 when the user said so
    foreground: Intensities
    histogram: Histogram | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSeen:
    """One foreground class: how much of it there is, and of what shape."""

    name: str
    cases: int  # in how many cases it occurs
    fraction: float  # of the cropped volume, median over the cases that have it
    volume_ml: float  # median
    components: float  # median count per case
    smallest_component_mm3: float
    extent_zyx_mm: TripleMm  # median of the bounding boxes
    elongation: float  # longest over middle principal axis; tubes are long

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1 or self.cases < 0:
            raise UserError(
                f"class {self.name}: {self.fraction} of the volume in {self.cases} cases cannot be", "measure the dataset again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SidePair:
    """Two classes that are each other's mirror image, left and right."""

    left: str
    right: str
    axis: int = 2  # canonical zyx axis across which they mirror
    found_by: Literal["name", "symmetry", "both", "user"] = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The dataset in numbers."""

    schema: int = FINGERPRINT_SCHEMA
    dataset: str
    dimensions: Literal[2, 3]
    cases: tuple[CaseSize, ...]
    channels: tuple[ChannelSeen, ...]
    labels: Labels
    classes: tuple[ClassSeen, ...] = ()
    side_pairs: tuple[SidePair, ...] = ()
    median_relative_size_after_crop: float = 1.0
    orientations: tuple[str, ...] = ("RAS",)
    annotated_fraction: float = 1.0  # of voxels that are not "ignore"; scribbles are far below 1

    def __post_init__(self) -> None:
        if self.schema != FINGERPRINT_SCHEMA:
            raise UserError(
                f"the fingerprint has schema {self.schema}, this version reads {FINGERPRINT_SCHEMA}",
                "run `autounet check` and measure again",
            )
        if not self.cases or not self.channels:
            raise UserError("the fingerprint holds no case or no channel", "measure a dataset with at least one case")
