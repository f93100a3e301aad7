"""Scores of many cases as values and as files: a long table, JSON, and the reference's summary."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, isnan, nan
from typing import Any

from autounet.metrics.overlap import Counts
from autounet.metrics.statistics import Interval, bootstrap_mean
from planners.errors import in_words

SCORES_SCHEMA = 1

SHOWN = (
    ("nsd", "NSD"),
    ("hd95_mm", "HD95 mm"),
    ("lesion_f1", "lesion F1"),
    ("object_f1", "object F1"),
)  # beside the Dice, where they were measured

DEFINITIONS = {
    "dice": "dice-v1",
    "iou": "iou-v1",
    "sensitivity": "sensitivity-v1",
    "specificity": "specificity-v1",
    "precision": "precision-v1",
    "f2": "f2-v1",
    "volume_error_ml": "volume_error-v1",
    "relative_volume_error": "relative_volume_error-v1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScores:
    """One class or region in one case."""

    name: str
    values: tuple[int, ...]
    counts: Counts
    voxel_mm3: float = 1.0
    more: tuple[tuple[str, str, float], ...] = ()  # (metric, definition, value)

    def rows(self) -> Iterable[tuple[str, str, float]]:
        """(metric, definition, value)."""
        counts = self.counts
        values = {
            "dice": counts.dice,
            "iou": counts.iou,
            "sensitivity": counts.sensitivity,
            "specificity": counts.specificity,
            "precision": counts.precision,
            "f2": counts.f2,
            "volume_error_ml": counts.volume_error_ml(self.voxel_mm3),
            "relative_volume_error": counts.relative_volume_error,
        }
        yield from ((metric, DEFINITIONS[metric], value) for metric, value in values.items())
        yield from self.more

    def value(self, metric: str) -> float:
        """The value of one metric; NaN when it was not measured."""
        return next((value for name, _, value in self.rows() if name == metric), nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScores:
    """One case: its targets, or why it could not be scored."""

    case: str
    targets: tuple[TargetScores, ...] = ()
    problem: str = ""
    fix: str = ""
    group: str = ""  # the patient; intervals are over patients
    truth_file: str = ""
    predicted_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All cases of one comparison."""

    cases: tuple[CaseScores, ...]
    targets: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def scored(self) -> tuple[CaseScores, ...]:
        """Cases with numbers."""
        return tuple(c for c in self.cases if not c.problem)

    @property
    def problems(self) -> tuple[CaseScores, ...]:
        """Cases without."""
        return tuple(c for c in self.cases if c.problem)

    def values(self, target: str, metric: str = "dice") -> tuple[float, ...]:
        """One value a scored case, in their order."""
        return tuple(t.value(metric) for case in self.scored for t in case.targets if t.name == target)

    def mean(self, target: str, metric: str = "dice") -> float:
        """Mean over the cases in which the metric is defined; NaN when it is in none."""
        return nan_mean(self.values(target, metric))

    def mean_over_targets(self, metric: str = "dice") -> float:
        """Mean of the targets' means."""
        return nan_mean([self.mean(name, metric) for name, _ in self.targets])

    @property
    def failed_cases(self) -> tuple[str, ...]:
        """Ids of cases that could not be scored."""
        return tuple(c.case for c in self.problems)

    def lines(self) -> tuple[str, ...]:
        """For the terminal: the mean Dice of each target, and what could not be scored."""
        head = f"{len(self.scored)} cases scored, mean Dice {self.mean_over_targets():.4f}."
        rows = [self._line(name) for name, _ in self.targets]
        return head, *rows, *(in_words(c.problem, c.fix, c.case) for c in self.problems)

    def interval(self, target: str, metric: str = "dice") -> Interval:
        """The mean with its 95 % interval over patients (bootstrap-v1); NaN at both ends with fewer than two."""
        kept = [(v, c.group or c.case) for v, c in zip(self.values(target, metric), self.scored, strict=True) if not isnan(v)]
        return bootstrap_mean([v for v, _ in kept], [patient for _, patient in kept])

    def _line(self, name: str) -> str:
        found = self.interval(name)
        sure = "" if isnan(found.low) else f" ({found.low:.4f} to {found.high:.4f})"
        more = [(title, self.mean(name, metric)) for metric, title in SHOWN]
        beside = "".join(f", {title} {value:.3g}" for title, value in more if not isnan(value))
        count = _defined(self.values(name))
        return f"  {name}: Dice {found.mean:.4f}{sure} over {count} case{'s' if count != 1 else ''}{beside}"

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return as_plain(self)

    def metrics(self) -> tuple[tuple[str, str], ...]:
        """(metric, definition) of everything that was measured, in order."""
        seen = {(m, d): None for case in self.scored for t in case.targets for m, d, _ in t.rows()}
        return tuple(seen)


def _defined(values: Sequence[float]) -> int:
    return sum(1 for v in values if not isnan(v))


def nan_mean(values: Sequence[float]) -> float:
    """Mean of what is a number."""
    kept = [v for v in values if not isnan(v)]
    return fsum(kept) / len(kept) if kept else nan


def as_csv(scores: Scores) -> str:
    """A long table: one number a row."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("case", "patient", "target", "metric", "definition", "value", "problem"))
    for case in scores.cases:
        if case.problem:
            table.writerow((case.case, case.group, "", "", "", "", case.problem))
        for target in case.targets:
            for metric, definition, value in target.rows():
                table.writerow((case.case, case.group, target.name, metric, definition, _text(value), ""))
            counts = target.counts
            for name, count in (("tp", counts.tp), ("fp", counts.fp), ("fn", counts.fn), ("tn", counts.tn)):
                table.writerow((case.case, case.group, target.name, name, "count-v1", count, ""))
    return text.getvalue()


def as_plain(scores: Scores) -> dict[str, Any]:
    """The same as JSON; what is not defined is null."""
    return {
        "schema": SCORES_SCHEMA,
        "targets": {name: list(values) for name, values in scores.targets},
        "definitions": dict(scores.metrics()),
        "mean": {name: {m: _plain(scores.mean(name, m)) for m, _ in scores.metrics()} for name, _ in scores.targets},
        "interval": {name: {m: _ends(scores.interval(name, m)) for m in ("dice", *(m for m, _ in SHOWN))} for name, _ in scores.targets},
        "mean_over_targets": {m: _plain(scores.mean_over_targets(m)) for m, _ in scores.metrics()},
        "cases": [_plain_case(case) for case in scores.cases],
    }


def _ends(found: Interval) -> list[float] | None:
    return None if isnan(found.low) else [found.low, found.high]


def _plain_case(case: CaseScores) -> dict[str, Any]:
    if case.problem:
        return {"case": case.case, "problem": case.problem}
    metrics = {t.name: {m: _plain(v) for m, _, v in t.rows()} | _counts(t.counts) for t in case.targets}
    return {"case": case.case, "patient": case.group, "metrics": metrics}


def as_reference_summary(scores: Scores) -> dict[str, Any]:
    """nnU-Net's summary.json, with file names instead of full paths; NaN as its writer spells it."""
    keys = {name: str(values[0]) if len(values) == 1 else str(tuple(values)) for name, values in scores.targets}
    names = ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref")
    per_case = [
        {
            "metrics": {keys[t.name]: dict(zip(names, _reference_row(t.counts), strict=True)) for t in case.targets},
            "prediction_file": case.predicted_file,
            "reference_file": case.truth_file,
        }
        for case in scores.scored
    ]
    means: dict[str, dict[str, float]] = {}
    for key in keys.values():
        means[key] = {name: nan_mean([float(row["metrics"][key][name]) for row in per_case]) for name in names}  # type: ignore[index]
    foreground = {name: _plain_mean([means[key][name] for key in keys.values()]) for name in names}
    return {"foreground_mean": foreground, "mean": means, "metric_per_case": per_case}


def _reference_row(c: Counts) -> tuple[float, ...]:
    return c.dice, c.fn, c.fp, c.iou, c.tn, c.tp, c.predicted, c.true


def _plain_mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if values else nan


def _counts(counts: Counts) -> dict[str, int]:
    return {"tp": counts.tp, "fp": counts.fp, "fn": counts.fn, "tn": counts.tn}


def _plain(value: float) -> float | None:
    return None if isnan(value) else value


def _text(value: float) -> str:
    return "" if isnan(value) else repr(value)
