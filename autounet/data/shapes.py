"""The shape of each class in one label map: volume, pieces, extent, how long it is, where it lies."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.data.label_values import ValueCounts
from autounet.images.geometry import Geometry
from autounet.images.orientation import orientation_of
from planners.fingerprint import TripleMm

MOST_VALUES = 300  # a map with more values numbers objects, not classes
MOST_POINTS = 20_000  # of a class, for its principal axes
MOST_SEARCHED = 1 << 22  # voxels of a class's box that are searched for these points
LARGE = 1 << 26  # voxels; beyond, classes are labelled one by one to bound the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShape:
    """One value of the label in one case. Millimetres are along canonical axes z, y, x; positions are in the patient."""

    value: int
    voxels: int
    components: int
    smallest_component_voxels: int
    extent_zyx_mm: TripleMm
    elongation: float
    centre_xyz_mm: TripleMm
    spread_mm: float  # root mean square distance from the centre


def shapes(values_zyx: NDArray[Any], counts: ValueCounts, geometry: Geometry, ignore: int | None) -> tuple[ClassShape, ...]:
    """The shape of every value but background and ignore."""
    wanted = [(v, n) for v, n in zip(counts.values, counts.voxels, strict=True) if v not in (0, ignore)]
    if not wanted or len(wanted) > MOST_VALUES:
        return ()
    numbered, start = _numbered(values_zyx, [v for v, _ in wanted])
    boxes = _boxes(numbered, len(wanted))
    pieces = _pieces(numbered, boxes)
    out = []
    for number, (value, voxels) in enumerate(wanted, start=1):
        box = boxes[number - 1]
        points_zyx = _points(numbered[box], number) + np.array([b.start for b in box]) + start
        count, smallest = pieces[number - 1]
        centre, elongation, spread = _axes(points_zyx, geometry)
        out.append(
            ClassShape(
                value=value,
                voxels=voxels,
                components=count,
                smallest_component_voxels=smallest,
                extent_zyx_mm=_extent(box, geometry),
                elongation=elongation,
                centre_xyz_mm=centre,
                spread_mm=spread,
            )
        )
    return tuple(out)


def box_of(mask_source_zyx: NDArray[Any]) -> tuple[slice, slice, slice] | None:
    """The bounding box of what is not zero, found from outside, plane by plane; None when all is zero."""
    box = [slice(0, n) for n in mask_source_zyx.shape]
    for axis in range(3):
        view = np.moveaxis(mask_source_zyx[tuple(box)], axis, 0)
        first = next((i for i in range(len(view)) if view[i].any()), None)
        if first is None:
            return None
        last = next(i for i in range(len(view) - 1, -1, -1) if view[i].any())
        box[axis] = slice(first, last + 1)
    z, y, x = box
    return z, y, x


def _numbered(values_zyx: NDArray[Any], wanted: list[int]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The part of the map that is not background, with the wanted values as 1, 2, 3 …, and where it begins."""
    box = box_of(values_zyx)
    assert box is not None
    part = values_zyx[box]
    kind = np.uint8 if len(wanted) < 256 else np.uint16
    low, high = int(part.min()), int(part.max())
    if part.dtype == kind and wanted == list(range(1, len(wanted) + 1)) and high == len(wanted):
        numbered = part
    elif high - low < 1 << 20:
        table = np.zeros(high - low + 1, kind)
        table[np.array(wanted) - low] = np.arange(1, len(wanted) + 1)
        numbered = table[part if low == 0 and part.dtype.kind == "u" else part.astype(np.intp) - low]
    else:
        numbered = np.zeros(part.shape, kind)
        for number, value in enumerate(wanted, start=1):
            numbered[part == value] = number
    return np.ascontiguousarray(numbered), np.array([b.start for b in box])


def _boxes(numbered: NDArray[Any], count: int) -> list[tuple[slice, slice, slice]]:
    from scipy import ndimage

    found = ndimage.find_objects(numbered, max_label=count)
    return [(box[0], box[1], box[2]) for box in found if box is not None]


def _pieces(numbered: NDArray[Any], boxes: list[tuple[slice, slice, slice]]) -> list[tuple[int, int]]:
    """Connected pieces (corners touch) of each class: how many, and the voxels of the smallest."""
    library = _component_library()
    if library is not None and numbered.size <= LARGE:
        pieces = library.connected_components(numbered, connectivity=26)
        return _sizes(numbered, pieces, len(boxes))
    out = []
    for number, box in enumerate(boxes, start=1):
        mask = numbered[box] == number
        sizes = np.bincount(_labelled(mask, library).ravel())[1:]
        out.append((int(sizes.size), int(sizes.min())))
    return out


def _sizes(numbered: NDArray[Any], pieces: NDArray[Any], classes: int) -> list[tuple[int, int]]:
    flat, owner = pieces.reshape(-1), numbered.reshape(-1)
    sizes = np.zeros(int(flat.max()) + 1, np.int64)
    for start in range(0, flat.size, 1 << 18):
        block = np.bincount(flat[start : start + (1 << 18)])
        sizes[: block.size] += block
    of_piece = np.zeros(sizes.size, owner.dtype)
    of_piece[flat] = owner
    out = []
    for number in range(1, classes + 1):
        own = sizes[1:][of_piece[1:] == number]
        out.append((int(own.size), int(own.min()) if own.size else 0))
    return out


def _labelled(mask: NDArray[np.bool_], library: ModuleType | None) -> NDArray[Any]:
    if library is not None:
        labelled: NDArray[Any] = library.connected_components(mask, connectivity=26)
        return labelled
    from scipy import ndimage

    found: NDArray[Any] = ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]
    return found


def _component_library() -> ModuleType | None:
    """The fast one where it is installed."""
    try:
        import cc3d
    except ImportError:
        return None
    module: ModuleType = cc3d
    return module


def _points(numbered: NDArray[Any], number: int) -> NDArray[np.float64]:
    """Positions of the voxels of a class, every n-th when they are many."""
    step = max(1, round((numbered.size / MOST_SEARCHED) ** (1 / 3)))
    mask_zyx = numbered[::step, ::step, ::step] == number
    if step > 1 and np.count_nonzero(mask_zyx) < MOST_POINTS // 10:  # too thin for a coarse look
        step, mask_zyx = 1, numbered == number
    flat = np.flatnonzero(mask_zyx)
    flat = flat[:: max(1, flat.size // MOST_POINTS)]
    points: NDArray[np.float64] = np.stack(np.unravel_index(flat, mask_zyx.shape), axis=1).astype(np.float64) * step
    return points


def _axes(points_zyx: NDArray[np.float64], geometry: Geometry) -> tuple[TripleMm, float, float]:
    """Centre, longest over middle principal axis, and spread of voxels in millimetres."""
    world = geometry.world_mm(points_zyx[:, ::-1])
    centre = world.mean(axis=0)
    away = world - centre
    spacing = np.array(geometry.spacing_zyx_mm)
    # A voxel is a box, not a point: without its own extent a thin line would be infinitely long.
    covariance = np.einsum("ni,nj->ij", away, away) / len(away) + np.eye(3) * float((spacing**2).mean() / 12)
    lengths = np.sqrt(np.sort(np.linalg.eigvalsh(covariance))[::-1])
    if geometry.shape_zyx[0] == 1:  # of a picture the third axis is nothing
        lengths = lengths[:2]
    x, y, z = (float(v) for v in centre)
    return (x, y, z), float(lengths[0] / max(lengths[1], 1e-9)), float(np.sqrt((away**2).sum(axis=1).mean()))


def _extent(box: tuple[slice, slice, slice], geometry: Geometry) -> TripleMm:
    """The edges of a box on canonical axes."""
    stored = [(b.stop - b.start) * s for b, s in zip(box, geometry.spacing_zyx_mm, strict=True)]
    z, y, x = (stored[axis] for axis in orientation_of(geometry).axes_zyx)
    return float(z), float(y), float(x)
