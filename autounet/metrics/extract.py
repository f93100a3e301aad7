"""The surfaces of masks: boundary voxels, and surface elements between voxel centres with their area.

One mask is looked at in its own box. Many classes of one label map are taken in one pass over the voxels: with sixty
classes that are scattered over a volume, sixty boxes would each be the whole volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.surfels import CORNERS, surfel_areas
from planners.fingerprint import TripleMm

SLAB = 2**22  # voxels that are looked at together: the comparisons of a slab stay in the cache

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Surface:
    """Points in voxel units of the box, and what each counts."""

    points: NDArray[np.int32]  # (n, 3)
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Surfaces:
    """Both kinds of one class."""

    boundary: Surface  # at voxel centres
    area: Surface  # at voxel corners, one step before the voxel of the same index


def mask_surfaces(mask: NDArray[np.bool_], shape: Sequence[int], spacing_zyx_mm: TripleMm) -> Surfaces:
    """Of a mask cut to its box; `shape` is that of the whole image, for a picture has no edge above and below."""
    return Surfaces(boundary_of(mask, shape), area_of(mask, spacing_zyx_mm))


def boundary_of(mask: NDArray[np.bool_], shape: Sequence[int]) -> Surface:
    """Voxels with a face towards the outside; beyond the box, and beyond the image, everything is outside."""
    inner = mask.copy()
    for axis in _axes_with_an_edge(shape):
        ahead, behind = _neighbours(axis)
        first, last = [slice(None)] * 3, [slice(None)] * 3
        first[axis], last[axis] = slice(0, 1), slice(-1, None)
        inner[behind] &= mask[ahead]
        inner[ahead] &= mask[behind]
        inner[tuple(first)] = False
        inner[tuple(last)] = False
    points = _positions(mask & ~inner)
    return Surface(points, np.ones(len(points)))


def area_of(mask: NDArray[np.bool_], spacing_zyx_mm: TripleMm) -> Surface:
    """Surface elements between voxel centres, with their area."""
    z, y, x = (edge + 1 for edge in mask.shape)
    padded = np.zeros((z + 1, y + 1, x + 1), np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask
    code = np.zeros((z, y, x), np.uint8)
    for bit, (dz, dy, dx) in enumerate(CORNERS):
        code |= padded[dz : dz + z, dy : dy + y, dx : dx + x] << bit
    points = _positions((code != 0) & (code != 255))
    return Surface(points, surfel_areas(spacing_zyx_mm)[code[tuple(points.T)]])


def label_surfaces(
    label_zyx: NDArray[np.integer], values: Sequence[int], shape: Sequence[int], spacing_zyx_mm: TripleMm
) -> dict[int, Surfaces]:
    """The surfaces of every one of these values, in one pass; none of them is outside of this box."""
    numbered = _numbered(label_zyx, values)
    boundary, boundary_number = _boundaries(numbered, _axes_with_an_edge(shape))
    cell, cell_number, code = _cells(numbered)
    areas = surfel_areas(spacing_zyx_mm)
    z, y, x = numbered.shape
    voxels = _grouped(boundary_number, len(values))
    cells = _grouped(cell_number, len(values))
    found = {}
    for number, value in enumerate(values):
        points = _unravelled(boundary[voxels[number]], (z, y, x)) - 1  # without the frame
        corners = _unravelled(cell[cells[number]], (z, y, x))
        found[value] = Surfaces(Surface(points, np.ones(len(points))), Surface(corners, areas[code[cells[number]]]))
    return found


def _numbered(label_zyx: NDArray[np.integer], values: Sequence[int]) -> NDArray[Any]:
    """Values numbered from 1 in their order, everything else 0, with a frame of 0."""
    kind = np.uint8 if len(values) < 255 else np.uint16
    framed = np.zeros([edge + 2 for edge in label_zyx.shape], kind)
    inside = framed[1:-1, 1:-1, 1:-1]
    low, high = min(values), max(values)
    if high - low < 2**16:
        table = np.zeros(high - low + 3, kind)  # the first and the last are for what is smaller and larger
        table[[value - low + 1 for value in values]] = np.arange(1, len(values) + 1)
        for z in range(len(label_zyx)):
            inside[z] = table[np.clip(label_zyx[z].astype(np.int64), low - 1, high + 1) - (low - 1)]
    else:
        for number, value in enumerate(values, 1):
            inside[label_zyx == value] = number
    return framed


def _boundaries(numbered: NDArray[Any], axes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Where boundary voxels lie in the framed array, and of which number they are."""
    places, numbers = [], []
    plane = numbered.shape[1] * numbered.shape[2]
    for start, stop in _slabs(numbered.shape):
        part = numbered[start:stop]
        middle = part[1:-1]
        edge = np.zeros(middle.shape, bool)
        for axis in axes:
            ahead, behind = _neighbours(axis)
            differs = part[ahead] != part[behind]
            if axis == 0:
                edge |= differs[1:]
                edge |= differs[:-1]
            else:
                edge[ahead] |= differs[1:-1]
                edge[behind] |= differs[1:-1]
        edge &= middle != 0
        flat = np.flatnonzero(edge)
        numbers.append(middle.reshape(-1)[flat])
        places.append(flat + (start + 1) * plane)
    return np.concatenate(places), np.concatenate(numbers)


def _cells(numbered: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.uint8]]:
    """Eight neighbouring centres that are not alike: where, for each number among them, and which of the eight have it."""
    places, numbers, codes = [], [], []
    _, y, x = numbered.shape
    for start, stop in _slabs(numbered.shape, overlap=1):
        part = numbered[start:stop]
        first = part[:-1, :-1, :-1]
        mixed = np.zeros(first.shape, bool)
        for dz, dy, dx in CORNERS[1:]:
            mixed |= part[dz : stop - start - 1 + dz, dy : y - 1 + dy, dx : x - 1 + dx] != first
        at_z, at_y, at_x = np.nonzero(mixed)
        flat = (at_z * y + at_y) * x + at_x
        around = [part.reshape(-1)[flat + (dz * y + dy) * x + dx] for dz, dy, dx in CORNERS]
        for corner, number in enumerate(around):
            new = number != 0
            for earlier in around[:corner]:
                new &= earlier != number
            kept = np.flatnonzero(new)
            own = number[kept]
            code = np.zeros(len(kept), np.uint8)
            for bit, other in enumerate(around):
                code |= (other[kept] == own).astype(np.uint8) << bit
            places.append(flat[kept] + start * y * x)
            numbers.append(own)
            codes.append(code)
    return np.concatenate(places), np.concatenate(numbers), np.concatenate(codes)


def _slabs(shape: Sequence[int], overlap: int = 2) -> list[tuple[int, int]]:
    """Ranges of slices; neighbours share `overlap` of them, so that every slice is once in the middle."""
    step = max(1, SLAB // (shape[1] * shape[2]))
    last = shape[0] - overlap
    return [(start, min(start + step, last) + overlap) for start in range(0, last, step)]


def _grouped(numbers: NDArray[Any], count: int) -> list[NDArray[np.int64]]:
    """Where each of the numbers 1 to count stands."""
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=count + 1))
    return [order[ends[number] : ends[number + 1]] for number in range(count)]


def _unravelled(flat: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int32]:
    return np.stack(np.unravel_index(flat, shape), 1).astype(np.int32)


def _positions(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return _unravelled(np.flatnonzero(mask), (mask.shape[0], mask.shape[1], mask.shape[2]))


def _axes_with_an_edge(shape: Sequence[int]) -> tuple[int, ...]:
    return (0, 1, 2) if shape[0] > 1 else (1, 2)


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    ahead, behind = [slice(None)] * 3, [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    return tuple(ahead), tuple(behind)
