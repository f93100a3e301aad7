"""Where tiles come from: the stored voxels, normalised tile by tile when their grid is the network's, else resampled as the sweep asks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.frame import Frame
from autounet.arrays.normalise import Scaling
from autounet.arrays.prepare import CaseOnGrid
from autounet.arrays.resample import Stream
from autounet.arrays.threads import single_blas_thread
from autounet.images.geometry import Geometry
from autounet.inference.sweep import ArraySource, TileSource
from planners.fingerprint import Triple
from planners.plan import Configuration, Plan


@dataclass(frozen=True, slots=True)
class StoredSource(ArraySource):
    """Stored voxels (the crop on working axes, as a view), normalised tile by tile: a slide of bytes never becomes four times as many."""

    scalings: tuple[Scaling, ...]
    inside_zyx: tuple[NDArray[np.bool_] | None, ...]

    def read(self, box_zyx: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """The normalised box."""
        tile = np.array(self.image_czyx[(slice(None), *box_zyx)], np.float32, order="C")
        for channel, scaling, inside in zip(tile, self.scalings, self.inside_zyx, strict=True):
            scaling.apply(channel, None if inside is None else inside[box_zyx])
        return tile


class StreamedSource:
    """Stored voxels, normalised and resampled row by row as the sweep comes to them; rows behind it are forgotten.

    The network grid never exists as a whole: a long scan of thin slices would be many times its stored size.
    """

    def __init__(self, case: CaseOnGrid, threads: int) -> None:
        self._case, self._threads = case, threads
        self._pool = ThreadPoolExecutor(threads)
        self._order: Triple = (0, 1, 2)
        self._scalings: list[Scaling] = []
        self._streams: list[Stream] = []
        self._first = self._last = 0  # the rows that are held
        self._held = np.empty((case.channels, 0, 0, 0), np.float32)

    @property
    def shape_zyx(self) -> Triple:
        """The network grid."""
        return self._case.frame.shape_zyx

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self._case.channels

    @property
    def streamed(self) -> bool:
        """A few of its rows are there."""
        return True

    def follow(self, order: Triple, rows: int) -> None:
        """Rows along the first axis of `order` will be asked for from first to last, at most so many at once."""
        shape = self.shape_zyx
        self._order, self._streams, self._first, self._last = order, [], 0, 0
        self._held = np.empty((self._case.channels, min(rows, shape[order[0]]), shape[order[1]], shape[order[2]]), np.float32)

    def read(self, box_zyx: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """The box, as a view that holds until the next call."""
        rows, second, third = (box_zyx[axis] for axis in self._order)
        self._reach(rows.start, rows.stop)
        box = self._held[:, rows.start - self._first : rows.stop - self._first, second, third]
        return box.transpose(0, *(1 + self._order.index(axis) for axis in range(3)))

    def _reach(self, start: int, stop: int) -> None:
        """Hold the rows `start` to `stop`, and drop what lies before them when room is needed."""
        if start < self._first or not self._streams:
            self._begin()
        if stop <= self._last:
            return
        if stop - self._first > self._held.shape[1] or start > self._last:
            self._move(start, stop - start)
        with single_blas_thread():
            for stream, held in zip(self._streams, self._held, strict=True):
                for a, b in _spans(max(self._last, start), stop, stream.comfortable_rows):
                    stream.rows(a, b, held[a - self._first : b - self._first])
        self._last = stop

    def _begin(self) -> None:
        channels = range(self._case.channels)
        if not self._held.size:
            self.follow(self._order, 1)
        self._scalings = self._scalings or [self._case.scaling(channel) for channel in channels]
        self._streams = [
            self._case.image_stream(channel, self._pool, self._threads, order=self._order, scaling=self._scalings[channel])
            for channel in channels
        ]
        self._first = self._last = 0

    def _move(self, start: int, rows: int) -> None:
        """Let the held rows begin at `start`, with room for so many."""
        kept, gone = max(0, self._last - start), start - self._first
        if rows > self._held.shape[1]:
            wider = np.empty((len(self._held), rows, *self._held.shape[2:]), np.float32)
            wider[:, :kept] = self._held[:, gone : gone + kept]
            self._held = wider
        elif gone:
            for a in range(0, kept, gone):  # piece by piece, so that none overlaps itself and is copied twice
                b = min(a + gone, kept)
                self._held[:, a:b] = self._held[:, gone + a : gone + b]
        self._first = start


def source_of(
    image_czyx: NDArray[Any], geometry: Geometry, plan: Plan, configuration: Configuration, threads: int
) -> tuple[TileSource, Frame]:
    """The image as a configuration wants it, and how it came to be so."""
    case = CaseOnGrid(image_czyx, None, geometry, plan, configuration)
    if case.frame.shape_zyx == case.frame.cropped_shape_zyx:
        return _stored(case), case.frame
    return StreamedSource(case, threads), case.frame


def _stored(case: CaseOnGrid) -> StoredSource:
    channels = range(case.channels)
    return StoredSource(case.image_czyx, tuple(case.scaling(c) for c in channels), tuple(case.inside(c) for c in channels))


def _spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    return ((a, min(a + step, stop)) for a in range(start, stop, step))
