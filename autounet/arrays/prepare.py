"""One case from its stored voxels to what a network sees, all at once or slice by slice."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.crop import Box, inside_mask, nonzero_box
from autounet.arrays.frame import Frame, working_view
from autounet.arrays.labels import LabelStream, axis_neighbours
from autounet.arrays.normalise import Scaling, Voxels, scaling_of, slice_extremes
from autounet.arrays.resample import Limits, Stream, axis_orders, axis_resizes, new_shape, thick_axis
from autounet.arrays.threads import single_blas_thread
from autounet.images.geometry import Geometry
from autounet.images.orientation import Orientation, orient_geometry, orientation_of
from planners.fingerprint import Triple, TripleMm
from planners.plan import Configuration, Plan, Resampling

OUTSIDE = -1  # of a label: outside the image's non-zero mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A case on the network grid. In the label, −1 lies outside the image's non-zero mask."""

    image_czyx: NDArray[np.float32]
    label_zyx: NDArray[np.int16] | None
    frame: Frame


def prepare_arrays(
    image_czyx: NDArray[Any],
    label_zyx: NDArray[Any] | None,
    geometry: Geometry,
    plan: Plan,
    configuration: Configuration,
    *,
    threads: int = 1,
) -> Prepared:
    """Orient, order the axes, crop, normalise on the native grid, resample."""
    case = CaseOnGrid(image_czyx, label_zyx, geometry, plan, configuration)
    shape = case.frame.shape_zyx
    image_out = np.empty((len(image_czyx), *shape), np.float32)
    label_out = None if label_zyx is None else np.empty(shape, np.int16)
    with single_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for channel, out_zyx in enumerate(image_out):
            stream = case.image_stream(channel, pool, threads)
            for start, stop in _spans(shape[0], stream.comfortable_rows):
                stream.rows(start, stop, out_zyx[start:stop])
        if label_out is not None:
            labels = case.label_stream(pool, threads)
            for start, stop in _spans(shape[0], 64):
                labels.rows(start, stop, label_out[start:stop])
    return Prepared(image_czyx=image_out, label_zyx=label_out, frame=case.frame)


class CaseOnGrid:
    """A case whose voxels are cropped and about to be normalised and resampled; holds views, copies nothing."""

    def __init__(
        self, image_czyx: NDArray[Any], label_zyx: NDArray[Any] | None, geometry: Geometry, plan: Plan, configuration: Configuration
    ) -> None:
        self.frame = frame_of(image_czyx, geometry, plan, configuration)
        self._plan, self._resampling = plan, configuration.resampling
        self._image_czyx = self.frame.cropped_view(image_czyx)
        self._label_zyx = None if label_zyx is None else self.frame.cropped_view(label_zyx)
        self._inside: NDArray[np.bool_] | None = None
        if any(channel.mask_outside for channel in plan.channels):
            self._inside = inside_mask(self._image_czyx)
            if self._label_zyx is not None:
                self._inside |= self._label_zyx > 0  # what somebody outlined is inside

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return len(self._image_czyx)

    @property
    def image_czyx(self) -> NDArray[Any]:
        """The stored voxels of the crop on working axes, as a view."""
        return self._image_czyx

    def inside(self, channel: int) -> NDArray[np.bool_] | None:
        """The voxels of the crop that count for the channel; None when all do."""
        return self._inside if self._plan.channels[channel].mask_outside else None

    @property
    def labelled(self) -> bool:
        """Whether there is a label."""
        return self._label_zyx is not None

    @property
    def ignore_index(self) -> int | None:
        """The label's number for "not annotated"."""
        return self._plan.labels.ignore_index

    @property
    def label_dtype(self) -> type[np.int8 | np.int16]:
        """The smallest whole numbers that hold every class, the ignored one and outside."""
        return np.int8 if len(self._plan.labels.classes) < np.iinfo(np.int8).max else np.int16

    def scaling(self, channel: int) -> Scaling:
        """How the channel is normalised; its voxels are looked at for that, and not changed."""
        voxels, inside = self._image_czyx[channel], self.inside(channel)
        if len(voxels) == 1:  # statistics go through the first axis in blocks, and a picture has but one slice: its rows take their place
            voxels, inside = voxels.transpose(1, 0, 2), None if inside is None else inside.transpose(1, 0, 2)
        return scaling_of(self._plan.channels[channel], Voxels(voxels, inside))

    def image_stream(
        self, channel: int, pool: Executor, threads: int, *, order: Triple = (0, 1, 2), scaling: Scaling | None = None
    ) -> Stream:
        """The channel, normalised and resampled, a few output slices at a time; the first axis of `order` is the one that is streamed."""
        scaling = scaling or self.scaling(channel)
        inside = self.inside(channel)
        inside = None if inside is None else inside.transpose(order)
        voxels = Voxels(self._image_czyx[channel].transpose(order), inside)
        orders = _turned(axis_orders(self._resampling, self.frame.thick_axis, self._resampling.image_order), order)
        resizes = axis_resizes(_turned(self.frame.cropped_shape_zyx, order), _turned(self.frame.shape_zyx, order), orders)

        def source(start: int, stop: int) -> NDArray[np.float32]:
            return scaling.apply(voxels.block(start, stop), None if inside is None else inside[start:stop])

        moves = any(resize.kind == "bands" for resize in resizes)
        apart = self.frame.thick_axis if self._resampling.thick_axis_order == 0 else None
        limits = _limits(voxels, scaling, None if apart is None else order.index(apart)) if moves else None
        return Stream(source, resizes, limits, pool=pool, threads=threads)

    def label_stream(self, pool: Executor, threads: int) -> LabelStream:
        """The label map, resampled, a few output slices at a time."""
        label, inside, dtype = self._label_zyx, self._inside, self.label_dtype
        assert label is not None, "this case has no label"

        def source(start: int, stop: int) -> NDArray[Any]:
            block = np.array(label[start:stop], dtype, order="C")
            if inside is not None:
                block[~inside[start:stop]] = OUTSIDE
            return block

        orders = axis_orders(self._resampling, self.frame.thick_axis, self._resampling.label_order)
        sizes = zip(self.frame.cropped_shape_zyx, self.frame.shape_zyx, orders, strict=True)
        return LabelStream(source, tuple(axis_neighbours(*size) for size in sizes), pool=pool, threads=threads)


def frame_of(image_czyx: NDArray[Any], geometry: Geometry, plan: Plan, configuration: Configuration) -> Frame:
    """Where the voxels go: orientation, axis order, crop and network grid."""
    return frame_within(nonzero_box(working_view(image_czyx, _orientation(geometry, plan), plan.axis_order)), geometry, plan, configuration)


def frame_unseen(geometry: Geometry, plan: Plan, configuration: Configuration) -> Frame:
    """The same from a header alone, as if nothing could be cropped."""
    lengths = [orient_geometry(geometry, _orientation(geometry, plan)).shape_zyx[axis] for axis in plan.axis_order]
    return frame_within(((0, lengths[0]), (0, lengths[1]), (0, lengths[2])), geometry, plan, configuration)


def frame_within(box: Box, geometry: Geometry, plan: Plan, configuration: Configuration) -> Frame:
    """The frame of a crop that is known."""
    orientation = _orientation(geometry, plan)
    z, y, x = (orient_geometry(geometry, orientation).spacing_zyx_mm[axis] for axis in plan.axis_order)
    spacing = (float(z), float(y), float(x))
    cropped: Triple = (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])
    target = target_spacing(spacing, configuration)
    return Frame(
        orientation=orientation,
        axis_order=plan.axis_order,
        stored_shape_zyx=geometry.shape_zyx,
        box=box,
        cropped_shape_zyx=cropped,
        cropped_spacing_zyx_mm=spacing,
        shape_zyx=new_shape(cropped, spacing, target),
        spacing_zyx_mm=target,
        thick_axis=_thick(configuration.resampling, spacing, target),
    )


def target_spacing(spacing_mm: TripleMm, configuration: Configuration) -> TripleMm:
    """The configuration's; slices seen one by one keep the distance they have."""
    z, y, x = configuration.spacing_zyx_mm
    return (spacing_mm[0] if configuration.dimensions == 2 else z, y, x)


def _orientation(geometry: Geometry, plan: Plan) -> Orientation:
    found = orientation_of(geometry)
    return Orientation(axes_zyx=(0, 1, 2), flips_zyx=(False, False, False), code=found.code) if plan.orientation == "stored" else found


def _turned(values: Triple, order: Triple) -> Triple:
    return values[order[0]], values[order[1]], values[order[2]]


def _thick(resampling: Resampling, spacing_mm: TripleMm, target_mm: TripleMm) -> int | None:
    return thick_axis(spacing_mm, target_mm) if resampling.thick_axis == "auto" else None


def _limits(voxels: Voxels, scaling: Scaling, axis: int | None) -> Limits:
    """The range of the normalised voxels, without normalising them: scaling keeps their order."""
    low, high = (scaling.apply(extreme) for extreme in slice_extremes(voxels, axis))
    if voxels.inside_zyx is not None:
        others = tuple(a for a in range(3) if a != axis)
        outside = np.atleast_1d(~voxels.inside_zyx.all(axis=others if axis is not None else None))
        low[outside], high[outside] = np.minimum(low[outside], 0), np.maximum(high[outside], 0)
    return Limits(low, high, axis)


def _spans(size: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, size)) for start in range(0, size, step))
