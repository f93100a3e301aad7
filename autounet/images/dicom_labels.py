"""Labels that come as DICOM: structure sets of contours and segmentation objects, painted onto the grid of their image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.dicom_files import dataset_of, items, numbers, pydicom, whole
from autounet.images.dicom_pixels import decoded, transfer_syntax
from autounet.images.geometry import Geometry
from autounet.images.image import DEFAULT, ReadOptions
from autounet.images.placement import index_of_lps
from autounet.images.polygon import fill_even_odd
from autounet.images.source import Source, printable

Masks = dict[str, NDArray[np.bool_]]
OFF_PLANE = 0.25  # of the slice distance: a contour farther from every slice was drawn on another series
OFF_GRID = 0.1  # of a voxel
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_HALF = 0.5  # of the largest value of a fractional segmentation


def label_names(path: Path, options: ReadOptions = DEFAULT) -> tuple[str, ...]:
    """The structures in an RTSTRUCT or the segments in a DICOM segmentation, in their order."""
    with dataset_of(path, options, pixels=False) as (source, dataset):
        if "StructureSetROISequence" in dataset:
            return tuple(_structure_names(source, dataset).values())
        return tuple(_segment_names(source, dataset).values())


def read_rtstruct(path: Path, geometry: Geometry, names: Sequence[str] | None = None, options: ReadOptions = DEFAULT) -> Masks:
    """The structures (all, or those named) as masks (zyx) on the grid: a voxel is inside when its centre is."""
    with dataset_of(path, options, pixels=False) as (source, dataset):
        if "StructureSetROISequence" not in dataset:
            raise source.refuse("is no structure set (RTSTRUCT)", "pass the file that holds the contours")
        wanted = {number: name for number, name in _structure_names(source, dataset).items() if names is None or name in names}
        contours = {
            whole(source, item, "ReferencedROINumber"): items(source, item, "ContourSequence")
            for item in items(source, dataset, "ROIContourSequence")
        }
        to_index = index_of_lps(geometry)
        masks = {name: _painted(source, name, contours.get(number, []), geometry, to_index) for number, name in wanted.items()}
    return masks


def read_dicom_seg(path: Path, geometry: Geometry, names: Sequence[str] | None = None, options: ReadOptions = DEFAULT) -> Masks:
    """The segments (all, or those named) as masks (zyx) on the grid; a fractional one where it is at least one half."""
    with dataset_of(path, options) as (source, dataset):
        if "SegmentSequence" not in dataset:
            raise source.refuse("is no DICOM segmentation", "pass the file that holds the segments")
        wanted = {number: name for number, name in _segment_names(source, dataset).items() if names is None or name in names}
        masks = {name: np.zeros(geometry.shape_zyx, np.bool_) for name in wanted.values()}
        for index_zyx, values, segment in _segment_frames(source, dataset, geometry):
            for number, name in wanted.items():
                if segment in (None, number):
                    chosen = values == number if segment is None else values
                    masks[name][tuple(axis[chosen] for axis in index_zyx)] = True
    return masks


def _structure_names(source: Source, dataset: Any) -> dict[int, str]:
    numbered = [(whole(source, item, "ROINumber"), item) for item in items(source, dataset, "StructureSetROISequence")]
    found = {number: str(item.get("ROIName") or f"ROI {number}").strip() for number, item in numbered}
    return _once(source, found, "structures")


def _segment_names(source: Source, dataset: Any) -> dict[int, str]:
    found = {}
    for item in items(source, dataset, "SegmentSequence"):
        number = whole(source, item, "SegmentNumber")
        if number:  # 0 is a label map's background
            found[number] = str(item.get("SegmentLabel") or f"segment {number}").strip()
    return _once(source, found, "segments")


def _once(source: Source, names: dict[int, str], kind: str) -> dict[int, str]:
    if not names:
        raise source.refuse(f"holds no {kind}", "export it again, or leave it out")
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    # Names that say nothing apart are told apart by their number.
    return {number: f"{name} {number}" if name in twice else name for number, name in names.items()}


def _painted(source: Source, name: str, contours: Any, geometry: Geometry, to_index: NDArray[np.float64]) -> NDArray[np.bool_]:
    by_slice: dict[int, list[NDArray[np.float64]]] = {}
    outside = 0
    for contour in contours:
        if str(contour.get("ContourGeometricType", "")) not in _CLOSED:
            continue
        index_xyz = _points(source, name, contour) @ to_index[:3, :3].T + to_index[:3, 3]
        z = float(index_xyz[:, 2].mean())
        if float(np.abs(index_xyz[:, 2] - z).max()) > OFF_PLANE:
            raise source.refuse(
                f"holds a contour of {printable(name, 60)!r} that is not parallel to the image's slices", "pass the series it was drawn on"
            )
        if abs(z - round(z)) > OFF_PLANE:
            raise source.refuse(
                f"holds a contour of {printable(name, 60)!r} between two slices of the image (at slice {z:.2f})",
                "pass the series it was drawn on",
            )
        if 0 <= round(z) < geometry.shape_zyx[0]:
            by_slice.setdefault(round(z), []).append(index_xyz[:, :2])
        else:
            outside += 1
    if outside and not by_slice:
        raise source.refuse(f"holds contours of {printable(name, 60)!r} that all lie outside the image", "pass the series it was drawn on")
    mask_zyx = np.zeros(geometry.shape_zyx, np.bool_)
    for z_index, in_slice in by_slice.items():
        mask_zyx[z_index] = fill_even_odd(geometry.shape_zyx[1:], in_slice)
    return mask_zyx


def _points(source: Source, name: str, contour: Any) -> NDArray[np.float64]:
    try:
        points = np.array([float(v) for v in contour.get("ContourData") or []])
    except ValueError:
        points = np.array([np.nan])
    if not len(points) or len(points) % 3 or not np.isfinite(points).all():
        raise source.refuse(f"holds a contour of {printable(name, 60)!r} whose points are no triples of numbers", "export it again")
    return points.reshape(-1, 3)


def _segment_frames(
    source: Source, dataset: Any, geometry: Geometry
) -> Iterator[tuple[tuple[NDArray[np.int64], ...], NDArray[Any], int | None]]:
    """For each frame the voxels (z, y, x) of its pixels that are set, their values, and its segment (None: the values are the segments)."""
    frames = _stored_segments(source, dataset)
    groups = items(source, dataset, "PerFrameFunctionalGroupsSequence")
    if len(groups) != len(frames):
        raise source.refuse(f"describes {len(groups)} of {len(frames)} frames", "export it again")
    shared = (items(source, dataset, "SharedFunctionalGroupsSequence") or [None])[0]
    for pixels_yx, group in zip(frames, groups, strict=True):
        segment = None
        if not _is_labelmap(dataset):
            identity = _group(source, (group, shared), "SegmentIdentificationSequence")
            if identity is None:
                raise source.refuse("does not say to which segment a frame belongs", "export it again")
            segment = whole(source, identity, "ReferencedSegmentNumber")
        index_xyz = _voxel_indices(source, (group, shared), geometry, pixels_yx)
        inside = ((index_xyz >= 0) & (index_xyz < np.array(geometry.shape_zyx[::-1])[:, None])).all(axis=0)
        if inside.size and not inside.any():
            raise source.refuse("holds a frame that lies outside the image", "pass the series it was drawn on")
        x, y, z = index_xyz[:, inside]
        yield (z, y, x), pixels_yx[pixels_yx != 0][inside], segment


def _voxel_indices(source: Source, groups: tuple[Any, Any], geometry: Geometry, pixels_yx: NDArray[Any]) -> NDArray[np.int64]:
    """Where pixels of a frame lie on the image's grid (3, n); the frame must be on that grid, turned as it may be."""
    (rows, columns), shape = np.nonzero(pixels_yx), pixels_yx.shape
    position, orientation, measures = (
        _group(source, groups, name) for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    if position is None:
        if geometry.shape_zyx == (1, *shape):
            return np.stack([columns, rows, np.zeros_like(rows)])
        raise source.refuse("has a frame without a position", "pass the series it was drawn on, or export it again")
    origin = numbers(source, position, "ImagePositionPatient", 3)
    cosines = numbers(source, orientation, "ImageOrientationPatient", 6) if orientation is not None else None
    spacing = numbers(source, measures, "PixelSpacing", 2) if measures is not None else None
    if origin is None or cosines is None or spacing is None:
        raise source.refuse("has a frame without position, orientation or PixelSpacing", "export it again")
    to_index = index_of_lps(geometry)
    first = to_index[:3, :3] @ np.array(origin) + to_index[:3, 3]
    across = to_index[:3, :3] @ (np.array(cosines[:3]) * spacing[1])
    down = to_index[:3, :3] @ (np.array(cosines[3:]) * spacing[0])
    last = first + across * (shape[1] - 1) + down * (shape[0] - 1)
    # Rounded steps must meet the grid at the first pixel and, after all their rounding, at the last.
    steps = np.round(across), np.round(down)
    rounded = np.round(first) + steps[0] * (shape[1] - 1) + steps[1] * (shape[0] - 1)
    if max(float(np.abs(first - np.round(first)).max()), float(np.abs(last - rounded).max())) > OFF_PLANE or sorted(
        np.abs([*steps[0], *steps[1]]).tolist()
    ) != [0, 0, 0, 0, 1, 1]:
        raise source.refuse("lies on another grid than the image", "pass the series it was drawn on, or resample it")
    found: NDArray[np.int64] = (np.round(first)[:, None] + steps[0][:, None] * columns + steps[1][:, None] * rows).astype(np.int64)
    return found


def _stored_segments(source: Source, dataset: Any) -> NDArray[Any]:
    """The frames (frame, y, x): of a label map its values, else true where the segment is."""
    frames, rows, columns = whole(source, dataset, "NumberOfFrames", 1), whole(source, dataset, "Rows"), whole(source, dataset, "Columns")
    bits, data = whole(source, dataset, "BitsAllocated"), dataset.get("PixelData")
    if bits not in (1, 8, 16):
        raise source.refuse(f"has pixels of {bits} bits (BitsAllocated)", "export it again")
    if not isinstance(data, bytes):
        raise source.refuse("holds no pixels (PixelData)", "export it again")
    syntax = transfer_syntax(dataset)
    count = frames * rows * columns
    if count > 2**33:
        raise source.refuse(f"declares {frames} frames of {columns} x {rows} pixels", "check its header")
    if syntax and pydicom().uid.UID(syntax).is_compressed and not pydicom().uid.UID(syntax).is_deflated:
        flat = decoded(source, dataset, syntax).reshape(-1)
    elif bits == 1:
        flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    else:
        flat = np.frombuffer(data, np.dtype(f"<u{bits // 8}"))
    if len(flat) < count:
        raise source.refuse(f"holds {len(flat):,} of {count:,} pixels", "copy the file again, it was cut")
    pixels = flat[:count].reshape(frames, rows, columns)
    if _is_labelmap(dataset):
        return pixels
    highest = whole(source, dataset, "MaximumFractionalValue", 1) if str(dataset.get("SegmentationType", "")) == "FRACTIONAL" else 1
    set_pixels: NDArray[np.bool_] = pixels >= _HALF * highest
    return set_pixels


def _is_labelmap(dataset: Any) -> bool:
    return str(dataset.get("SegmentationType", "")) == "LABELMAP"


def _group(source: Source, holders: tuple[Any, Any], name: str) -> Any:
    """The one item of a functional group: the frame's own, else the one all frames share."""
    for holder in holders:
        if holder is not None and (found := items(source, holder, name)):
            return found[0]
    return None
