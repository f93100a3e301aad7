"""Where a training stands, beside its tensors: what a checkpoint says in plain words."""

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from autounet.training.recipe import Recipe
from autounet.training.schedule import Pace
from planners.errors import UserError
from planners.plan import Schedule
from planners.strict_json import from_plain, to_plain

STATE_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Whole held-out volumes scored on the way."""

    step: int
    way: float
    dice: float  # mean over what could be scored
    targets: tuple[tuple[str, float | None], ...]  # None: the class is in none of these cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """The state after `step` steps."""

    schema: int = STATE_SCHEMA
    recipe: str  # its fingerprint: weights of another plan are refused
    execution: str
    step: int = 0
    seconds: float = 0.0
    decay_from: float | None = None
    rate_factor: float = 1.0  # halved once after a numerical accident
    averaged_steps: int = 0
    loss_scale: float | None = None
    loss: float | None = None  # running mean
    scored: tuple[Scored, ...] = ()
    grown: tuple[int, ...] = ()  # after which steps the patches became larger
    planned_iterations: int | None = None  # the length that the shares of the way above are of; None: the plan's
    planned_seconds: float | None = None
    backend: str = "native"  # of the augmentation: another one would draw other numbers
    runs_on: Literal["threads", "device"] | None = None  # where it is done: noise is of other numbers there; None: by threads, unasked

    @property
    def best(self) -> float:
        """The best score on whole volumes so far; below any when there is none."""
        return max((s.dice for s in self.scored), default=-1.0)

    def with_loss(self, loss: float) -> "Progressed":
        """The running mean moved on."""
        return replace(self, loss=loss if self.loss is None else 0.95 * self.loss + 0.05 * loss)

    def plain(self) -> Any:
        """For the checkpoint."""
        return to_plain(self)


def read_progress(plain: Any, recipe: Recipe, where: str) -> Progressed:
    """What a checkpoint says, if it belongs to this recipe."""
    state = from_plain(Progressed, plain, where)
    if state.recipe != recipe_key(recipe):
        raise UserError(
            f"the checkpoint in {where} was trained by another plan of {recipe.configuration.name}",
            "remove that folder to train anew, or bring back the plan it was started with",
        )
    return state


def under(state: Progressed, schedule: Schedule) -> Progressed:
    """The same state on the way of another length: what was decided about the end of the old one does not bind the new one."""
    told = replace(state, planned_iterations=schedule.iterations, planned_seconds=schedule.seconds)
    if state.planned_iterations is None:
        return told
    before = replace(schedule, iterations=state.planned_iterations, seconds=state.planned_seconds)
    if (before.iterations, before.seconds) == (schedule.iterations, schedule.seconds):
        return state
    behind = Pace(schedule=before).way(state.step, state.seconds)
    factor = Pace(schedule=schedule).way(state.step, state.seconds) / behind if behind > 0 else 1.0
    scored = tuple(replace(one, way=one.way * factor) for one in state.scored)
    return replace(told, decay_from=None, scored=scored)


def recipe_key(recipe: Recipe) -> str:
    """Of everything that decides what the weights mean. How long to train may change: that is an extension."""
    configuration = to_plain(recipe.configuration)
    for name in ("iterations", "seconds", "stop_at_plateau"):
        del configuration["schedule"][name]
    # A training that was asked to be shorter than an epoch is no other one.
    configuration["schedule"]["iterations_per_epoch"] = recipe.planned.schedule.iterations_per_epoch
    for name in ("inference", "memory"):
        del configuration[name]
    for name in ("backend", "runs_on"):
        del configuration["augmentation"][name]  # chosen once, and kept with the state
    parts = (configuration, to_plain(recipe.plan.labels), to_plain(recipe.plan.channels), recipe.fold, recipe.seed, recipe.train)
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()
