"""A mask as tables of its pieces and holes, beside the truth: what the search for repairs works on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.images.geometry import Geometry
from autounet.images.orientation import orient, orientation_of
from autounet.inference.postprocess import components, flat_axes, holes, put_sides_right
from autounet.inference.settings import label_values
from autounet.metrics.overlap import joint_counts
from autounet.metrics.repairs import ClassTable, Overlap, Part, SideTable
from planners.fingerprint import SidePair
from planners.labels import Labels

Sided = tuple[NDArray[Any], tuple[SideTable, ...]]
Truth = tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]  # what is scored, and each target's voxels


def class_tables(
    label_zyx: NDArray[Any], truth_zyx: NDArray[Any], labels: Labels, voxel_mm3: float, names: Sequence[str] | None = None
) -> dict[str, ClassTable]:
    """One table a class; `label_zyx` are class numbers, `truth_zyx` the user's values."""
    from scipy import ndimage

    joint = joint_counts(truth_zyx, label_values(label_zyx, labels), labels.ignore)
    boxes = ndimage.find_objects(label_zyx, max_label=len(labels.classes) - 1)
    found = {}
    for number, one in enumerate(labels.classes):
        targets = [values for _, values in labels.targets if one.value in values]
        if not number or not targets or (names is not None and one.name not in names):
            continue
        counts = [joint.of(values) for values in targets]
        before = tuple(Overlap(both=c.tp, predicted=c.predicted, true=c.true) for c in counts)
        box = boxes[number - 1]
        found[one.name] = ClassTable(voxel_mm3=voxel_mm3, before=before)
        if box is not None:
            truth = truth_zyx[box]
            scored = np.ones(truth.shape, bool) if labels.ignore is None else truth != labels.ignore
            inside = [np.isin(truth, values) for values in targets]
            found[one.name] = _table(found[one.name], label_zyx[box], number, (scored, inside), flat_axes(label_zyx))
    return found


def _table(empty: ClassTable, label_zyx: NDArray[Any], number: int, truth: Truth, flat: tuple[int, ...]) -> ClassTable:
    """The table of a class, from the box that holds it."""
    scored, inside = truth
    own, nothing = label_zyx == number, label_zyx == 0
    pieces, count = components(own)
    numbers = pieces.ravel()
    sizes = np.bincount(numbers, minlength=count + 1)[1:]
    counted = np.bincount(numbers, scored.ravel(), minlength=count + 1)[1:].astype(np.int64)
    hits = [np.bincount(numbers, (scored & one).ravel(), minlength=count + 1)[1:].astype(np.int64) for one in inside]
    largest = int(sizes.argmax())
    parts = [Part(voxels=int(sizes[largest]), scored=int(counted[largest]), inside=tuple(int(h[largest]) for h in hits))]
    rest = np.arange(count) != largest
    for size in np.unique(sizes[rest])[::-1]:
        same = rest & (sizes == size)
        parts.append(Part(voxels=int(size), scored=int(counted[same].sum()), inside=tuple(int(h[same].sum()) for h in hits)))
    enclosed = _filled(holes(own, flat) & nothing, scored, inside)
    if count == 1:
        return replace(empty, pieces=tuple(parts), holes=enclosed, holes_of_largest=enclosed)
    # After the others are gone, what they left empty inside the largest piece is filled too.
    alone = pieces == largest + 1
    left = _filled(holes(alone, flat) & (nothing | (own & ~alone)), scored, inside)
    return replace(empty, pieces=tuple(parts), holes=enclosed, holes_of_largest=left)


def _filled(filled: NDArray[np.bool_], scored: NDArray[np.bool_], inside: Sequence[NDArray[np.bool_]]) -> Part | None:
    voxels = int(filled.sum())
    if not voxels:
        return None
    kept = filled & scored
    return Part(voxels=voxels, scored=int(kept.sum()), inside=tuple(int((kept & one).sum()) for one in inside))


def sides_of(label_zyx: NDArray[Any], truth_zyx: NDArray[Any], labels: Labels, pairs: Sequence[SidePair], geometry: Geometry) -> Sided:
    """The mask with every pair put right by position, and what that does to the Dice of each pair.

    Which of the two lies at the lower end is seen in the truth; a case that does not show both tells nothing.
    """
    turn = orientation_of(geometry)
    mended = label_zyx.copy()
    canonical, truth = orient(mended, turn), orient(truth_zyx, turn)
    numbers, values = {c.name: n for n, c in enumerate(labels.classes)}, {c.name: c.value for c in labels.classes}
    tables = []
    for pair in pairs:
        places = [_place(truth == values[name], pair.axis) for name in (pair.left, pair.right)]
        if places[0] is None or places[1] is None:
            continue
        lower, upper = (pair.left, pair.right) if places[0] < places[1] else (pair.right, pair.left)
        before = _mean_dice(label_zyx, truth_zyx, labels, (values[lower], values[upper]))
        put_sides_right(canonical, numbers[lower], numbers[upper], pair.axis)
        after = _mean_dice(mended, truth_zyx, labels, (values[lower], values[upper]))
        tables.append(SideTable(lower=lower, upper=upper, axis=pair.axis, before=before, after=after))
    return mended, tuple(tables)


def _mean_dice(label_zyx: NDArray[Any], truth_zyx: NDArray[Any], labels: Labels, values: tuple[int, int]) -> float:
    joint = joint_counts(truth_zyx, label_values(label_zyx, labels), labels.ignore)
    found = [joint.of((value,)) for value in values]
    return sum(Overlap(both=c.tp, predicted=c.predicted, true=c.true).dice for c in found) / 2


def _place(mask_zyx: NDArray[np.bool_], axis: int) -> float | None:
    counts = np.count_nonzero(mask_zyx, axis=tuple(a for a in range(3) if a != axis))
    return float((counts * np.arange(len(counts))).sum() / counts.sum()) if counts.any() else None
