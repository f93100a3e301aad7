"""Every fold of every configuration, and the masks of the cases that each fold did not see."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
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
from autounet.training.order import Extension, in_order, limited_schedule, rounds, teams, wanted_folds
from autounet.training.recipe import Recipe, partly_annotated
from autounet.training.record import RunRecord, TargetDice
from autounet.training.trackers import Kind, module
from planners.errors import UserError
from planners.plan import Configuration, Plan

if TYPE_CHECKING:
    from autounet.training.fold import Fold, Trained
    from autounet.training.launched import Group

RECORD, WEIGHTS, NEXT = "run.json", "weights.safetensors", "next.safetensors"
CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from autounet.stages.train import child; sys.exit(child())"


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
    group: "Group | None" = None
    track: Kind | None = None
    extends: bool = False  # it is finished, and goes on

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
    devices: Sequence[str] = (),
    group: "Group | None" = None,
    extend: Extension | None = None,
    track: Kind | None = None,
) -> None:
    """Train what is not trained yet. `seconds` is for all of it together, `iterations` for each fold, `start` a model to begin with.

    With `extend` finished folds go on; their results stay until the new ones are complete.

    On several `devices` folds are trained side by side, and when there are fewer of them than devices, each by several devices
    together; in a `group` of processes each fold is trained by all of them.
    """
    chosen = in_order(plan, configurations)
    numbers = wanted_folds(plan, splits, folds)
    job = replace(job, device=devices[0]) if len(devices) == 1 else job
    if track is not None:
        module(track)  # what is missing is said before anything is begun
    crews = teams(devices or (job.device,), chosen, len(numbers))
    turns = rounds(chosen, len(numbers), len(crews))
    share = None if seconds is None else seconds / turns
    runs = []
    for configuration in chosen:
        limited = replace(configuration, schedule=limited_schedule(configuration, share, iterations))
        one = _Run(dataset=dataset, plan=plan, configuration=limited, fold=0, job=job, splits=splits, start=start)
        one = replace(one, workers=workers, worker_processes=worker_processes, group=group, track=track)
        runs += [_extended(replace(one, fold=fold), extend and extend.shared(turns)) for fold in numbers]
    failed = _side_by_side(runs, crews) if len(devices) > 1 else _in_turn(runs)
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        first = "; ".join(f"{name}: {error.problem}" for name, error in list(failed.items())[:3])
        raise UserError(f"{len(failed)} of {len(runs)} folds are not trained ({first})", "mend this and type the same command again")


def _extended(run: _Run, extend: Extension | None) -> _Run:
    if extend is None or not _finished(run):
        return run
    if not any((run.folder / "checkpoints").glob("*.json")):
        raise UserError(
            f"{run.name} cannot go on: its checkpoints are gone", f"leave out --extend, or remove {run.folder} to train it anew"
        )
    record = read_value(run.folder / RECORD, RunRecord)
    schedule = extend.of(run.configuration.schedule, record.iterations, record.seconds)
    return replace(run, configuration=replace(run.configuration, schedule=schedule), extends=True)


def _in_turn(runs: Sequence[_Run]) -> dict[str, UserError]:
    failed: dict[str, UserError] = {}
    for run in runs:
        stop.check()
        try:
            _train_one(run)
        except UserError as error:
            if run.group is not None:
                raise  # the other processes wait for this one
            failed[run.name] = error
            if run is not runs[-1]:
                run.job.progress.warn(f"{run.name}: {error}")
    return failed


def _side_by_side(runs: Sequence[_Run], crews: tuple[tuple[str, ...], ...]) -> dict[str, UserError]:
    from autounet import machine
    from autounet.training.side_by_side import Crew, Errand, Unit, side_by_side
    from planners.strict_json import to_plain

    at_once, together, progress = min(len(crews), len(runs)), len(crews[0]), runs[0].job.progress
    if together > 1:
        progress.note(f"{together} devices train each fold together, each a part of every batch")
    units, told = [], {}
    for run in runs:
        job = run.job
        first = {
            f"fold {other.fold} of {other.configuration.name}" for other in runs if other.configuration.name == run.configuration.previous
        }
        units.append(Unit(name=run.name, after=frozenset(first)))
        memory = None if job.max_ram_bytes is None else job.max_ram_bytes // (at_once * together)
        threads = max(1, (job.threads or machine.cores()) // at_once)
        errand = Errand(
            work=str(job.work.resolve()),
            seed=job.seed,
            threads=threads,
            max_ram_bytes=memory,
            dataset=run.dataset,
            plan=run.plan,
            configuration=run.configuration,
            splits=run.splits,
            fold=run.fold,
            start=None if run.start is None else str(run.start.resolve()),
            extends=run.extends,
            workers=run.workers,
            worker_processes=run.worker_processes,
            track=run.track,
        )
        told[run.name] = to_plain(errand)
    return side_by_side(units, told, Crew(teams=crews, program=CHILD, progress=progress))


def child() -> int:
    """One training in a process of its own: the errand on standard input, words on standard error, the end on standard output."""
    from autounet.training.side_by_side import Errand, errand_done

    def at_work(errand: Errand, job: Job) -> None:
        start, place, group = None if errand.start is None else Path(errand.start), errand.place, None
        if place.count > 1:
            from autounet.training.distributed import Rank
            from autounet.training.launched import met

            group = met(Rank(place.number, place.count), Path(place.meeting), job.device)
        run = _Run(
            dataset=errand.dataset,
            plan=errand.plan,
            configuration=errand.configuration,
            fold=errand.fold,
            job=job,
            splits=errand.splits,
            start=start,
            extends=errand.extends,
            workers=errand.workers,
            worker_processes=errand.worker_processes,
            group=group,
            track=errand.track,
        )
        _train_one(run)

    return errand_done(at_work)


def run_folder(work: Path, configuration: str, fold: int) -> Path:
    """Where a fold lives."""
    return work / "runs" / configuration / f"fold_{fold}"


def _train_one(run: _Run) -> None:
    from autounet.training.fold import train_fold
    from autounet.training.state import recipe_key

    cases, group = open_prepared(run.job.work, run.plan, run.configuration.name), run.group
    names = [c for c in run.splits.folds[run.fold].train if c in cases]
    if not names:
        raise UserError(f"{run.name} has no case to train on", "look at what `autounet prepare` reports")
    recipe = Recipe(
        plan=run.plan,
        configuration=run.configuration,
        fold=run.fold,
        seed=run.job.seed,
        train=tuple(names),
        annotated=partly_annotated(run.dataset, run.plan, names),
    )
    writes = group is None or group.first
    done = writes and _done(run, recipe_key(recipe))
    if done if group is None else group.agreed(f"{run.name}: is it done?", "yes" if done else ""):
        run.job.progress.note(f"{run.name} is trained")
        return
    with lock(run.folder.parent / f"fold_{run.fold}.lock", f"training {run.name}") if writes else nullcontext():
        validation = {c: cases[c] for c in run.splits.folds[run.fold].validation if c in cases}
        previous = _previous(run, {**{c: cases[c] for c in recipe.train}, **validation})
        fold = _fold(run, recipe, cases, validation, previous)
        if group is None:
            trained = train_fold(fold, run.job)
        else:
            with group.joined(run.name):
                trained = train_fold(fold, run.job, group.rank)
        if writes:
            _publish(run, trained, recipe, validation, previous)
    if group is not None:
        group.agreed(f"{run.name}: it is validated")


def _fold(
    run: _Run,
    recipe: Recipe,
    cases: Mapping[str, PreparedCase],
    validation: Mapping[str, PreparedCase],
    previous: Mapping[str, Any],
) -> "Fold":
    from autounet.training.finetune import weights_of
    from autounet.training.fold import ALONE, Fold
    from autounet.training.loader import Workers
    from autounet.training.validation import cost_in_steps, quick_score

    rank = ALONE if run.group is None else run.group.rank
    look = dict(list(validation.items())[: run.plan.validation.cases])
    return Fold(
        recipe=recipe,
        cases={c: cases[c] for c in recipe.train},
        folder=run.folder,
        validate=partial(quick_score, run.plan, run.configuration, look, previous.get, rank=rank) if look else None,
        validation_steps=cost_in_steps(run.configuration, look),
        previous={c: previous[c] for c in recipe.train} if run.configuration.previous is not None else None,
        start=None if run.start is None else weights_of(run.start, recipe, run.job.progress.note),
        workers=Workers(count=run.workers, processes=run.worker_processes),
        track=run.track,
    )


def _publish(run: _Run, trained: "Trained", recipe: Recipe, validation: Mapping[str, PreparedCase], previous: Mapping[str, Any]) -> None:
    """Weights, the masks of the cases that were held out, and the record that says that they are there.

    Until the last mask is made, everything that was published before stays as it is.
    """
    from autounet.store.files import publish_tree, remove_file
    from autounet.store.weights import save_tensors

    manifest, found = Manifest.open(run.job.work), list[Any]()
    weights, done = ((run.folder / name).relative_to(run.job.work).as_posix() for name in (WEIGHTS, RECORD))
    told = {"configuration": run.configuration.name, "fold": str(run.fold)}
    digest = save_tensors(run.folder / NEXT, trained.weights, told)

    def fill(folder: Path) -> None:
        found.append(_validate(run, trained, validation, previous, (folder, digest.sha256)))
        manifest.remove(weights, done)  # first, or a kill in between leaves files that their entries do not describe

    publish_tree(run.folder / "validation", fill)
    manifest.add(weights, save_tensors(run.folder / WEIGHTS, trained.weights, told))
    remove_file(run.folder / NEXT)
    scores, failed = found[0]
    unprepared = [c for c in run.splits.folds[run.fold].validation if c not in validation]
    manifest.add(done, write_value(run.folder / RECORD, _record(run, trained, recipe, scores, (*failed, *unprepared))))


def _finished(run: _Run) -> bool:
    """A file is not a proof: what was killed before it was entered, or has changed since, is trained to its end again."""
    manifest = Manifest.open(run.job.work)
    return all(manifest.has((run.folder / name).relative_to(run.job.work).as_posix(), "hash") for name in (RECORD, WEIGHTS))


def _done(run: _Run, key: str) -> bool:
    if not _finished(run):
        return False
    record = read_value(run.folder / RECORD, RunRecord)
    if record.recipe != key:
        raise UserError(
            f"{run.name} was trained by another plan", f"remove {run.folder} to train it anew, or bring back the plan it was trained with"
        )
    if run.extends or record.ended_at_plateau:
        return not run.extends
    schedule = run.configuration.schedule
    return record.seconds >= schedule.seconds * 0.98 if schedule.seconds is not None else record.iterations >= schedule.iterations


def _previous(run: _Run, cases: Mapping[str, PreparedCase]) -> dict[str, Any]:
    if run.configuration.previous is None:
        return {}
    from autounet.training.previous import previous_labels

    return previous_labels(run.dataset, run.plan, run.configuration, run.job, cases)


def _validate(
    run: _Run, trained: "Trained", cases: Mapping[str, PreparedCase], previous: Mapping[str, Any], place: tuple[Path, str]
) -> tuple[list[dict[str, float]], tuple[str, ...]]:
    """Predict every held-out case and write its mask; a case that fails is listed, the others go on. `place` is folder and digest."""
    from autounet.training.validation import mask_path

    scores, failed = [], []
    folder, sha256 = place
    with run.job.progress.task(f"validate {run.name}", total=len(cases), unit="case") as task:
        for name, case in cases.items():
            stop.check()
            try:
                path = mask_path(folder, run.dataset, run.dataset.case(name))
                scores.append(_predicted(run, trained, case, path, (previous.get(name), sha256)))
            except UserError as error:
                run.job.progress.warn(f"{name}: {error}")
                failed.append(name)
            task.step(doing=name)
    return scores, tuple(failed)


def _predicted(run: _Run, trained: "Trained", case: PreparedCase, path: Path, known: tuple[Any, str]) -> dict[str, float]:
    """The mask of one case, its scores, and what the network thought of it; `known` are earlier labels and the network's digest."""
    from autounet.data.voxels import read_case
    from autounet.images.write import write_mask
    from autounet.inference.predict import predict_prepared
    from autounet.inference.settings import InferenceSettings, Member, label_values
    from autounet.metrics.overlap import joint_counts
    from autounet.training.validation import onlooker, write_opinion

    source: Case = run.dataset.case(case.id)
    image, _ = case.read_all()
    settings = InferenceSettings.of(run.configuration)
    member = Member(trained.network, run.configuration)
    voxels = read_case(run.dataset, source)
    assert voxels.label_zyx is not None
    witness = onlooker(run.plan, voxels.label_zyx, run.job.seed)
    found = predict_prepared(
        [member], image, case.frame, run.plan, settings, previous_zyx=known[0], threads=run.job.threads, witness=witness
    )
    values = label_values(found.label_zyx, run.plan.labels)
    write_mask(path, values, voxels.header)
    write_opinion(path, witness, known[1])
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
        ended_at_plateau=trained.state.decay_from is not None,
        held_bytes=trained.held_bytes,
    )
