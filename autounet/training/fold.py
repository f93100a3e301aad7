"""One fold, from a plan to weights: the parts are made, handed to the loop, and its result published."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autounet import machine
from autounet.job import Job
from autounet.losses.level import Reduce
from autounet.losses.segmentation import SegmentationLoss
from autounet.networks import build
from autounet.progress import Progress, Voice
from autounet.rng import generator
from autounet.store.checkpoints import Checkpoints
from autounet.store.files import make_folder
from autounet.training import on_device
from autounet.training.agreement import trusted
from autounet.training.allocation import keep_freed_memory
from autounet.training.curves import write_curves
from autounet.training.distributed import Rank, agreed, alone, mean_gradients, parts, positions, summed
from autounet.training.execution import Execution, ways
from autounet.training.fastest import fastest, prepare_cuda, seconds_a_step
from autounet.training.learner import Learner, make_learner
from autounet.training.loader import THREADS, Loader, Making, Workers, waiting_in_words
from autounet.training.loop import Surroundings, Training, Validate, averaged, begin
from autounet.training.probe import meter_of
from autounet.training.recipe import Recipe
from autounet.training.sample import ReadCase, Source
from autounet.training.state import Progressed
from autounet.training.trackers import Kind, tracking
from autounet.training.trial import Choice, Where, tried, worth_a_trial
from planners.errors import UserError

CHECKPOINTS = "checkpoints"
ALONE = Rank()
SAID: dict[Where, str] = {"threads": "by threads", "device": "on the device"}


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one fold is trained from, and where to."""

    recipe: Recipe
    cases: Mapping[str, ReadCase]
    folder: Path
    validate: Validate | None = None  # with several ranks: asked in all of them, and all are told the same
    validation_steps: float = 0.0
    previous: Mapping[str, NDArray[np.generic]] | None = None
    start: Mapping[str, Tensor] | None = None  # weights to begin with
    workers: Workers = THREADS  # who makes the samples
    track: Kind | None = None  # a program that hears of the training, too


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained fold in memory."""

    network: nn.Module  # in eval mode, with the weights that prediction shall use
    weights: dict[str, Tensor]
    state: Progressed
    waited_seconds: float
    held_bytes: int | None = None  # of memory, at most; None: nothing was trained, or the device does not tell


def train_fold(fold: Fold, job: Job, rank: Rank = ALONE) -> Trained:
    """Train to the end of the schedule, or go on from the last checkpoint and then to the end."""
    batch = fold.recipe.configuration.batch_size
    if rank.count > batch:
        raise UserError(
            f"{rank.count} processes cannot share a batch of {batch}",
            f"start at most {batch} processes, or plan larger batches",
        )
    threads = max(1, (job.threads or machine.cores()) // rank.count)
    torch.set_num_threads(threads)
    checkpoints = Checkpoints(fold.folder / CHECKPOINTS, say=job.progress.warn)
    how = _way(fold, job, rank, checkpoints)
    if how.device.type == "cpu":
        keep_freed_memory()
    recipe, meter = fold.recipe, meter_of(how.device)
    if meter is not None:
        meter.begin()
    make_folder(fold.folder)
    learner = fresh_learner(fold, how, summed if rank.count > 1 else None)
    learner.synchronise = mean_gradients if rank.count > 1 else None
    first = rank.number == 0
    if first:
        checkpoints.tidy()  # what a killed save left
    name = f"{recipe.configuration.name} fold {recipe.fold}"
    with (
        Progress(Voice(folder=fold.folder if first else None)) as log,
        tracking(fold.track if first else None, fold.folder, name, job.progress.warn) as hear,
    ):
        around = Surroundings(
            checkpoints=checkpoints,
            progress=job.progress if first else Progress.silent(),
            log=log,
            validate=fold.validate,
            validation_steps=fold.validation_steps,
            every_fraction=recipe.plan.validation.every_fraction,
            writes=first,
            probes=rank.count == 1,
            ranks=rank.count,
            hear=hear,
            draw=partial(_drawn, fold.folder, f"{recipe.plan.dataset}: {name}", job.progress.warn) if first else _nothing,
            agree=agreed if rank.count > 1 else alone,
            settle=partial(_settled, fold, threads, rank),
        )
        training = begin(recipe, learner, around)
        log.event("begin_fold", execution=str(learner.execution), step=training.state.step, threads=threads, cases=len(fold.cases))
        first_step = training.state.step
        waited = _run(fold, training, threads, rank)
        held = meter.peak_bytes() if meter is not None and training.state.step > first_step else None
        log.event("held", bytes=held)
    around.draw()
    weights = learner.final_weights()
    with averaged(learner):
        pass  # leaves the network in eval mode
    learner.network.load_state_dict(weights)
    return Trained(network=learner.network.eval(), weights=weights, state=training.state, waited_seconds=waited, held_bytes=held or None)


def _way(fold: Fold, job: Job, rank: Rank, checkpoints: Checkpoints) -> Execution:
    """How the network is run: as before, where it was begun; else the fastest of the ways that can be trusted here."""
    configuration = fold.recipe.configuration
    schedule = configuration.schedule
    likely = ways(job.device, schedule.precision, schedule.iterations if schedule.seconds is None else 0)
    if likely[0].device.type == "cuda":
        prepare_cuda(likely[0].device)
    trustworthy = trusted(likely, configuration.dimensions, job.progress.note)
    if len(trustworthy) == 1 or rank.count > 1:
        return trustworthy[0]  # ranks would not agree on what is faster
    told = checkpoints.told()
    begun = told.get("execution") if isinstance(told, dict) else None
    if isinstance(begun, str):  # perhaps on another card: what follows the device counts
        return next((way for way in trustworthy if str(way).partition(", ")[2] == begun.partition(", ")[2]), trustworthy[0])
    if not worth_a_trial(schedule):
        return trustworthy[0]
    way, why = fastest(trustworthy, partial(seconds_a_step, fold.recipe.plan, configuration))
    job.progress.note(f"{configuration.name} fold {fold.recipe.fold} trains with {way}: {why}")
    return way


def _nothing() -> None:
    """Another process draws."""


def _drawn(folder: Path, title: str, warn: Callable[[str], None]) -> None:
    try:
        write_curves(folder, title)
    except Exception as error:  # a picture less, whatever the reason, is no reason to lose a training
        warn(f"the curves were not drawn ({type(error).__name__}): {error}")


def fresh_learner(fold: Fold, how: Execution, reduce: Reduce | None = None) -> Learner:
    """A learner at its first step; its weights depend on the seed alone."""
    recipe, labels = fold.recipe, fold.recipe.plan.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(recipe.seed, "weights", recipe.configuration.name, recipe.fold).integers(2**63)))
        network = build(recipe.configuration.architecture, recipe.channels_in, labels.heads)
    if fold.start is not None:
        network.load_state_dict(dict(fold.start))
    loss = SegmentationLoss(loss=recipe.configuration.loss, labels=labels, **({} if reduce is None else {"reduce": reduce}))
    return make_learner(network, loss, how, recipe.configuration.schedule)


def _settled(fold: Fold, threads: int, rank: Rank, training: Training) -> Where:
    """Where the samples are augmented: as the plan says, else where a trial found it faster."""
    around, configuration = training.around, training.configuration
    wished, no = configuration.augmentation.runs_on, _hindrance(fold, training)
    if no is not None:
        choice = Choice("threads", no)
    elif wished != "auto":
        choice = Choice(wished, "the plan says so")
    elif not worth_a_trial(configuration.schedule):
        choice = Choice("threads", "the training is too short to try it")
    else:
        opened, ranks = partial(_loader, fold, training, threads, rank), agreed if rank.count > 1 else None
        choice = tried(training.learner, opened, parts(configuration, rank.count), ranks)
        around.progress.note(f"{training.name}: samples are augmented {SAID[choice.where]} ({choice.why})")
    around.log.event("augments_on", where=choice.where, why=choice.why)
    return choice.where


def _hindrance(fold: Fold, training: Training) -> str | None:
    return on_device.hindrance(fold.recipe, training.learner.execution.device, training.state.backend, fold.workers.processes)


def _where(fold: Fold, training: Training) -> Where:
    """As was settled before the first step, unless the plan says otherwise by now or this machine cannot."""
    settled, wished, no = training.state.runs_on or "threads", fold.recipe.configuration.augmentation.runs_on, _hindrance(fold, training)
    wanted = settled if wished == "auto" else wished
    if no is not None and settled == "device":
        training.around.progress.note(
            f"{training.name}: samples are augmented by threads from now on ({no}); their noise is of other numbers"
        )
    return wanted if no is None else "threads"


def _run(fold: Fold, training: Training, threads: int, rank: Rank) -> float:
    wished, workers = fold.workers, _workers(fold, training, threads)
    before, waited, where = training.state, 0.0, _where(fold, training)
    while True:
        with _loader(fold, training, threads, rank, where) as loader:
            training.run(loader)
        waited += loader.waited_seconds
        if training.over:
            break
    if training.state.step > before.step:
        share = waited / max(1e-9, training.state.seconds - before.seconds)
        text = waiting_in_words(share, workers, wished.processes, machine.cores())
        training.around.progress.note(f"{training.name} {text}")
        training.around.log.event("waited", seconds=round(waited, 3), share=round(share, 4), workers=workers, text=text)
    return waited


@contextmanager
def _loader(fold: Fold, training: Training, threads: int, rank: Rank, where: Where) -> Iterator[Loader]:
    """The samples of the stage of growth that the training is in."""
    configuration, workers = training.configuration, _workers(fold, training, threads)
    own, device = positions(configuration.batch_size, rank), training.learner.execution.device
    source = Source(
        recipe=replace(fold.recipe, configuration=configuration), cases=fold.cases, previous=fold.previous, backend=training.state.backend
    )
    if fold.workers.processes:
        from autounet.training.processes import processes

        with (
            processes(source, max(1, workers), fold.folder / "workers", training.around.progress.warn) as made,
            Loader(source, workers, own, Making.whole(source, made.sample, device)) as loader,
        ):
            yield loader
    else:
        making = on_device.making(source, device) if where == "device" else Making.whole(source, device=device)
        with Loader(source, workers, own, making) as loader:
            yield loader


def _workers(fold: Fold, training: Training, threads: int) -> int:
    return loader_workers(training.learner.execution, threads) if fold.workers.count is None else fold.workers.count


def loader_workers(how: Execution, threads: int) -> int:
    """On a processor the loader shares the cores with the network; an accelerator wants them all."""
    return max(1, min(threads, 16)) if how.device.type != "cpu" else max(1, threads // 4)
