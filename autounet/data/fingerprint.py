"""The dataset in numbers, from the records of its cases: what a planner may look at."""

from collections.abc import Sequence
from math import prod

import numpy as np

from autounet.data.dataset import Dataset
from autounet.data.modality import guess
from autounet.data.record import CaseRecord
from autounet.data.shapes import ClassShape
from autounet.data.sides import side_pairs
from autounet.data.sketch import Mixture, mixture
from autounet.data.splits import Content
from planners.fingerprint import CaseSize, ChannelSeen, ClassSeen, Fingerprint, Histogram, Intensities, TripleMm
from planners.labels import LabelClass

BINS = 128
OUTSIDE = 0.0005  # of the voxels that may lie outside of the histogram at either end

Seen = Sequence[tuple[str, CaseRecord]]


def fingerprint_of(dataset: Dataset, seen: Seen) -> Fingerprint:
    """All numbers of the cases that are trained on."""
    records = [r for _, r in seen]
    return Fingerprint(
        dataset=dataset.name,
        dimensions=dataset.dimensions,
        cases=tuple(
            CaseSize(case=c, shape_zyx=r.canonical_shape_zyx, spacing_zyx_mm=r.canonical_spacing_zyx_mm, stored_axes=r.stored_axes)
            for c, r in seen
        ),
        channels=tuple(_channel(dataset, number, records) for number in range(len(dataset.channels))),
        labels=dataset.labels,
        classes=tuple(_class(one, records) for one in dataset.labels.foreground),
        side_pairs=side_pairs(dataset.labels, records),
        median_relative_size_after_crop=float(np.median([r.relative_size for r in records])),
        orientations=tuple(sorted({r.orientation for r in records})),
        annotated_fraction=_annotated(dataset, records),
    )


def contents(dataset: Dataset, seen: Seen) -> dict[str, Content]:
    """The volume of each class in each case, by which folds are balanced."""
    names = {c.value: c.name for c in dataset.labels.foreground}
    return {
        case: Content(volumes_ml={names[v]: n * _voxel_ml(r) for v, n in zip(r.values.values, r.values.voxels, strict=True) if v in names})
        for case, r in seen
        if r.values is not None
    }


def _channel(dataset: Dataset, number: int, records: Sequence[CaseRecord]) -> ChannelSeen:
    spec = dataset.channels[number]
    channels = [r.channels[number] for r in records]
    # As the reference has it: every case draws the same number of foreground voxels, so every case weighs the same.
    inside = mixture([c.foreground for c in channels]) or mixture([c.everywhere for c in channels])
    everywhere = mixture([c.everywhere for c in channels], [float(c.everywhere.count) for c in channels])
    assert inside is not None
    assert everywhere is not None
    modality, confidence = guess(spec, channels, dataset.dimensions)
    return ChannelSeen(
        name=spec.name,
        modality=modality,
        confidence=confidence,
        foreground=Intensities(
            mean=inside.mean,
            median=inside.quantile(0.5),
            std=inside.std,
            minimum=inside.low,
            maximum=inside.high,
            percentile_00_5=inside.quantile(0.005),
            percentile_99_5=inside.quantile(0.995),
        ),
        histogram=_histogram(everywhere, sum(c.everywhere.count for c in channels)),
    )


def _histogram(seen: Mixture, total: int) -> Histogram:
    low, high = seen.quantile(OUTSIDE), seen.quantile(1 - OUTSIDE)
    if not high > low:
        low, high = seen.low, max(seen.high, seen.low + 1.0)
    return Histogram(low=low, high=high, counts=seen.histogram(low, high, BINS, float(total)))


def _class(one: LabelClass, records: Sequence[CaseRecord]) -> ClassSeen:
    found = [(s, r) for r in records for s in r.shapes if s.value == one.value]
    if not found:
        return _without_shapes(one, records)
    shapes: list[ClassShape] = [s for s, _ in found]
    extents = np.median([s.extent_zyx_mm for s in shapes], axis=0)
    return ClassSeen(
        name=one.name,
        cases=len(found),
        fraction=float(np.median([s.voxels / prod(r.canonical_shape_zyx) for s, r in found])),
        volume_ml=float(np.median([s.voxels * _voxel_ml(r) for s, r in found])),
        components=float(np.median([s.components for s in shapes])),
        smallest_component_mm3=min(s.smallest_component_voxels * _voxel_ml(r) * 1000 for s, r in found),
        extent_zyx_mm=(float(extents[0]), float(extents[1]), float(extents[2])),
        elongation=float(np.median([s.elongation for s in shapes])),
    )


def _without_shapes(one: LabelClass, records: Sequence[CaseRecord]) -> ClassSeen:
    """Of maps with very many values only counts are kept."""
    counts = [
        (n, r) for r in records if r.values for v, n in zip(r.values.values, r.values.voxels, strict=True) if v == one.value
    ]  # fmt: skip
    nothing: TripleMm = (0.0, 0.0, 0.0)
    return ClassSeen(
        name=one.name,
        cases=len(counts),
        fraction=float(np.median([n / prod(r.canonical_shape_zyx) for n, r in counts])) if counts else 0.0,
        volume_ml=float(np.median([n * _voxel_ml(r) for n, r in counts])) if counts else 0.0,
        components=1.0 if counts else 0.0,
        smallest_component_mm3=0.0,
        extent_zyx_mm=nothing,
        elongation=1.0,
    )


def _voxel_ml(record: CaseRecord) -> float:
    return prod(record.canonical_spacing_zyx_mm) / 1000


def _annotated(dataset: Dataset, records: Sequence[CaseRecord]) -> float:
    """Of all voxels those that are not marked as ignored."""
    ignore = dataset.labels.ignore
    if ignore is None:
        return 1.0
    total = sum(prod(r.shape_zyx) for r in records)
    ignored = sum(n for r in records if r.values for v, n in zip(r.values.values, r.values.voxels, strict=True) if v == ignore)
    return 1.0 - ignored / max(total, 1)
