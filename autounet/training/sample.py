"""One sample: its place and its fate are drawn, then only the box that they need is read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet.augment.backend import Backend, backend
from autounet.augment.draw import Drawn, draw
from autounet.augment.gather import OUTSIDE
from autounet.augment.spatial import flipped
from autounet.augment.together import Box
from autounet.losses.level import Targets
from autounet.losses.maps import border_weights, skeletons
from autounet.rng import generator
from autounet.training.places import Place, SampledCase, choose
from autounet.training.recipe import Recipe
from planners.errors import UserError

Span = tuple[int, int]
Made = TypeVar("Made")


class SampleError(UserError):
    """A sample could not be made. The training is whole: its state is the one after the last step."""


class ReadCase(SampledCase, Protocol):
    """A prepared case."""

    def read(self, box_zyx: tuple[slice, slice, slice]) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """Image and label in a box."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An augmented patch; two-dimensional ones keep a first axis of one slice."""

    image_czyx: Tensor
    label_zyx: Tensor
    annotated_k: Tensor | None
    skeleton_zyx: Tensor | None
    border_zyx: Tensor | None
    case: str


@dataclass(frozen=True, slots=True)
class Raw:
    """What was read for a sample, and its fate, which is not done yet."""

    box: Box
    annotated_k: Tensor | None
    case: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples as the network takes them: two-dimensional ones without the first axis."""

    image: Tensor
    targets: Targets
    cases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where samples come from."""

    recipe: Recipe
    cases: Mapping[str, ReadCase]
    previous: Mapping[str, NDArray[Any]] | None = None  # of a cascade: labels of the first stage on this grid
    backend: str = "native"  # who augments
    _present: dict[str, tuple[int, ...]] = field(default_factory=dict)  # classes of the cases asked for so far

    def sample(self, step: int, position: int) -> Sample:
        """The sample at that place of that step, whoever asks, in whatever order."""
        return self._blamed(step, position, self._made)

    def raw(self, step: int, position: int, device: torch.device) -> Raw:
        """The same before anything is done to it: whatever is drawn or read here is what `sample` draws and reads."""

        def packed(place: Place, rng: np.random.Generator) -> Raw:
            box = self._box(place, self._drawn(rng)).packed(self.recipe.configuration.patch_zyx, device)
            return Raw(box, self._annotated(place.case), place.case)

        return self._blamed(step, position, packed)

    def _blamed(self, step: int, position: int, make: Callable[[Place, np.random.Generator], Made]) -> Made:
        recipe, configuration = self.recipe, self.recipe.configuration
        rng = generator(recipe.seed, "sample", configuration.name, recipe.fold, step, position)
        with blamed(f"sample {position} of step {step} cannot be made"):
            place = choose(self.cases, configuration, recipe.plan.labels, position, rng, self.present)
        with blamed(f"sample {position} of step {step} cannot be made", place.case):
            return make(place, rng)

    def _drawn(self, rng: np.random.Generator) -> Drawn:
        configuration = self.recipe.configuration
        return draw(configuration.augmentation, len(self.recipe.plan.channels), configuration.dimensions == 2, rng)

    def _made(self, place: Place, rng: np.random.Generator) -> Sample:
        drawn = self._drawn(rng)
        box = self._box(place, drawn)
        if drawn.warped:
            patch = self.recipe.configuration.patch_zyx
            image, labels = self._augmenter.warp(box.image_czyx, box.labels_nzyx, drawn, patch, box.middle_zyx)
        else:
            image, labels = (flipped(maps, drawn.flips).contiguous() for maps in (box.image_czyx, box.labels_nzyx))
        image = self._augmenter.effects(image, drawn, rng)
        for channel in self.recipe.masked_channels:
            image[channel].masked_fill_(labels[0] < 0, 0.0)
        return self._finished(place.case, image, labels, drawn, rng)

    @cached_property
    def _augmenter(self) -> Backend:
        configuration = self.recipe.configuration
        return backend(self.backend, configuration.augmentation, configuration.dimensions == 2)

    def present(self, name: str) -> tuple[int, ...]:
        """The classes of a case."""
        if name not in self._present:
            self._present[name] = self.cases[name].locations.classes_present
        return self._present[name]

    def _box(self, place: Place, drawn: Drawn) -> Box:
        """The image (c, z, y, x), and label and, in a cascade, previous label (n, z, y, x), as far as they are needed."""
        patch = self.recipe.configuration.patch_zyx
        case = self.cases[place.case]
        spans = drawn.box(place.lower_zyx, patch)
        inside = tuple(slice(max(start, 0), min(stop, size)) for (start, stop), size in zip(spans, case.shape_zyx, strict=True))
        image_np, label_np = case.read((inside[0], inside[1], inside[2]))
        assert label_np is not None, "training cases have labels"
        maps = [label_np] if self.previous is None else [label_np, self.previous[place.case][inside]]
        kind = np.int8 if len(self.recipe.plan.labels.classes) < np.iinfo(np.int8).max else np.int16
        labels_np = np.empty((len(maps), *label_np.shape), kind)
        for own, found in zip(labels_np, maps, strict=True):
            own[...] = found
        image, labels = torch.from_numpy(image_np), torch.from_numpy(labels_np)
        if not drawn.warped:
            image, labels = _padded(image, spans, inside, 0.0), _padded(labels, spans, inside, OUTSIDE)
        z, y, x = (lower + (edge - 1) / 2 - part.start for lower, edge, part in zip(place.lower_zyx, patch, inside, strict=True))
        return Box(image_czyx=image, labels_nzyx=labels, drawn=drawn, middle_zyx=(z, y, x))

    def _finished(self, case: str, image: Tensor, labels: Tensor, drawn: Drawn, rng: np.random.Generator) -> Sample:
        labels.clamp_min_(0)  # outside is background
        for axis, table in self.recipe.side_swaps:
            if axis in drawn.flips:
                labels = torch.tensor(table, dtype=labels.dtype)[labels.long()]
        label, plan = labels[0].to(torch.int16), self.recipe.plan
        if self.previous is not None:
            from autounet.augment.cascade import disturbed_one_hot

            image = torch.cat((image, disturbed_one_hot(labels[1], len(plan.labels.foreground), rng)))
        kinds = {term.kind for term in self.recipe.configuration.loss.terms}
        classes = len(plan.labels.classes)
        skeleton = torch.from_numpy(skeletons(label.numpy(), classes)) if "skeleton_recall" in kinds else None
        border = torch.from_numpy(border_weights(label.numpy(), classes)) if "border_cross_entropy" in kinds else None
        return Sample(image, label, self._annotated(case), skeleton, border, case)

    def _annotated(self, case: str) -> Tensor | None:
        """Which classes of a case were drawn, where there are cases in which some were not."""
        if not self.recipe.annotated:
            return None
        classes, drawn = len(self.recipe.plan.labels.classes), self.recipe.annotated_classes.get(case)
        if drawn is None:
            return torch.ones(classes, dtype=torch.bool)
        annotated = torch.zeros(classes, dtype=torch.bool)
        annotated[[0, *drawn]] = True
        return annotated


@contextmanager
def blamed(what: str, case: str = "") -> Iterator[None]:
    """Whatever goes wrong in this block is said of the case: one bad file among hundreds must be found."""
    try:
        yield
    except UserError as error:
        raise SampleError(error.problem, error.fix, error.case or case) from error
    except Exception as error:
        text = f"{what}: {type(error).__name__}{f': {error}' if str(error) else ''}"
        fix = "type the same command again; if it comes back, report it with the traceback in events.jsonl of the fold"
        raise SampleError(text, fix, case) from error


def collate(samples: list[Sample], flat: bool) -> Batch:
    """Samples beside each other."""

    def together(maps: list[Tensor]) -> Tensor:
        stacked = torch.stack(maps)
        return stacked.squeeze(-3) if flat else stacked

    def optional(maps: list[Tensor | None]) -> Tensor | None:
        there = [m for m in maps if m is not None]
        return together(there) if there else None

    annotated = [s.annotated_k for s in samples if s.annotated_k is not None]
    targets = Targets(
        classes=together([s.label_zyx for s in samples]),
        annotated_bk=torch.stack(annotated) if annotated else None,
        skeleton=optional([s.skeleton_zyx for s in samples]),
        border_weight=optional([s.border_zyx for s in samples]),
    )
    return Batch(together([s.image_czyx for s in samples]), targets, tuple(s.case for s in samples))


def _padded(maps: Tensor, spans: tuple[Span, Span, Span], inside: tuple[slice, ...], value: float) -> Tensor:
    if all(part.start == start and part.stop == stop for part, (start, stop) in zip(inside, spans, strict=True)):
        return maps
    filled = maps.new_full((maps.shape[0], *(stop - start for start, stop in spans)), value)
    place = tuple(slice(part.start - start, part.stop - start) for part, (start, _) in zip(inside, spans, strict=True))
    filled[(slice(None), *place)] = maps
    return filled
