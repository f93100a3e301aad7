"""What is odd about a dataset as a whole, from the records of its cases."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autounet.data.dataset import Dataset, Problem
from autounet.data.examined import Examined
from autounet.data.label_values import LOSSY, ValueCounts, unknown_values
from autounet.data.layouts.draft import error, note, warning
from autounet.data.open import name_values
from autounet.data.record import CaseRecord
from autounet.data.sketch import Sketch
from planners.errors import UserError

FEW_GROUPS = 5
MANY_VALUES = 30  # of a map without a table: from here on it may number objects instead of classes
SPACING_FACTOR = 3.0  # times the median spacing, from which on a case is odd
FAR = 8.0  # robust standard deviations
FEW_SHARE = 0.05  # of the cases may be called outliers
SHOWN = 20

Seen = list[tuple[str, CaseRecord]]


def judge(dataset: Dataset, examined: Sequence[Examined]) -> Dataset:
    """The dataset with its labels named, its bad cases left out and everything odd listed."""
    problems = [e.problem for e in examined if e.problem is not None]
    seen = [(e.case.id, e.record) for e in examined if e.record is not None]
    hashes = {h.path: h for e in examined for h in e.hashes}
    dataset, said = _labels(dataset, seen)
    problems += said
    bad = {p.case for p in problems if p.severity == "error" and p.case}
    kept = [(c, r) for c, r in seen if c not in bad]
    if not kept:
        raise _nothing_left(dataset, problems)
    problems += [replace(p, case=c) for c, r in kept for p in r.problems]
    problems += _notes(kept) + _copies(dataset, kept) + _presence(dataset, kept)
    problems += _geometry(kept) + _intensities(dataset, kept) + _size(dataset, {c for c, _ in kept})
    ids = {c for c, _ in kept}
    return replace(
        dataset,
        cases=tuple(c for c in dataset.cases if c.id in ids),
        problems=(*dataset.problems, *_ordered(problems)),
        file_hashes=tuple(hashes[p] for p in sorted(hashes)),
    )


def _ordered(problems: list[Problem]) -> list[Problem]:
    rank = {"error": 0, "warning": 1, "note": 2}
    return sorted(problems, key=lambda p: (rank[p.severity], p.code, p.case))


def _nothing_left(dataset: Dataset, problems: list[Problem]) -> UserError:
    first = next((p for p in problems if p.severity == "error"), None) or next((p for p in dataset.problems if p.severity == "error"), None)
    if first is None:
        return UserError("no case is left", "look into check.json")
    return UserError(f"none of the cases can be used; the first: {first.found}", first.remedy, first.case)


def _labels(dataset: Dataset, seen: Seen) -> tuple[Dataset, list[Problem]]:
    """Names for the values that were found, or values that the given table does not have."""
    counts = [(c, r.values) for c, r in seen if r.values is not None]
    problems = []
    if not dataset.labels_said:
        _refuse_objects([values for _, values in counts])
        dataset = name_values(dataset, {v for _, values in counts for v in values.values})
    problems += _annotated(dataset)
    known = {c.value for c in dataset.labels.classes} | ({dataset.labels.ignore} if dataset.labels.ignore is not None else set())
    for case, values in counts:
        if not dataset.reading.nearest_label and set(values.values) - known:
            refused = unknown_values(values, sorted(known), case)
            problems.append(error("unknown_label", refused.problem, f"values {', '.join(map(str, sorted(known)[:20]))}", refused.fix, case))
    if counts and not any(v not in (0, dataset.labels.ignore) for _, values in counts for v in values.values):
        raise UserError(
            f"all {len(counts)} label maps are empty: no voxel is anything but background", "check that these are the right masks"
        )
    if [c.value for c in dataset.labels.foreground] == [255] and not dataset.labels_said:
        problems.append(note("value_255", "the masks hold 0 and 255; 255 is the one class, and predictions are written with 255", "", ""))
    return dataset, problems


def _annotated(dataset: Dataset) -> list[Problem]:
    """Lists of annotated classes must name classes."""
    names = [c.name for c in dataset.labels.foreground]
    return [
        error(
            "annotated_unknown",
            f"annotated names {', '.join(sorted(set(c.annotated) - set(names)))}",
            f"of {', '.join(names)}",
            "correct the list",
            c.id,
        )
        for c in dataset.cases
        if c.annotated is not None and set(c.annotated) - set(names)
    ]


def _refuse_objects(counts: list[ValueCounts]) -> None:
    """Cells numbered 1 to 300 are no 300 classes, and the shades of a lossy format are none either."""
    foreground = [tuple(v for v in c.values if v > 0) for c in counts]
    found = Counter(v for values in foreground for v in values)
    if len(counts) < 2 or len(found) < MANY_VALUES:
        return
    voxels: Counter[int] = Counter()
    for one in counts:
        voxels.update(dict(zip(one.values, one.voxels, strict=True)))
    common = sorted(v for v, n in voxels.items() if n > 0.02 * voxels.total())
    if len(common) <= 4 and sum(voxels[v] for v in common) > (1 - LOSSY) * voxels.total() and max(voxels) == max(common) > len(common):
        raise UserError(
            f"the label maps hold {len(voxels)} values, but nearly all are {', '.join(map(str, common))}: a lossy format left traces",
            f'write the true values under [labels] in autounet.toml, say name = {common[-1]}, and nearest = true under [label_values]',
        )  # fmt: skip
    numbered = [values == tuple(range(1, len(values) + 1)) for values in foreground]
    rare = sum(n < 0.5 * len(counts) for n in found.values())
    if (sum(numbered) > 0.8 * len(counts) and len({len(v) for v in foreground}) > 1) or rare > 0.5 * len(found):
        raise UserError(
            f"the label maps hold {len(found)} values, and not the same in every case: they seem to number objects, not classes",
            "set binary = true under [label_values] in autounet.toml to make them one class, or list the classes under [labels]",
        )


def _notes(seen: Seen) -> list[Problem]:
    """The same remark of many files is said once."""
    where: dict[str, list[str]] = defaultdict(list)
    for case, record in seen:
        for text in record.notes:
            where[text.partition(": ")[2] or text].append(case)
    return [note("remark", f"{text} ({len(cases)} cases, for example {cases[0]})") for text, cases in sorted(where.items())]


def _copies(dataset: Dataset, seen: Seen) -> list[Problem]:
    """Equal voxels in two cases, or in two channels of one."""
    owners: dict[str, list[str]] = defaultdict(list)
    problems = []
    for case, record in seen:
        digests = [c.voxels_digest for c in record.channels]
        if len(set(digests)) < len(digests) and not any(c.modality == "rgb" for c in dataset.channels):
            problems.append(note("channel_copy", "two channels hold the same voxels", "different channels", "check the files", case))
        owners[" ".join(digests)].append(case)
    cases = {c.id: c for c in dataset.cases}
    for same in owners.values():
        if len(same) < 2:
            continue
        sides = {cases[c].split for c in same}
        code, risk = ("test_in_training", "a test case that was trained on tells nothing") if len(sides) > 1 else (
            "duplicate", "a copy on both sides of a fold makes scores too good")  # fmt: skip
        if len({cases[c].group for c in same}) > 1 or len(sides) > 1:
            fix = f"remove one of them, or put them into one group: {risk}"
            problems.append(warning(code, f"the same image as {', '.join(same[1:SHOWN])}", "an image of its own", fix, same[0]))
    return problems


def _presence(dataset: Dataset, seen: Seen) -> list[Problem]:
    counts = {c: set(r.values.values) for c, r in seen if r.values is not None}
    problems = []
    for one in dataset.labels.foreground:
        if not any(one.value in values for values in counts.values()):
            problems.append(
                note(
                    "class_absent",
                    f"no case has the class {one.name} ({one.value})",
                    "at least one case",
                    "remove it from the table, or add cases",
                )
            )
    empty = [c for c, values in counts.items() if not values - {0, dataset.labels.ignore}]
    if empty:
        shown = ", ".join(empty[:SHOWN])
        problems.append(note("empty_label", f"{len(empty)} cases have no foreground: {shown}", "fine, if nothing is there to be found"))
    return problems


def _geometry(seen: Seen) -> list[Problem]:
    problems = []
    codes = Counter(r.orientation for _, r in seen)
    if len(codes) > 1:
        table = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        problems.append(note("orientations", f"the cases are stored in several orientations: {table}; all are turned to one inside"))
    spacing = np.array([r.canonical_spacing_zyx_mm for _, r in seen])
    median = np.median(spacing, axis=0)
    odd = np.abs(np.log(spacing / median)).max(axis=1) > np.log(SPACING_FACTOR)
    for (case, record), yes in zip(seen, odd, strict=True):
        if yes and len(seen) > 2:
            ours, usual = ("x".join(f"{s:.3g}" for s in v) for v in (record.canonical_spacing_zyx_mm, median))
            problems.append(
                warning("spacing_outlier", f"voxels of {ours} mm", f"about {usual} mm, as most cases", "check the header", case)
            )
    return problems


def _intensities(dataset: Dataset, seen: Seen) -> list[Problem]:
    problems = []
    for channel, spec in enumerate(dataset.channels):
        sketches = [r.channels[channel].everywhere for _, r in seen]
        low, middle = np.array([s.low for s in sketches]), np.array([s.mean for s in sketches])
        spread = np.array([np.sqrt(s.variance) for s in sketches])
        if _like_ct(low, [r.channels[channel].whole_numbers for _, r in seen], spec.modality):
            problems += _shifted(seen, low, spec.name)
        else:
            problems += _odd(seen, middle, spec.name) if dataset.dimensions == 3 else []
            scale = spread[spread > 0]
            if scale.size > 1 and scale.max() / scale.min() > 100:
                found = f"channel {spec.name}: intensities differ in scale by a factor of {scale.max() / scale.min():,.0f} between cases"
                problems.append(note("intensity_scale", f"{found}; every case is normalised by itself"))
    return problems + _swapped(dataset, seen)


def _like_ct(low: NDArray[np.float64], whole: list[bool], modality: str) -> bool:
    return modality == "ct" or (modality == "unknown" and all(whole) and float(np.mean((low <= -900) & (low >= -4096))) > 0.5)


def _shifted(seen: Seen, low: NDArray[np.float64], name: str) -> list[Problem]:
    """Air is -1000 HU; a case without negative values was stored with an offset that got lost."""
    if np.median(low) > -500:
        return []
    fix = "store it in Hounsfield units (subtract 1024), or check its rescale intercept"
    return [
        warning("ct_offset", f"channel {name}: the lowest value is {v:.0f}", f"about {np.median(low):.0f}, as most cases", fix, case)
        for (case, _), v in zip(seen, low, strict=True)
        if v > -500
    ]


def _odd(seen: Seen, middle: NDArray[np.float64], name: str) -> list[Problem]:
    """Cases that are scaled unlike all others; scanners differ, so only the far ones, and only when they are few."""
    if len(seen) < 8:
        return []
    logs = np.log10(np.abs(middle) + 1e-6)
    centre = np.median(logs)
    width = max(1.4826 * float(np.median(np.abs(logs - centre))), 0.1)
    far = np.flatnonzero(np.abs(logs - centre) / width > FAR)
    if far.size > max(1, FEW_SHARE * len(seen)):
        return []  # two kinds of scanners are no outliers; the note on scales tells of them
    usual = f"about {10**centre:.4g}, as most cases"
    return [
        note("intensity_outlier", f"channel {name}: the mean intensity is {middle[i]:.4g}", usual, "look at the image", seen[i][0])
        for i in far
    ]


def _swapped(dataset: Dataset, seen: Seen) -> list[Problem]:
    """A case whose channels look like those of the others in another order."""
    if len(dataset.channels) < 2 or len(seen) < 5 or dataset.channels[0].modality == "rgb":
        return []
    looks = np.array([[_look(c.everywhere) for c in r.channels] for _, r in seen])  # case, channel, feature
    usual = np.median(looks, axis=0)
    width = 1.4826 * np.median(np.abs(looks - usual), axis=0) + 0.05
    problems = []
    for (case, _), look in zip(seen, looks, strict=True):
        distance = np.abs((look[:, None] - usual[None]) / width[None]).mean(axis=2)
        nearest = distance.argmin(axis=1)
        straight = np.trace(distance)
        crossed = distance[np.arange(len(nearest)), nearest].sum()
        if sorted(nearest) == list(range(len(nearest))) and list(nearest) != list(range(len(nearest))) and crossed < 0.3 * straight:
            order = ", ".join(dataset.channels[n].name for n in nearest)
            named = ", ".join(c.name for c in dataset.channels)
            problems.append(warning("channels_swapped", f"its channels look like {order}", named, "check the names of its files", case))
    return problems


def _look(one: Sketch) -> tuple[float, float, float]:
    values, shares = one.points()
    at = np.searchsorted(np.cumsum(shares), (0.25, 0.5, 0.9)).clip(0, max(values.size - 1, 0))
    scale = max(float(np.sqrt(one.variance)), 1e-9)
    low, middle, high = (float(values[i]) for i in at) if values.size else (0.0, 0.0, 0.0)
    return np.log10(scale + 1e-6), (middle - low) / scale, (high - middle) / scale


def _size(dataset: Dataset, kept: set[str]) -> list[Problem]:
    training = [c for c in dataset.training if c.id in kept]
    groups = len({c.group for c in training})
    if groups == 0:
        raise UserError("no case has a label, so there is nothing to train on", "add masks, and run `autounet check` again")
    if groups < FEW_GROUPS:
        found = f"{len(training)} labelled cases of {groups} patient{'s' if groups > 1 else ''}"
        return [warning("few_cases", found, f"{FEW_GROUPS} patients or more", "each fold leaves one patient out; scores will be uncertain")]
    return []
