"""Where the samples of a training are augmented, by threads or on the device that trains: tried once, before it begins."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

from autounet import stop
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


def tried(learner: Learner, opened: Opened, parts: int, clock: Callable[[], float] = time.perf_counter) -> Choice:
    """Some steps each way at a rate of zero; the device must be clearly faster. The learner is as before afterwards."""
    schedule = learner.schedule
    until = clock() + (PATIENCE if schedule.seconds is None else SHARE * schedule.seconds)

    def time_left() -> float:
        return until - clock()

    with rehearsal(learner):
        try:
            with opened("threads") as loader:
                threads = timing(learner, loader, parts, time_left)
            device = _on_device(learner, opened, parts, time_left)
        except SlowError:
            return Choice("threads", "the steps take too long to try it", tried=True)
    if isinstance(device, str):
        return Choice("threads", device, tried=True)
    where: Where = "device" if device.seconds < CLEARLY * threads.seconds else "threads"
    return Choice(where, f"on the device {device}; by threads {threads}", tried=True)


def _on_device(learner: Learner, opened: Opened, parts: int, time_left: Callable[[], float]) -> Timing | str:
    """How long it takes there; or in words why it cannot be done there."""
    try:
        with opened("device") as loader:
            return timing(learner, loader, parts, time_left)
    except NoRoomError as error:
        return error.problem
    except SampleError:
        raise  # a case that cannot be read is no matter of speed
    except (RuntimeError, TypeError) as error:  # no memory for the step beside it; an operation that this kind of device lacks
        return f"the device cannot do it: {(str(error) or type(error).__name__).splitlines()[0][:200]}"


def timing(learner: Learner, loader: Loader, parts: int, time_left: Callable[[], float]) -> Timing:
    """What a step takes when the batches that lay ready at the start are used up."""
    batches = loader.batches(0)

    def steps(count: int) -> None:
        for _ in range(count):
            stop.check()
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
