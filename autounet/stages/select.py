"""What predicts and how: networks, repairs, honest probabilities, presets, and how sure each mask is, all from held-out cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from autounet.data.dataset import Dataset
from autounet.data.splits import held_out_once, read_splits
from autounet.images.geometry import Geometry
from autounet.inference.held_out import (
    Together,
    Trained,
    ask_together,
    masks_of_team,
    score_masks,
    tables_of_masks,
    trained_folds,
    weights_digest,
    weights_path,
)
from autounet.inference.int8_cost import measure_int8
from autounet.inference.postprocess import post_process
from autounet.inference.presets import Bench, measure_presets
from autounet.job import Job
from autounet.metrics.choice import Team, choose, ensembles_worth_trying, fold_scores, mean_interval, or_zero, per_case, target_scores
from autounet.metrics.expectation import fit_expectation
from autounet.metrics.opinions import Expected, Opinion, Sample, expected_dice, opinion_path
from autounet.metrics.repairs import CaseTables, choose_repairs, divided
from autounet.metrics.score_files import write_scores
from autounet.metrics.scores import Scores
from autounet.metrics.temperature import fit_temperature
from autounet.store.cache import key
from autounet.store.files import remove_tree
from autounet.store.selection import PostStep, Selection
from autounet.store.strict import read_json, read_value, write_value
from autounet.training.validation import mask_path
from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.plan import Plan

JURY_BYTES = 2**30  # masks of all teams of the largest case, in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the chosen team said of the held-out cases."""

    masks: Mapping[str, Path]
    fold_of: Mapping[str, int]
    expected: Mapping[str, Sequence[Expected]]
    samples: Mapping[str, Sample]


def select(dataset: Dataset, plan: Plan, job: Job) -> Selection:
    """Score what was held out, choose, and write selection.json and the scores beside it."""
    trained = {one.configuration: one for one in (trained_folds(job.work, c.name, dataset) for c in plan.configurations) if one.folds}
    if not trained:
        raise UserError("no fold is trained", "run `autounet train` first")
    folds = {name: one.folds for name, one in trained.items()}
    scored = {Team((name,)): score_masks(dataset, plan.labels, one.masks, job) for name, one in trained.items()}
    teams = _affordable(ensembles_worth_trying(scored, folds), job.work)
    together = _ask(dataset, plan, teams, trained, job)
    if together is not None:
        scored |= {team: together.scores(team, dataset, plan.labels) for team in teams}
    fold_of = {case: fold for one in trained.values() for case, fold in one.fold_of.items()}
    selection = choose(plan, scored, folds, job.seed, fold_of)
    chosen = Team(tuple(m.configuration for m in selection.members), _weights(selection))
    if together is not None and len(chosen.names) > 1:
        _masks_again(dataset, plan, teams, chosen, trained, job)
    heard = _hear(dataset, trained, chosen, together, job)
    selection, scores = _repaired(dataset, plan, selection, scored[chosen], heard, job)
    selection = _sure(plan, selection, scores, heard)
    bench = _bench(dataset, plan, selection, heard, folds, job)
    selection = replace(selection, presets=measure_presets(bench, job), int8=measure_int8(bench, job))
    _write(selection, {**scored, chosen: scores}, chosen, job)
    return selection


def _affordable(teams: list[Team], work: Path) -> list[Team]:
    """All teams, or only those with equal weights where the masks of all would not fit in memory together."""
    path = work / "fingerprint.json"
    if not path.exists():
        return teams
    voxels = max(z * y * x for z, y, x in (case.shape_zyx for case in read_value(path, Fingerprint).cases))
    return teams if voxels * len(teams) <= JURY_BYTES else [team for team in teams if not team.weights]


def _ask(dataset: Dataset, plan: Plan, teams: Sequence[Team], trained: Mapping[str, Trained], job: Job) -> Together | None:
    return ask_together(dataset, plan, teams, _held_out(dataset, trained[teams[0].names[0]], job), job) if teams else None


def _held_out(dataset: Dataset, one: Trained, job: Job) -> dict[int, list[str]]:
    """By fold."""
    cases = held_out_once(read_splits(job.work / "splits.json", dataset), one.folds)
    return {fold: [case for case in own if case in one.masks] for fold, own in cases.items()}


def _masks_again(dataset: Dataset, plan: Plan, teams: Sequence[Team], chosen: Team, trained: Mapping[str, Trained], job: Job) -> None:
    """An earlier choice, of fewer folds, may have thrown away masks of the team that is chosen now."""
    folder = masks_of_team(job.work, chosen)
    gone = {
        fold: [case for case in cases if not mask_path(folder, dataset, dataset.case(case)).exists()]
        for fold, cases in _held_out(dataset, trained[chosen.names[0]], job).items()
    }
    if any(gone.values()):
        ask_together(dataset, plan, teams, gone, job, anew=True)


def _weights(selection: Selection) -> tuple[float, ...]:
    weights = tuple(m.weight for m in selection.members)
    return () if len(set(weights)) == 1 else weights


def _hear(dataset: Dataset, trained: Mapping[str, Trained], chosen: Team, together: Together | None, job: Job) -> Heard:
    """From the opinions of the training, or of the configurations asked together."""
    first = trained[chosen.names[0]]
    if len(chosen.names) > 1 and together is not None:
        folder, asked = masks_of_team(job.work, chosen), together.opinions
        paths = {case: mask_path(folder, dataset, dataset.case(case)) for case in asked}
        teams = {case: next(t for t in o.teams if (t.names, t.weights) == (chosen.names, chosen.weights)) for case, o in asked.items()}
        return Heard(
            masks={case: path for case, path in paths.items() if path.exists()},
            fold_of={case: first.fold_of[case] for case in asked},
            expected={case: team.expected for case, team in teams.items()},
            samples={case: opinion.sample(chosen.names, chosen.shares) for case, opinion in asked.items()},
        )
    opinions: dict[str, Opinion] = {}
    digests = {fold: weights_digest(job.work, first.configuration, fold) for fold in first.folds}
    for case, path in first.masks.items():
        found = _opinion(opinion_path(path))
        if found is not None and found.weights == digests[first.fold_of[case]]:
            opinions[case] = found
    return Heard(
        masks=first.masks,
        fold_of=first.fold_of,
        expected={case: o.expected for case, o in opinions.items()},
        samples={case: o.sample for case, o in opinions.items()},
    )


def _opinion(path: Path) -> Opinion | None:
    try:
        return read_value(path, Opinion) if path.exists() else None
    except UserError:
        return None  # of another version: what it says is not needed for a mask


def _repaired(dataset: Dataset, plan: Plan, selection: Selection, raw: Scores, heard: Heard, job: Job) -> tuple[Selection, Scores]:
    """With the repairs that paid, and the scores after them: each fold mended by what was chosen without it."""
    tables = tables_of_masks(dataset, plan, heard.masks, heard.fold_of, job)
    repairs = choose_repairs(tables, job.seed)
    if not repairs.steps:
        return selection, raw
    rules = rules_without_own_part(tables, job.seed)

    def mend(case: str, label_zyx: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        return post_process(label_zyx, rules.get(case, ()), plan.labels, geometry)

    scores = score_masks(dataset, plan.labels, heard.masks, job, mend)
    interval = mean_interval(scores, job.seed)
    return replace(
        selection,
        post_steps=repairs.steps,
        scores=target_scores(scores, job.seed),
        folds=fold_scores(scores, heard.fold_of),
        mean_low=None if interval is None else interval[1],
        mean_high=None if interval is None else interval[2],
    ), scores


def rules_without_own_part(tables: Sequence[CaseTables], seed: int) -> dict[str, tuple[PostStep, ...]]:
    """For each case the repairs that would have been chosen had nobody seen its fold."""
    parts = divided(tables)
    rules: dict[str, tuple[PostStep, ...]] = {}
    for part in sorted(set(parts.tolist())):
        steps = choose_repairs([t for t, own in zip(tables, parts, strict=True) if own != part], seed).steps
        rules |= {t.case: steps for t, own in zip(tables, parts, strict=True) if own == part}
    return rules


def _sure(plan: Plan, selection: Selection, scores: Scores, heard: Heard) -> Selection:
    """With a temperature, and with the way from expected to likely Dice."""
    cases = sorted(heard.samples)
    fitted = fit_temperature([heard.samples[c] for c in cases], [heard.fold_of[c] for c in cases], plan.labels)
    reached = per_case(scores)
    known = [case for case in sorted(heard.expected) if case in reached]
    said, folds = [expected_dice(heard.expected[c]) for c in known], [heard.fold_of[c] for c in known]
    expectation = fit_expectation(said, [reached[c] for c in known], folds)
    return replace(selection, temperature=fitted.temperature, calibration=fitted.calibration, expectation=expectation)


def _bench(dataset: Dataset, plan: Plan, selection: Selection, heard: Heard, folds: Mapping[str, Sequence[int]], job: Job) -> Bench:
    """With what the training computed, in voxels: a step is worth three predictions."""
    total = 0.0
    for name, numbers in folds.items():
        one = plan.configuration(name)
        for fold in numbers:
            record = read_json(weights_path(job.work, name, fold).with_name("run.json"))
            steps = record.get("iterations") if isinstance(record, dict) else None
            total += 3.0 * one.batch_size * prod(one.patch_zyx) * (steps if isinstance(steps, int) else 0)
    chosen = [
        (m.configuration, m.weight, fold, weights_digest(job.work, m.configuration, fold)) for m in selection.members for fold in m.folds
    ]
    made_of = key(*(f"{part}" for part in chosen))
    return Bench(dataset=dataset, plan=plan, members=selection.members, fold_of=heard.fold_of, trained_voxels=total, made_of=made_of)


def _write(selection: Selection, scored: Mapping[Team, Scores], chosen: Team, job: Job) -> None:
    """Scores of every set of configurations: of the chosen weights, else of the best; masks of teams that were not chosen go."""
    sets: dict[tuple[str, ...], Team] = {chosen.names: chosen}
    for team in sorted(scored, key=lambda t: or_zero(scored[t].mean_over_targets()), reverse=True):
        sets.setdefault(team.names, team)
    for names, team in sets.items():
        write_scores(scored[team], job.work / "scores" / "+".join(names))
    for team in scored:
        if len(team.names) > 1 and team != chosen:
            remove_tree(masks_of_team(job.work, team))
    write_value(job.work / "selection.json", selection)
