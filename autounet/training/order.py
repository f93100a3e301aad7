"""Which trainings there are, in which order, and how long each may take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from autounet.data.splits import Splits
from planners.errors import UserError
from planners.plan import Configuration, Plan, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """How much more a finished fold is trained: steps, or seconds (of all folds together until they are shared out)."""

    iterations: int | None = None
    seconds: float | None = None

    def shared(self, rounds: int) -> "Extension":
        """Of one of several trainings that follow each other."""
        return self if self.seconds is None else replace(self, seconds=self.seconds / rounds)

    def of(self, schedule: Schedule, iterations: int, seconds: float) -> Schedule:
        """The schedule of a fold that has had so many steps in so many seconds."""
        if self.seconds is not None:
            return replace(schedule, seconds=seconds + self.seconds)
        return replace(schedule, iterations=iterations + (self.iterations or 0), seconds=None)


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


def rounds(chosen: Sequence[Configuration], folds: int, teams: int) -> int:
    """How many trainings follow each other: those of the second stages of cascades begin when the first are done."""
    return sum(-(-count * folds // teams) for count in _waves(chosen))


def teams(devices: Sequence[str], chosen: Sequence[Configuration], folds: int) -> tuple[tuple[str, ...], ...]:
    """A training for each device; where there are fewer trainings than devices, several devices for each.

    A batch is shared out by its samples, so no team is larger than the smallest batch; more devices than that stay idle.
    """
    at_once = max(_waves(chosen)) * folds
    size = min(len(devices) // at_once, *(one.batch_size for one in chosen))
    if size < 2 or not _alike(devices):
        return tuple((device,) for device in devices)
    return tuple(tuple(devices[number * size : (number + 1) * size]) for number in range(at_once))


def _alike(devices: Sequence[str]) -> bool:
    """Whether they can add up gradients together, at the same pace: different cards, or shares of one processor."""
    kinds, cards = {device.partition(":")[0] for device in devices}, {device.partition(":")[2] or "0" for device in devices}
    return kinds == {"cpu"} or (kinds == {"cuda"} and len(cards) == len(devices))


def _waves(chosen: Sequence[Configuration]) -> tuple[int, int]:
    names = {c.name for c in chosen}
    later = sum(c.previous in names for c in chosen)
    return len(chosen) - later, later


def limited_schedule(configuration: Configuration, seconds: float | None, iterations: int | None) -> Schedule:
    """The plan's, or as long as was asked for. A number of iterations counts, however long they take."""
    schedule = configuration.schedule
    if iterations is not None:
        per_epoch = min(schedule.iterations_per_epoch, iterations)
        return replace(schedule, iterations=iterations, iterations_per_epoch=per_epoch, seconds=None)
    return schedule if seconds is None else replace(schedule, seconds=seconds)
