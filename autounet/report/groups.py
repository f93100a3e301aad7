"""What cases with low scores have in common: their Dice against that of all other cases, trait by trait."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet.data.dataset import Case
from autounet.metrics.statistics import holm
from autounet.report.gather import Material
from autounet.report.looks import mean_dice
from autounet.rng import generator

SMALL = 0.25  # the quarter of the cases in which a class is smallest
UNUSUAL = 1.5  # voxels larger or smaller than the median by this factor
UNLIKE = 5.0  # times the usual distance (the median one) of a case's gray values from the middle
FEW = 4  # scored cases; among fewer nothing is common
WORSE = 0.01  # Dice; less is not worth a line
SHUFFLES = 2000
SHOWN = 6  # case ids in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cases with one trait."""

    trait: str
    cases: tuple[str, ...]  # the worst first
    dice: float
    elsewhere: float
    p: float  # that a group of this size is so much worse by chance alone; NaN when it is every case

    @property
    def verdict(self) -> str:
        """In words."""
        return "" if self.p != self.p else "more than chance" if self.p < 0.05 else "may be chance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scored case."""

    case: str
    dice: float
    metrics: Mapping[str, Mapping[str, Any]]
    known: Case | None


def failure_groups(material: Material) -> tuple[Group, ...]:
    """Traits whose cases score lower than the others, the most telling first."""
    rows = scored_rows(material)
    if len(rows) < FEW:
        return ()
    dice = {row.case: row.dice for row in rows}
    chance = _Chance(np.array(list(dice.values())))
    found = [_group(trait, cases, dice, chance) for trait, cases in (*traits(rows), *drift(rows, material))]
    # The more traits are looked at, the more of them look bad by chance; so all count, those that look good too.
    adjusted = holm([group.p for group in found])
    sure = [replace(group, p=p) for group, p in zip(found, adjusted, strict=True) if not group.elsewhere - group.dice < WORSE]
    return tuple(sorted(sure, key=lambda g: (g.elsewhere - g.dice) * len(g.cases) if g.elsewhere == g.elsewhere else 0.0, reverse=True))


def scored_rows(material: Material) -> tuple[Row, ...]:
    """Cases of the chosen networks with a Dice."""
    known = {case.id: case for case in material.dataset.cases} if material.dataset else {}
    rows = []
    for row in (material.chosen_scores or {}).get("cases", []):
        dice = mean_dice(row.get("metrics", {}))
        if dice is not None:
            rows.append(Row(case=row["case"], dice=dice, metrics=row["metrics"], known=known.get(row["case"])))
    return tuple(rows)


def traits(rows: Sequence[Row]) -> list[tuple[str, set[str]]]:
    """(what it is, cases that have it): of their classes, of their voxels, and of where they come from."""
    names = list(rows[0].metrics)
    found = [trait for name in names for trait in _of_class(name, rows)]
    found += _of_voxels(rows)
    for what, own in sorted({pair for row in rows for pair in _origins(row)}):
        cases = {row.case for row in rows if (what, own) in _origins(row)}
        if len(cases) > 1:  # one case is no group
            found.append((f"{what} {own}", cases))
    return [(trait, cases) for trait, cases in found if 0 < len(cases) < len(rows) or (cases and trait.endswith("missed altogether"))]


def drift(rows: Sequence[Row], material: Material) -> list[tuple[str, set[str]]]:
    """Cases whose gray values lie far from those of the others: another scanner, another protocol, another unit."""
    seen = [(row.case, material.medians[row.case]) for row in rows if row.case in material.medians]
    channels = material.dataset.channels if material.dataset else ()
    if len(seen) < FEW or any(len(values) != len(channels) for _, values in seen):
        return []
    table = np.array([values for _, values in seen])
    away = np.abs(table - np.median(table, 0))
    usual = np.median(away, 0)
    found = []
    for number, channel in enumerate(channels):
        unlike = {case for (case, _), far in zip(seen, away[:, number] > UNLIKE * usual[number], strict=True) if far and usual[number] > 0}
        if unlike:
            found.append((f"gray values of {channel.name} unlike the others", unlike))
    return found


def _origins(row: Row) -> tuple[tuple[str, str], ...]:
    """Where a case comes from."""
    if row.known is None:
        return ()
    return tuple((what, own) for what, own in (("stratum", row.known.stratum), ("patient", row.known.group)) if own)


def _of_class(name: str, rows: Sequence[Row]) -> list[tuple[str, set[str]]]:
    true = {row.case: _voxels(row, name, "fn") for row in rows}
    made = {row.case: _voxels(row, name, "fp") for row in rows}
    present = sorted(v for v in true.values() if v > 0)
    found = [
        (f"{name} missed altogether", {case for case in true if true[case] > 0 and made[case] == 0}),
        (f"{name} where there is none", {case for case in true if true[case] == 0 and made[case] > 0}),
    ]
    if len(present) >= FEW and present[0] < present[-1]:
        limit = float(np.quantile(present, SMALL))
        found.append((f"{name} is small (at most {limit:,.0f} voxels)", {case for case, v in true.items() if 0 < v <= limit}))
    return found


def _voxels(row: Row, name: str, beside: str) -> int:
    metrics = row.metrics.get(name, {})
    return int(metrics.get("tp", 0)) + int(metrics.get(beside, 0))


def _of_voxels(rows: Sequence[Row]) -> list[tuple[str, set[str]]]:
    with_spacing = [(row.case, row.known.spacing_zyx_mm) for row in rows if row.known is not None and row.known.spacing_zyx_mm is not None]
    if len(with_spacing) < FEW:
        return []
    spacing = np.sort(np.array([mm for _, mm in with_spacing]), axis=1)
    ratio = spacing / np.median(spacing, 0)
    coarse = {case for (case, _), r in zip(with_spacing, ratio, strict=True) if r.max() > UNUSUAL}
    fine = {case for (case, _), r in zip(with_spacing, ratio, strict=True) if r.min() < 1 / UNUSUAL}
    return [("voxels coarser than usual", coarse), ("voxels finer than usual", fine - coarse)]


def _group(trait: str, cases: set[str], dice: Mapping[str, float], chance: "_Chance") -> Group:
    inside = np.array([value for case, value in dice.items() if case in cases])
    outside = np.array([value for case, value in dice.items() if case not in cases])
    mean, elsewhere = float(inside.mean()), float(outside.mean()) if len(outside) else nan
    worst_first = sorted(cases & set(dice), key=lambda case: dice[case])
    p = chance.p(len(inside), mean) if len(outside) else nan
    return Group(trait=trait, cases=tuple(worst_first), dice=mean, elsewhere=elsewhere, p=p)


class _Chance:
    """permutation-v1, one-sided and unpaired: how often as many cases drawn blindly are as bad; drawn once for each number of cases."""

    def __init__(self, dice: NDArray[np.float64]) -> None:
        self.dice = dice
        self.means: dict[int, NDArray[np.float64]] = {}

    def p(self, size: int, mean: float) -> float:
        """Of a group of this size and mean."""
        if size not in self.means:
            rng = generator(0, "failure groups", len(self.dice), size)
            self.means[size] = np.array([rng.choice(self.dice, size, replace=False).mean() for _ in range(SHUFFLES)])
        return float((1 + (self.means[size] <= mean + 1e-12).sum()) / (1 + SHUFFLES))
