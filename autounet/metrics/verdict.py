"""Two or more results on the same cases: who is better, by how much, and whether it is noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

from autounet.metrics.statistics import Comparison, compare, holm, rank_stability
from planners.errors import UserError

NOISE_P = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One result: by case and target the values of one metric."""

    name: str
    values: Mapping[str, Mapping[str, float]]
    patients: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One target of one pair of results."""

    first: str
    second: str
    target: str
    comparison: Comparison
    adjusted_p: float

    @property
    def is_noise(self) -> bool:
        """Whether chance explains it."""
        return isnan(self.adjusted_p) or self.adjusted_p > NOISE_P


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All pairs, the mean over targets first."""

    metric: str
    cases: int
    rows: tuple[Row, ...]
    first_in: tuple[tuple[str, float], ...]  # in what share of redrawn patients each result is the best

    def lines(self) -> tuple[str, ...]:
        """For the terminal."""
        lines = [f"{self.cases} cases that all results have, {self.metric}; permutation and signed ranks over patients must agree."]
        for row in self.rows:
            d, p = row.comparison.difference, row.adjusted_p
            better = row.second if d.mean > 0 else row.first
            said = "no difference beyond noise" if row.is_noise else f"{better} is better"
            lines.append(f"{row.target}: {row.second} − {row.first} = {d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f}), p {p:.3g}: {said}")
        lines += [f"{name} is first in {share:.0%} of redrawn patient samples" for name, share in self.first_in]
        return tuple(lines)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        rows = [
            {
                "first": r.first,
                "second": r.second,
                "target": r.target,
                "difference": _plain(r.comparison.difference.mean),
                "low": _plain(r.comparison.difference.low),
                "high": _plain(r.comparison.difference.high),
                "p": _plain(r.adjusted_p),
                "wilcoxon_p": _plain(r.comparison.wilcoxon_p),
                "noise": r.is_noise,
            }
            for r in self.rows
        ]
        return {"metric": self.metric, "cases": self.cases, "comparisons": rows, "first_in": dict(self.first_in)}


def judge(results: Sequence[Result], metric: str, *, seed: int = 0) -> Verdict:
    """Every result against the first, target by target and for their mean."""
    cases = sorted(set.intersection(*(set(r.values) for r in results)))
    if not cases:
        raise UserError("the results have no case in common", "evaluate them on the same cases")
    targets = [t for t in results[0].values[cases[0]] if all(t in r.values[cases[0]] for r in results)]
    patients = [results[0].patients.get(c, c) for c in cases]
    found: list[tuple[str, str, Comparison]] = []
    for other in results[1:]:
        for target in ["mean", *targets]:
            values = [[_value(r, c, target, targets) for c in cases] for r in (results[0], other)]
            found.append((other.name, target, compare(values[0], values[1], patients, seed=seed)))
    adjusted = holm([larger_p(comparison) for _, _, comparison in found])
    rows = tuple(
        Row(first=results[0].name, second=name, target=target, comparison=comparison, adjusted_p=p)
        for (name, target, comparison), p in zip(found, adjusted, strict=True)
    )
    means = [[_value(r, c, "mean", targets) for c in cases] for r in results]
    whole = [i for i in range(len(cases)) if all(not isnan(m[i]) for m in means)]
    shares = rank_stability([[m[i] for i in whole] for m in means], [patients[i] for i in whole], seed=seed) if whole else ()
    return Verdict(metric=metric, cases=len(cases), rows=rows, first_in=tuple(zip((r.name for r in results), shares, strict=False)))


def larger_p(comparison: Comparison) -> float:
    """Of the permutation and the signed-rank test: each alone is wrong in one of twenty comparisons of noise, both together in fewer."""
    return max(comparison.permutation_p, comparison.wilcoxon_p)


def result_of(name: str, plain: Any, metric: str) -> Result:
    """From scores.json."""
    if not isinstance(plain, dict) or not isinstance(plain.get("cases"), list):
        raise UserError(f"{name} is no scores.json", "compare folders that `autounet evaluate` wrote")
    values: dict[str, dict[str, float]] = {}
    patients: dict[str, str] = {}
    known = {
        key for case in plain["cases"] for found in case.get("metrics", {}).values() for key, value in found.items() if _is_number(value)
    }
    if known and metric not in known:
        raise UserError(f"{name} holds no {metric}", f"choose one of {', '.join(sorted(known))}")
    for case in plain["cases"]:
        if "metrics" not in case:
            continue
        values[case["case"]] = {target: _number(found.get(metric)) for target, found in case["metrics"].items()}
        patients[case["case"]] = str(case.get("patient") or case["case"])
    return Result(name=name, values=values, patients=patients)


def _value(result: Result, case: str, target: str, targets: Sequence[str]) -> float:
    row = result.values[case]
    if target != "mean":
        return row[target]
    kept = [row[t] for t in targets if not isnan(row[t])]
    return sum(kept) / len(kept) if kept else nan


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: float) -> float | None:
    return None if isnan(value) else value
