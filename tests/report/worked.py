"""A work folder as a run leaves it, without the hours: phantoms, a real plan, and masks that are the truth with known faults."""

import json
from pathlib import Path

import numpy as np

from autounet.data.splits import read_splits
from autounet.data.voxels import read_stored
from autounet.images.write import write_mask
from autounet.job import Job
from autounet.metrics.case_scores import Named, Wanted, score_case
from autounet.metrics.score_files import write_scores
from autounet.metrics.scores import Scores
from autounet.metrics.statistics import bootstrap_mean
from autounet.phantoms.folders import make
from autounet.progress import Progress
from autounet.stages.check import check
from autounet.stages.measure import measure
from autounet.stages.plan import plan
from autounet.store.selection import Chosen, Selection, TargetScore
from autounet.store.strict import write_value
from autounet.training.validation import mask_path
from planners.hardware import Budget, GiB, Hardware


def worked(folder: Path, *, kind: str = "organs", cases: int = 6, size: int = 40, name: str = "data") -> Path:
    """The work folder. The first case has its last class missed and a blob invented; later ones are moved a little less each."""
    make(kind, folder / name, cases=cases, size=size)
    return after_a_run(folder / name)


def after_a_run(data: Path) -> Path:
    """The same for a dataset that is there."""
    job = Job(work=data.with_name(f"{data.name}.autounet"), progress=Progress.silent())
    dataset = check(data, job)
    hardware = Hardware(accelerator="cpu", name="cpu", accelerator_bytes=0, host_bytes=8 * GiB, cores=2)
    made = plan(measure(dataset, job), hardware, Budget(training_seconds=600.0), "default", job)
    splits = read_splits(job.work / "splits.json", dataset)
    name, scored = made.train[0], []
    for fold, parts in enumerate(splits.folds):
        run = job.work / "runs" / name / f"fold_{fold}"
        run.mkdir(parents=True)
        (run / "weights.safetensors").write_bytes(b"")
        record = {"schema": 1, "configuration": name, "fold": fold, "iterations": 120, "seconds": 60.0, "execution": "cpu, bfloat16",
                  "waited_seconds": 1.5, "recipe": ""}  # fmt: skip
        (run / "run.json").write_text(json.dumps(record))
        points = [{"kind": "validation", "step": 24 * k, "dice": 0.9 - 0.6 / (k + fold / 3)} for k in range(1, 6)]
        (run / "events.jsonl").write_text("\n".join(map(json.dumps, points)))
        for case_id in parts.validation:
            case = dataset.case(case_id)
            stored = read_stored(dataset, case)
            number = [c.id for c in dataset.training].index(case_id)
            mask = faulty(stored.values_zyx, number, made.labels.foreground[-1].value)
            write_mask(mask_path(run / "validation", dataset, case), mask, stored.header)
            spacing = stored.geometry.spacing_zyx_mm
            named = Named(case=case_id, group=case.group)
            scored.append(score_case(named, stored.values_zyx, mask, made.labels, spacing, Wanted(surfaces=False)))
    (job.work / f"{data.name}.aunet").write_bytes(b"model")
    _choose(name, Scores(cases=tuple(sorted(scored, key=lambda c: c.case)), targets=made.labels.targets), job.work)
    return job.work


def _choose(name: str, scores: Scores, work: Path) -> None:
    """What the stage `select` would have written of one configuration."""
    write_scores(scores, work / "scores" / name)
    targets = []
    for target, _ in scores.targets:
        defined = [(v, c.group) for v, c in zip(scores.values(target), scores.scored, strict=True) if v == v]
        if not defined:
            continue
        found = bootstrap_mean([v for v, _ in defined], [group for _, group in defined])
        low, high = float(np.nan_to_num(found.low)), float(np.nan_to_num(found.high, nan=1.0))
        targets.append(TargetScore(name=target, cases=len(defined), dice=found.mean, low=low, high=high))
    member = Chosen(configuration=name, folds=(0, 1, 2, 3, 4))
    chosen = Selection(members=(member,), why=f"{name}, 5 folds", scores=tuple(targets), cases=len(scores.scored))
    write_value(work / "selection.json", chosen)


def faulty(truth_zyx: np.ndarray, number: int, last: int) -> np.ndarray:
    """A mask like a network's: moved, and in the first case one class is missing."""
    axis = 2 if number % 2 else 1
    mask = np.roll(truth_zyx, max(1, 4 - number) if number < 5 else 0, axis)
    if number == 0:
        mask[mask == last] = 0
        mask[mask.shape[0] // 2, 3:9, 3:9] = 1
    return mask
