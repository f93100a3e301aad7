"""Cases as the page shows them: turned to the patient, in one window of grays, with truth and prediction in the user's values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.data.dataset import Case, Dataset
from autounet.data.voxels import read_stored
from autounet.images.orientation import orient, orient_geometry, orientation_of
from autounet.images.read import read_image
from planners.errors import UserError
from planners.fingerprint import Fingerprint, TripleMm

MOST_VALUES = 2**29  # of one case; a slide of ten gigapixels is no thumbnail
COARSE = 1.5  # an axis whose voxels are so much longer than the next is the one that was scanned through
PLANES = ("axial", "coronal", "sagittal")
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles
BESIDE = 0.5  # of the range of the structures, shown below and above it
DIM = 100  # of 255: a colour picture whose brightest spots are darker is spread like a gray one
SAMPLES = 200_000
MOST_CHANNELS = 4  # of a case that are shown

Targets = Sequence[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One case in memory; axes are canonical, or the picture's own."""

    case: str
    gray_czyx: NDArray[np.uint8]  # one channel, or three for a colour picture
    truth_zyx: NDArray[Any] | None  # the user's values
    predicted_zyx: NDArray[Any] | None
    spacing_zyx_mm: TripleMm
    flat: bool
    further_czyx: NDArray[np.uint8] | None = None  # the channels behind the first, each in its own window

    @property
    def through(self) -> int:
        """The axis that slices are counted along: the coarsest when there is one, else from feet to head."""
        order = np.argsort(self.spacing_zyx_mm)
        coarse = self.spacing_zyx_mm[order[2]] > COARSE * self.spacing_zyx_mm[order[1]]
        return int(order[2]) if coarse and not self.flat else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One slice as it hangs on the wall: the patient's right on the left, head or front on top."""

    gray_cyx: NDArray[np.uint8]
    truth_yx: NDArray[Any] | None
    predicted_yx: NDArray[Any] | None
    spacing_yx_mm: tuple[float, float]
    name: str  # "axial 34 of 50"; empty for a picture


def read_look(dataset: Dataset, case: Case, mask: Path | None, shown: tuple[float, float] | None = None) -> Look:
    """Read a case, and its prediction where there is one; `shown` are the values that become black and white."""
    if case.shape_zyx is not None and prod(case.shape_zyx) * len(case.images) > MOST_VALUES:
        raise UserError(f"{prod(case.shape_zyx):,} voxels are too many for a picture", "look at it with a viewer of slides", case.id)
    stored = read_stored(dataset, case)
    turn = orientation_of(stored.geometry)
    predicted = None
    if mask is not None:
        predicted = read_image(mask).voxels_czyx[0]
        if predicted.shape != stored.geometry.shape_zyx:
            raise UserError(
                f"its mask has {predicted.shape} voxels, the image {stored.geometry.shape_zyx}", "train the fold again", case.id
            )
    geometry = orient_geometry(stored.geometry, turn)
    colours = dataset.channels[0].modality == "rgb" and len(stored.image_czyx) == 3
    return Look(
        case=case.id,
        gray_czyx=_grays(orient(stored.image_czyx, turn), colours=colours, shown=shown),
        truth_zyx=None if stored.values_zyx is None else orient(stored.values_zyx, turn),
        predicted_zyx=None if predicted is None else orient(predicted, turn),
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        flat=geometry.flat,
        further_czyx=None if colours else _further(orient(stored.image_czyx[1:MOST_CHANNELS], turn)),
    )


def range_of(fingerprint: Fingerprint | None) -> tuple[float, float] | None:
    """Of CT, whose numbers mean the same in every scan: the range of the structures, and what lies beside them; else None."""
    if fingerprint is None or fingerprint.channels[0].modality != "ct":
        return None
    inside = fingerprint.channels[0].foreground
    beside = BESIDE * (inside.percentile_99_5 - inside.percentile_00_5)
    return (inside.percentile_00_5 - beside, inside.percentile_99_5 + beside) if beside > 0 else None


def _grays(image_czyx: NDArray[Any], *, colours: bool, shown: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """The first channel (or all three colours) between two values, or two percentiles; air that was cut to one value says nothing."""
    taken = image_czyx if colours else image_czyx[:1]
    sample = taken.reshape(-1)[:: max(1, taken.size // SAMPLES)].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if colours and taken.dtype == np.uint8 and np.percentile(sample, BRIGHTEST) > DIM:
        return np.ascontiguousarray(taken)
    inside = sample[sample > sample.min()] if len(sample) else sample
    low, high = shown or np.percentile(inside if len(inside) else np.zeros(1), (DARKEST, BRIGHTEST))
    scale = 255 / (high - low) if high > low else 0.0
    gray = np.empty(taken.shape, np.uint8)
    for channel, out in zip(taken, gray, strict=True):
        for z in range(len(channel)):  # a slice at a time: a float copy of a large scan would be larger than the scan
            out[z] = np.clip((np.nan_to_num(channel[z].astype(np.float32)) - low) * scale, 0, 255)
    return gray


def _further(image_czyx: NDArray[Any]) -> NDArray[np.uint8] | None:
    return np.concatenate([_grays(image_czyx[c : c + 1], colours=False) for c in range(len(image_czyx))]) if len(image_czyx) else None


def by_channel(look: Look) -> tuple[Look, ...]:
    """The same case once for every channel that is shown."""
    further = () if look.further_czyx is None else look.further_czyx
    return (look, *(replace(look, gray_czyx=gray_zyx[None]) for gray_zyx in further))


def any_of(values: NDArray[Any], wanted: Sequence[int]) -> NDArray[np.bool_]:
    """Where a target is."""
    found: NDArray[np.bool_] = values == wanted[0]
    for value in wanted[1:]:
        found |= values == value
    return found


def most_wrong(look: Look, wanted: Sequence[int]) -> int:
    """The slice in which truth and prediction of a target differ most; where they agree, the one with most of it."""
    assert look.truth_zyx is not None, "a case is only wrong against a truth"
    truth = any_of(look.truth_zyx, wanted)
    predicted = truth if look.predicted_zyx is None else any_of(look.predicted_zyx, wanted)
    differing = _areas(truth ^ predicted, look.through)
    return int(np.argmax(differing)) if differing.any() else int(np.argmax(_areas(truth, look.through)))


def most_seen(look: Look, targets: Targets) -> int:
    """The slice with most targets on it, and of those the one with the largest area; the middle one without a truth."""
    if look.truth_zyx is None:
        return _middle(look)
    areas = _areas_of(look.truth_zyx, targets, look.through)
    if not areas.any():
        return _middle(look)
    share = areas / np.maximum(areas.max(1, keepdims=True), 1)  # so that a large organ does not hide a small one
    return int(np.argmax(share.sum(0)))


def _middle(look: Look) -> int:
    return int(look.gray_czyx.shape[1 + look.through]) // 2


def _areas_of(values_zyx: NDArray[Any], targets: Targets, axis: int) -> NDArray[np.int64]:
    """Voxels of each target (row) on each slice (column), in one pass over the voxels whatever the number of targets."""
    areas = np.zeros((len(targets), values_zyx.shape[axis]), np.int64)
    for index in range(values_zyx.shape[axis]):
        values, counts = np.unique(np.take(values_zyx, index, axis), return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
        areas[:, index] = [sum(found.get(v, 0) for v in wanted) for _, wanted in targets]
    return areas


def _areas(mask_zyx: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    others = tuple(a for a in range(3) if a != axis)
    counted: NDArray[np.int64] = np.count_nonzero(mask_zyx, axis=others)
    return counted


def plane(look: Look, index: int) -> Plane:
    """A slice, turned as radiologists hang it."""
    axis = look.through

    def cut(array: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if array is None else _hung(np.take(array, index, array.ndim - 3 + axis), flat=look.flat)

    rest = tuple(mm for a, mm in enumerate(look.spacing_zyx_mm) if a != axis)
    gray = cut(look.gray_czyx)
    assert gray is not None
    count = look.gray_czyx.shape[1 + axis]
    return Plane(
        gray_cyx=gray,
        truth_yx=cut(look.truth_zyx),
        predicted_yx=cut(look.predicted_zyx),
        spacing_yx_mm=(rest[0], rest[1]),
        name="" if look.flat else f"{PLANES[axis]} {index + 1} of {count}",
    )


def _hung(slice_yx: NDArray[Any], *, flat: bool) -> NDArray[Any]:
    """Canonical axes grow to head, front and right: up, up (or left, in a sagittal plane) and left on the wall."""
    return slice_yx if flat else slice_yx[..., ::-1, ::-1]


def window(plane_: Plane, *, least: int = 48, margin: float = 0.4) -> Plane:
    """Cut to what is drawn on it, with some surroundings."""
    drawn = np.zeros(plane_.gray_cyx.shape[1:], bool)
    for values in (plane_.truth_yx, plane_.predicted_yx):
        if values is not None:
            drawn |= values != 0
    ys, xs = np.nonzero(drawn)
    if not len(ys):
        return plane_
    box = list[slice]()
    edge_mm = max((int(np.ptp(v)) + 1) * mm for v, mm in zip((ys, xs), plane_.spacing_yx_mm, strict=True)) * (1 + 2 * margin)
    edge_mm = max(edge_mm, least * min(plane_.spacing_yx_mm))
    for found, mm, size in zip((ys, xs), plane_.spacing_yx_mm, map(int, drawn.shape), strict=True):
        edge = min(size, max(1, round(edge_mm / mm)))
        start = min(max(0, (int(found.min()) + int(found.max()) + 1 - edge) // 2), size - edge)
        box.append(slice(start, start + edge))
    return cropped(plane_, (box[0], box[1]))


def cropped(plane_: Plane, box: tuple[slice, slice]) -> Plane:
    """A part of a slice."""
    return Plane(
        gray_cyx=plane_.gray_cyx[(slice(None), *box)],
        truth_yx=None if plane_.truth_yx is None else plane_.truth_yx[box],
        predicted_yx=None if plane_.predicted_yx is None else plane_.predicted_yx[box],
        spacing_yx_mm=plane_.spacing_yx_mm,
        name=plane_.name,
    )


def mean_dice(metrics: Mapping[str, Any]) -> float | None:
    """Of one case over the targets in which it is defined."""
    values = [found["dice"] for found in metrics.values() if found.get("dice") is not None]
    return sum(values) / len(values) if values else None
