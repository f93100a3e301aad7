"""Left and right: classes whose names differ by the side only, or whose shapes mirror each other in every case."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autounet.data.record import CaseRecord
from autounet.data.shapes import ClassShape
from planners.fingerprint import SidePair
from planners.labels import Labels

_LEFT = {"left", "l", "lh", "lt", "sin", "sinister", "links", "gauche"}
_SIDES = _LEFT | {"right", "r", "rh", "rt", "dex", "dexter", "rechts", "droite", "droit"}
MIN_CASES = 3  # with fewer, mirrored centres prove nothing
VOLUME_RATIO = 1.5  # at most, between the two of a pair, in the median
ALIKE = 0.35  # of the distance between the two: by how much heights and depths may differ


@dataclass(frozen=True, slots=True)
class _Named:
    rest: str
    left: bool


def side_pairs(labels: Labels, records: Sequence[CaseRecord]) -> tuple[SidePair, ...]:
    """Pairs by name, and by symmetry those that the names do not tell."""
    by_name = _by_name([c.name for c in labels.foreground])
    values = {c.name: c.value for c in labels.foreground}
    mirrored = {frozenset(pair): pair for pair in _by_symmetry(labels, records)}
    found = [
        SidePair(left=left, right=right, found_by="both" if frozenset((left, right)) in mirrored else "name") for left, right in by_name
    ]
    taken = {n for pair in by_name for n in pair}
    found += [SidePair(left=left, right=right, found_by="symmetry") for left, right in mirrored.values() if not {left, right} & taken]
    return tuple(sorted(found, key=lambda p: values[p.left]))


def _by_name(names: list[str]) -> list[tuple[str, str]]:
    sided = {name: s for name in names if (s := _side(name)) is not None}
    lefts = {s.rest: n for n, s in sided.items() if s.left}
    rights = {s.rest: n for n, s in sided.items() if not s.left}
    return [(lefts[rest], rights[rest]) for rest in lefts if rest in rights]


def _side(name: str) -> _Named | None:
    """A name without its one word for a side; single letters count only as words of their own."""
    parts = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", re.sub(r"[-_. ]+", " ", name))]
    at = [i for i, w in enumerate(parts) if w in _SIDES]
    if len(at) != 1:
        return None
    return _Named(" ".join(parts[: at[0]] + parts[at[0] + 1 :]), parts[at[0]] in _LEFT)


def _by_symmetry(labels: Labels, records: Sequence[CaseRecord]) -> list[tuple[str, str]]:
    """Two classes of like volume and height that lie on either side of all pairs' common middle, in nearly every case."""
    if any(r.orientation == "2D" for r in records):
        return []
    shapes = [{s.value: s for s in r.shapes} for r in records]
    classes = labels.foreground
    candidates: list[tuple[float, str, str]] = []
    for i, a in enumerate(classes):
        for b in classes[i + 1 :]:
            both = [(s[a.value], s[b.value]) for s in shapes if a.value in s and b.value in s]
            if len(both) < max(MIN_CASES, 0.5 * len(records)):
                continue
            score = _mirror_score(both)
            if score is not None:
                left, right = (a, b) if np.median([p.centre_xyz_mm[0] - q.centre_xyz_mm[0] for p, q in both]) < 0 else (b, a)
                candidates.append((score, left.name, right.name))
    return _best(candidates)


def _mirror_score(both: list[tuple[ClassShape, ClassShape]]) -> float | None:
    """How far two classes are from being mirror images, in units of their distance; None when they are none."""
    ratio = np.array([max(a.voxels, b.voxels) / min(a.voxels, b.voxels) for a, b in both])
    centres = np.array([[a.centre_xyz_mm, b.centre_xyz_mm] for a, b in both])
    across = centres[:, 0, 0] - centres[:, 1, 0]
    off = np.abs(centres[:, 0, 1:] - centres[:, 1, 1:]).max(axis=1)
    spread = np.maximum([[a.spread_mm, b.spread_mm] for a, b in both], 1e-6)  # a single voxel has none
    like = np.abs(np.log(spread[:, 0] / spread[:, 1]))
    same_side = max(float((across > 0).mean()), float((across < 0).mean()))
    apart = np.abs(across)
    relative = off / np.maximum(apart, 1e-6)
    extents = np.array([[a.extent_zyx_mm, b.extent_zyx_mm] for a, b in both])
    unlike = np.median(np.abs(np.log(extents[:, 0] / extents[:, 1])), axis=0).max()
    good = (
        same_side >= 0.9
        and float(np.median(ratio)) <= VOLUME_RATIO
        and float(np.median(relative)) <= ALIKE
        and float(np.median(like)) <= 0.25
        and float(unlike) <= 0.3
        and bool(np.median(apart) > 1.2 * np.median(spread.mean(axis=1)))
    )
    return float(np.median(relative) + np.median(np.log(ratio)) + unlike) if good else None


def _best(candidates: list[tuple[float, str, str]]) -> list[tuple[str, str]]:
    """Each class in one pair at most, the most alike first."""
    taken: set[str] = set()
    out = []
    for _, left, right in sorted(candidates):
        if not {left, right} & taken:
            taken |= {left, right}
            out.append((left, right))
    return out
