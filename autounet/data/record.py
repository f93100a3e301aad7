"""All that one pass over the voxels of a case tells, whatever the label table says later."""

from dataclasses import dataclass

from autounet.data.dataset import Problem
from autounet.data.label_values import ValueCounts
from autounet.data.shapes import ClassShape
from autounet.data.sketch import Sketch
from planners.fingerprint import Triple, TripleMm

RECORD_VERSION = 1  # part of the key: another way to measure makes other records


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRecord:
    """One channel of one case."""

    voxels_digest: str  # of the values themselves, so that a copy under another header is found
    whole_numbers: bool
    everywhere: Sketch  # inside the box
    foreground: Sketch  # where the label is neither background nor ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """One case."""

    shape_zyx: Triple  # as stored
    spacing_zyx_mm: TripleMm
    orientation: str
    canonical_shape_zyx: Triple  # after the crop to what is not zero
    canonical_spacing_zyx_mm: TripleMm
    stored_axes: Triple
    relative_size: float  # of the crop
    channels: tuple[ChannelRecord, ...] = ()
    values: ValueCounts | None = None  # of the label
    shapes: tuple[ClassShape, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
