"""From single slices to a volume: sorted by position, and refused where slices are missing, doubled, tilted or uneven.

The usual libraries stack whatever they find and report a spacing that is an average; everything behind a
missing slice then lies elsewhere.
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import atan2, degrees

import numpy as np
from numpy.typing import NDArray

from autounet.images.image import ReadOptions
from autounet.images.source import Named

SAME_DIRECTION = 1e-3  # of a cosine
SAME_PLACE = 0.01  # of the slice distance
UNEVEN = 0.01  # of the slice distance: more is another spacing
UNEVEN_ACCEPTED = 0.05  # … if the user accepts unusual geometry
TILT_PIXELS = 0.1  # sideways over the whole stack: less is rounding
FEW = 0.25  # of the images: so many of another direction are localizers


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One plane of pixels and where it lies (left, back, head positive)."""

    name: str  # of its file, as errors show it
    file: int  # number of its file in the series
    frame: int
    rows: int
    columns: int
    spacing_yx_mm: tuple[float, float] | None
    orientation: tuple[float, ...] | None  # direction of growing columns, then of growing rows
    position_lps: tuple[float, ...] | None
    slope: float
    intercept: float
    rescaled: bool  # the file says how
    localizer: bool = False
    thickness_mm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices in order, and the grid they form."""

    slices: tuple[Slice, ...]
    directions_lps: NDArray[np.float64]  # columns: growing x, y, z index, with the spacing in them
    origin_lps: NDArray[np.float64]
    lateral_yx_mm: tuple[float, float]  # how far each slice lies beside the one before, when tilted
    offsets_mm: tuple[float, ...]  # of each slice along the normal, from the first
    notes: tuple[str, ...]


def stack(where: Named, slices: tuple[Slice, ...], options: ReadOptions) -> Stack:
    """The slices in order along their normal, or an error that says which do not fit and how."""
    slices, notes = _without_localizers(where, slices)
    _check_same_grid(where, slices)
    row, column = (np.array(slices[0].orientation[i : i + 3]) for i in (0, 3)) if slices[0].orientation else (np.zeros(3), np.zeros(3))
    if abs(row @ column) > 0.01 or abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01:
        raise where.refuse(
            f"has ImageOrientationPatient {slices[0].orientation}, which holds no two perpendicular directions", "export the series again"
        )
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    slices = tuple(sorted(slices, key=lambda one: (float(normal @ np.array(one.position_lps)), one.file, one.frame)))
    positions = np.array([one.position_lps for one in slices])
    along = (positions - positions[0]) @ normal
    distance = _distance(where, slices, along, options)
    sideways = (positions - positions[0]) - along[:, None] * normal
    lateral = _lateral(where, slices, sideways @ np.stack([column, row]).T, along, options)
    assert slices[0].spacing_yx_mm is not None
    dy, dx = slices[0].spacing_yx_mm
    return Stack(
        slices=slices,
        directions_lps=np.stack([row * dx, column * dy, normal * distance], axis=1),
        origin_lps=positions[0],
        lateral_yx_mm=lateral,
        offsets_mm=tuple(float(v) for v in along),
        notes=notes,
    )


def straightened(volume_zyx: NDArray[np.float32], found: Stack) -> tuple[NDArray[np.float32], Stack]:
    """A tilted or uneven stack interpolated linearly onto the rectangular grid around it; beside the slices lies the lowest value."""
    dy, dx = np.linalg.norm(found.directions_lps[:, 1]), np.linalg.norm(found.directions_lps[:, 0])
    normal = found.directions_lps[:, 2] / np.linalg.norm(found.directions_lps[:, 2])
    offsets = np.array(found.offsets_mm)
    step = float(np.diff(offsets).min())
    intervals = max(1, round(float(offsets[-1]) / step))
    wanted = np.arange(intervals + 1) * (offsets[-1] / intervals)
    shift_yx = np.outer(offsets / (offsets[-1] or 1.0) * (len(offsets) - 1), found.lateral_yx_mm) / (dy, dx)
    low, high = np.floor(shift_yx.min(axis=0)).astype(int), np.ceil(shift_yx.max(axis=0)).astype(int)
    rows, columns = volume_zyx.shape[1] + high[0] - low[0], volume_zyx.shape[2] + high[1] - low[1]
    background = float(volume_zyx.min())
    shifted = np.stack(
        [_shifted(plane, shift - low, (rows, columns), background) for plane, shift in zip(volume_zyx, shift_yx, strict=True)]
    )
    even = np.empty((len(wanted), rows, columns), np.float32)
    for index, offset in enumerate(wanted):
        upper = int(np.clip(np.searchsorted(offsets, offset), 1, len(offsets) - 1))
        weight = float(np.clip((offset - offsets[upper - 1]) / (offsets[upper] - offsets[upper - 1]), 0, 1))
        even[index] = (1 - weight) * shifted[upper - 1] + weight * shifted[upper]
    directions = found.directions_lps.copy()
    directions[:, 2] = normal * (wanted[1] if len(wanted) > 1 else step)
    origin = found.origin_lps + directions[:, 0] * low[1] + directions[:, 1] * low[0]
    note = "a tilted or uneven series was interpolated onto a rectangular grid, as was asked"
    return even, replace(found, directions_lps=directions, origin_lps=origin, lateral_yx_mm=(0.0, 0.0), notes=(*found.notes, note))


def _shifted(plane: NDArray[np.float32], shift_yx: NDArray[np.float64], shape: tuple[int, int], background: float) -> NDArray[np.float32]:
    whole = np.floor(shift_yx).astype(int)
    fraction = shift_yx - whole
    out = np.full((shape[0] + 1, shape[1] + 1), 0.0, np.float32)
    weight = np.zeros_like(out)
    for down, share_y in ((0, 1 - fraction[0]), (1, fraction[0])):
        for right, share_x in ((0, 1 - fraction[1]), (1, fraction[1])):
            window = np.s_[whole[0] + down : whole[0] + down + plane.shape[0], whole[1] + right : whole[1] + right + plane.shape[1]]
            out[window] += np.float32(share_y * share_x) * plane
            weight[window] += np.float32(share_y * share_x)
    mixed: NDArray[np.float32] = (out + (1 - weight) * np.float32(background))[: shape[0], : shape[1]]
    return mixed


def _without_localizers(where: Named, slices: tuple[Slice, ...]) -> tuple[tuple[Slice, ...], tuple[str, ...]]:
    """The slices of the one direction that nearly all have; scouts under the same series are left out."""
    images = tuple(one for one in slices if not one.localizer) or slices
    unplaced = [one for one in images if one.position_lps is None or one.orientation is None]
    if unplaced:
        missing = "ImagePositionPatient" if unplaced[0].position_lps is None else "ImageOrientationPatient"
        raise where.refuse(
            f"holds a series in which {unplaced[0].name} has no {missing}, so its place in the stack is unknown",
            "export the series again with positions",
        )
    groups = Counter(_direction_key(images, one) for one in images)
    (main, count), *others = groups.most_common()
    if others and (others[0][1] > FEW * len(images) or count < 2):
        raise where.refuse(
            f"holds slices of {len(groups)} directions ({', '.join(str(n) for _, n in groups.most_common())} images)",
            "put each direction into its own folder",
        )
    kept = tuple(one for one in images if _direction_key(images, one) == main)
    left_out = len(slices) - len(kept)
    return kept, (f"{left_out} localizer images of another direction were left out",) if left_out else ()


def _direction_key(images: tuple[Slice, ...], one: Slice) -> int:
    """The first slice with the same direction."""
    for number, other in enumerate(images):
        assert one.orientation is not None
        assert other.orientation is not None
        if max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True)) <= SAME_DIRECTION:
            return number
    raise AssertionError


def _check_same_grid(where: Named, slices: tuple[Slice, ...]) -> None:
    first = slices[0]
    for one in slices:
        if (one.rows, one.columns) != (first.rows, first.columns):
            raise where.refuse(
                f"holds a series in which {one.name} has {one.columns} x {one.rows} pixels (Columns, Rows), "
                f"{first.name} has {first.columns} x {first.rows}",
                "put images of one size into each folder",
            )
        if one.spacing_yx_mm is None:
            raise where.refuse(
                f"holds a series in which {one.name} has no PixelSpacing",
                "export the series again, or set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml",
            )
        assert first.spacing_yx_mm is not None
        if max(abs(a - b) / max(b, 1e-9) for a, b in zip(one.spacing_yx_mm, first.spacing_yx_mm, strict=True)) > 1e-3:
            raise where.refuse(
                f"holds a series in which {one.name} has a PixelSpacing of {one.spacing_yx_mm} mm, "
                f"{first.name} of {first.spacing_yx_mm} mm",
                "put images of one spacing into each folder",
            )
        if min(one.spacing_yx_mm) <= 0:
            raise where.refuse(
                f"holds a series in which {one.name} has a PixelSpacing of {one.spacing_yx_mm} mm",
                "export the series again, or set spacing_zyx_mm = [z, y, x] under [dataset] in autounet.toml",
            )


def _distance(where: Named, slices: tuple[Slice, ...], along: NDArray[np.float64], options: ReadOptions) -> float:
    """The distance of neighbouring slices, which all have; 0 for a single slice."""
    steps = np.diff(along)
    if not len(steps):
        return 0.0
    moving = steps[steps > 1e-3]
    typical = float(np.median(moving)) if len(moving) else 0.0
    _check_doubles(where, slices, along, typical)
    if float(steps.max()) > 1.5 * typical and not options.resample_tilt:
        index = int(steps.argmax())
        missing = round(float(steps[index]) / typical) - 1
        raise where.refuse(
            f"holds a series in which {missing} slice{'s are' if missing > 1 else ' is'} missing between {slices[index].name} "
            f"at {along[index]:.2f} mm and {slices[index + 1].name} at {along[index + 1]:.2f} mm; the slices are {typical:.4g} mm apart",
            "copy the missing files from the archive",
        )
    allowed = UNEVEN_ACCEPTED if options.unusual_geometry else UNEVEN
    if float(np.abs(steps / typical - 1).max()) > allowed and not options.resample_tilt:
        kinds = Counter(round(float(step), 3) for step in steps)
        table = ", ".join(f"{count} x {step:g} mm" for step, count in sorted(kinds.items())[:8])
        raise where.refuse(
            f"holds a series in which the slices are unevenly spaced: {table}",
            "set resample_tilt = true under [dataset] in autounet.toml to interpolate them evenly",
        )
    return float(along[-1] / len(steps))


def _check_doubles(where: Named, slices: tuple[Slice, ...], along: NDArray[np.float64], typical: float) -> None:
    same = np.flatnonzero(np.diff(along) <= max(SAME_PLACE * typical, 1e-3))
    if not len(same):
        return
    places = Counter(np.cumsum(np.concatenate([[True], np.diff(along) > max(SAME_PLACE * typical, 1e-3)])).tolist())
    counts = set(places.values())
    if len(counts) == 1 and len(places) > 1:
        raise where.refuse(
            f"holds {counts.pop()} images at each of {len(places)} positions: several times or echoes in one series",
            "put each of them into its own folder",
        )
    first = int(same[0])
    raise where.refuse(
        f"holds a series in which {slices[first].name} and {slices[first + 1].name} lie at the same position ({along[first]:.2f} mm)",
        "remove the duplicate file",
    )


def _lateral(
    where: Named, slices: tuple[Slice, ...], sideways_yx: NDArray[np.float64], along: NDArray[np.float64], options: ReadOptions
) -> tuple[float, float]:
    """How far each slice lies beside the one before it (y, x); more than rounding is a tilted gantry."""
    spacing = slices[0].spacing_yx_mm
    assert spacing is not None
    if len(slices) < 2 or float(np.abs(sideways_yx / np.array(spacing)).max()) <= TILT_PIXELS:
        return 0.0, 0.0
    y, x = (float(v) for v in sideways_yx[-1] / (len(slices) - 1))
    even = np.outer(along / along[-1], sideways_yx[-1])
    if float(np.abs(sideways_yx - even).max()) > TILT_PIXELS * min(spacing) * 5:
        raise where.refuse(
            "holds a series in which the slices do not lie behind each other on one line", "put each stack into its own folder"
        )
    if not options.resample_tilt:
        angle = degrees(atan2(float(np.linalg.norm(sideways_yx[-1])), float(along[-1])))
        raise where.refuse(
            f"holds a series in which the slices are tilted by {angle:.2f} degrees (gantry tilt), so the volume is skewed",
            "set resample_tilt = true under [dataset] in autounet.toml to interpolate them onto a rectangular grid",
        )
    return y, x
