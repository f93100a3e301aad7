"""The distribution of many values as few atoms, exact where it can be, and mixtures of such over cases."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TAIL = 0.02  # of the values, at either end, that get as many atoms as all between: percentiles 0.5 and 99.5 lie there
TAIL_ATOMS, BODY_ATOMS = 512, 1024
MOST_ATOMS = 2 * TAIL_ATOMS + BODY_ATOMS
FINE = 8  # points for each atom of a full sketch at most, between which its values run straight
MANY_SKETCHES = 200  # towards which errors of single sketches vanish in the mixture, and memory counts
BLOCK = 1 << 18  # voxels that stay in the processor's cache
MOST_SORTED = 1 << 24  # values; beyond, every n-th is looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """Moments and extremes are exact; `atoms` are float32 values, `shares` what fraction lies at each."""

    count: int
    mean: float = 0.0
    variance: float = 0.0
    low: float = 0.0
    high: float = 0.0
    atoms: str = ""  # base64 of little-endian float32, ascending
    shares: str = ""  # the same; empty: the fixed shares of a full sketch

    def points(self, fine: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Values, ascending, and the fraction of all that lies at each; a full sketch is drawn out to `fine` times as many."""
        values = _unpacked(self.atoms)
        if self.shares:
            return values, _unpacked(self.shares)
        if fine == 1:
            return values, _FIXED_SHARES.copy()
        shares = np.repeat(_FIXED_SHARES / fine, fine)
        ranks = np.cumsum(shares, dtype=np.float64) - shares / 2
        return np.interp(ranks, _FIXED_RANKS, values).astype(np.float32), shares.astype(np.float32)


def sketch(values: NDArray[Any]) -> Sketch:
    """Of values in any order; small integers are counted, floats sorted."""
    flat = values.reshape(-1)
    if flat.size == 0:
        return Sketch(count=0)
    if flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2:
        return sketch_counts(*counted(flat))
    mean, variance, low, high = _moments(flat)
    step = -(-flat.size // MOST_SORTED)
    ordered = np.sort(flat[::step].astype(np.float32, copy=step == 1))
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if first.size <= MOST_ATOMS:  # few values, or whole numbers stored as floats: kept exactly
        shares = np.diff(first, append=ordered.size) / ordered.size
        atoms, packed = _packed(ordered[first]), _packed(shares)
        return Sketch(count=flat.size, mean=mean, variance=variance, low=low, high=high, atoms=atoms, shares=packed)
    spread = ordered[(_FIXED_RANKS * ordered.size).astype(np.intp).clip(0, ordered.size - 1)]
    return Sketch(count=flat.size, mean=mean, variance=variance, low=low, high=high, atoms=_packed(spread))


def counted(flat: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values of 8 or 16 bit integers and how often each occurs."""
    offset = int(np.iinfo(flat.dtype).min)
    total = np.zeros(1 << (8 * flat.dtype.itemsize), np.int64)
    for start in range(0, flat.size, BLOCK):  # bincount copies to eight bytes; a block's copy stays in the cache
        block = flat[start : start + BLOCK].astype(np.intp) - offset
        found = np.bincount(block)
        total[: found.size] += found
    seen = np.flatnonzero(total)
    return seen + offset, total[seen]


def sketch_counts(values: NDArray[np.int64], numbers: NDArray[np.int64]) -> Sketch:
    """Of values, ascending, that occur `numbers` times."""
    count = int(numbers.sum())
    mean = float((values * numbers).sum() / count)
    variance = float((((values - mean) ** 2) * numbers).sum() / count)
    low, high = float(values[0]), float(values[-1])
    if values.size <= MOST_ATOMS:
        atoms, shares = _packed(values.astype(np.float32)), _packed((numbers / count).astype(np.float32))
        return Sketch(count=count, mean=mean, variance=variance, low=low, high=high, atoms=atoms, shares=shares)
    at = np.searchsorted(np.cumsum(numbers), _FIXED_RANKS * count, side="right").clip(0, values.size - 1)
    return Sketch(count=count, mean=mean, variance=variance, low=low, high=high, atoms=_packed(values[at].astype(np.float32)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several sketches, each with a weight."""

    values: NDArray[np.float64]
    cumulated: NDArray[np.float64]  # up to and with each value, ends at 1
    mean: float
    std: float
    low: float
    high: float

    def quantile(self, rank: float) -> float:
        """The smallest value with at least this fraction at or below it."""
        return float(self.values[min(int(np.searchsorted(self.cumulated, rank, side="left")), self.values.size - 1)])

    def histogram(self, low: float, high: float, bins: int, total: float) -> tuple[int, ...]:
        """How many of `total` values lie in each of equal bins; what lies outside is in the first and last."""
        edges = np.linspace(low, high, bins + 1)[1:-1]
        below = np.concatenate([[0.0], self._at(edges), [1.0]])
        ends = np.rint(below * total).astype(np.int64)
        return tuple(int(n) for n in np.diff(ends))

    def _at(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.searchsorted(self.values, edges, side="left")
        return np.concatenate([[0.0], self.cumulated])[at]


def mixture(sketches: Sequence[Sketch], weights: Sequence[float] | None = None) -> Mixture | None:
    """Equal weights unless given; empty sketches count for nothing."""
    pairs = [(s, 1.0 if weights is None else weights[i]) for i, s in enumerate(sketches) if s.count]
    if not pairs:
        return None
    total = sum(w for _, w in pairs)
    fine = min(FINE, max(1, MANY_SKETCHES // len(pairs)))
    points = [s.points(fine) for s, _ in pairs]
    values = np.concatenate([v for v, _ in points])
    shares = np.concatenate([p.astype(np.float64) * (w / total / float(p.sum())) for (_, p), (_, w) in zip(points, pairs, strict=True)])
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(shares[order])
    mean = sum(s.mean * w for s, w in pairs) / total
    second = sum((s.variance + (s.mean - mean) ** 2) * w for s, w in pairs) / total
    return Mixture(
        values[order].astype(np.float64),
        cumulated / cumulated[-1],
        mean,
        float(np.sqrt(max(second, 0.0))),
        min(s.low for s, _ in pairs),
        max(s.high for s, _ in pairs),
    )


def _moments(flat: NDArray[Any]) -> tuple[float, float, float, float]:
    """Mean, variance and extremes in one pass over blocks, in double precision."""
    pivot, total, squares = float(flat[0]), 0.0, 0.0
    low = high = pivot
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        block -= pivot
        total += float(block.sum())
        squares += float(np.square(block, out=block).sum())  # not a dot product: its threads would wait for each other
    mean = total / flat.size
    return pivot + mean, max(squares / flat.size - mean * mean, 0.0), low, high


def _fixed() -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Ranks of the atoms (the middle of each share), and the shares."""
    shares = np.concatenate(
        [np.full(TAIL_ATOMS, TAIL / TAIL_ATOMS), np.full(BODY_ATOMS, (1 - 2 * TAIL) / BODY_ATOMS), np.full(TAIL_ATOMS, TAIL / TAIL_ATOMS)]
    )
    return np.cumsum(shares) - shares / 2, shares.astype(np.float32)


_FIXED_RANKS, _FIXED_SHARES = _fixed()


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
