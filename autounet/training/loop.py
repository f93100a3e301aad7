"""The loop of one fold: batches in, weights out; stopped, killed or broken, it goes on where it was."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from traceback import format_exception
from typing import Any

from torch import nn

from autounet import stop
from autounet.augment.backend import chosen
from autounet.progress import Progress
from autounet.store.checkpoints import Checkpoints
from autounet.training.distributed import Agree, alone, parts
from autounet.training.growth import configuration_at, stage_at
from autounet.training.learner import Learner, StepReport
from autounet.training.loader import Loader
from autounet.training.recipe import Recipe
from autounet.training.sample import Batch, SampleError
from autounet.training.schedule import Pace, plateau
from autounet.training.state import Progressed, Scored, read_progress, recipe_key, under
from autounet.training.trial import Where
from planners.errors import UserError
from planners.plan import Configuration

CHECKPOINT_SECONDS = 300.0
BAD_STEPS = 3  # in a row; one alone may be a freak sample
VALIDATION_SHARE = 0.1  # of the time spent; a score on the way must not eat the training
Validate = Callable[[nn.Module], tuple[float, tuple[tuple[str, float | None], ...]]]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the loop is handed beside the learner: where to save, whom to tell, how to score."""

    checkpoints: Checkpoints
    progress: Progress
    log: Progress  # the fold's own events
    validate: Validate | None = None
    every_fraction: float = 0.1
    validation_steps: float = 0.0  # a score on the way takes about as long as so many steps
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    clock: Callable[[], float] = time.monotonic
    ranks: int = 1  # processes that train together
    writes: bool = True  # one rank of several writes
    probes: bool = True  # whether it may be tried what is faster; several ranks would not agree on it
    # Of several ranks: whether any was asked to stop, and the time that all go by.
    agree: Agree = alone
    hear: Callable[[str, Mapping[str, object]], None] = lambda kind, fields: None  # told the same as the log
    draw: Callable[[], None] = lambda: None  # the log has something new to draw
    settle: Callable[["Training"], Where] | None = None  # where samples are augmented, asked before the first step


@dataclass(slots=True, kw_only=True)
class Training:
    """One fold under way."""

    recipe: Recipe
    learner: Learner
    around: Surroundings
    state: Progressed
    bad: list[str] = field(default_factory=list)
    resumed: bool = False
    _began: float = 0.0
    _saved: float = 0.0
    _saved_step: int = -1
    _validation_seconds: float = 0.0

    def run(self, loader: Loader) -> Progressed:
        """Train to the end of the schedule or of this size of patches. A stop is answered after the step in work, with a checkpoint."""
        self._began = self.around.clock() - self.state.seconds
        self._saved = self.around.clock()
        schedule = self.recipe.configuration.schedule
        total = schedule.iterations if schedule.seconds is None else schedule.seconds
        unit = "step" if schedule.seconds is None else "second"
        with self.around.progress.task(self.name, total=total, unit=unit) as task:
            task.step(n=self.state.step if schedule.seconds is None else min(self.state.seconds, total))
            stage = len(self.state.grown)
            while not self.over and stage == len(self.state.grown):
                before = self.state.seconds
                try:
                    self._until_trouble(loader, lambda n: task.step(doing=self._doing(), n=n), before)
                except SampleError as error:
                    self._record_failure(error)
                    raise
        if self.around.writes:
            self._save()
        return self.state

    @property
    def over(self) -> bool:
        """Whether the schedule is at its end."""
        return self._pace().over(self.state.step, self.state.seconds)

    @property
    def configuration(self) -> Configuration:
        """The plan's, with the patches of now."""
        return configuration_at(self.recipe.configuration, len(self.state.grown))

    @property
    def name(self) -> str:
        """For people."""
        return f"train {self.recipe.configuration.name} fold {self.recipe.fold}"

    def _until_trouble(self, loader: Loader, moved: Callable[[float], None], before: float) -> None:
        micro_batches = parts(self.configuration, self.around.ranks)
        for batch in loader.batches(self.state.step):
            pace = self._pace()
            rate = pace.rate(self.state.step, self.state.seconds) * self.state.rate_factor
            report = self.learner.step(batch, rate, micro_batches)
            if not report.finite:
                if self._trouble(batch, report) or self.over:
                    return  # rolled back: the loader has to begin at another step; or this was the last one
                continue
            self.bad.clear()
            seconds = self.around.agree(False, self.around.clock() - self._began)[1]
            self.state = replace(
                self.state.with_loss(report.loss), step=self.state.step + 1, seconds=seconds, averaged_steps=self.learner.averaged_steps
            )
            grown = self._grown(pace)  # before anything is saved: the next step's samples depend on it
            self._record(report, rate, loader)
            moved(1 if self.recipe.configuration.schedule.seconds is None else seconds - before)
            before = seconds
            self._look(pace)
            if self.around.agree(stop.requested(), 0.0)[0]:
                self._save()
                stop.request("another process")  # for a rank that was not asked itself
                stop.check()
            if self.around.clock() - self._saved > self.around.checkpoint_seconds:
                self._save()
            if self.over or grown:
                return

    def _grown(self, pace: Pace) -> bool:
        """Whether patches are larger from the next step on: those that were made ahead are not taken."""
        stage = stage_at(pace.schedule, pace.way(self.state.step, self.state.seconds))
        new = stage - len(self.state.grown)
        if new <= 0:
            return False
        self.state = replace(self.state, grown=(*self.state.grown, *[self.state.step] * new))
        edges = "x".join(map(str, self.configuration.patch_zyx))
        self.around.progress.note(f"{self.name}: patches of {edges} now, {self.configuration.batch_size} a batch")
        self.around.log.event("grown", step=self.state.step, patch=list(self.configuration.patch_zyx), batch=self.configuration.batch_size)
        return True

    def _pace(self) -> Pace:
        return Pace(schedule=self.recipe.configuration.schedule, decay_from=self.state.decay_from)

    def _doing(self) -> str:
        scores = f", Dice {self.state.scored[-1].dice:.3f}" if self.state.scored else ""
        return f"loss {self.state.loss or 0.0:.3f}{scores}"

    def _record(self, report: StepReport, rate: float, loader: Loader) -> None:
        self._tell(
            "train",
            step=self.state.step,
            loss=report.loss,
            rate=rate,
            gradient_norm=report.gradient_norm,
            seconds=round(self.state.seconds, 3),
            waited=round(loader.waited_seconds, 3),
            **{f"loss_{name}": value for name, value in report.terms},
        )

    def _tell(self, kind: str, **fields: object) -> None:
        self.around.log.event(kind, **fields)
        self.around.hear(kind, fields)

    def _record_failure(self, error: SampleError) -> None:
        """A sample could not be made: the weights are sound, and no step is lost to it."""
        text = "".join(format_exception(error))
        self.around.log.event("sample_failed", step=self.state.step, case=error.case, traceback=text)
        if self.around.writes and self.state.step > self._saved_step:
            self._save()

    def _look(self, pace: Pace) -> None:
        """Score whole volumes when it is time, and call the decay at a plateau."""
        if self.around.validate is None:
            return
        way = pace.way(self.state.step, self.state.seconds)
        last = self.state.scored[-1].way if self.state.scored else 0.0
        expected = self._validation_seconds or self.around.validation_steps * self.state.seconds / max(1, self.state.step)
        cheap = expected <= VALIDATION_SHARE * (way - last) / max(way, 1e-9) * max(self.state.seconds, 1e-9)
        if way - last < self.around.every_fraction or way >= pace.end or not cheap:
            return
        try:
            with averaged(self.learner):
                dice, targets = self.around.validate(self.learner.network)
        except stop.Stopped:
            return  # the loop answers it, with a checkpoint; the score is made when the run goes on
        seconds = self.around.agree(False, self.around.clock() - self._began)[1]  # ranks that differ in it would not score together again
        self._validation_seconds = seconds - self.state.seconds
        scored = (*self.state.scored, Scored(step=self.state.step, way=way, dice=dice, targets=targets))
        best = dice > self.state.best
        self.state = replace(self.state, scored=scored, seconds=seconds)
        self._tell("validation", step=self.state.step, dice=dice, **{f"dice_{n}": v for n, v in targets})
        self.around.draw()
        if self.recipe.configuration.schedule.stop_at_plateau and plateau(tuple((s.way, s.dice) for s in scored)):
            self.state = replace(self.state, decay_from=pace.decay_now(self.state.step, self.state.seconds).decay_from)
        if best:
            self._save(best=True)

    def _trouble(self, batch: Batch, report: StepReport) -> bool:
        """A loss that is no number. Returns whether the training was rolled back."""
        low, high = float(batch.image.min()), float(batch.image.max())
        what = f"step {self.state.step}: loss {report.loss}, images from {low:.3g} to {high:.3g} of {', '.join(batch.cases)}"
        self.bad.append(what)
        self.around.log.event("not_finite", step=self.state.step, cases=list(batch.cases), low=low, high=high)
        if len(self.bad) < BAD_STEPS:
            self.state = replace(self.state, step=self.state.step + 1)
            return False
        saved = self.around.checkpoints.latest()
        if saved is None or self.state.rate_factor < 1.0:
            raise UserError(
                f"the loss is not finite in {BAD_STEPS} steps in a row ({what})",
                "look at the intensities of these cases, or lower the learning rate in plan.json",
                batch.cases[0],
            )
        self.around.progress.warn(f"{what}; back to step {saved.step} with half the learning rate")
        self.take_up(saved.tensors, read_progress(saved.state, self.recipe, str(self.around.checkpoints.folder)))
        self.state = replace(self.state, rate_factor=0.5)
        self._began = self.around.clock() - self.state.seconds
        self.bad.clear()
        return True

    def take_up(self, tensors: Any, state: Progressed) -> None:
        """Go on from a checkpoint."""
        self.learner.restore(tensors)
        self.learner.averaged_steps = state.averaged_steps
        if self.learner.scaler is not None and state.loss_scale is not None:
            self.learner.scaler.load_state_dict({**self.learner.scaler.state_dict(), "scale": state.loss_scale})
        self.state, self.resumed, self._saved_step = under(state, self.recipe.configuration.schedule), True, state.step

    def _save(self, best: bool = False) -> None:
        if not self.around.writes:
            return
        scale = None if self.learner.scaler is None else float(self.learner.scaler.get_scale())
        self.around.checkpoints.save(self.state.step, self.learner.tensors(), replace(self.state, loss_scale=scale).plain(), best=best)
        self._saved, self._saved_step = self.around.clock(), self.state.step


def begin(recipe: Recipe, learner: Learner, around: Surroundings) -> Training:
    """A training at its first step, or at the last checkpoint if there is one."""
    state = under(Progressed(recipe=recipe_key(recipe), execution=str(learner.execution)), recipe.configuration.schedule)
    training = Training(recipe=recipe, learner=learner, around=around, state=state)
    saved = around.checkpoints.latest()
    if saved is not None:
        training.take_up(saved.tensors, read_progress(saved.state, recipe, str(around.checkpoints.folder)))
    else:
        name, why = chosen(recipe.configuration.augmentation, len(recipe.plan.channels), recipe.configuration.patch_zyx, around.probes)
        training.state = replace(state, backend=name)
        around.log.event("augmentation", backend=name, why=why)
        if around.settle is not None:
            training.state = replace(training.state, runs_on=around.settle(training))
        if around.writes:
            training._save()  # what a numerical accident in the first minutes goes back to
    return training


class averaged:  # noqa: N801 - used like a function
    """The network with the averaged weights inside this block."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def __enter__(self) -> None:
        self._swap()
        self.learner.network.eval()

    def __exit__(self, *ignored: object) -> None:
        self._swap()
        self.learner.network.train()

    def _swap(self) -> None:
        for name, parameter in self.learner.network.named_parameters():
            if name in self.learner.average:
                parameter.data, self.learner.average[name] = self.learner.average[name], parameter.data
