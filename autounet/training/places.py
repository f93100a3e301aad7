"""Where the patches of a batch are taken: case and corner, from the rng of that sample alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from planners.fingerprint import Triple
from planners.labels import Labels
from planners.plan import Configuration


class ClassPlaces(Protocol):
    """Where each class of a case is."""

    @property
    def classes_present(self) -> tuple[int, ...]:
        """Class numbers that occur."""

    def draw_any(self, class_indices: tuple[int, ...], rng: np.random.Generator) -> Triple:
        """A voxel of a union of classes."""

    def draw_component(self, class_index: int, rng: np.random.Generator) -> Triple:
        """A voxel of a class, components alike."""

    def draw_annotated(self, rng: np.random.Generator) -> Triple:
        """A voxel that is not "ignore"."""


class SampledCase(Protocol):
    """What is asked of a prepared case to choose a place in it."""

    @property
    def shape_zyx(self) -> Triple:
        """Voxels."""

    @property
    def locations(self) -> ClassPlaces:
        """Where each class is."""


@dataclass(frozen=True, slots=True)
class Place:
    """The lower corner of a patch; may lie outside where the case is smaller than the patch."""

    case: str
    lower_zyx: Triple


def choose(
    cases: Mapping[str, SampledCase],
    configuration: Configuration,
    labels: Labels,
    position: int,
    rng: np.random.Generator,
    present: Callable[[str], tuple[int, ...]] | None = None,
) -> Place:
    """A place for the sample at `position` of its batch. `present` may remember which classes a case has."""

    def classes(name: str) -> tuple[int, ...]:
        return cases[name].locations.classes_present if present is None else present(name)

    names = list(cases)
    name = names[int(rng.integers(len(names)))]
    foreground = forced(configuration, position, rng)
    if foreground and configuration.sampling.balance == "class_over_cases":
        chosen = 1 + int(rng.integers(max(1, len(labels.foreground))))
        holders = [other for other in names if chosen in classes(other)]
        name = holders[int(rng.integers(len(holders)))] if holders else name
    case = cases[name]
    centre = _foreground(case, configuration, labels, rng, classes(name)) if foreground else None
    if centre is None and labels.ignore is not None and not foreground:
        centre = _annotated(case, rng)
    sizes = zip(case.shape_zyx, configuration.patch_zyx, strict=True)
    lower = [_corner(size, edge, None if centre is None else centre[axis], rng) for axis, (size, edge) in enumerate(sizes)]
    return Place(name, (lower[0], lower[1], lower[2]))


def forced(configuration: Configuration, position: int, rng: np.random.Generator) -> bool:
    """Whether this sample has to hold foreground."""
    share = configuration.sampling.foreground_fraction
    if configuration.sampling.rule == "probability":
        return bool(rng.random() < share)
    return position >= round(configuration.batch_size * (1 - share))


def _corner(size: int, edge: int, centre: int | None, rng: np.random.Generator) -> int:
    if size <= edge:
        return -((edge - size) // 2)
    if centre is None:
        return int(rng.integers(size - edge + 1))
    return min(max(centre - edge // 2, 0), size - edge)  # beyond the far border there is nothing to learn from


def _foreground(
    case: SampledCase, configuration: Configuration, labels: Labels, rng: np.random.Generator, present: tuple[int, ...]
) -> Triple | None:
    if labels.regions:
        index = {c.value: i for i, c in enumerate(labels.classes)}
        unions = [tuple(index[v] for v in region.values if index[v] in present) for region in labels.regions]
        unions = [u for u in unions if u]
        return case.locations.draw_any(unions[int(rng.integers(len(unions)))], rng) if unions else None
    if not present:
        return None
    chosen = present[int(rng.integers(len(present)))]
    if configuration.sampling.balance == "component":
        return case.locations.draw_component(chosen, rng)
    return case.locations.draw_any((chosen,), rng)


def _annotated(case: SampledCase, rng: np.random.Generator) -> Triple | None:
    try:
        return case.locations.draw_annotated(rng)
    except AssertionError:  # nothing of this case is marked "ignore", so any place will do
        return None
