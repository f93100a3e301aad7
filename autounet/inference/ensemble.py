"""From the stored voxels of one case to its labels: every configuration prepares the image its way, the cascade in its order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autounet.arrays.frame import Frame
from autounet.arrays.labels import resample_labels
from autounet.arrays.resample import axis_orders
from autounet.images.geometry import Geometry
from autounet.inference.predict import Panel, predict_panels
from autounet.inference.settings import InferenceSettings, Member, Prediction
from autounet.inference.sources import source_of
from autounet.inference.sweep import CascadeSource
from autounet.inference.witness import Witness
from autounet.store.selection import Chosen
from planners.errors import UserError
from planners.hardware import Precision
from planners.plan import Configuration, Plan

if TYPE_CHECKING:
    from autounet.inference.openvino_engine import OpenVino


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trained networks of a plan, by configuration, and which of them vote."""

    plan: Plan
    members: Mapping[str, Sequence[Member]]
    chosen: Sequence[Chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What this call wants otherwise than the plan."""

    step_fraction: float | None = None
    mirror: bool | None = None  # False: none; None and True: as the plan says
    folds: int = 0  # at most so many of each configuration; 0: all
    precision: Precision | None = None
    probabilities: bool = False
    uncertainty: bool = False
    threads: int | None = None
    max_ram_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    engine: "OpenVino | None" = None  # None: torch

    def settings(self, configuration: Configuration) -> InferenceSettings:
        """The plan's, with this call's changes."""
        settings = InferenceSettings.of(configuration)
        settings = replace(settings, probabilities=self.probabilities, uncertainty=self.uncertainty, engine=self.engine)
        settings = settings if self.precision is None else replace(settings, precision=self.precision)
        if self.step_fraction is not None:
            settings = replace(settings, step_fraction=self.step_fraction)
        return replace(settings, mirror_axes=()) if self.mirror is False else settings


def folds_of(plan: Plan, chosen: Sequence[Chosen]) -> dict[str, tuple[int, ...]]:
    """The folds of every configuration that votes or that another one builds on."""
    wanted: dict[str, tuple[int, ...]] = {}
    for one in chosen:
        name: str | None = one.configuration
        while name is not None:
            wanted[name] = one.folds
            name = plan.configuration(name).previous
    return wanted


def predict_case(
    ensemble: Ensemble, image_czyx: NDArray[Any], geometry: Geometry, options: Options, witness: Witness | None = None
) -> Prediction:
    """The labels of one image on its stored grid."""
    expected = len(ensemble.plan.channels)
    if len(image_czyx) != expected:
        names = ", ".join(c.name for c in ensemble.plan.channels)
        raise UserError(
            f"the image has {len(image_czyx)} channels, the model wants {expected}: {names}", "give one image a channel, in this order"
        )
    firsts: dict[str, NDArray[Any]] = {}
    panels = [_panel(ensemble, chosen, image_czyx, geometry, options, firsts) for chosen in ensemble.chosen]
    return _swept(panels, ensemble.plan, options, witness)


def _swept(panels: Sequence[Panel], plan: Plan, options: Options, witness: Witness | None = None) -> Prediction:
    return predict_panels(
        panels,
        plan,
        threads=options.threads,
        max_ram_bytes=options.max_ram_bytes,
        gpu_memory_bytes=options.gpu_memory_bytes,
        witness=witness,
    )


def _panel(
    ensemble: Ensemble,
    chosen: Chosen,
    image_czyx: NDArray[Any],
    geometry: Geometry,
    options: Options,
    firsts: dict[str, NDArray[Any]],
) -> Panel:
    configuration = ensemble.plan.configuration(chosen.configuration)
    source, frame = source_of(image_czyx, geometry, ensemble.plan, configuration, options.threads or 1)
    if configuration.previous is not None:
        if configuration.previous not in firsts:
            first = Chosen(configuration=configuration.previous, folds=chosen.folds)
            lone = replace(options, probabilities=False, uncertainty=False)
            panel = _panel(ensemble, first, image_czyx, geometry, lone, firsts)
            firsts[configuration.previous] = _swept([panel], ensemble.plan, options).label_zyx
        labels = previous_on_grid(firsts[configuration.previous], frame, configuration)
        source = CascadeSource(source, labels, len(ensemble.plan.labels.foreground))
    members = ensemble.members[configuration.name]
    voting = members[: options.folds] if options.folds else members
    return Panel(voting, source, frame, options.settings(configuration), chosen.weight)


def previous_on_grid(label_zyx: NDArray[Any], frame: Frame, configuration: Configuration) -> NDArray[np.integer]:
    """The stored labels of the cascade's first stage on the network grid of the second."""
    orders = axis_orders(configuration.resampling, frame.thick_axis, configuration.resampling.label_order)
    cropped = np.ascontiguousarray(frame.cropped_view(label_zyx)).astype(np.int16)
    return resample_labels(cropped, frame.shape_zyx, orders)
