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
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.surfels import CORNERS, surfel_areas
from planners.fingerprint import TripleMm

CLOSE = 1e-5  # of a distance, in relation: what single precision makes of two that are equal
TREE_COST = 150  # a point asked of a search tree costs as much as so many voxels of a distance map

Box = tuple[slice, slice, slice]


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


@dataclass(frozen=True, slots=True)
class Surface:
    """Points in voxel units of the box, and what each counts."""

    points: NDArray[np.int32]  # (n, 3)
    weights: NDArray[np.float64]


def surface_scores(
    truth_zyx: NDArray[np.bool_], predicted_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm, tolerance_mm: float
) -> SurfaceScores:
    """All of them for one pair of masks."""
    box = common_box(truth_zyx, predicted_zyx)
    if box is None:
        return SurfaceScores()
    truth, predicted = truth_zyx[box], predicted_zyx[box]
    if not truth.any() or not predicted.any():
        return SurfaceScores(nsd_area=0.0, nsd_voxel=0.0)
    one, other = _boundary(truth, box, truth_zyx.shape), _boundary(predicted, box, truth_zyx.shape)
    there, back = distances(one, other, spacing_zyx_mm)
    near = tolerance_mm * (1 + CLOSE)
    areas = [_area_surface(mask, spacing_zyx_mm) for mask in (truth, predicted)]
    area_there, area_back = distances(areas[0], areas[1], spacing_zyx_mm)
    return SurfaceScores(
        nsd_area=_share_within(near, (area_there, areas[0].weights), (area_back, areas[1].weights)),
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


def distances(one: Surface, other: Surface, spacing_zyx_mm: TripleMm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each point to the nearest of the other surface, both ways; by search trees or distance maps, whichever is cheaper."""
    box = np.maximum(one.points.max(0), other.points.max(0)) + 1
    if 2 * int(box.prod()) < TREE_COST * (len(one.points) + len(other.points)):
        return _mapped(one, other, box, spacing_zyx_mm), _mapped(other, one, box, spacing_zyx_mm)
    from scipy.spatial import cKDTree

    mine, theirs = one.points * np.asarray(spacing_zyx_mm), other.points * np.asarray(spacing_zyx_mm)
    return np.asarray(cKDTree(theirs).query(mine)[0]), np.asarray(cKDTree(mine).query(theirs)[0])


def _mapped(asking: Surface, asked: Surface, box: NDArray[Any], spacing_zyx_mm: TripleMm) -> NDArray[np.float64]:
    away = np.ones(box, bool)
    away[tuple(asked.points.T)] = False
    distance = distance_map(away, spacing_zyx_mm)
    found: NDArray[np.float64] = distance[tuple(asking.points.T)].astype(np.float64)
    return found


def distance_map(away_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm) -> NDArray[Any]:
    """From each true voxel to the nearest false one."""
    try:
        import edt
    except ImportError:
        from scipy import ndimage

        mapped: NDArray[Any] = ndimage.distance_transform_edt(away_zyx, spacing_zyx_mm)
        return mapped
    return np.asarray(edt.edt(away_zyx, anisotropy=spacing_zyx_mm, black_border=False, parallel=1))


def _boundary(mask: NDArray[np.bool_], box: Box, shape: Sequence[int]) -> Surface:
    """Voxels with a face towards the outside; beyond the box, and beyond the image, everything is outside."""
    inner = mask.copy()
    for axis in range(3):
        first, last = [slice(None)] * 3, [slice(None)] * 3
        first[axis], last[axis] = slice(0, 1), slice(-1, None)
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        inner[tuple(behind)] &= mask[tuple(ahead)]
        inner[tuple(ahead)] &= mask[tuple(behind)]
        inner[tuple(first)] = False
        inner[tuple(last)] = False
    if mask.shape[0] == 1 and shape[0] == 1:  # a picture has an edge in its plane, not above and below
        inner = mask.copy()
        for axis in (1, 2):
            plane = np.zeros_like(mask)
            middle: list[slice] = [slice(None)] * 3
            middle[axis] = slice(1, -1)
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(2, None), slice(None, -2)
            plane[tuple(middle)] = mask[tuple(ahead)] & mask[tuple(behind)]
            inner &= plane
    points = _positions(mask & ~inner)
    return Surface(points, np.ones(len(points)))


def _area_surface(mask: NDArray[np.bool_], spacing_zyx_mm: TripleMm) -> Surface:
    """Surface elements between voxel centres, with their area."""
    z, y, x = (edge + 1 for edge in mask.shape)
    padded = np.zeros((z + 1, y + 1, x + 1), np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask
    code = np.zeros((z, y, x), np.uint8)
    for bit, (dz, dy, dx) in enumerate(CORNERS):
        code |= padded[dz : dz + z, dy : dy + y, dx : dx + x] << bit
    points = _positions((code != 0) & (code != 255))
    return Surface(points, surfel_areas(spacing_zyx_mm)[code[tuple(points.T)]])


def _positions(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    flat = np.flatnonzero(mask)
    return np.stack(np.unravel_index(flat, mask.shape), 1).astype(np.int32)


def _share_within(near: float, *surfaces: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    whole = sum(float(weights.sum()) for _, weights in surfaces)
    return sum(float(weights[away <= near].sum()) for away, weights in surfaces) / whole if whole else nan


def boxes_of(label_zyx: NDArray[np.integer]) -> dict[int, Box]:
    """The box of every value but zero, in one pass."""
    from scipy import ndimage

    low = int(label_zyx.min(initial=0))
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


def target_surfaces(
    truth_zyx: NDArray[np.integer],
    predicted_zyx: NDArray[np.integer],
    targets: Sequence[tuple[str, tuple[int, ...]]],
    spacing_zyx_mm: TripleMm,
    tolerances_mm: Sequence[float],
) -> dict[str, SurfaceScores]:
    """Every target's surface scores; each is looked at in the box of its own voxels only."""
    true_boxes, predicted_boxes = boxes_of(truth_zyx), boxes_of(predicted_zyx)
    scores = {}
    for (name, values), tolerance in zip(targets, tolerances_mm, strict=True):
        box = union_box([boxes.get(v) for boxes in (true_boxes, predicted_boxes) for v in values])
        if box is None:
            scores[name] = SurfaceScores()
            continue
        truth, predicted = _any_of(truth_zyx[box], values), _any_of(predicted_zyx[box], values)
        scores[name] = surface_scores(truth, predicted, spacing_zyx_mm, tolerance)
    return scores


def _any_of(label_zyx: NDArray[np.integer], values: tuple[int, ...]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = label_zyx == values[0]
    for value in values[1:]:
        mask |= label_zyx == value
    return mask


def is_defined(value: float) -> bool:
    """Whether it is a number."""
    return not isnan(value)
