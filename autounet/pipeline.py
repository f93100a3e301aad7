"""The job on one page: a folder of images goes in, a model, its scores and a report come out.

Every verb makes what it needs of the earlier ones, and does again only what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from planners.errors import UserError

if TYPE_CHECKING:  # the stages are imported where they are used, so that a help text costs nothing
    from autounet.data.dataset import Dataset
    from autounet.job import Job
    from autounet.training.launched import Group
    from planners.fingerprint import Fingerprint
    from planners.plan import Plan


FOLDS = 5
PREPARED = "everything is prepared"
INDEX_BYTES = 2**27  # a hundred thousand cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the person at the keyboard asked for; None means: decide yourself."""

    layout: str | None = None
    planner: str = "default"
    gpu_memory_bytes: int | None = None
    seconds: float | None = None
    iterations: int | None = None  # of each fold; then the seconds are only what the plan reckons with
    extend: tuple[int | None, float | None] | None = None  # steps, or seconds, beyond what is finished
    target: str | None = None
    configurations: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    replan: bool = False
    cache: Path | None = None
    probe: bool = False  # try real training steps on the accelerator, and correct the prediction of memory
    start: Path | None = None  # a model whose weights the training starts from
    track: Literal["tensorboard", "wandb", "mlflow"] | None = None  # which hears of a training, beside its log
    devices: tuple[str, ...] = ()  # several: folds are trained side by side, or few of them together
    workers: int | None = None  # who make the samples of a training: so many threads
    worker_processes: bool = False  # or processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run made, for the last lines and the exit code."""

    model: Path
    report: Path
    summary: tuple[str, ...]
    failed: Mapping[str, UserError | None] = field(default_factory=dict)  # cases, and why, where it was not said before


def run(dataset: Path, job: Job, wishes: Wishes, group: Group | None = None) -> Outcome:
    """Everything, in the order it happens."""
    data = check(dataset, job, wishes)
    fingerprint = measure(data, job)
    plan = decide(fingerprint, job, wishes)
    unprepared = prepare(data, plan, job, wishes)
    train(data, plan, job, wishes, group)
    made = finish(data, plan, job)
    return replace(made, failed={**made.failed, **unprepared, **data.errors})


def check(dataset: Path, job: Job, wishes: Wishes) -> Dataset:
    """What is in the folder, and what is wrong with it."""
    from autounet.stages import check as stage

    return stage.check(dataset, job, layout=wishes.layout)


def measure(data: Dataset, job: Job) -> Fingerprint:
    """The dataset in numbers, and its folds."""
    from autounet.stages import measure as stage

    return stage.measure(data, job)


def decide(fingerprint: Fingerprint, job: Job, wishes: Wishes) -> Plan:
    """The plan: a new one, or the one that lies in the work folder and may have been edited."""
    from autounet.machine import hardware
    from autounet.stages import plan as stage
    from planners.hardware import Budget

    if job.device not in ("auto", "cpu"):
        hardware(job.device)  # one that is not there is said before hours of work
    path = job.work / "plan.json"
    if path.exists() and not (wishes.replan or wishes.probe):
        kept = stage.read_plan(path)
        if unheeded := _unheeded(wishes, kept):
            job.progress.warn(f"{path} is there and is followed, so {unheeded} changes nothing; to plan anew, add --replan")
        if larger := _larger_than_allowed(kept, job):
            job.progress.warn(f"{path} is there and is followed, though {larger}; to plan anew, add --replan")
        return kept
    seconds = wishes.seconds
    if seconds is not None and wishes.folds:  # the budget is for all folds; these share what is there for some
        seconds *= FOLDS / len(wishes.folds)
    if seconds is not None and len(wishes.devices) > 1:
        seconds *= len(wishes.devices)  # each device has that time
    budget = Budget(memory_bytes=wishes.gpu_memory_bytes, training_seconds=seconds, target=wishes.target, folds=FOLDS)  # type: ignore[arg-type]
    machine = hardware(job.device)
    if not wishes.probe:
        return stage.plan(fingerprint, machine, budget, wishes.planner, job)
    if machine.accelerator != "cuda":
        raise UserError("there is no CUDA device to probe", "plan without --probe: the closed form does not need a device")
    from autounet.training.probe import measured_bytes

    device = job.device if job.device.startswith("cuda") else "cuda"
    return stage.plan(fingerprint, machine, budget, wishes.planner, job, lambda plan, one: measured_bytes(plan, one, device))


def _unheeded(wishes: Wishes, plan: Plan) -> str:
    """The flags of planning that a plan which is there does not hear of."""
    flags = {
        f"--planner {wishes.planner}": wishes.planner not in ("default", plan.planner),
        "--gpu-memory": wishes.gpu_memory_bytes is not None,
        f"--target {wishes.target}": wishes.target is not None,
    }
    return " and ".join(flag for flag, given in flags.items() if given)


def _larger_than_allowed(plan: Plan, job: Job) -> str:
    """What training by a plan that is there would take, where it was told to take less."""
    from autounet.machine import hardware
    from autounet.progress.wording import size

    largest = max((plan.configuration(name) for name in plan.train), key=lambda one: one.memory.training_bytes)
    needed = largest.memory.training_bytes
    if job.max_ram_bytes is None or needed <= job.max_ram_bytes or hardware(job.device).accelerator != "cpu":
        return ""
    return f"{largest.name} takes about {size(needed)} to train, more than --max-ram {size(job.max_ram_bytes)}"


def prepare(data: Dataset, plan: Plan, job: Job, wishes: Wishes) -> dict[str, UserError]:
    """Every case as the networks want it, in the cache; the cases that could not be brought there, and why."""
    from autounet.stages import prepare as stage

    done = stage.prepare(data, plan, job, cache=wishes.cache, configurations=wishes.configurations)
    return {failure.case: failure.error for failure in done.failures}


def launched(device: str) -> Group | None:
    """The processes that torchrun started to train each fold together; None when this one is alone."""
    from autounet.training import launched as launcher

    return launcher.launched(device)


def follow(job: Job, wishes: Wishes, group: Group) -> None:
    """Train with the first process of the group, when it has made all that a training needs."""
    from autounet.data.dataset import Dataset
    from autounet.stages import plan as stage
    from autounet.store.strict import read_value

    group.agreed(PREPARED)  # the first says it when it begins to train
    train(read_value(job.work / "index.json", Dataset, max_bytes=INDEX_BYTES), stage.read_plan(job.work / "plan.json"), job, wishes, group)


def train(data: Dataset, plan: Plan, job: Job, wishes: Wishes, group: Group | None = None) -> None:
    """Every fold of every configuration, and the masks of the cases each fold did not see."""
    from autounet.data.splits import read_splits
    from autounet.stages import train as stage
    from autounet.training.order import Extension

    if group is not None:
        if wishes.devices:
            raise UserError("torchrun has shared out the devices already", "leave out --devices")
        job = replace(job, device=group.device)
        group.agreed(PREPARED)

    splits = read_splits(job.work / "splits.json", data)
    stage.train(
        data,
        plan,
        splits,
        job,
        configurations=wishes.configurations,
        folds=wishes.folds,
        seconds=wishes.seconds,
        iterations=wishes.iterations,
        start=wishes.start,
        extend=None if wishes.extend is None else Extension(iterations=wishes.extend[0], seconds=wishes.extend[1]),
        devices=_every_device(wishes.devices),
        group=group,
        track=wishes.track,
        workers=wishes.workers,
        worker_processes=wishes.worker_processes,
    )


def _every_device(named: tuple[str, ...]) -> tuple[str, ...]:
    if named != ("all",):
        return named
    from torch import cuda

    if cuda.device_count() == 0:
        raise UserError("there is no CUDA device to train on", "leave out --devices")
    return tuple(f"cuda:{number}" for number in range(cuda.device_count()))


def finish(data: Dataset, plan: Plan, job: Job) -> Outcome:
    """Choose, pack, and report."""
    from autounet.stages import bundle, report, select

    selection = select.select(data, plan, job)
    model = bundle.make_bundle(data, plan, selection, job)
    page = report.report(job.work, job)
    return Outcome(model=model, report=page, summary=selection.lines(model), failed=dict.fromkeys(selection.failed_cases))
