"""Which networks vote: out-of-fold masks of every configuration and of ensembles worth trying are scored and compared.

The simplest candidate within noise of the best is chosen: a second configuration doubles the cost of every
prediction, and a difference that would vanish with other patients is no reason to pay it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, prod
from pathlib import Path

import numpy as np

from autounet import machine, stop
from autounet.data.dataset import Case, Dataset
from autounet.data.splits import held_out_once, read_splits
from autounet.data.voxels import read_case, read_stored_label
from autounet.images.read import read_header, read_image
from autounet.inference.ensemble import Ensemble, Options, predict_case
from autounet.inference.load import device_named, member_of
from autounet.inference.settings import Member, label_values
from autounet.job import Job
from autounet.metrics.case_scores import Named, Wanted, score_case
from autounet.metrics.score_files import write_scores
from autounet.metrics.scores import CaseScores, Scores, nan_mean
from autounet.metrics.statistics import bootstrap_mean, compare, holm
from autounet.store.selection import Candidate, Chosen, Selection, TargetScore
from autounet.store.strict import write_value
from autounet.store.weights import load_tensors
from planners.errors import UserError
from planners.labels import Labels
from planners.plan import Plan

NOISE_P = 0.05
MARGIN = 0.01  # Dice; with few cases nothing is significant, but so much is worth a larger network
TRIED_TOGETHER = 3  # ensembles are made of so many of the best configurations
SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".gipl.gz", ".gipl", ".png", ".tiff", ".tif", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The folds of one configuration that are trained, and the masks of the cases each did not see."""

    configuration: str
    folds: tuple[int, ...]
    masks: Mapping[str, Path]


def select(dataset: Dataset, plan: Plan, job: Job) -> Selection:
    """Score what was held out, choose, and write selection.json and the scores beside it."""
    trained = [t for t in (trained_folds(job.work, c.name) for c in plan.configurations) if t.folds]
    if not trained:
        raise UserError("no fold is trained", "run `autounet train` first")
    scored: dict[tuple[str, ...], Scores] = {}
    for one in trained:
        scored[(one.configuration,)] = score_held_out(dataset, plan.labels, one, job)
    folds = {one.configuration: one.folds for one in trained}
    for names in ensembles_worth_trying(scored, folds):
        scored[names] = score_ensemble(dataset, plan, names, folds, job)
    for names, scores in scored.items():
        write_scores(scores, job.work / "scores" / "+".join(names))
    selection = choose(plan, scored, folds, job.seed)
    write_value(job.work / "selection.json", selection)
    return selection


def trained_folds(work: Path, configuration: str) -> Trained:
    """What lies in the work folder."""
    folds: list[int] = []
    masks: dict[str, Path] = {}
    places = [p for p in (work / "runs" / configuration).glob("fold_*") if p.name[5:].isdigit()]
    for folder in sorted(places, key=lambda f: int(f.name[5:])):
        if not (folder / "run.json").exists() or not (folder / "weights.safetensors").exists():
            continue
        folds.append(int(folder.name[5:]))
        for path in sorted((folder / "validation").glob("*")):
            suffix = next((s for s in SUFFIXES if path.name.endswith(s)), "")
            if suffix and not path.name.startswith("."):
                masks[path.name[: -len(suffix)]] = path
    return Trained(configuration=configuration, folds=tuple(folds), masks=masks)


def score_held_out(dataset: Dataset, labels: Labels, trained: Trained, job: Job) -> Scores:
    """Each held-out mask against the truth."""
    known = {case.id.replace("/", "_"): case for case in dataset.training}  # as their masks are named
    cases = []
    with job.progress.task(f"score {trained.configuration}", total=len(trained.masks), unit="case") as task:
        for name, path in sorted(trained.masks.items()):
            stop.check()
            if name in known:
                cases.append(_score(dataset, known[name], labels, lambda path=path: read_image(path).voxels_czyx[0], path.name))
            task.step(doing=name)
    return Scores(cases=tuple(cases), targets=labels.targets)


def ensembles_worth_trying(scored: Mapping[tuple[str, ...], Scores], folds: Mapping[str, tuple[int, ...]]) -> list[tuple[str, ...]]:
    """Pairs, and all, of the best configurations that were trained on the same folds and scored on the same cases."""
    ranked = sorted(scored, key=lambda names: _or_zero(scored[names].mean_over_targets()), reverse=True)[:TRIED_TOGETHER]
    together = []
    for count in range(2, len(ranked) + 1):
        for chosen in combinations(ranked, count):
            names = tuple(name for one in chosen for name in one)
            cases = {tuple(c.case for c in scored[one].scored) for one in chosen}
            if len(cases) == 1 and cases != {()} and len({folds[name] for name in names}) == 1:
                together.append(names)
    return together


def score_ensemble(dataset: Dataset, plan: Plan, names: tuple[str, ...], folds: Mapping[str, tuple[int, ...]], job: Job) -> Scores:
    """Every held-out case predicted by the networks of its fold together."""
    splits = read_splits(job.work / "splits.json", dataset)
    known = {case.id: case for case in dataset.training}
    options = Options(threads=job.threads or machine.cores())
    chosen = [Chosen(configuration=name, folds=folds[name]) for name in names]
    cases = []
    held_out = held_out_once(splits, folds[names[0]])
    with job.progress.task(f"score {' + '.join(names)}", total=sum(map(len, held_out.values())), unit="case") as task:
        for fold, case_ids in held_out.items():
            ensemble = Ensemble(plan, _members(plan, names, fold, job), chosen)
            for case_id in case_ids:
                stop.check()
                if case_id in known:
                    cases.append(
                        _score(dataset, known[case_id], plan.labels, _predictor(dataset, known[case_id], ensemble, options), case_id)
                    )
                task.step(doing=case_id)
    return Scores(cases=tuple(sorted(cases, key=lambda c: c.case)), targets=plan.labels.targets)


def choose(plan: Plan, scored: Mapping[tuple[str, ...], Scores], folds: Mapping[str, tuple[int, ...]], seed: int) -> Selection:
    """The simplest candidate within noise of the best."""
    names = list(scored)
    per_case = {key: _per_case(scores) for key, scores in scored.items()}
    best = max(names, key=lambda key: (_or_zero(scored[key].mean_over_targets()), -_cost(plan, key)))
    patients = [case.group for case in scored[best].scored]
    p_values = [_p(per_case[best], per_case[key], patients, seed) if key != best else 1.0 for key in names]
    adjusted = dict(zip(names, holm(p_values), strict=True))
    near = [key for key in names if _within_noise(scored[best], scored[key], adjusted[key])]
    chosen = min(near, key=lambda key: _cost(plan, key))
    scores = scored[chosen]
    return Selection(
        members=tuple(Chosen(configuration=name, folds=folds[name]) for name in chosen),
        why=_why(scored, best, chosen, folds),
        candidates=tuple(_candidate(key, scored[key], adjusted[key], key in near, seed) for key in names if scored[key].scored),
        scores=tuple(s for s in (_target(scores, name, seed) for name, _ in scores.targets) if s is not None),
        cases=len(scores.scored),
        failed_cases=scores.failed_cases,
    )


def _within_noise(best: Scores, other: Scores, adjusted_p: float) -> bool:
    if best is other:
        return True
    close = _or_zero(best.mean_over_targets()) - _or_zero(other.mean_over_targets()) <= MARGIN
    return close and bool(other.scored) and not adjusted_p <= NOISE_P


def _why(
    scored: Mapping[tuple[str, ...], Scores], best: tuple[str, ...], chosen: tuple[str, ...], folds: Mapping[str, tuple[int, ...]]
) -> str:
    count = len(folds[chosen[0]])
    text = f"{' + '.join(chosen)}, {count} fold{'s' if count != 1 else ''}"
    if len(scored) == 1:
        return f"{text}, the only one trained"
    if chosen == best:
        others = [key for key in scored if key != best]
        second = max(others, key=lambda key: _or_zero(scored[key].mean_over_targets()))
        return (
            f"{text}: Dice {scored[best].mean_over_targets():.4f}, next {' + '.join(second)} with {scored[second].mean_over_targets():.4f}"
        )
    return (
        f"{text}: Dice {scored[chosen].mean_over_targets():.4f}; {' + '.join(best)} has {scored[best].mean_over_targets():.4f}, "
        "which is within noise and costs more"
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


def _per_case(scores: Scores) -> dict[str, float]:
    return {case.case: nan_mean([t.counts.dice for t in case.targets]) for case in scores.scored}


def _p(best: Mapping[str, float], other: Mapping[str, float], patients: Sequence[str], seed: int) -> float:
    cases = list(best)
    found = compare([other.get(c, float("nan")) for c in cases], [best[c] for c in cases], patients, seed=seed)
    return found.permutation_p


def _candidate(names: tuple[str, ...], scores: Scores, p: float, near: bool, seed: int) -> Candidate:
    kept = [(v, c.group) for v, c in zip(_per_case(scores).values(), scores.scored, strict=True) if not isnan(v)]
    interval = bootstrap_mean([v for v, _ in kept], [g for _, g in kept], seed=seed)
    mean = scores.mean_over_targets()
    return Candidate(
        name=" + ".join(names),
        configurations=names,
        dice=0.0 if isnan(mean) else mean,
        low=0.0 if isnan(interval.low) else interval.low,
        high=1.0 if isnan(interval.high) else interval.high,
        p_against_best=None if isnan(p) else p,
        within_noise=near,
    )


def _target(scores: Scores, name: str, seed: int) -> TargetScore | None:
    values = [(v, c.group) for v, c in zip(scores.values(name), scores.scored, strict=True) if not isnan(v)]
    if not values:
        return None
    interval = bootstrap_mean([v for v, _ in values], [g for _, g in values], seed=seed)
    low, high = (0.0, 1.0) if isnan(interval.low) else (interval.low, interval.high)
    return TargetScore(name=name, cases=len(values), dice=interval.mean, low=low, high=high)


def _score(dataset: Dataset, case: Case, labels: Labels, predicted: "object", file: str) -> CaseScores:
    try:
        truth_zyx = read_stored_label(dataset, case)
        geometry = read_header(dataset.folder / case.images[0].path).geometry
        assert callable(predicted), "a mask is read or made when it is needed"
        named = Named(case=case.id, group=case.group, truth_file=case.id, predicted_file=file)
        return score_case(named, truth_zyx, predicted(), labels, geometry.spacing_zyx_mm, Wanted(surfaces=False))
    except UserError as error:
        return CaseScores(case=case.id, group=case.group, problem=error.problem)


def _predictor(dataset: Dataset, case: Case, ensemble: Ensemble, options: Options) -> object:
    def predict() -> np.ndarray:
        voxels = read_case(dataset, case, with_label=False)
        label = predict_case(ensemble, voxels.image_czyx, voxels.geometry, options).label_zyx
        return label_values(label, ensemble.plan.labels)

    return predict


def _members(plan: Plan, names: Sequence[str], fold: int, job: Job) -> dict[str, list[Member]]:
    """The networks of one fold, with those they build on."""
    device = device_named(job.device)
    members: dict[str, list[Member]] = {}
    for name in names:
        current: str | None = name
        while current is not None and current not in members:
            weights = load_tensors(job.work / "runs" / current / f"fold_{fold}" / "weights.safetensors")
            members[current] = [member_of(plan, plan.configuration(current), weights, device)]
            current = plan.configuration(current).previous
    return members


def _or_zero(value: float) -> float:
    return 0.0 if isnan(value) else value
