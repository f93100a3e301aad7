"""Object by object, for cells and for what membranes part: touching objects told apart, matched and counted.

Definitions (objects join by faces, not by edges or corners: two cells that meet in a corner are two):
`pieces-v1` the objects of a mask are its connected pieces.
`watershed-v1` the objects of a mask whose cells touch: basins of the distance to the background, one for each of its peaks;
two basins are one object unless the pass between them is lower than 0.8 of the lower peak. Voxels of a border class part
objects and are given back to the nearest one.
`instances-v1` F1 of objects matched at an IoU above 0.5, where no object can be matched twice.
`instance-ap-v1` TP / (TP + FP + FN) of matched objects, mean over the IoU thresholds 0.50, 0.55, …, 0.95 (Data Science Bowl 2018).
"""

from dataclasses import dataclass
from itertools import product
from math import nan
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.boundaries import partition_scores, warping_error
from autounet.metrics.lesions import instance_f1, ious, overlaps, panoptic_quality
from planners.fingerprint import TripleMm

PASS = 0.8  # of the lower peak: a waist at least this wide is part of one object
AP_AT = tuple(number / 100 for number in range(50, 100, 5))

Objects = Literal["pieces", "numbered"]
OBJECTS: tuple[Objects, ...] = get_args(Objects)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScores:
    """Of one class in one case."""

    true: int
    predicted: int
    f1: float
    ap: float
    panoptic: float
    more: tuple[tuple[str, str, float], ...] = ()

    def rows(self) -> tuple[tuple[str, str, float], ...]:
        """(metric, definition, value)."""
        return (
            ("object_f1", "instances-v1", self.f1),
            ("object_ap", "instance-ap-v1", self.ap),
            ("object_panoptic_quality", "pq-v1", self.panoptic),
            ("objects_true", "instances-v1", float(self.true)),
            ("objects_predicted", "instances-v1", float(self.predicted)),
            *self.more,
        )


def object_scores(truth_zyx: NDArray[np.integer], predicted_zyx: NDArray[np.integer]) -> ObjectScores:
    """Two maps of numbered objects against each other; 0 is no object."""
    truth, trues = renumbered(truth_zyx)
    predicted, predictions = renumbered(predicted_zyx)
    table = overlaps(truth, predicted, trues, predictions)
    more = partition_scores(truth, predicted).rows()
    if truth.shape[0] == 1:  # a picture
        more += (("warping_error", "warping-v1", warping_error(truth[0] > 0, predicted[0] > 0)),)
    return ObjectScores(
        true=trues, predicted=predictions, f1=instance_f1(table), ap=average_precision(table), panoptic=panoptic_quality(table), more=more
    )


def average_precision(table: NDArray[np.int64]) -> float:
    """instance-ap-v1 of the voxels that true objects (rows) and predicted ones (columns) share."""
    trues, predictions = table.shape[0] - 1, table.shape[1] - 1
    if not trues and not predictions:
        return nan
    shares = ious(table)
    matched = [int((shares > threshold).sum()) for threshold in AP_AT]
    return float(np.mean([count / (trues + predictions - count) for count in matched]))


def renumbered(objects: NDArray[np.integer]) -> tuple[NDArray[Any], int]:
    """The same objects numbered from 1 without gaps."""
    values = np.unique(objects)
    values = values[values != 0]
    return np.where(objects == 0, 0, np.searchsorted(values, objects) + 1), len(values)


def touching_pieces(mask_zyx: NDArray[np.bool_]) -> NDArray[Any]:
    """pieces-v1."""
    from scipy import ndimage

    labelled, _ = ndimage.label(mask_zyx)
    return np.asarray(labelled)


def told_apart(mask_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm, border_zyx: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """watershed-v1."""
    from scipy import ndimage

    inside = mask_zyx if border_zyx is None else mask_zyx & ~border_zyx
    # A picture in its plane; a frame of background, or objects at the rim of the image would be highest there.
    flat = inside.shape[0] == 1
    depth_mm = np.pad(inside[0] if flat else inside, 1)
    relief = np.asarray(ndimage.distance_transform_edt(depth_mm, sampling=spacing_zyx_mm[1:] if flat else spacing_zyx_mm))
    basins = _basins(relief)
    found = _joined(basins, relief)[(slice(1, -1),) * relief.ndim]
    found = found[None] if flat else found
    return found if border_zyx is None else _given_back(found, mask_zyx | border_zyx, spacing_zyx_mm)


def _basins(relief: NDArray[Any]) -> NDArray[Any]:
    """Each voxel of the foreground by the number of the peak that the steepest way up leads to; the rim of the array is background."""
    heights = relief.ravel()
    places = np.flatnonzero(heights)
    best, up = heights[places], places.copy()
    for step in product((-1, 0, 1), repeat=relief.ndim):
        neighbour = places + int(
            np.ravel_multi_index([1 + s for s in step], relief.shape) - np.ravel_multi_index([1] * relief.ndim, relief.shape)
        )
        higher = heights[neighbour] > best
        best = np.where(higher, heights[neighbour], best)
        up = np.where(higher, neighbour, up)
    above = np.searchsorted(places, up)
    while not np.array_equal(further := above[above], above):
        above = further
    basins = np.zeros(heights.size, np.int64)
    basins[places] = np.unique(above, return_inverse=True)[1] + 1
    return basins.reshape(relief.shape)


def _joined(basins: NDArray[Any], relief: NDArray[Any]) -> NDArray[Any]:
    """Basins whose pass is hardly lower than their peaks become one, the highest pass first."""
    count = int(basins.max(initial=0))
    peak = np.zeros(count + 1)
    np.maximum.at(peak, basins.ravel(), relief.ravel())
    root = np.arange(count + 1)

    def root_of(basin: int) -> int:
        while root[basin] != basin:
            root[basin] = root[root[basin]]
            basin = int(root[basin])
        return basin

    for height, one, other in _passes(basins, relief):
        a, b = root_of(one), root_of(other)
        if a != b and height >= PASS * min(peak[a], peak[b]):
            low, high = sorted((a, b), key=lambda basin: peak[basin])
            root[low] = high
    joined: NDArray[Any] = np.asarray([root_of(basin) for basin in range(count + 1)], dtype=np.int64)[basins]
    return joined


def _passes(basins: NDArray[Any], relief: NDArray[Any]) -> list[tuple[float, int, int]]:
    """(height of the pass, basin, basin) of all that touch by faces, from high to low."""
    heights: dict[tuple[int, int], float] = {}
    for axis in range(basins.ndim):
        first, second = (np.moveaxis(basins, axis, 0)[part].ravel() for part in (slice(None, -1), slice(1, None)))
        level = np.minimum(*(np.moveaxis(relief, axis, 0)[part].ravel() for part in (slice(None, -1), slice(1, None))))
        meet = (first != second) & (first > 0) & (second > 0)
        for one, other, height in zip(first[meet].tolist(), second[meet].tolist(), level[meet].tolist(), strict=True):
            pair = (min(one, other), max(one, other))
            heights[pair] = max(heights.get(pair, 0.0), height)
    return sorted(((height, *pair) for pair, height in heights.items()), reverse=True)


def _given_back(objects_zyx: NDArray[Any], mask_zyx: NDArray[np.bool_], spacing_zyx_mm: TripleMm) -> NDArray[Any]:
    """Voxels of the border belong to the nearest object."""
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(objects_zyx == 0, sampling=spacing_zyx_mm, return_distances=False, return_indices=True)
    return np.asarray(np.where(mask_zyx, objects_zyx[tuple(nearest)], 0))
