"""One fold, from a plan to weights: the parts are made, handed to the loop, and its result published."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from autounet.training.allocation import keep_freed_memory
from autounet.training.distributed import Rank, agreed, mean_gradients, summed
from autounet.training.execution import Execution, execution
from autounet.training.learner import Learner, make_learner
from autounet.training.loader import THREADS, Loader, Workers, waiting_in_words
from autounet.training.loop import Surroundings, Training, Validate, alone, averaged, begin
from autounet.training.recipe import Recipe
from autounet.training.sample import ReadCase, Source
from autounet.training.state import Progressed
from planners.errors import UserError
from planners.plan import Configuration

CHECKPOINTS = "checkpoints"
ALONE = Rank()


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What one fold is trained from, and where to."""

    recipe: Recipe
    cases: Mapping[str, ReadCase]
    folder: Path
    validate: Validate | None = None
    validation_steps: float = 0.0
    previous: Mapping[str, NDArray[np.generic]] | None = None
    start: Mapping[str, Tensor] | None = None  # weights to begin with
    workers: Workers = THREADS  # who makes the samples


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained fold in memory."""

    network: nn.Module  # in eval mode, with the weights that prediction shall use
    weights: dict[str, Tensor]
    state: Progressed
    waited_seconds: float


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
    how = execution(job.device, fold.recipe.configuration.schedule.precision)
    if how.device.type == "cpu":
        keep_freed_memory()
    recipe = fold.recipe
    make_folder(fold.folder)
    learner = fresh_learner(fold, how, summed if rank.count > 1 else None)
    learner.synchronise = mean_gradients if rank.count > 1 else None
    first = rank.number == 0
    checkpoints = Checkpoints(fold.folder / CHECKPOINTS, say=job.progress.warn)
    if first:
        checkpoints.tidy()  # what a killed save left
    with Progress(Voice(folder=fold.folder if first else None)) as log:
        around = Surroundings(
            checkpoints=checkpoints,
            progress=job.progress if first else Progress.silent(),
            log=log,
            validate=fold.validate if rank.count == 1 else None,
            validation_steps=fold.validation_steps,
            every_fraction=recipe.plan.validation.every_fraction,
            writes=first,
            parts=parts(recipe.configuration, rank.count) if rank.count > 1 else None,
            agree=agreed if rank.count > 1 else alone,
        )
        training = begin(recipe, learner, around)
        log.event("begin_fold", execution=str(learner.execution), step=training.state.step, threads=threads, cases=len(fold.cases))
        waited = _run(fold, training, threads, positions(recipe.configuration.batch_size, rank))
    weights = learner.final_weights()
    with averaged(learner):
        pass  # leaves the network in eval mode
    learner.network.load_state_dict(weights)
    return Trained(network=learner.network.eval(), weights=weights, state=training.state, waited_seconds=waited)


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


def positions(batch_size: int, rank: Rank) -> tuple[int, ...]:
    """The samples of each batch that are this rank's; together the ranks make what one process makes alone."""
    return tuple(range(batch_size * rank.number // rank.count, batch_size * (rank.number + 1) // rank.count))


def parts(configuration: Configuration, ranks: int) -> int:
    """The most micro-batches, up to the plan's, that the share of every rank can be cut into."""
    shares = [len(positions(configuration.batch_size, Rank(number, ranks))) for number in range(ranks)]
    return next(count for count in range(configuration.accumulate, 0, -1) if all(share % count == 0 for share in shares))


def _run(fold: Fold, training: Training, threads: int, own: tuple[int, ...]) -> float:
    wished = fold.workers
    workers = loader_workers(training.learner.execution, threads) if wished.count is None else wished.count
    source, before = Source(recipe=fold.recipe, cases=fold.cases, previous=fold.previous), training.state
    if wished.processes:
        from autounet.training.processes import processes

        with (
            processes(source, max(1, workers), fold.folder / "workers", training.around.progress.warn) as made,
            Loader(source, workers, own, made.sample) as loader,
        ):
            training.run(loader)
    else:
        with Loader(source, workers, own) as loader:
            training.run(loader)
    if training.state.step > before.step:
        share = loader.waited_seconds / max(1e-9, training.state.seconds - before.seconds)
        text = waiting_in_words(share, workers, wished.processes, machine.cores())
        training.around.progress.note(f"{training.name} {text}")
        training.around.log.event("waited", seconds=round(loader.waited_seconds, 3), share=round(share, 4), workers=workers, text=text)
    return loader.waited_seconds


def loader_workers(how: Execution, threads: int) -> int:
    """On a processor the loader shares the cores with the network; an accelerator wants them all."""
    return max(1, min(threads, 16)) if how.device.type != "cpu" else max(1, threads // 4)
