"""Which networks vote: out-of-fold masks of every configuration are scored, and the best is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autounet import stop
from autounet.data.dataset import Case, Dataset
from autounet.data.voxels import read_case
from autounet.images.read import read_image
from autounet.job import Job
from autounet.metrics.overlap import joint_counts
from autounet.metrics.scores import CaseScores, Scores, TargetScores, as_csv, as_plain, as_reference_summary
from autounet.metrics.statistics import bootstrap_mean
from autounet.store.files import publish_json, publish_text
from autounet.store.selection import Candidate, Chosen, Selection, TargetScore
from autounet.store.strict import write_value
from planners.errors import UserError
from planners.labels import Labels
from planners.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The folds of one configuration that are trained, and the masks of the cases each did not see."""

    configuration: str
    folds: tuple[int, ...]
    masks: dict[str, Path]


def select(dataset: Dataset, plan: Plan, job: Job) -> Selection:
    """Score what was held out, choose, and write selection.json and the scores beside it."""
    trained = [t for t in (trained_folds(job.work, c.name) for c in plan.configurations) if t.folds]
    if not trained:
        raise UserError("no fold is trained", "run `autounet train` first")
    votable = [t for t in trained if t.configuration in plan.train] or trained
    scored = {t.configuration: score_held_out(dataset, plan.labels, t, job) for t in votable}
    for name, scores in scored.items():
        write_scores(scores, job.work / "scores" / name)
    selection = choose(votable, scored, job.seed)
    write_value(job.work / "selection.json", selection)
    return selection


def trained_folds(work: Path, configuration: str) -> Trained:
    """What lies in the work folder."""
    folds: list[int] = []
    masks: dict[str, Path] = {}
    for folder in sorted((work / "runs" / configuration).glob("fold_*"), key=lambda f: int(f.name[5:])):
        if not (folder / "run.json").exists() or not (folder / "weights.safetensors").exists():
            continue
        folds.append(int(folder.name[5:]))
        for path in sorted((folder / "validation").glob("*")):
            if path.is_file() and not path.name.startswith(".") and not path.name.endswith(".json"):
                masks[path.name.split(".")[0]] = path
    return Trained(configuration=configuration, folds=tuple(folds), masks=masks)


def score_held_out(dataset: Dataset, labels: Labels, trained: Trained, job: Job) -> Scores:
    """Each held-out mask against the truth."""
    by_name = {case.id.split(".")[0]: case for case in dataset.training}
    cases = []
    with job.progress.task(f"score {trained.configuration}", total=len(trained.masks), unit="case") as task:
        for name, path in sorted(trained.masks.items()):
            stop.check()
            if name in by_name:
                cases.append(_score(dataset, by_name[name], path, labels))
            task.step(doing=name)
    return Scores(cases=tuple(cases), targets=labels.targets)


def _score(dataset: Dataset, case: Case, mask: Path, labels: Labels) -> CaseScores:
    try:
        voxels = read_case(dataset, case)
        assert voxels.label_zyx is not None, "a training case has a label"
        truth_zyx = stored_values(voxels.label_zyx, labels)
        joint = joint_counts(truth_zyx, read_image(mask).voxels_czyx[0], labels.ignore)
    except UserError as error:
        return CaseScores(case=case.id, group=case.group, problem=error.problem)
    mm3 = float(np.prod(voxels.geometry.spacing_zyx_mm))
    targets = tuple(TargetScores(name=n, values=v, counts=joint.of(v), voxel_mm3=mm3) for n, v in labels.targets)
    return CaseScores(case=case.id, group=case.group, targets=targets, truth_file=f"{case.id}", predicted_file=mask.name)


def stored_values(label_zyx: NDArray[np.integer], labels: Labels) -> NDArray[np.integer]:
    """Class numbers, and the number behind them for "ignore", as the user's values."""
    values = [c.value for c in labels.classes] + ([] if labels.ignore is None else [labels.ignore])
    table = np.asarray(values, np.int32)
    stored: NDArray[np.integer] = table[label_zyx]
    return stored


def choose(trained: Sequence[Trained], scored: dict[str, Scores], seed: int) -> Selection:
    """The configuration with the highest mean Dice over what its folds had not seen."""
    candidates = tuple(_candidate(name, scores, seed) for name, scores in scored.items())
    ranked = sorted(candidates, key=lambda c: -1.0 if np.isnan(c.dice) else c.dice, reverse=True)
    best = next(t for t in trained if t.configuration == ranked[0].name)
    scores = scored[best.configuration]
    why = f"{best.configuration}, {len(best.folds)} folds"
    if len(ranked) > 1:
        why += f": Dice {ranked[0].dice:.4f} against {ranked[1].dice:.4f} of {ranked[1].name}"
    return Selection(
        members=(Chosen(configuration=best.configuration, folds=best.folds),),
        why=why,
        candidates=tuple(c for c in candidates if not np.isnan(c.dice)),
        scores=tuple(s for s in (_target(scores, name, seed) for name, _ in scores.targets) if s is not None),
        cases=len(scores.scored),
        failed_cases=scores.failed_cases,
    )


def _candidate(name: str, scores: Scores, seed: int) -> Candidate:
    per_case = [
        float(np.nanmean([t.counts.dice for t in c.targets]))
        for c in scores.scored
        if any(t.counts.dice == t.counts.dice for t in c.targets)
    ]
    interval = bootstrap_mean(per_case, [c.group for c in scores.scored][: len(per_case)], seed=seed)
    return Candidate(name=name, configurations=(name,), dice=scores.mean_over_targets(), low=interval.low, high=interval.high)


def _target(scores: Scores, name: str, seed: int) -> TargetScore | None:
    values = [(v, c.group) for v, c in zip(scores.values(name), scores.scored, strict=True) if v == v]
    if not values:
        return None
    interval = bootstrap_mean([v for v, _ in values], [g for _, g in values], seed=seed)
    return TargetScore(name=name, cases=len(values), dice=interval.mean, low=interval.low, high=interval.high)


def write_scores(scores: Scores, folder: Path) -> None:
    """The same three files that `evaluate` writes."""
    import json

    publish_text(folder / "scores.csv", as_csv(scores))
    publish_json(folder / "scores.json", as_plain(scores))
    publish_text(folder / "summary.json", json.dumps(as_reference_summary(scores), indent=4))
