"""Which repairs of masks pay: searched per class, judged on folds that had no part in the search.

A mask is kept as a table of its pieces (`ClassTable`), from which the Dice after any repair follows exactly, so that a
threshold costs a sum and not a pass over voxels. A case in which truth and mask are both empty counts as 1 here: a mask that
becomes rightly empty is a gain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autounet.metrics.statistics import holm, permutation_p
from autounet.store.selection import PostStep

K = TypeVar("K")

NOISE_P = 0.05  # two-sided, though only a gain is asked for: folds share cases, so a one-sided test finds 7 in 100
LEAST_GAIN = 0.0005  # Dice; what is smaller is not worth a rule
THRESHOLDS = 24
LEAST_FOLDS = 3  # with fewer, patients are divided into groups instead
GROUPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Voxels of one target that are in both, predicted, and true."""

    both: int
    predicted: int
    true: int

    @property
    def dice(self) -> float:
        """1 when both are empty."""
        total = self.predicted + self.true
        return 2 * self.both / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Voxels of a mask: all of them, those that are scored, and those that lie in the truth of each target."""

    voxels: int
    scored: int
    inside: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """One class in one mask, and the targets that its voxels belong to."""

    voxel_mm3: float
    before: tuple[Overlap, ...]  # one a target
    pieces: tuple[Part, ...] = ()  # the largest first; then all of one size together, `voxels` being the size of one
    holes: Part | None = None
    holes_of_largest: Part | None = None

    def dice(self, steps: Sequence[PostStep]) -> float:
        """Mean over the targets after these repairs."""
        kinds = [step.kind for step in steps]
        gone: Sequence[Part] = ()
        filled = self.holes if "fill_holes" in kinds else None
        if "keep_largest" in kinds:
            gone = self.pieces[1:]
            filled = self.holes_of_largest if "fill_holes" in kinds else None
        elif "drop_small" in kinds:
            bar = next(step.minimum_mm3 for step in steps if step.kind == "drop_small")
            gone = [part for part in self.pieces if part.voxels * self.voxel_mm3 < bar]
        found = []
        for index, before in enumerate(self.before):
            both = before.both - sum(part.inside[index] for part in gone) + (filled.inside[index] if filled else 0)
            predicted = before.predicted - sum(part.scored for part in gone) + (filled.scored if filled else 0)
            found.append(Overlap(both=both, predicted=predicted, true=before.true).dice)
        return sum(found) / len(found) if found else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SideTable:
    """Mean Dice of two classes that are each other's mirror image, as predicted and after they were put right."""

    lower: str
    upper: str
    axis: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTables:
    """One held-out case."""

    case: str
    patient: str
    fold: int
    classes: Mapping[str, ClassTable]
    sided: Mapping[str, ClassTable]  # the same after sides were put right, for the classes that have a side
    sides: tuple[SideTable, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Candidates of one class, the score of each in every case, and what choosing without a fold gives in that fold."""

    candidates: tuple[tuple[PostStep, ...], ...]  # the first is: no repair
    scores: NDArray[np.float64]  # (case, candidate)
    nested: NDArray[np.float64]  # (case)
    p: float  # of no gain

    @property
    def gain(self) -> float:
        """Mean over the cases, each judged by a choice it had no part in."""
        return float((self.nested - self.scores[:, 0]).mean())

    @property
    def best(self) -> tuple[PostStep, ...]:
        """By all cases."""
        return self.candidates[best_of(self.scores)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairs:
    """What is worth doing."""

    steps: tuple[PostStep, ...]
    tried: int  # classes and pairs


def choose_repairs(cases: Sequence[CaseTables], seed: int = 0) -> Repairs:
    """Sides first, then each class; a repair is chosen only when its nested gain is beyond noise."""
    if not cases:
        return Repairs(steps=(), tried=0)
    parts = divided(cases)
    pairs = {(t.lower, t.upper, t.axis): None for case in cases for t in case.sides}
    sides = {pair: _search_sides(cases, parts, pair, seed) for pair in pairs}
    put = _paid(sides)
    moved = {name for lower, upper, _ in put for name in (lower, upper)}
    names = {name: None for case in cases for name in case.classes}
    classes = {name: _search_class(cases, parts, name, moved, seed) for name in names}
    kept = _paid(classes)
    return Repairs(steps=tuple(step for steps in (*put.values(), *kept.values()) for step in steps), tried=len(sides) + len(classes))


def divided(cases: Sequence[CaseTables]) -> NDArray[np.int64]:
    """The fold of each case, or its group of patients where too few folds are trained."""
    folds = np.array([case.fold for case in cases])
    if len(np.unique(folds)) >= LEAST_FOLDS:
        return folds
    patients = sorted({case.patient for case in cases})
    return np.array([patients.index(case.patient) % GROUPS for case in cases])


def search(
    candidates: Sequence[tuple[PostStep, ...]], scores: NDArray[np.float64], parts: NDArray[np.int64], patients: Sequence[str], seed: int
) -> Search:
    """Choose without each part, and look what that brings there."""
    nested = scores[:, 0].copy()
    if len(np.unique(parts)) > 1:
        for part in np.unique(parts):
            own = parts == part
            nested[own] = scores[own, best_of(scores[~own])]
    gains = nested - scores[:, 0]
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    means = np.bincount(patient, gains) / np.bincount(patient)
    p = permutation_p(means, seed=seed) if means.mean() > 0 else 1.0
    return Search(candidates=tuple(candidates), scores=scores, nested=nested, p=p)


def best_of(scores: NDArray[np.float64]) -> int:
    """The first of the best candidates, or none when it gains too little."""
    means = scores.mean(0)
    best = int(np.argmax(means >= means.max() - 1e-12))
    return best if means[best] >= means[0] + LEAST_GAIN else 0


def _search_class(cases: Sequence[CaseTables], parts: NDArray[np.int64], name: str, moved: set[str], seed: int) -> Search:
    tables = [case.sided[name] if name in moved and name in case.sided else case.classes[name] for case in cases]
    candidates = candidates_of(name, tables)
    scores = np.array([[table.dice(steps) for steps in candidates] for table in tables])
    return search(candidates, scores, parts, [case.patient for case in cases], seed)


def candidates_of(name: str, tables: Sequence[ClassTable]) -> list[tuple[PostStep, ...]]:
    """Nothing, then what changes any of the masks, the gentlest first."""
    largest, fill = PostStep(kind="keep_largest", target=name), PostStep(kind="fill_holes", target=name)
    found: list[tuple[PostStep, ...]] = [()]
    if any(table.holes is not None for table in tables):
        found.append((fill,))
    sizes = [part.voxels * table.voxel_mm3 for table in tables for part in table.pieces]
    found += [(PostStep(kind="drop_small", target=name, minimum_mm3=bar),) for bar in thresholds(sizes)]
    if any(len(table.pieces) > 1 for table in tables):
        found.append((largest,))
        if any(table.holes_of_largest is not None for table in tables):
            found.append((largest, fill))
    return found


def thresholds(sizes_mm3: Sequence[float]) -> tuple[float, ...]:
    """Between the sizes that occur, spread evenly over their ranks."""
    known = np.unique(np.asarray(sizes_mm3))
    if len(known) < 2:
        return ()
    between = np.sqrt(known[:-1] * known[1:])
    taken = np.unique(np.linspace(0, len(between) - 1, THRESHOLDS).round().astype(int))
    return tuple(float(f"{between[i]:.4g}") for i in taken)


def _search_sides(cases: Sequence[CaseTables], parts: NDArray[np.int64], pair: tuple[str, str, int], seed: int) -> Search:
    lower, upper, axis = pair
    step = PostStep(kind="sides", target=lower, partner=upper, axis=axis)
    rows = []
    for case in cases:
        found = next((t for t in case.sides if (t.lower, t.upper, t.axis) == pair), None)
        rows.append((found.before, found.after) if found is not None else (0.0, 0.0))
    return search([(), (step,)], np.array(rows), parts, [case.patient for case in cases], seed)


def _paid(searches: Mapping[K, Search]) -> dict[K, tuple[PostStep, ...]]:
    """Those whose nested gain is beyond noise, corrected for how many were tried, with what they bring."""
    adjusted = holm([found.p for found in searches.values()])
    kept = {}
    for (key, found), p in zip(searches.items(), adjusted, strict=True):
        if not isnan(p) and p <= NOISE_P and found.gain >= LEAST_GAIN and found.best:
            kept[key] = tuple(replace(step, gain=found.gain, p=p) for step in found.best)
    return kept
