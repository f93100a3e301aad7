"""Sliding the networks over one image along one axis, and handing on the rows no later tile will touch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet import stop
from autounet.augment.upload import uploaded
from autounet.inference.forward import Asked, Voters
from autounet.inference.rolling import RollingAccumulator
from autounet.inference.settings import InferenceSettings
from autounet.inference.tiles import AxisTile, depth_of, grouped, tile_axis
from autounet.inference.votes_to_labels import Decision
from planners.errors import UserError
from planners.fingerprint import Triple

AIR_LOGIT = 10.0  # what a tile of air says for background and against every region


class TileSource(Protocol):
    """Anything that yields boxes of the network's input."""

    @property
    def shape_zyx(self) -> Triple:
        """The network grid."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a tile."""
        ...

    @property
    def streamed(self) -> bool:
        """Whether the rows are made on the way."""
        ...

    def follow(self, order: Triple, rows: int) -> None:
        """Rows along the first axis of `order` will be read from first to last, at most so many at once."""
        ...

    def read(self, box_zyx: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """(c, z, y, x) inside the image, perhaps a view that holds until the next call."""
        ...


@dataclass(frozen=True, slots=True)
class ArraySource:
    """A prepared image in memory: any box of it can be read at any time."""

    image_czyx: NDArray[Any]

    @property
    def shape_zyx(self) -> Triple:
        """The network grid."""
        z, y, x = self.image_czyx.shape[1:]
        return z, y, x

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return len(self.image_czyx)

    @property
    def streamed(self) -> bool:
        """It is all there."""
        return False

    def follow(self, order: Triple, rows: int) -> None:
        """Any voxel can be read at any time."""

    def read(self, box_zyx: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """The box, as a view."""
        box: NDArray[np.float32] = self.image_czyx[(slice(None), *box_zyx)]
        return box


@dataclass(frozen=True, slots=True)
class CascadeSource:
    """An image, and behind it a previous configuration's labels as one channel a foreground class."""

    image: TileSource
    previous_zyx: NDArray[np.integer]
    classes: int

    @property
    def shape_zyx(self) -> Triple:
        """The network grid."""
        return self.image.shape_zyx

    @property
    def channels(self) -> int:
        """Those of the image, and one a class."""
        return self.image.channels + self.classes

    @property
    def streamed(self) -> bool:
        """As the image is."""
        return self.image.streamed

    def follow(self, order: Triple, rows: int) -> None:
        """The image is told."""
        self.image.follow(order, rows)

    def read(self, box_zyx: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """The box of the image and of the one-hot channels."""
        numbers = np.arange(1, self.classes + 1).reshape(-1, 1, 1, 1)
        return np.concatenate((self.image.read(box_zyx), (self.previous_zyx[box_zyx][None] == numbers).astype(np.float32)))


@dataclass(frozen=True, slots=True)
class Place:
    """One tile: its three axes in working order."""

    z: AxisTile
    y: AxisTile
    x: AxisTile

    @property
    def axes(self) -> tuple[AxisTile, AxisTile, AxisTile]:
        """In working order."""
        return self.z, self.y, self.x


@dataclass(frozen=True, slots=True)
class _Shown:
    """Places whose tiles the networks were shown, but for those of air."""

    places: Sequence[Place]
    looked_at: Sequence[int]
    asked: Asked | None


class Sweep:
    """One configuration's way over one image. `order` is the working axes with the sweep axis first."""

    def __init__(self, source: TileSource, voters: Voters, settings: InferenceSettings, decision: Decision, order: Triple) -> None:
        self.source, self.voters, self.decision = source, voters, decision
        self.settings, self.order = settings, order
        patch, shape = voters.patch_zyx, source.shape_zyx
        spread = (settings.step_fraction, settings.sigma_fraction, settings.peak)
        self.axes = [tile_axis(shape[a], patch[a], *spread) for a in range(3)]
        self.rows_in_all = shape[self.order[0]]
        self.extra = int(voters.disagree)
        self.ring = RollingAccumulator(0, 1, (1, 1), torch.float32, voters.device)
        self.finished = 0  # rows below this one are final
        self.dtype = torch.float32
        self.device = voters.device  # where the sums lie
        self._weights: dict[int, Tensor] = {}  # of each tile of an axis, there
        self._finite: list[Tensor] = []  # of each tile since the last rows were finished

    def make_room(self, kept_below: int) -> None:
        """Allocate the ring: the rows of tiles in flight, and those below the finished front that the export still wants."""
        shape, groups = self.source.shape_zyx, self._groups()
        deepest = depth_of(groups)
        self.source.follow(self.order, deepest)
        plane = (shape[self.order[1]], shape[self.order[2]])
        depth = min(deepest + kept_below, self.rows_in_all)
        self.ring = RollingAccumulator(self.voters.channels + self.extra, depth, plane, self.dtype, self.device)
        self._weights = {id(tile): uploaded(tile.weights, self.device) for axis in self.axes for tile in axis}

    def __iter__(self) -> Iterator[int]:
        """Finish rows, again and again; yields how many are final. Whoever has read rows releases them."""
        groups = self._groups()
        batches = [self._batches(group) for group in groups]
        # An accelerator computes while finished rows are written; a processor would hold more memory for nothing.
        ahead = None if self.voters.device.type == "cpu" else self._shown([places for group in batches for places in group])
        for index, group in enumerate(groups):
            self.ring.reach(group[-1].inside.stop)
            for shown in self._shown(batches[index]) if ahead is None else islice(ahead, len(batches[index])):
                self._take(shown)
            self._settle()
            following = groups[index + 1][0].inside.start if index + 1 < len(groups) else self.rows_in_all
            self.finished = max(self.finished, following)
            yield self.finished

    @property
    def tiles(self) -> int:
        """How many tiles there are in all."""
        return len(self.axes[0]) * len(self.axes[1]) * len(self.axes[2])

    @property
    def batch(self) -> int:
        """Tiles that are shown to the networks together, their mirror images not counted."""
        return self.settings.batch_tiles or max(1, self.voters.in_flight // len(self.voters.flips))

    def _groups(self) -> list[Sequence[AxisTile]]:
        a, b, c = (self.axes[axis] for axis in self.order)
        return grouped(a, len(b) * len(c), self.batch)

    def _batches(self, group: Sequence[AxisTile]) -> list[list[Place]]:
        planes = product(group, self.axes[self.order[1]], self.axes[self.order[2]])
        places = [self._place(*three) for three in planes]
        return [places[at : at + self.batch] for at in range(0, len(places), self.batch)]

    def _shown(self, batches: Iterable[Sequence[Place]]) -> Iterator[_Shown]:
        """One behind what is shown to the networks: its answers come while the last one's are added."""
        shown: _Shown | None = None
        for places in batches:
            stop.check()
            following = self._show(places)
            if shown is not None:
                yield shown
            shown = following
        if shown is not None:
            yield shown

    def _show(self, places: Sequence[Place]) -> _Shown:
        tiles = self._tiles(places)
        looked_at = [i for i, tile in enumerate(tiles) if not (self.settings.skip_air and is_air(tile))]
        if not looked_at:
            return _Shown(places, looked_at, None)
        return _Shown(places, looked_at, self.voters.ask(torch.from_numpy(tiles if len(looked_at) == len(places) else tiles[looked_at])))

    def _take(self, shown: _Shown) -> None:
        votes = None if shown.asked is None else self.voters.votes(shown.asked)
        self._finite += votes.finite() if votes is not None else ()
        for i, place in enumerate(shown.places):
            logits = votes.mean(shown.looked_at.index(i)) if votes is not None and i in shown.looked_at else self._air()
            self._accumulate(place, logits)

    def _settle(self) -> None:
        """Refuse numbers that are none; asked once for all tiles of some rows, because the answer has to be waited for."""
        if self._finite and not bool(torch.stack(self._finite).all()):
            raise UserError("the network's answer is not finite", "check the image's intensities, or train the model again")
        self._finite.clear()

    def _place(self, first: AxisTile, second: AxisTile, third: AxisTile) -> Place:
        axes = dict(zip(self.order, (first, second, third), strict=True))
        return Place(axes[0], axes[1], axes[2])

    def _tiles(self, places: Sequence[Place]) -> NDArray[np.float32]:
        """(b, c, z, y, x) of these places, zeros beyond the image."""
        tiles: NDArray[np.float32] | None = None
        for index, place in enumerate(places):
            z, y, x = place.axes
            inside = self.source.read((z.inside, y.inside, x.inside))
            if tiles is None:
                tiles = np.zeros((len(places), len(inside), *self.voters.patch_zyx), np.float32)
            tiles[index][:, z.own, y.own, x.own] = inside
        assert tiles is not None, "no tiles were asked for"
        return tiles

    def _air(self) -> Tensor:
        outside = 0.0 if self.decision.softmax else -AIR_LOGIT
        logits = torch.full((self.decision.heads + self.extra, *self.voters.patch_zyx), outside, device=self.voters.device)
        if self.decision.softmax:
            logits[0] = AIR_LOGIT
        if self.extra:
            logits[-1] = 0
        return logits

    def _accumulate(self, place: Place, logits_kzyx: Tensor) -> None:
        swept = [place.axes[a] for a in self.order]
        a, b, c = (self._weights[id(axis)] for axis in swept)
        weight = a[:, None, None] * b[None, :, None] * c[None, None, :]
        logits = logits_kzyx.to(self.device).permute(0, *(axis + 1 for axis in self.order))[:, swept[0].own, swept[1].own, swept[2].own]
        self.ring.add((swept[0].inside, swept[1].inside, swept[2].inside), logits, weight)


def sweep_order(shape_zyx: Triple, patch_zyx: Triple) -> Triple:
    """Working axes with the sweep axis first: the first axis, unless another one needs less than half the memory."""
    deep = [min(patch_zyx[a], shape_zyx[a]) / shape_zyx[a] for a in range(3)]
    best = min(range(3), key=lambda a: deep[a])
    first = best if deep[best] < deep[0] / 2 else 0
    return (first, *(a for a in range(3) if a != first))  # type: ignore[return-value]


def is_air(tile_czyx: NDArray[np.float32]) -> bool:
    """One value a channel all over the tile: nothing that a network could tell apart."""
    flat = tile_czyx.reshape(len(tile_czyx), -1)
    return bool((flat[:, :1] == flat[:, -1:]).all()) and bool((flat == flat[:, :1]).all())
