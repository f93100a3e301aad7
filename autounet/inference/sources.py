"""Where tiles come from: a prepared array in memory, or the stored voxels themselves when their grid already is the network's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.crop import inside_mask
from autounet.arrays.frame import Frame
from autounet.arrays.normalise import Scaling, Voxels, scaling_of
from autounet.arrays.prepare import frame_of, prepare_arrays
from autounet.images.geometry import Geometry
from autounet.inference.sweep import ArraySource, TileSource
from planners.fingerprint import Triple
from planners.plan import Configuration, Plan


@dataclass(frozen=True, slots=True)
class StoredSource:
    """Stored voxels, normalised tile by tile: a slide of bytes never becomes four times as many bytes of floats."""

    image_czyx: NDArray[Any]  # the crop on working axes, as a view
    scalings: tuple[Scaling, ...]
    inside_zyx: tuple[NDArray[np.bool_] | None, ...]

    @property
    def shape_zyx(self) -> Triple:
        """The network grid, which is the stored one."""
        z, y, x = self.image_czyx.shape[1:]
        return z, y, x

    def read(self, box_zyx: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """The normalised box."""
        tile = np.array(self.image_czyx[(slice(None), *box_zyx)], np.float32, order="C")
        for channel, scaling, inside in zip(tile, self.scalings, self.inside_zyx, strict=True):
            scaling.apply(channel, None if inside is None else inside[box_zyx])
        return tile


def source_of(
    image_czyx: NDArray[Any], geometry: Geometry, plan: Plan, configuration: Configuration, threads: int
) -> tuple[TileSource, Frame]:
    """The image as a configuration wants it, and how it came to be so."""
    frame = frame_of(image_czyx, geometry, plan, configuration)
    if frame.shape_zyx == frame.cropped_shape_zyx:
        return _stored(image_czyx, frame, plan), frame
    prepared = prepare_arrays(image_czyx, None, geometry, plan, configuration, threads=threads)
    return ArraySource(prepared.image_czyx), prepared.frame


def _stored(image_czyx: NDArray[Any], frame: Frame, plan: Plan) -> StoredSource:
    view = frame.cropped_view(image_czyx)
    inside = inside_mask(view) if any(channel.mask_outside for channel in plan.channels) else None
    masks = tuple(inside if channel.mask_outside else None for channel in plan.channels)
    scalings = []
    for channel, voxels, mask in zip(plan.channels, view, masks, strict=True):
        # Statistics go through the first axis in blocks, and a picture has but one slice: its rows take their place.
        flat = voxels.shape[0] == 1
        rows = voxels.transpose(1, 0, 2) if flat else voxels
        scalings.append(scaling_of(channel, Voxels(rows, mask.transpose(1, 0, 2) if flat and mask is not None else mask)))
    return StoredSource(view, tuple(scalings), masks)
