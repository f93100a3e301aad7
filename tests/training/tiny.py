"""A dataset in memory, small enough for a test: bright balls and boxes in noise."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autounet.arrays.locations import Locations, locate, runs_of
from autounet.training.recipe import Recipe
from planners.labels import LabelClass, Labels
from planners.plan import (
    Architecture,
    Augmentation,
    ChannelPlan,
    Configuration,
    Loss,
    Plan,
    Sampling,
    Schedule,
    Step,
)

REFERENCE_STEPS = (
    Step(kind="rotation", probability=0.2, low=-0.52, high=0.52),
    Step(kind="scaling", probability=0.2, low=0.7, high=1.4),
    Step(kind="noise", probability=0.1, low=0.0, high=0.1),
    Step(kind="blur", probability=0.2, channel_probability=0.5, low=0.5, high=1.0),
    Step(kind="brightness", probability=0.15, low=0.75, high=1.25),
    Step(kind="contrast", probability=0.15, low=0.75, high=1.25),
    Step(kind="low_resolution", probability=0.25, channel_probability=0.5, low=0.5, high=1.0),
    Step(kind="gamma_inverted", probability=0.1, low=0.7, high=1.5),
    Step(kind="gamma", probability=0.3, low=0.7, high=1.5),
    Step(kind="mirror", probability=0.5),
)
REFERENCE = Augmentation(steps=REFERENCE_STEPS, mirror_axes=(0, 1, 2))


@dataclass
class MemoryCase:
    """A prepared case that lies in memory and remembers what was read of it."""

    image_czyx: Any
    label_zyx: Any
    ignore: int | None = None
    boxes: list[Any] = field(default_factory=list)
    _locations: Locations | None = None

    @property
    def shape_zyx(self) -> Any:
        return self.label_zyx.shape

    @property
    def locations(self) -> Any:
        if self._locations is None:
            self._locations = locate(runs_of(self.label_zyx, 0), self.shape_zyx, self.ignore, np.random.default_rng(0))
        return self._locations

    def read(self, box_zyx: Any) -> Any:
        self.boxes.append(box_zyx)
        return self.image_czyx[(slice(None), *box_zyx)].copy(), self.label_zyx[box_zyx].copy()

    def read_all(self) -> Any:
        return self.image_czyx.copy(), self.label_zyx.copy()


def case(seed: int, shape: tuple[int, int, int] = (24, 24, 24), noise: float = 0.3) -> MemoryCase:
    """A bright ball (1) and a dark box (2)."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.int8)
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in shape), indexing="ij"))
    centre = np.array([rng.uniform(0.3 * s, 0.7 * s) if s > 1 else 0 for s in shape])
    label[((grid - centre.reshape(3, 1, 1, 1)) ** 2).sum(0) < (0.22 * shape[-1]) ** 2] = 1
    corner = [int(rng.integers(0, max(1, s - 8))) for s in shape]
    box = tuple(slice(c, c + min(6, s)) for c, s in zip(corner, shape, strict=True))
    label[box][label[box] == 0] = 2
    image = rng.normal(0, noise, shape).astype(np.float32) + np.array([0.0, 1.5, -1.5], np.float32)[label]
    return MemoryCase(image[None], label)


def recipe(
    dimensions: int = 3,
    patch: tuple[int, int, int] = (16, 16, 16),
    batch: int = 2,
    augmentation: Augmentation = REFERENCE,
    schedule: Schedule | None = None,
    loss: Loss | None = None,
    labels: Labels | None = None,
    sampling: Sampling | None = None,
    cases: tuple[str, ...] = ("a", "b"),
    **more: Any,
) -> Recipe:
    """A plan for the dataset above."""
    stride = (2, 2, 2) if dimensions == 3 else (1, 2, 2)
    kernel = (3, 3, 3) if dimensions == 3 else (1, 3, 3)
    labels = labels or Labels(
        classes=(LabelClass(name="background", value=0), LabelClass(name="ball", value=1), LabelClass(name="box", value=2))
    )
    configuration = Configuration(
        name="3d_fullres" if dimensions == 3 else "2d",
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        median_shape_zyx=(24, 24, 24),
        patch_zyx=patch,
        batch_size=batch,
        architecture=Architecture(
            kind="plain",
            dimensions=dimensions,  # type: ignore[arg-type]
            features=(8, 8, 8),
            strides_zyx=((1, 1, 1), stride, stride),
            kernels_zyx=(kernel,) * 3,
            encoder_blocks=(1, 1, 1),
            decoder_convolutions=(1, 1),
        ),
        augmentation=augmentation,
        loss=loss or Loss(level_weights=(2 / 3, 1 / 3)),
        sampling=sampling or Sampling(),
        schedule=schedule
        or Schedule(
            shape="warmup_stable_decay",
            warmup_fraction=0.05,
            decay_fraction=0.3,
            iterations=40,
            iterations_per_epoch=10,
            momentum=0.9,
            learning_rate=0.02,
            ema_decay=0.99,
        ),
    )
    plan = Plan(
        planner="test",
        dataset="tiny",
        dimensions=dimensions,  # type: ignore[arg-type]
        channels=(ChannelPlan(name="mr", modality="mr", scheme="zscore"),),
        labels=labels,
        configurations=(configuration,),
        train=(configuration.name,),
        **more,
    )
    return Recipe(plan=plan, configuration=configuration, fold=0, seed=0, train=cases)
