"""What one training is made from: everything that the plan, the fold and the job say of it, as one value."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from autounet.data.dataset import Dataset
from planners.plan import Configuration, Plan


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One configuration, one fold."""

    plan: Plan
    configuration: Configuration
    fold: int
    seed: int
    train: tuple[str, ...]  # case ids
    annotated: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of partly annotated cases: which class numbers were drawn

    @property
    def planned(self) -> Configuration:
        """The configuration as the plan has it, before anybody asked for more or less time."""
        return next((c for c in self.plan.configurations if c.name == self.configuration.name), self.configuration)

    @cached_property
    def channels_in(self) -> int:
        """Image channels, and one a foreground class for the second stage of a cascade."""
        extra = len(self.plan.labels.foreground) if self.configuration.previous is not None else 0
        return len(self.plan.channels) + extra

    @cached_property
    def annotated_classes(self) -> dict[str, tuple[int, ...]]:
        """Of each partly annotated case."""
        return dict(self.annotated)

    @cached_property
    def masked_channels(self) -> tuple[int, ...]:
        """Channels that are zero outside the mask, whatever augmentation made of them."""
        return tuple(index for index, channel in enumerate(self.plan.channels) if channel.mask_outside)

    @cached_property
    def side_swaps(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """For each working axis across which sides lie: the number of every label after a flip; ignore is last."""
        if not self.configuration.augmentation.swap_sides:
            return ()
        names = [c.name for c in self.plan.labels.classes]
        tables: dict[int, list[int]] = {}
        for pair in self.plan.side_pairs:
            axis = self.plan.axis_order.index(pair.axis)
            table = tables.setdefault(axis, list(range(len(names) + 1)))
            left, right = names.index(pair.left), names.index(pair.right)
            table[left], table[right] = right, left
        return tuple((axis, tuple(table)) for axis, table in tables.items())


def partly_annotated(dataset: Dataset, plan: Plan, names: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Of those of the cases in which not every class was drawn: the numbers of those that were."""
    index = {c.name: i for i, c in enumerate(plan.labels.classes)}
    cases = ((name, dataset.case(name).annotated) for name in names)
    return tuple((name, tuple(sorted(index[n] for n in drawn if n in index))) for name, drawn in cases if drawn is not None)
