"""Where each class is, so that patches can be taken there: compact arrays, per class and per component.

A label map is read once as runs (stretches of one label along x). Counting, drawing voxels and
finding components all work on runs, of which there are a hundred times fewer than voxels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.fingerprint import Triple

ANNOTATED = -1  # as a class: every voxel that is not "ignore"
SAMPLES = 10_000  # voxels kept per class, or one in a hundred if that is more, as the reference does
FRACTION = 0.01
PER_COMPONENT = 16  # kept of every component at least, or small lesions would vanish behind a large one
COMPONENTS = 1_000  # told apart per class, largest first; specks beyond that share one entry


@dataclass(frozen=True, slots=True)
class Runs:
    """Stretches of one value along x, in order of position."""

    row: NDArray[np.int64]  # z * size_y + y
    start: NDArray[np.int64]  # x
    stop: NDArray[np.int64]
    value: NDArray[np.int64]

    def take(self, which: NDArray[Any]) -> "Runs":
        """Some of them."""
        return Runs(self.row[which], self.start[which], self.stop[which], self.value[which])

    @property
    def length(self) -> NDArray[np.int64]:
        """Voxels in each."""
        length: NDArray[np.int64] = self.stop - self.start
        return length


@dataclass(frozen=True, slots=True)
class Locations:
    """Voxels drawn from each component of each class. Rows of `table`: class, true voxels, first sample, past the last."""

    shape_zyx: Triple
    voxels: NDArray[np.unsignedinteger[Any]]  # flat indices
    table: NDArray[np.int64]

    @property
    def classes_present(self) -> tuple[int, ...]:
        """Class numbers that occur, ascending."""
        return tuple(int(c) for c in np.unique(self.table[:, 0]) if c != ANNOTATED)

    def count(self, class_index: int) -> int:
        """Voxels of a class."""
        return int(self._rows(class_index)[:, 1].sum())

    def components(self, class_index: int) -> int:
        """Components of a class that are told apart."""
        return len(self._rows(class_index))

    def draw(self, class_index: int, rng: np.random.Generator) -> Triple:
        """A voxel of the class, every voxel as likely as another."""
        return self.draw_any((class_index,), rng)

    def draw_any(self, class_indices: tuple[int, ...], rng: np.random.Generator) -> Triple:
        """A voxel of the union of some classes, every voxel as likely as another."""
        rows = np.concatenate([self._rows(c) for c in class_indices])
        assert len(rows), f"none of the classes {class_indices} is here"
        below = np.cumsum(rows[:, 1])
        return self._sample(rows[int(np.searchsorted(below, rng.integers(below[-1]), side="right"))], rng)

    def draw_component(self, class_index: int, rng: np.random.Generator) -> Triple:
        """A voxel of the class, every component as likely as another, however small."""
        rows = self._rows(class_index)
        assert len(rows), f"class {class_index} is not here"
        return self._sample(rows[int(rng.integers(len(rows)))], rng)

    def draw_annotated(self, rng: np.random.Generator) -> Triple:
        """A voxel that is not "ignore"."""
        return self.draw(ANNOTATED, rng)

    def _rows(self, class_index: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.table[self.table[:, 0] == class_index]
        return rows

    def _sample(self, row: NDArray[np.int64], rng: np.random.Generator) -> Triple:
        flat = int(self.voxels[int(rng.integers(row[2], row[3]))])
        z, rest = divmod(flat, self.shape_zyx[1] * self.shape_zyx[2])
        return (z, *divmod(rest, self.shape_zyx[2]))


def runs_of(label_zyx: NDArray[Any], first_slice: int = 0) -> Runs:
    """The runs of all values but background and outside, of some slices that start at `first_slice`."""
    _, size_y, size_x = label_zyx.shape
    flat = label_zyx.reshape(-1)
    edge = np.empty(flat.size + 1, bool)
    np.not_equal(flat[1:], flat[:-1], out=edge[1:-1])
    edge[::size_x] = True  # a run ends with its row
    at = np.flatnonzero(edge)
    value = flat[at[:-1]]
    keep = value > 0
    begin, end = at[:-1][keep], at[1:][keep]
    row, start = np.divmod(begin, size_x)
    return Runs(row + first_slice * size_y, start, end - begin + start, value[keep].astype(np.int64))


def joined(parts: list[Runs]) -> Runs:
    """Runs of successive slices as one."""
    names = ("row", "start", "stop", "value")
    if not parts:
        return Runs(*(np.empty(0, np.int64) for _ in names))
    return Runs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def locate(runs: Runs, shape_zyx: Triple, ignore_index: int | None, rng: np.random.Generator) -> Locations:
    """Draw the voxels to remember from each component of each class."""
    samples: list[NDArray[np.int64]] = []
    rows: list[tuple[int, int, int, int]] = []
    at = 0
    for value in np.unique(runs.value):
        if value == ignore_index:
            continue
        own = runs.take(runs.value == value)
        for voxels, picked in _by_component(own, shape_zyx, rng):
            samples.append(picked)
            rows.append((int(value), voxels, at, at + len(picked)))
            at += len(picked)
    if ignore_index is not None:
        picked, voxels = _annotated(runs.take(runs.value == ignore_index), shape_zyx, rng)
        if voxels:
            samples.append(picked)
            rows.append((ANNOTATED, voxels, at, at + len(picked)))
    kind: type[np.unsignedinteger[Any]] = np.uint32 if int(np.prod(shape_zyx, dtype=np.int64)) <= np.iinfo(np.uint32).max else np.uint64
    voxels_flat = np.concatenate(samples).astype(kind) if samples else np.empty(0, kind)
    return Locations(shape_zyx, voxels_flat, np.array(rows, np.int64).reshape(-1, 4))


def _by_component(runs: Runs, shape_zyx: Triple, rng: np.random.Generator) -> list[tuple[int, NDArray[np.int64]]]:
    number = _components(runs, shape_zyx[1], shape_zyx[2])
    volume = np.bincount(number, weights=runs.length).astype(np.int64)
    if len(volume) > COMPONENTS:
        rank = np.empty(len(volume), np.int64)
        rank[np.argsort(-volume, kind="stable")] = np.arange(len(volume))
        number = np.minimum(rank, COMPONENTS)[number]
        volume = np.bincount(number, weights=runs.length).astype(np.int64)
    order = np.argsort(number, kind="stable")
    count = np.bincount(number)
    share = max(SAMPLES, FRACTION * volume.sum()) / volume.sum()
    found = []
    for component, which in enumerate(np.split(order, np.cumsum(count)[:-1])):
        own = runs.take(which)
        wanted = min(int(volume[component]), max(PER_COMPONENT, int(np.ceil(share * volume[component]))))
        found.append((int(volume[component]), _draw(own, wanted, shape_zyx[2], rng)))
    return found


def _components(runs: Runs, size_y: int, size_x: int) -> NDArray[np.int64]:
    """The component of each run (of one class): runs that touch, by a face, an edge or a corner, are in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    width = size_x + 2  # two columns of nothing part one row from the next
    begin, end = runs.row * width + runs.start, runs.row * width + runs.stop
    y = runs.row % size_y
    heads, tails = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows_back, step_y in ((1, -1), (size_y + 1, -1), (size_y, 0), (size_y - 1, 1)):
        valid = np.flatnonzero((y + step_y >= 0) & (y + step_y < size_y) & (runs.row >= rows_back))
        shift = rows_back * width
        # In the other row, every run that ends after mine begins and begins before mine ends, one voxel of slack each way.
        low = np.searchsorted(end, begin[valid] - shift, side="left")
        high = np.searchsorted(begin, end[valid] - shift, side="right")
        count = np.maximum(high - low, 0)
        heads.append(np.repeat(valid, count))
        tails.append(np.repeat(low - np.cumsum(count) + count, count) + np.arange(count.sum()))
    pairs = (np.concatenate(heads), np.concatenate(tails))
    graph = coo_array((np.ones(len(pairs[0]), np.int8), pairs), shape=(len(begin), len(begin)))
    number: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return number


def _draw(runs: Runs, wanted: int, size_x: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`wanted` different voxels of some runs, as flat indices."""
    ends = np.cumsum(runs.length)
    pick = rng.choice(ends[-1], wanted, replace=False, shuffle=False)
    which = np.searchsorted(ends, pick, side="right")
    flat: NDArray[np.int64] = runs.row[which] * size_x + runs.stop[which] - (ends[which] - pick)
    return flat


def _annotated(ignored: Runs, shape_zyx: Triple, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """Voxels outside the ignored runs, evenly drawn, and how many there are."""
    total = int(np.prod(shape_zyx, dtype=np.int64))
    begin = ignored.row * shape_zyx[2] + ignored.start
    annotated = total - int(ignored.length.sum())
    if not annotated:
        return np.empty(0, np.int64), 0
    wanted = min(annotated, max(SAMPLES, int(np.ceil(FRACTION * annotated))))
    pick = np.sort(rng.choice(annotated, wanted, replace=False, shuffle=False))
    # The n-th annotated voxel lies behind all ignored runs that begin before it.
    before = begin - (np.cumsum(ignored.length) - ignored.length)
    hidden = np.concatenate([[0], np.cumsum(ignored.length)])[np.searchsorted(before, pick, side="right")]
    return pick + hidden, annotated
