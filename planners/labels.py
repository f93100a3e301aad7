"""What the voxels of a label map mean, before and after the pipeline renumbers them."""

from collections import Counter
from dataclasses import dataclass

from planners.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelClass:
    """One value of the user's label maps. Its position in `Labels.classes` is its number inside."""

    name: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A union of values that is predicted as one overlapping target (whole tumour = 1, 2, 4)."""

    name: str
    values: tuple[int, ...]
    paint: int  # the value written where this region is on; later regions overwrite earlier ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Classes (background first), optional regions, and the value that means "not annotated"."""

    classes: tuple[LabelClass, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not self.classes or self.classes[0].value != 0:
            raise UserError("the label table has no background with value 0", "list background: 0 first in the label table")
        values = [str(c.value) for c in self.classes] + ([] if self.ignore is None else [str(self.ignore)])
        for kind, entries in (("value", values), ("name", [c.name for c in self.classes])):
            twice = sorted(entry for entry, count in Counter(entries).items() if count > 1)
            if twice:
                raise UserError(f"the label table holds the {kind} {', '.join(twice)} twice", f"give every class its own {kind}")
        unknown = {v for r in self.regions for v in r.values} - {c.value for c in self.classes}
        if unknown:
            raise UserError(f"a region names the values {sorted(unknown)}, which no class has", "add the classes or correct the region")

    @property
    def heads(self) -> int:
        """Outputs of the network: one per region (sigmoid), else one per class (softmax)."""
        return len(self.regions) or len(self.classes)

    @property
    def foreground(self) -> tuple[LabelClass, ...]:
        """All classes but the background."""
        return self.classes[1:]

    @property
    def ignore_index(self) -> int | None:
        """The number of the ignore value inside: right behind the classes."""
        return None if self.ignore is None else len(self.classes)

    @property
    def targets(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What is scored: each region, else each foreground class, as (name, original values)."""
        if self.regions:
            return tuple((r.name, r.values) for r in self.regions)
        return tuple((c.name, (c.value,)) for c in self.foreground)
