"""Batches whose samples are augmented where the network trains: threads draw and read, the device does the rest."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autounet.augment.rows import apply_rounds, rounds
from autounet.augment.together import warped
from autounet.augment.upload import uploaded
from autounet.losses.level import Targets
from autounet.training.loader import Making
from autounet.training.recipe import Recipe
from autounet.training.sample import Batch, Raw, Source
from autounet.training.trial import NoRoomError

PROCESSORS = ("cpu",)  # there the threads are the device
# Of the label as it is after all steps, and by algorithms that look at values: components, distances.
ON_THE_PROCESSOR = ("skeleton_recall", "border_cross_entropy")


def making(source: Source, device: torch.device) -> Making:
    """How such batches come about."""
    augmenter = Augmenter(source.recipe, device)
    return Making(lambda step, position: source.raw(step, position, device), augmenter.batch)


def hindrance(recipe: Recipe, device: torch.device, backend: str, worker_processes: bool) -> str | None:
    """Why the samples of such a training cannot be augmented on its device; None: they can."""
    if device.type in PROCESSORS:
        return "the network trains on the processor"
    if recipe.configuration.previous is not None:
        return "what the second stage of a cascade sees of the first is disturbed on the processor"
    terms = [term.kind for term in recipe.configuration.loss.terms if term.kind in ON_THE_PROCESSOR]
    if terms:
        return f"the maps for {terms[0]} are made on the processor"
    if backend != "native":
        return f"{backend} works on the processor"
    return "--worker-processes make whole samples" if worker_processes else None


@dataclass(frozen=True)
class Augmenter:
    """Does what was drawn for a batch. Nothing in it waits for the device: its work is enqueued before that of the step."""

    recipe: Recipe
    device: torch.device

    @torch.no_grad()
    def batch(self, raws: list[Raw]) -> Batch:
        """As the samples finished one by one and laid beside each other."""
        recipe, configuration = self.recipe, self.recipe.configuration
        boxes = [raw.box for raw in raws]
        try:
            image, labels = warped(boxes, configuration.patch_zyx, self.device)
            order = [step.kind for step in configuration.augmentation.steps]
            apply_rounds(image, rounds([box.drawn.effects for box in boxes], order, image.shape[1]))
        except torch.OutOfMemoryError as error:
            problem = f"{self.device} has no memory left to augment a batch of {configuration.name}"
            fix = 'write "runs_on": "threads" in its augmentation in plan.json, and type the same command again'
            raise NoRoomError(problem, fix) from error
        for channel in recipe.masked_channels:
            image[:, channel].masked_fill_(labels[:, 0] < 0, 0.0)
        classes = self._swapped(labels[:, 0].clamp_min_(0), flips_b=[box.drawn.flips for box in boxes]).to(torch.int16)
        annotated = [raw.annotated_k for raw in raws if raw.annotated_k is not None]
        targets = Targets(
            classes=classes.squeeze(1) if configuration.dimensions == 2 else classes,
            annotated_bk=uploaded(torch.stack(annotated), self.device) if annotated else None,
        )
        return Batch(image.squeeze(2) if configuration.dimensions == 2 else image, targets, tuple(raw.case for raw in raws))

    def _swapped(self, labels_bzyx: Tensor, flips_b: list[tuple[int, ...]]) -> Tensor:
        """Left is right after a flip across the sides."""
        for axis, table in self.recipe.side_swaps:
            samples = [index for index, flips in enumerate(flips_b) if axis in flips]
            if samples:
                chosen = uploaded(np.array(samples), self.device)
                names = uploaded(torch.tensor(table, dtype=labels_bzyx.dtype), self.device)
                found = names.index_select(0, labels_bzyx.index_select(0, chosen).flatten().long())
                labels_bzyx = labels_bzyx.index_copy(0, chosen, found.view(len(samples), *labels_bzyx.shape[1:]))
        return labels_bzyx
