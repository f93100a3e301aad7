"""From what a label file stores to whole values, and from values to class numbers; odd values are explained, with counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.errors import UserError
from planners.labels import Labels

WHOLE = 1e-3  # a float this close to a whole number is that number
SHOWN = 8
LOSSY = 0.3  # of the voxels at most lie beside the true values in a mask that went through a lossy format
_COMPACT = 1 << 16  # values up to this are counted by index instead of by sorting


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """Which whole values occur, and how often."""

    values: tuple[int, ...]
    voxels: tuple[int, ...]

    def text(self) -> str:
        """For messages: values and counts, the first few."""
        pairs = [f"{v} ({n:,} voxels)" for v, n in zip(self.values, self.voxels, strict=True)]
        return ", ".join(pairs[:SHOWN]) + (f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else "")


def whole(stored: NDArray[Any], *, scale: float, name: str, case: str) -> tuple[NDArray[Any], str]:
    """Stored label values as integers, and a note when they were nearly so; anything else is refused with counts."""
    if stored.dtype.kind in "bui" and scale == 1:
        return stored, ""
    scaled = stored if scale == 1 else stored * np.float64(scale)
    rounded = np.rint(scaled)
    away = np.abs(scaled - rounded)
    worst = float(away.max(initial=0))
    if worst > WHOLE:
        raise _between(scaled, name, case)
    kind = np.int16 if np.abs(rounded).max(initial=0) < 2**15 else np.int64
    said = f"the label holds values up to {worst:.2g} away from whole numbers, rounded" if worst > 0 else ""
    return rounded.astype(kind), said


def count(values: NDArray[Any]) -> ValueCounts:
    """Each value with its number of voxels, ascending."""
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    if values.size == 0:
        return ValueCounts((), ())
    low, high = int(values.min()), int(values.max())
    if high - low < _COMPACT:
        if low < 0:
            values = values.astype(np.int64) - low
            counted = np.bincount(values.ravel())
            found = np.flatnonzero(counted)
            return ValueCounts(tuple(int(v) + low for v in found), tuple(int(n) for n in counted[found]))
        counted = _count_bytes(values) if values.dtype == np.uint8 else np.bincount(values.ravel())
        found = np.flatnonzero(counted)
        return ValueCounts(tuple(map(int, found)), tuple(map(int, counted[found])))
    unique, numbers = np.unique(values, return_counts=True)
    return ValueCounts(tuple(map(int, unique)), tuple(map(int, numbers)))


def to_classes(values_zyx: NDArray[Any], labels: Labels, *, nearest: bool, case: str) -> NDArray[np.int16]:
    """Values to class numbers; the ignore value becomes the number behind the classes."""
    known = [c.value for c in labels.classes] + ([] if labels.ignore is None else [labels.ignore])
    low, high = min(*known, 0), max(known)
    if nearest:
        values_zyx = _nearest(values_zyx, known)
    elif values_zyx.size and (int(values_zyx.min()) < low or int(values_zyx.max()) > high):
        raise unknown_values(count(values_zyx), known, case)
    if high - low < 1 << 20:
        table = np.full(high - low + 1, -1, np.int16)
        table[np.array(known) - low] = np.arange(len(known))
        if known == list(range(len(known))):  # the usual table; what is in range is then its own number
            return values_zyx.astype(np.int16)
        found = np.empty(values_zyx.shape, np.int16)
        for slice_out, slice_in in zip(found, values_zyx, strict=True):  # an index takes eight bytes a voxel, so one slice at a time
            slice_out[...] = table[slice_in.astype(np.intp) - low]
    else:
        order = np.argsort(known)
        spots = np.searchsorted(np.array(known)[order], values_zyx).clip(0, len(known) - 1)
        found = np.where(np.array(known)[order][spots] == values_zyx, order[spots], -1).astype(np.int16)
    if found.size and int(found.min()) < 0:
        raise unknown_values(count(values_zyx), known, case)
    return found


def unknown_values(counts: ValueCounts, known: list[int], case: str) -> UserError:
    """The error for values that the label table does not have."""
    strange = [(v, n) for v, n in zip(counts.values, counts.voxels, strict=True) if v not in set(known)]
    shown = ValueCounts(tuple(v for v, _ in strange), tuple(n for _, n in strange)).text()
    table = ", ".join(map(str, sorted(known)[:20]))
    few = sum(n for _, n in strange) < LOSSY * max(sum(counts.voxels), 1)
    fix = "add them to the table under [labels] in autounet.toml" + (
        ", or set nearest = true under [label_values] if they are noise of a lossy format" if few and len(strange) > 2 else ""
    )
    return UserError(f"the label holds values that its table does not have: {shown}; the table has {table}", fix, case)


def _between(scaled: NDArray[Any], name: str, case: str) -> UserError:
    """Values that are no whole numbers: say which, how often, and where they may come from."""
    unique, numbers = np.unique(scaled, return_counts=True)
    odd = np.abs(unique - np.rint(unique)) > WHOLE
    shown = ", ".join(f"{v:.6g} ({n:,} voxels)" for v, n in list(zip(unique[odd], numbers[odd], strict=True))[:SHOWN])
    for divisor in (255, 65535):
        if unique.max() < 1.01 and np.abs(unique * divisor - np.rint(unique * divisor)).max() < 0.02:
            return UserError(
                f"{name} holds {shown}: all are n/{divisor}, so scl_slope in its header is 1/{divisor} by accident",
                f"set scl_slope to 1 in the file, or scale = {divisor} under [label_values] in autounet.toml",
                case,
            )
    return UserError(
        f"{name} holds values between whole numbers: {shown}",
        "the mask was interpolated or scaled; export it again with nearest-neighbour interpolation as integers",
        case,
    )


def _nearest(values: NDArray[Any], known: list[int]) -> NDArray[Any]:
    ordered = np.array(sorted(known))
    middle = (ordered[1:] + ordered[:-1]) / 2
    snapped: NDArray[Any] = ordered[np.searchsorted(middle, values, side="right")]
    return snapped


def _count_bytes(values: NDArray[Any]) -> NDArray[np.int64]:
    """bincount copies to 8-byte integers; in blocks the copy stays in the cache."""
    flat = np.ascontiguousarray(values).reshape(-1)
    total = np.zeros(256, np.int64)
    for start in range(0, flat.size, 1 << 18):
        block = np.bincount(flat[start : start + (1 << 18)], minlength=256)
        total[: len(block)] += block
    return total
