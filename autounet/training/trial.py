"""Where the samples of a training are augmented, by threads or on the device that trains: tried once, before it begins."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from autounet import stop
from autounet.training.distributed import Agree, alone
from autounet.training.learner import Learner
from autounet.training.loader import Loader
from autounet.training.sample import SampleError
from planners.plan import Schedule

Where = Literal["threads", "device"]
Opened = Callable[[Where], AbstractContextManager[Loader]]

STEPS = 6  # that are timed, after as many as the loader has batches ahead
CLEARLY = 0.95  # of the time with threads: less is chance, and threads leave the device's memory alone
LONG_STEPS, LONG_SECONDS = 1000, 600.0  # shorter trainings would spend more on the question than they gain
PATIENCE, SHARE = 600.0, 0.02  # seconds that the question may take, a compiler's minutes among them; or a share of the time that there is


class NoRoomError(SampleError):
    """The device has no memory left to augment."""


class SlowError(Exception):
    """It takes too long to find out."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one step, with all that happens between two."""

    seconds: float
    waited: float  # of these, for samples

    def __str__(self) -> str:
        return f"{1000 * self.seconds:.0f} ms a step, {self.waited / max(self.seconds, 1e-9):.0%} of it waiting"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where, and why."""

    where: Where
    why: str
    tried: bool = False


def tried(
    learner: Learner, opened: Opened, parts: int, ranks: Agree | None = None, clock: Callable[[], float] = time.perf_counter
) -> Choice:
    """Some steps each way at a rate of zero; the device must be clearly faster. The learner is as before afterwards.

    `ranks` that train together make the same steps, by the clock of the first, and choose the device only if all do.
    """
    agree, schedule = ranks or alone, learner.schedule
    until = agree(False, clock())[1] + (PATIENCE if schedule.seconds is None else SHARE * schedule.seconds)

    def time_left() -> float:
        stopping, now = agree(stop.requested(), clock())
        if stopping:
            stop.request("another process")  # for a rank that was not asked itself
            stop.check()
        return until - now

    with rehearsal(learner):
        try:
            with opened("threads") as loader:
                threads = timing(learner, loader, parts, time_left)
            with opened("device") as loader:
                problem = _problem(loader)
                if agree(bool(problem), 0.0)[0]:
                    return Choice("threads", problem or "another process cannot do it on its device", tried=True)
                device = timing(learner, loader, parts, time_left)
        except torch.OutOfMemoryError:
            if ranks is not None:
                raise  # the others are in the middle of a step
            return Choice("threads", "the device has no memory for it beside a step", tried=True)
        except SlowError:
            return Choice("threads", "the steps take too long to try it", tried=True)
    slower = agree(device.seconds >= CLEARLY * threads.seconds, 0.0)[0]
    return Choice("threads" if slower else "device", f"on the device {device}; by threads {threads}", tried=True)


def _problem(loader: Loader) -> str:
    """Why a batch cannot be made on the device, in words; nothing if it can."""
    batches = loader.batches(0)
    try:
        next(batches)
    except NoRoomError as error:
        return error.problem
    except SampleError:
        raise  # a case that cannot be read is no matter of speed
    except (RuntimeError, TypeError) as error:  # an operation that this kind of device lacks
        return f"the device cannot do it: {(str(error) or type(error).__name__).splitlines()[0][:200]}"
    finally:
        batches.close()
    return ""


def timing(learner: Learner, loader: Loader, parts: int, time_left: Callable[[], float]) -> Timing:
    """What a step takes when the batches that lay ready at the start are used up."""
    batches = loader.batches(0)

    def steps(count: int) -> None:
        for _ in range(count):
            if time_left() <= 0:
                raise SlowError
            learner.step(next(batches), 0.0, parts)  # its report is read from the device, so all that came before is done

    try:
        steps(loader.ahead + 1)
        before, waited = time_left(), loader.waited_seconds
        steps(STEPS)
        return Timing((before - time_left()) / STEPS, (loader.waited_seconds - waited) / STEPS)
    finally:
        batches.close()


@contextmanager
def rehearsal(learner: Learner) -> Iterator[None]:
    """Steps at a rate of zero inside this block leave no trace: before the first step the optimiser remembers nothing."""
    assert not learner.optimiser.state, "only before the first step"
    averaged, scale = learner.averaged_steps, None if learner.scaler is None else learner.scaler.state_dict()
    try:
        yield
    finally:
        learner.optimiser.zero_grad(set_to_none=True)
        learner.optimiser.state.clear()
        learner.averaged_steps = averaged
        if learner.scaler is not None and scale is not None:
            learner.scaler.load_state_dict(scale)


def worth_a_trial(schedule: Schedule) -> bool:
    """Whether the training is long enough to ask what is faster."""
    return schedule.iterations >= LONG_STEPS if schedule.seconds is None else schedule.seconds >= LONG_SECONDS
