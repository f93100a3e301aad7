"""Every fold of every configuration, and the masks of the cases that each fold did not see."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autounet import stop
from autounet.data.dataset import Case, Dataset
from autounet.data.prepared import PreparedCase, open_prepared
from autounet.data.splits import Splits
from autounet.job import Job
from autounet.store.lock import lock
from autounet.store.manifest import Manifest
from autounet.store.strict import read_value, write_value
from autounet.training.recipe import Recipe
from planners.errors import UserError
from planners.plan import Configuration, Plan

if TYPE_CHECKING:
    from autounet.training.fold import Trained

RUN_SCHEMA = 1
RECORD, WEIGHTS = "run.json", "weights.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDice:
    """The mean Dice of one target over the held-out cases that have it."""

    target: str
    dice: float | None  # None: the class is in none of the cases and was predicted in none


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A fold that is trained and validated."""

    schema: int = RUN_SCHEMA
    configuration: str
    fold: int
    recipe: str
    iterations: int
    seconds: float
    execution: str
    loss: float | None
    waited_seconds: float  # the device had no batch
    train_cases: int
    validation: tuple[TargetDice, ...]
    validated: tuple[str, ...]
    failed_cases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One fold of one configuration."""

    dataset: Dataset
    plan: Plan
    configuration: Configuration
    fold: int
    job: Job
    splits: Splits
    start: Path | None = None
    workers: int | None = None
    worker_processes: bool = False

    @property
    def folder(self) -> Path:
        return run_folder(self.job.work, self.configuration.name, self.fold)

    @property
    def name(self) -> str:
        return f"fold {self.fold} of {self.configuration.name}"


def train(  # noqa: PLR0913 - the verb's own choices, each named at the call
    dataset: Dataset,
    plan: Plan,
    splits: Splits,
    job: Job,
    *,
    configurations: Iterable[str] | None = None,
    folds: Iterable[int] | None = None,
    seconds: float | None = None,
    iterations: int | None = None,
    start: Path | None = None,
    workers: int | None = None,
    worker_processes: bool = False,
) -> None:
    """Train what is not trained yet. `seconds` is for all of it together, `iterations` for each fold, `start` a model to begin with."""
    chosen = in_order(plan, configurations)
    numbers = wanted_folds(plan, splits, folds)
    share = None if seconds is None else seconds / (len(chosen) * len(numbers))
    for configuration in chosen:
        limited = replace(configuration, schedule=_limited(configuration, share, iterations))
        for fold in numbers:
            stop.check()
            run = _Run(dataset=dataset, plan=plan, configuration=limited, fold=fold, job=job, splits=splits, start=start)
            _train_one(replace(run, workers=workers, worker_processes=worker_processes))


def in_order(plan: Plan, names: Iterable[str] | None) -> list[Configuration]:
    """The configurations to train, first stages of cascades before the second ones."""
    ordered: list[str] = []

    def add(name: str) -> None:
        previous = plan.configuration(name).previous
        if previous is not None:
            add(previous)
        if name not in ordered:
            ordered.append(name)

    for name in names or plan.train:
        add(name)
    return [plan.configuration(name) for name in ordered]


def wanted_folds(plan: Plan, splits: Splits, folds: Iterable[int] | None) -> list[int]:
    """Fold numbers that there are."""
    there = range(len(splits.folds))
    wanted = list(folds) if folds is not None else [f for f in plan.folds.train if f in there]
    if odd := [f for f in wanted if f not in there]:
        raise UserError(f"there is no fold {odd[0]}", f"choose from 0 to {len(splits.folds) - 1}")
    return wanted or list(there)


def run_folder(work: Path, configuration: str, fold: int) -> Path:
    """Where a fold lives."""
    return work / "runs" / configuration / f"fold_{fold}"


def _limited(configuration: Configuration, seconds: float | None, iterations: int | None) -> Any:
    schedule = configuration.schedule
    if seconds is not None:
        return replace(schedule, seconds=seconds)
    if iterations is not None:
        per_epoch = min(schedule.iterations_per_epoch, iterations)
        return replace(schedule, iterations=iterations, iterations_per_epoch=per_epoch, seconds=None)
    return schedule


def _train_one(run: _Run) -> None:
    from autounet.store.weights import save_tensors
    from autounet.training.fold import Fold, train_fold
    from autounet.training.loader import Workers
    from autounet.training.state import recipe_key
    from autounet.training.validation import quick_score

    held_out = run.splits.folds[run.fold]
    cases = open_prepared(run.job.work, run.plan, run.configuration.name)
    recipe = _recipe(run, [c for c in held_out.train if c in cases])
    if _done(run, recipe_key(recipe)):
        run.job.progress.note(f"{run.name} is trained")
        return
    with lock(run.folder.parent / f"fold_{run.fold}.lock", f"training {run.name}"):
        own = {c: cases[c] for c in recipe.train}
        validation = {c: cases[c] for c in held_out.validation if c in cases}
        previous = _previous(run, {**own, **validation})
        look = dict(list(validation.items())[: run.plan.validation.cases])
        quick = partial(quick_score, run.plan, run.configuration, look, previous.get) if look else None
        kept = {c: previous[c] for c in own} if run.configuration.previous is not None else None
        fold = Fold(
            recipe=recipe,
            cases=own,
            folder=run.folder,
            validate=quick,
            validation_steps=_cost(run.configuration, look),
            previous=kept,
            start=_start(run, recipe),
            workers=Workers(count=run.workers, processes=run.worker_processes),
        )
        trained = train_fold(fold, run.job)
        manifest = Manifest.open(run.job.work)
        weights, done = ((run.folder / name).relative_to(run.job.work).as_posix() for name in (WEIGHTS, RECORD))
        manifest.remove(weights, done)  # first, or a kill in between leaves a file that its entry does not describe
        manifest.add(
            weights, save_tensors(run.folder / WEIGHTS, trained.weights, {"configuration": run.configuration.name, "fold": str(run.fold)})
        )
        scores, failed = _validate(run, trained, validation, previous)
        record = _record(run, trained, recipe, scores, (*failed, *(c for c in held_out.validation if c not in cases)))
        manifest.add(done, write_value(run.folder / RECORD, record))


def _recipe(run: _Run, names: Sequence[str]) -> Recipe:
    if not names:
        raise UserError(f"{run.name} has no case to train on", "look at what `autounet prepare` reports")
    index = {c.name: i for i, c in enumerate(run.plan.labels.classes)}
    partly = []
    for name in names:
        drawn = run.dataset.case(name).annotated
        if drawn is not None:
            partly.append((name, tuple(sorted(index[n] for n in drawn if n in index))))
    return Recipe(
        plan=run.plan, configuration=run.configuration, fold=run.fold, seed=run.job.seed, train=tuple(names), annotated=tuple(partly)
    )


def _cost(configuration: Configuration, cases: Mapping[str, PreparedCase]) -> float:
    """Of scoring whole cases, in training steps: half-overlapping tiles see each voxel 2 times an axis, forward is a third of a step."""
    voxels = sum(prod(max(size, edge) for size, edge in zip(c.shape_zyx, configuration.patch_zyx, strict=True)) for c in cases.values())
    overlap = float(2**configuration.dimensions)
    return voxels * overlap / (prod(configuration.patch_zyx) * configuration.batch_size) / 3


def _start(run: _Run, recipe: Recipe) -> dict[str, Any] | None:
    """Weights of another model in the shapes of this one; what was taken is said."""
    if run.start is None:
        return None
    from autounet.networks import build
    from autounet.store.bundle import open_bundle
    from autounet.training.finetune import fitted

    bundle = open_bundle(run.start)
    name, fold = next((w for w in bundle.weights if w[0] == run.configuration.name), bundle.weights[0])
    fresh = build(run.configuration.architecture, recipe.channels_in, run.plan.labels.heads).state_dict()
    found = fitted(fresh, bundle.tensors(name, fold), run.plan, bundle.plan)
    for line in found.lines():
        run.job.progress.note(f"{run.start.name}, fold {fold} of {name}: {line}")
    return found.weights


def _done(run: _Run, key: str) -> bool:
    path, manifest = run.folder / RECORD, Manifest.open(run.job.work)
    # A file is not a proof: what was killed before it was entered, or has changed since, is trained to its end again.
    if not all(manifest.has((run.folder / name).relative_to(run.job.work).as_posix(), "hash") for name in (RECORD, WEIGHTS)):
        return False
    record = read_value(path, RunRecord)
    if record.recipe != key:
        raise UserError(
            f"{run.name} was trained by another plan", f"remove {run.folder} to train it anew, or bring back the plan it was trained with"
        )
    schedule = run.configuration.schedule
    return record.seconds >= schedule.seconds * 0.98 if schedule.seconds is not None else record.iterations >= schedule.iterations


def _previous(run: _Run, cases: Mapping[str, PreparedCase]) -> dict[str, Any]:
    if run.configuration.previous is None:
        return {}
    from autounet.training.previous import previous_labels

    return previous_labels(run.dataset, run.plan, run.configuration, run.job, cases)


def _validate(
    run: _Run, trained: "Trained", cases: Mapping[str, PreparedCase], previous: Mapping[str, Any]
) -> tuple[list[dict[str, float]], tuple[str, ...]]:
    """Predict every held-out case and write its mask; a case that fails is listed, the others go on."""
    from autounet.training.validation import mask_path

    scores, failed = [], []
    folder = run.folder / "validation"
    with run.job.progress.task(f"validate {run.name}", total=len(cases), unit="case") as task:
        for name, case in cases.items():
            stop.check()
            try:
                scores.append(_predicted(run, trained, case, mask_path(folder, run.dataset, run.dataset.case(name)), previous.get(name)))
            except UserError as error:
                run.job.progress.warn(f"{name}: {error}")
                failed.append(name)
            task.step(doing=name)
    return scores, tuple(failed)


def _predicted(run: _Run, trained: "Trained", case: PreparedCase, path: Path, previous: Any) -> dict[str, float]:
    from autounet.data.voxels import read_case
    from autounet.images.write import write_mask
    from autounet.inference.predict import predict_prepared
    from autounet.inference.settings import InferenceSettings, Member, label_values
    from autounet.metrics.overlap import joint_counts

    source: Case = run.dataset.case(case.id)
    image, _ = case.read_all()
    settings = InferenceSettings.of(run.configuration)
    member = Member(trained.network, run.configuration)
    found = predict_prepared([member], image, case.frame, run.plan, settings, previous_zyx=previous, threads=run.job.threads)
    voxels = read_case(run.dataset, source)
    values = label_values(found.label_zyx, run.plan.labels)
    write_mask(path, values, voxels.header)
    assert voxels.label_zyx is not None
    labels = run.plan.labels
    import numpy as np

    table = np.array([c.value for c in labels.classes] + ([] if labels.ignore is None else [labels.ignore]))
    joint = joint_counts(table[voxels.label_zyx], values, labels.ignore)
    return {name: joint.of(target).dice for name, target in labels.targets}


def _record(run: _Run, trained: "Trained", recipe: Recipe, scores: list[dict[str, float]], failed: tuple[str, ...]) -> RunRecord:
    from autounet.training.validation import mean_score

    held_out = run.splits.folds[run.fold].validation
    return RunRecord(
        configuration=run.configuration.name,
        fold=run.fold,
        recipe=trained.state.recipe,
        iterations=trained.state.step,
        seconds=trained.state.seconds,
        execution=trained.state.execution,
        loss=trained.state.loss,
        waited_seconds=trained.waited_seconds,
        train_cases=len(recipe.train),
        validation=tuple(
            TargetDice(target=name, dice=mean_score([score[name] for score in scores])) for name, _ in run.plan.labels.targets
        ),
        validated=tuple(c for c in held_out if c not in failed),
        failed_cases=tuple(failed),
    )
