"""One pass over the voxels of one case: what check and measure need, read once."""

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.data import label_values
from autounet.data.dataset import Case, Dataset
from autounet.data.layouts.draft import note
from autounet.data.record import CaseRecord, ChannelRecord
from autounet.data.shapes import box_of, shapes
from autounet.data.sketch import Sketch, sketch
from autounet.data.voxels import read_stored
from autounet.images.orientation import orientation_of
from planners.fingerprint import Triple

Box = tuple[slice, slice, slice]
MOST_SAMPLED = 1 << 20  # voxels of a float image, spread evenly, whose distribution is looked at outside of the foreground


def examine(dataset: Dataset, case: Case) -> CaseRecord:
    """The record of one case; a file that cannot be read raises its UserError."""
    stored = read_stored(dataset, case)
    geometry, values = stored.geometry, stored.values_zyx
    problems = []
    box = _box(stored.image_czyx)
    if box is None:
        problems.append(note("empty_image", "every voxel of the image is 0; all of it is used", "an image", "look at the file"))
        box = _full(geometry.shape_zyx)
    ignore = dataset.labels.ignore
    inside = None if values is None else _inside(values, ignore)
    channels = tuple(_channel(image_zyx, box, inside) for image_zyx in stored.image_czyx)
    flat = [str(c) for c, channel in enumerate(channels) if channel.everywhere.low == channel.everywhere.high]
    if flat and not problems:
        problems.append(note("constant_image", f"channel {', '.join(flat)} has one value only", "an image", "look at the file"))
    counts = None if values is None else label_values.count(values)
    orientation = orientation_of(geometry)
    cropped = [b.stop - b.start for b in box]
    return CaseRecord(
        shape_zyx=geometry.shape_zyx,
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        orientation=orientation.code,
        canonical_shape_zyx=_turned(cropped, orientation.axes_zyx),
        canonical_spacing_zyx_mm=_turned(geometry.spacing_zyx_mm, orientation.axes_zyx),
        stored_axes=orientation.stored_axes,
        relative_size=float(np.prod(cropped, dtype=float) / np.prod(geometry.shape_zyx, dtype=float)),
        channels=channels,
        values=counts,
        shapes=() if values is None or counts is None else shapes(values, counts, geometry, ignore),
        problems=tuple(problems),
        notes=stored.notes,
    )


def _turned(stored: Any, axes_zyx: Triple) -> Any:
    return tuple(stored[axis] for axis in axes_zyx)


def _box(image_czyx: NDArray[Any]) -> Box | None:
    """What is not zero in any channel. The reference fills holes of the mask first, which does not move its box."""
    boxes = [b for b in (box_of(image_zyx) for image_zyx in image_czyx) if b is not None]
    if not boxes:
        return None
    z, y, x = (slice(min(b[a].start for b in boxes), max(b[a].stop for b in boxes)) for a in range(3))
    return z, y, x


def _full(shape_zyx: Triple) -> Box:
    z, y, x = (slice(0, n) for n in shape_zyx)
    return z, y, x


def _inside(values_zyx: NDArray[Any], ignore: int | None) -> tuple[Box, NDArray[np.bool_]] | None:
    """The foreground, as its box and the mask in it."""
    box = box_of(values_zyx)
    if box is None:
        return None
    part = values_zyx[box]
    return box, (part != 0) if ignore is None else (part != 0) & (part != ignore)


def _channel(image_zyx: NDArray[Any], box: Box, inside: tuple[Box, NDArray[np.bool_]] | None) -> ChannelRecord:
    cropped = image_zyx[box]
    foreground = image_zyx[:0] if inside is None else image_zyx[inside[0]][inside[1]]
    whole = image_zyx.dtype.kind in "iu" or bool((foreground == np.rint(foreground)).all() and _whole(cropped))
    return ChannelRecord(
        voxels_digest=_digest(image_zyx),
        whole_numbers=whole,
        everywhere=_everywhere(cropped),
        foreground=sketch(foreground),
    )


def _whole(image_zyx: NDArray[Any]) -> bool:
    sample = _sample(image_zyx)
    return bool((sample == np.rint(sample)).all())


def _everywhere(cropped_zyx: NDArray[Any]) -> Sketch:
    if cropped_zyx.dtype.kind in "iu" and cropped_zyx.dtype.itemsize <= 2:
        return sketch(cropped_zyx)
    found = sketch(_sample(cropped_zyx))
    return replace(found, count=int(cropped_zyx.size), low=float(cropped_zyx.min()), high=float(cropped_zyx.max()))


def _sample(image_zyx: NDArray[Any]) -> NDArray[Any]:
    flat = image_zyx.reshape(-1)
    return flat[:: max(1, flat.size // MOST_SAMPLED)]


def _digest(image_zyx: NDArray[Any]) -> str:
    data = np.ascontiguousarray(image_zyx)
    total = blake2b(f"{data.dtype.str} {data.shape}".encode(), digest_size=16)
    total.update(data.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
