"""How fast to learn at each moment of a training whose length is a number of steps or a span of time."""

from dataclasses import dataclass, replace

from planners.plan import Schedule

POLY_POWER = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Where a training stands on its way from 0 to 1. The decay may be called early; it is then as long in proportion."""

    schedule: Schedule
    decay_from: float | None = None  # the share of the way at which a plateau was seen

    @property
    def end(self) -> float:
        """The share of the planned way at which training is over."""
        if self.decay_from is None:
            return 1.0
        share = self.schedule.decay_fraction
        return min(1.0, self.decay_from / (1 - share)) if share < 1 else 1.0

    @property
    def decaying_from(self) -> float:
        """Where the learning rate begins to fall."""
        return 1 - self.schedule.decay_fraction if self.decay_from is None else self.decay_from

    def way(self, step: int, seconds: float) -> float:
        """How much of the planned way lies behind, by the clock when the plan gives a time."""
        if self.schedule.seconds is not None:
            return seconds / self.schedule.seconds
        return step / self.schedule.iterations

    def over(self, step: int, seconds: float) -> bool:
        """Whether training is complete."""
        return self.way(step, seconds) >= self.end

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of the step that comes."""
        plan = self.schedule
        way = min(self.way(step, seconds), 1.0)
        if plan.shape == "poly":
            if plan.seconds is None:  # the reference changes the rate once an epoch
                way = step // plan.iterations_per_epoch * plan.iterations_per_epoch / plan.iterations
            return float(plan.learning_rate * (1 - way) ** POLY_POWER)
        if way < plan.warmup_fraction and plan.warmup_fraction > 0:
            # Not quite zero at first, or the first step of a short training would be lost.
            return plan.learning_rate * max(way / plan.warmup_fraction, 0.1)
        if way <= self.decaying_from:
            return plan.learning_rate
        length = self.end - self.decaying_from
        return plan.learning_rate * max(0.0, (self.end - way) / length) if length > 0 else plan.learning_rate

    def decay_now(self, step: int, seconds: float) -> "Pace":
        """The same with its decay called at this moment; no change once it is under way."""
        way = self.way(step, seconds)
        if self.schedule.shape == "poly" or self.decay_from is not None or way >= self.decaying_from:
            return self
        return replace(self, decay_from=way)


def plateau(scores: tuple[tuple[float, float], ...], fraction: float = 0.2, gain: float = 0.002) -> bool:
    """Whether the best of (way, score) rose by less than `gain` over the last `fraction` of the planned way."""
    if not scores or scores[-1][0] < 2 * fraction:
        return False
    since = scores[-1][0] - fraction
    before = [score for way, score in scores if way <= since]
    lately = [score for way, score in scores if way > since]
    return len(before) >= 2 and len(lately) >= 2 and max(lately) < max(before) + gain
