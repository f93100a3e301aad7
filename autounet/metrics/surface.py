"""Distances between the surfaces of truth and prediction, in millimetres.

Definitions:
`nsd-area-v1` normalised surface distance: the area of both surfaces that lies within the tolerance of the other one,
over the area of both; surfaces are those of marching cubes between voxel centres (as in the surface-distance package).
`nsd-voxel-v1` the same with boundary voxels counted instead of area measured (as in MONAI).
`hd-v1` the largest, `hd95-v1` the larger of the two directed 95th percentiles (linearly interpolated), `assd-v1` the mean
of all distances of both directions pooled; between the centres of boundary voxels, which are those of the mask that
touch, by a face, something that is not the mask or the edge of the image.
Where truth and prediction are both empty nothing is defined (NaN); where one of them is, the NSD is 0 and distances are NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan, prod

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.extract import Box, Surfaces, label_surfaces, mask_surfaces
from autounet.metrics.nearest import distances
from planners.fingerprint import TripleMm

PASS_COST = 1.5  # a voxel of the pass over all classes costs as much as so many of a box of one class
MOST_LABELS = 2**16
CLOSE = 1e-5  # of a distance, in relation: what single precision makes of two that are equal

Target = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceScores:
    """Of one class in one case."""

    nsd_area: float = nan
    nsd_voxel: float = nan
    hd: float = nan
    hd95: float = nan
    assd: float = nan

    def rows(self) -> tuple[tuple[str, str, float], ...]:
        """(metric, definition, value)."""
        return (
            ("nsd", "nsd-area-v1", self.nsd_area),
            ("nsd_voxel", "nsd-voxel-v1", self.nsd_voxel),
            ("hd_mm", "hd-v1", self.hd),
            ("hd95_mm", "hd95-v1", self.hd95),
            ("assd_mm", "assd-v1", self.assd),
        )


def surface_scores(
    truth_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm, tolerance_mm: float
) -> SurfaceScores:
    """All of them for one pair of masks."""
    box = common_box(truth_zyx, predicted_zyx)
    if box is None:
        return SurfaceScores()
    truth, predicted = (mask_surfaces(mask[box], truth_zyx.shape, spacing_zyx_mm) for mask in (truth_zyx, predicted_zyx))
    return scores_of(truth, predicted, spacing_zyx_mm, tolerance_mm)


def scores_of(truth: Surfaces, predicted: Surfaces, spacing_zyx_mm: TripleMm, tolerance_mm: float) -> SurfaceScores:
    """The same for surfaces; a mask without voxels has a surface without points."""
    one, other = truth.boundary, predicted.boundary
    if not len(one.points) and not len(other.points):
        return SurfaceScores()
    if not len(one.points) or not len(other.points):
        return SurfaceScores(nsd_area=0.0, nsd_voxel=0.0)
    there, back = distances(one, other, spacing_zyx_mm)
    area_there, area_back = distances(truth.area, predicted.area, spacing_zyx_mm)
    near = tolerance_mm * (1 + CLOSE)
    return SurfaceScores(
        nsd_area=_share_within(near, (area_there, truth.area.weights), (area_back, predicted.area.weights)),
        nsd_voxel=_share_within(near, (there, one.weights), (back, other.weights)),
        hd=float(max(there.max(), back.max())),
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float((there.sum() + back.sum()) / (len(there) + len(back))),
    )


def common_box(truth_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_]) -> Box | None:
    """The smallest box around both masks."""
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        seen = np.flatnonzero(truth_zyx.any(others) | predicted_zyx.any(others))
        if not len(seen):
            return None
        spans.append(slice(int(seen[0]), int(seen[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _share_within(near: float, *surfaces: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    whole = sum(float(weights.sum()) for _, weights in surfaces)
    return sum(float(weights[away <= near].sum()) for away, weights in surfaces) / whole if whole else nan


def boxes_of(label_zyx: NDArray[np.integer]) -> dict[int, Box]:
    """The box of every value but zero, in one pass."""
    from scipy import ndimage

    low, high = int(label_zyx.min(initial=0)), int(label_zyx.max(initial=0))
    if high - low > MOST_LABELS:  # the list below has a place for every number up to the highest
        values = [int(v) for v in np.unique(label_zyx) if v]
        each = ((value, label_zyx == value) for value in values)
        return {value: box for value, mask in each if (box := common_box(mask, mask)) is not None}
    shifted = label_zyx if low >= 0 else label_zyx - low + 1
    found = ndimage.find_objects(shifted)
    offset = 0 if low >= 0 else low - 1
    return {number + offset: (box[0], box[1], box[2]) for number, box in enumerate(found, 1) if box is not None}


def union_box(boxes: Sequence[Box | None]) -> Box | None:
    """The box around several."""
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    z, y, x = (slice(min(b[a].start for b in there), max(b[a].stop for b in there)) for a in range(3))
    return z, y, x


def target_boxes(truth_zyx: NDArray[np.integer], predicted_zyx: NDArray[np.integer], targets: Sequence[Target]) -> dict[str, Box | None]:
    """The box around each target in truth and prediction together; None where it is in neither."""
    both = boxes_of(truth_zyx), boxes_of(predicted_zyx)
    return {name: union_box([found.get(v) for found in both for v in values]) for name, values in targets}


def target_surfaces(
    truth_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    targets: Sequence[Target],
    spacing_zyx_mm: TripleMm,
    tolerances_mm: Sequence[float],
) -> dict[str, SurfaceScores]:
    """Every target's surface scores: each in the box of its own voxels, or all in one pass where those boxes cover each other."""
    tolerance = {name: mm for (name, _), mm in zip(targets, tolerances_mm, strict=True)}
    boxes = target_boxes(truth_zyx, predicted_zyx, targets)
    together = _together([target for target in targets if len(target[1]) == 1], boxes)
    scores = {name: SurfaceScores() for name, _ in targets}
    if together:
        box = union_box([boxes[name] for name, _ in together])
        assert box is not None, "targets that are taken together have voxels"
        values = [wanted[0] for _, wanted in together]
        truth, predicted = (label_surfaces(array[box], values, array.shape, spacing_zyx_mm) for array in (truth_zyx, predicted_zyx))
        for name, (value,) in together:
            scores[name] = scores_of(truth.pop(value), predicted.pop(value), spacing_zyx_mm, tolerance[name])
    done = {name for name, _ in together}
    for name, wanted in targets:
        box = boxes[name]
        if box is not None and name not in done:
            masks = (_any_of(array[box], wanted) for array in (truth_zyx, predicted_zyx))
            one, other = (mask_surfaces(mask, truth_zyx.shape, spacing_zyx_mm) for mask in masks)
            scores[name] = scores_of(one, other, spacing_zyx_mm, tolerance[name])
    return scores


def _together(targets: Sequence[Target], boxes: dict[str, Box | None]) -> list[tuple[str, tuple[int]]]:
    """Classes whose boxes overlap so much that one pass over all of them reads less; values that stand twice are taken apart."""
    there = {wanted[0]: (name, (wanted[0],)) for name, wanted in reversed(targets) if boxes[name] is not None}
    whole = union_box([boxes[name] for name, _ in there.values()])
    if whole is None or sum(_voxels(boxes[name]) for name, _ in there.values()) <= PASS_COST * _voxels(whole):
        return []
    return list(there.values())


def _voxels(box: Box | None) -> int:
    return 0 if box is None else prod(s.stop - s.start for s in box)


def _any_of(label_zyx: NDArray[np.integer], values: tuple[int, ...]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = label_zyx == values[0]
    for value in values[1:]:
        mask |= label_zyx == value
    return mask


def is_defined(value: float) -> bool:
    """Whether it is a number."""
    return not isnan(value)
