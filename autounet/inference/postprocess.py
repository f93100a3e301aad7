"""Repairs of a mask that paid on held-out cases: keep the largest piece, drop small ones, fill holes, put sides right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry
from autounet.images.orientation import orient, orientation_of
from autounet.store.selection import PostStep
from planners.labels import Labels

APART = 5.0  # two sides lie this many of their own spreads apart; one structure cut in the middle, 3.5


def post_process(label_zyx: NDArray[Any], steps: Sequence[PostStep], labels: Labels, geometry: Geometry) -> NDArray[Any]:
    """All steps, in order; the input stays as it is."""
    if not steps:
        return label_zyx
    mended = label_zyx.copy()
    numbers = {c.name: number for number, c in enumerate(labels.classes)}
    for step in steps:
        if step.kind == "sides":
            put_sides_right(orient(mended, orientation_of(geometry)), numbers[step.target], numbers[step.partner], step.axis)
            continue
        box = bounding_box(mended == numbers[step.target])
        if box is not None:
            _mend(mended[box], numbers[step.target], step, float(np.prod(geometry.spacing_zyx_mm)), flat_axes(mended))
    return mended


def put_sides_right(canonical_zyx: NDArray[Any], lower: int, upper: int, axis: int) -> None:
    """Voxels of either class, divided where the two lie apart. Nothing happens when they do not: then one side is missing."""
    either = (canonical_zyx == lower) | (canonical_zyx == upper)
    cut = divide(np.count_nonzero(either, axis=tuple(a for a in range(3) if a != axis)))
    if cut is None:
        return
    whole: list[slice] = [slice(None)] * 3
    for number, part in ((lower, slice(None, cut)), (upper, slice(cut, None))):
        whole[axis] = part
        view = canonical_zyx[tuple(whole)]
        view[either[tuple(whole)]] = number


def divide(counts: NDArray[np.integer]) -> int | None:
    """The place on an axis that divides voxels into two heaps with the least spread inside; None when that is one heap."""
    places, total = np.arange(len(counts), dtype=np.float64), counts.astype(np.float64)
    below = np.cumsum(total)[:-1]
    above = total.sum() - below
    if not len(below) or not ((below > 0) & (above > 0)).any():
        return None
    moment = np.cumsum(total * places)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_below, mean_above = moment[:-1] / below, (moment[-1] - moment[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * (mean_above - mean_below) ** 2, -1.0)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    cut = int(best[len(best) // 2])  # the middle of the gap
    spread = np.sqrt(max(_spread(total[: cut + 1], places[: cut + 1]), _spread(total[cut + 1 :], places[cut + 1 :])) + 1 / 12)
    return cut + 1 if mean_above[cut] - mean_below[cut] > APART * spread else None


def _spread(counts: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    mean = (counts * places).sum() / counts.sum()
    return float((counts * (places - mean) ** 2).sum() / counts.sum())


def _mend(view_zyx: NDArray[Any], number: int, step: PostStep, voxel_mm3: float, flat: tuple[int, ...]) -> None:
    own = view_zyx == number
    if step.kind == "fill_holes":
        view_zyx[holes(own, flat) & (view_zyx == 0)] = number
        return
    pieces, count = components(own)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = np.zeros(count + 1, bool)
    if step.kind == "keep_largest":
        keep[sizes.argmax()] = True
    else:
        keep = sizes * voxel_mm3 >= step.minimum_mm3
    view_zyx[own & ~keep[pieces]] = 0


def flat_axes(image_zyx: NDArray[Any]) -> tuple[int, ...]:
    """Axes of one voxel: a picture encloses within its plane."""
    return tuple(axis for axis in range(3) if image_zyx.shape[axis] == 1)


def holes(mask_zyx: NDArray[np.bool_], flat: tuple[int, ...] = ()) -> NDArray[np.bool_]:
    """What the mask encloses: background that reaches no border of the array by its faces."""
    solid = mask_zyx.squeeze(flat) if len(flat) < 3 else mask_zyx
    try:
        import cc3d
    except ImportError:
        from scipy import ndimage

        slow: NDArray[np.bool_] = ndimage.binary_fill_holes(solid) & ~solid
        return slow.reshape(mask_zyx.shape)
    if not solid.size or solid.ndim == 1:  # a line encloses what lies between its ends
        return _between(solid).reshape(mask_zyx.shape)
    pieces = np.asarray(cc3d.connected_components(np.ascontiguousarray(~solid), connectivity=6 if solid.ndim == 3 else 4))
    outside = np.zeros(int(pieces.max(initial=0)) + 1, bool)
    for axis in range(solid.ndim):
        for end in (0, -1):
            outside[np.unique(pieces.take(end, axis))] = True
    outside[0] = True  # the mask itself
    enclosed: NDArray[np.bool_] = ~outside[pieces]
    return enclosed.reshape(mask_zyx.shape)


def _between(line: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_or.accumulate(line) & np.logical_or.accumulate(line[::-1])[::-1] & ~line


def components(mask_zyx: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    """Pieces that touch by face, edge or corner, numbered from 1."""
    try:
        import cc3d
    except ImportError:
        from scipy import ndimage

        labelled, count = ndimage.label(mask_zyx, np.ones((3,) * mask_zyx.ndim))
        return labelled, int(count)
    found = cc3d.connected_components(np.ascontiguousarray(mask_zyx), connectivity=26, return_N=True)
    return np.asarray(found[0]), int(found[1])


def bounding_box(mask_zyx: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box around what is true."""
    slices = []
    for axis in range(3):
        seen = np.flatnonzero(mask_zyx.any(tuple(a for a in range(3) if a != axis)))
        if not len(seen):
            return None
        slices.append(slice(int(seen[0]), int(seen[-1]) + 1))
    return slices[0], slices[1], slices[2]
