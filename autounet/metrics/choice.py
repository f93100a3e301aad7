"""Which networks vote: candidates are compared on the same held-out cases, and the simplest within noise of the best is chosen.

A second configuration doubles the cost of every prediction, and a difference that would vanish with other patients is
no reason to pay it. Nor is one that is sure, and that nobody would see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan, prod

import numpy as np

from autounet.metrics.scores import Scores, nan_mean
from autounet.metrics.statistics import SIGNIFICANT, bootstrap_mean, by_patient, holm, paired_p, rank_stability
from autounet.store.selection import Candidate, Chosen, FoldScore, Selection, TargetScore
from planners.plan import Plan

ONE_PATIENT = 0.05  # Dice; with one patient nothing can be tested, but so much is worth a larger network
NOTICED = 0.001  # Dice; a sure gain below it in every target is a few voxels at the border: a network that is nearly perfect has many
TRIED_TOGETHER = 3  # ensembles are made of so many of the best configurations
LEANING = 2.0  # the say of the one member of an ensemble that is believed more than the others


@dataclass(frozen=True, slots=True)
class Team:
    """Configurations that vote together, and the say of each (none: equal)."""

    names: tuple[str, ...]
    weights: tuple[float, ...] = ()

    @property
    def shares(self) -> tuple[float, ...]:
        """One a configuration; their sum is 1."""
        weights = self.weights or (1.0,) * len(self.names)
        return tuple(w / sum(weights) for w in weights)

    @property
    def words(self) -> str:
        """For people."""
        if not self.weights:
            return " + ".join(self.names)
        return " + ".join(f"{share:.0%} {name}" for name, share in zip(self.names, self.shares, strict=True))


def ensembles_worth_trying(scored: Mapping[Team, Scores], folds: Mapping[str, tuple[int, ...]]) -> list[Team]:
    """Of the best configurations that were trained on the same folds and scored on the same cases; equal, and leaning to one."""
    alone = [team for team in scored if len(team.names) == 1]
    ranked = sorted(alone, key=lambda team: or_zero(scored[team].mean_over_targets()), reverse=True)[:TRIED_TOGETHER]
    together = []
    for count in range(2, len(ranked) + 1):
        for chosen in combinations(ranked, count):
            names = tuple(sorted((name for team in chosen for name in team.names), key=list(folds).index))
            cases = {tuple(c.case for c in scored[team].scored) for team in chosen}
            if len(cases) == 1 and cases != {()} and len({folds[name] for name in names}) == 1:
                together.append(Team(names))
                together += [Team(names, tuple(LEANING if i == favourite else 1.0 for i in range(count))) for favourite in range(count)]
    return together


def choose(
    plan: Plan, scored: Mapping[Team, Scores], folds: Mapping[str, tuple[int, ...]], seed: int, fold_of: Mapping[str, int] | None = None
) -> Selection:
    """The simplest candidate within noise of the best, with what is known of all."""
    teams = list(scored)
    best = max(teams, key=lambda team: (or_zero(scored[team].mean_over_targets()), -_cost(plan, team.names)))
    p_values = [nan if team == best else _p(scored[best], scored[team], len(teams) - 1, seed) for team in teams]
    adjusted = dict(zip(teams, holm(p_values), strict=True))
    near = [team for team in teams if team == best or _within_noise(scored[best], scored[team], adjusted[team])]
    alike = [team for team in teams if team in near or _unnoticed(scored[best], scored[team])]
    chosen = min(alike, key=lambda team: (_cost(plan, team.names), team.weights != (), -or_zero(scored[team].mean_over_targets())))
    scores = scored[chosen]
    firsts = _first_shares(scored, seed)
    interval = mean_interval(scores, seed)
    return Selection(
        members=tuple(
            Chosen(configuration=name, folds=folds[name], weight=weight)
            for name, weight in zip(chosen.names, chosen.weights or (1.0,) * len(chosen.names), strict=True)
        ),
        why=_why(scored, best, chosen, folds, "is within noise" if chosen in near else f"gains less than {NOTICED} in every target"),
        candidates=tuple(_candidate(team, scored[team], adjusted[team], (team in near, firsts.get(team)), seed) for team in teams),
        scores=target_scores(scores, seed),
        folds=fold_scores(scores, fold_of or {}),
        mean_low=None if interval is None else interval[1],
        mean_high=None if interval is None else interval[2],
        cases=len(scores.scored),
        failed_cases=scores.failed_cases,
    )


def _within_noise(best: Scores, other: Scores, adjusted_p: float) -> bool:
    if not other.scored:
        return False
    if isnan(adjusted_p):
        return or_zero(best.mean_over_targets()) - or_zero(other.mean_over_targets()) <= ONE_PATIENT
    return adjusted_p > SIGNIFICANT


def _unnoticed(best: Scores, other: Scores) -> bool:
    """Whether no target gains as much as anyone would notice."""
    gains = (or_zero(best.mean(name)) - or_zero(other.mean(name)) for name, _ in best.targets)
    return bool(other.scored) and all(gain < NOTICED for gain in gains)


def _why(scored: Mapping[Team, Scores], best: Team, chosen: Team, folds: Mapping[str, tuple[int, ...]], because: str) -> str:
    count = len(folds[chosen.names[0]])
    text = f"{chosen.words}, {count} fold{'s' if count != 1 else ''}"
    if len(scored) == 1:
        return f"{text}, the only one trained"
    if chosen == best:
        second = max((team for team in scored if team != best), key=lambda team: or_zero(scored[team].mean_over_targets()))
        return f"{text}: Dice {scored[best].mean_over_targets():.4f}, next {second.words} with {scored[second].mean_over_targets():.4f}"
    return (
        f"{text}: Dice {scored[chosen].mean_over_targets():.4f}; {best.words} has {scored[best].mean_over_targets():.4f}, "
        f"which {because} and costs more"
    )


def _cost(plan: Plan, names: tuple[str, ...]) -> float:
    """Rough multiplications a cubic millimetre, all that a configuration builds on included."""
    total = 0.0
    for name in names:
        configuration = plan.configuration(name)
        voxel_mm3 = prod(configuration.spacing_zyx_mm)
        stride, work = 1.0, 0.0
        for width, step, kernel in zip(
            configuration.architecture.features, configuration.architecture.strides_zyx, configuration.architecture.kernels_zyx, strict=True
        ):
            stride *= prod(step)
            work += width * width * prod(kernel) / stride
        total += work / voxel_mm3
        if configuration.previous is not None:
            total += _cost(plan, (configuration.previous,))
    return total * (1 + 0.01 * (len(names) - 1))


def per_case(scores: Scores) -> dict[str, float]:
    """Mean Dice over the targets of each scored case."""
    return {case.case: nan_mean([t.counts.dice for t in case.targets]) for case in scores.scored}


def _p(best: Scores, other: Scores, comparisons: int, seed: int) -> float:
    mine, theirs = per_case(best), per_case(other)
    kept = [c for c in best.scored if not isnan(mine[c.case]) and not isnan(theirs.get(c.case, nan))]
    if not kept:
        return nan
    differences = by_patient([mine[c.case] - theirs[c.case] for c in kept], [c.group for c in kept])
    return paired_p(differences, comparisons, seed=seed)


def _first_shares(scored: Mapping[Team, Scores], seed: int) -> dict[Team, float]:
    """In what share of redrawn patients each candidate is the best, over the cases that all of them have."""
    tables = {team: per_case(scores) for team, scores in scored.items()}
    common = [c for c in next(iter(scored.values())).scored if all(not isnan(t.get(c.case, nan)) for t in tables.values())]
    if not common or len(scored) < 2:
        return {}
    rows = [[tables[team][c.case] for c in common] for team in scored]
    return dict(zip(scored, rank_stability(rows, [c.group for c in common], seed=seed), strict=True))


def _candidate(team: Team, scores: Scores, p: float, standing: tuple[bool, float | None], seed: int) -> Candidate:
    interval = mean_interval(scores, seed) or (0.0, 0.0, 1.0)
    mean = scores.mean_over_targets()
    return Candidate(
        name=team.words,
        configurations=team.names,
        weights=team.weights,
        dice=0.0 if isnan(mean) else mean,
        low=interval[1],
        high=interval[2],
        p_against_best=None if isnan(p) else p,
        within_noise=standing[0],
        first_share=standing[1],
    )


def target_scores(scores: Scores, seed: int) -> tuple[TargetScore, ...]:
    """Every target that is in any case."""
    groups = [c.group for c in scores.scored]
    found = []
    for name, _ in scores.targets:
        values = scores.values(name)
        interval = _interval(values, groups, seed)
        if interval is not None:
            cases = sum(1 for v in values if not isnan(v))
            found.append(TargetScore(name=name, cases=cases, dice=interval[0], low=interval[1], high=interval[2]))
    return tuple(found)


def fold_scores(scores: Scores, fold_of: Mapping[str, int]) -> tuple[FoldScore, ...]:
    """The mean of each fold's held-out cases."""
    values = {case: value for case, value in per_case(scores).items() if not isnan(value)}
    folds = sorted({fold_of[case] for case in values if case in fold_of})
    members = {fold: [v for case, v in values.items() if fold_of.get(case) == fold] for fold in folds}
    return tuple(FoldScore(fold=fold, cases=len(kept), dice=float(np.mean(kept))) for fold, kept in members.items())


def mean_interval(scores: Scores, seed: int) -> tuple[float, float, float] | None:
    """Of the cases' means over targets."""
    return _interval(list(per_case(scores).values()), [c.group for c in scores.scored], seed)


def _interval(values: Sequence[float], groups: Sequence[str], seed: int) -> tuple[float, float, float] | None:
    """Mean, low, high of what is a number; everything between 0 and 1 when there is one patient."""
    kept = [(v, g) for v, g in zip(values, groups, strict=True) if not isnan(v)]
    if not kept:
        return None
    found = bootstrap_mean([v for v, _ in kept], [g for _, g in kept], seed=seed)
    return (found.mean, 0.0, 1.0) if isnan(found.low) else (found.mean, found.low, found.high)


def or_zero(value: float) -> float:
    """No number counts as nothing."""
    return 0.0 if isnan(value) else value
