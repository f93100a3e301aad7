"""One case: networks over prepared arrays, labels on the stored grid."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autounet import machine
from autounet.arrays.frame import Frame
from autounet.arrays.resample import axis_orders, thick_axis
from autounet.inference.budget import Sizes, fitted
from autounet.inference.export import Export, Exported, Wanted
from autounet.inference.forward import Voters, device_of
from autounet.inference.settings import InferenceSettings, Member, Prediction
from autounet.inference.sweep import ArraySource, CascadeSource, Sweep, TileSource, sweep_order
from autounet.inference.votes_to_labels import Decision
from autounet.inference.witness import Witness
from autounet.progress import Progress
from planners.errors import UserError
from planners.fingerprint import Triple
from planners.plan import Plan

CPU_VOXELS_IN_FLIGHT = 2**18  # more at once gains nothing on a processor and costs memory
GPU_VOXELS_IN_FLIGHT = 2**23


@dataclass(frozen=True, slots=True)
class Panel:
    """The members of one configuration, the image as that configuration wants it, and their say in an ensemble."""

    members: Sequence[Member]
    source: TileSource
    frame: Frame
    settings: InferenceSettings
    weight: float = 1.0


def predict_prepared(  # noqa: PLR0913 - the one door of this package; every argument has a name at the call
    members: Sequence[Member],
    prepared_image_czyx: NDArray[np.float32],
    frame: Frame,
    plan: Plan,
    settings: InferenceSettings | None = None,
    *,
    previous_zyx: NDArray[Any] | None = None,
    threads: int | None = None,
    max_ram_bytes: int | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Prediction:
    """The mean vote of members of one configuration. `previous_zyx` are the cascade's first labels on the network grid."""
    if not members:
        raise UserError("there is no trained network to predict with", "train at least one fold")
    settings = settings or InferenceSettings.of(members[0].configuration)
    source: TileSource = ArraySource(prepared_image_czyx)
    if previous_zyx is not None:
        source = CascadeSource(source, previous_zyx, len(plan.labels.foreground))
    panel = Panel(members, source, frame, settings)
    return predict_panels([panel], plan, threads=threads, max_ram_bytes=max_ram_bytes, progress=progress, witness=witness)


def predict_panels(
    panels: Sequence[Panel],
    plan: Plan,
    *,
    threads: int | None = None,
    max_ram_bytes: int | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Prediction:
    """Several configurations in one pass: their probabilities are averaged on the native grid, row by row."""
    decision = Decision.of(plan.labels)
    wanted = Wanted(any(p.settings.probabilities for p in panels), any(p.settings.uncertainty for p in panels))
    order = sweep_order(panels[0].source.shape_zyx, panels[0].members[0].configuration.patch_zyx)
    sweeps = [_sweep(panel, decision, order) for panel in panels]
    if max_ram_bytes is not None:
        _fit(sweeps, panels, plan, wanted, max_ram_bytes)
    if progress is not None:
        progress.detail(f"{sum(s.tiles for s in sweeps)} tiles of {', '.join(str(s.voters.patch_zyx) for s in sweeps)} voxels")
    import torch

    exported = [_exported(sweep, panel) for sweep, panel in zip(sweeps, panels, strict=True)]
    with torch_threads(threads):
        export = Export(exported, panels[0].frame, decision, wanted, threads or torch.get_num_threads())
        export.witness = witness
        return export.run()


def _sweep(panel: Panel, decision: Decision, order: Triple) -> Sweep:
    voters = Voters(panel.members, panel.settings, _in_flight(panel), decision.heads)
    return Sweep(panel.source, voters, panel.settings, decision, order)


def _exported(sweep: Sweep, panel: Panel) -> Exported:
    resampling = panel.members[0].configuration.resampling
    # On the way back the network's grid is the old one, so its spacing is asked first.
    thick = thick_axis(panel.frame.spacing_zyx_mm, panel.frame.cropped_spacing_zyx_mm) if resampling.thick_axis == "auto" else None
    orders = axis_orders(resampling, thick, resampling.logits_order)
    return Exported(sweep, panel.frame.cropped_shape_zyx, orders, panel.weight)


def _fit(sweeps: Sequence[Sweep], panels: Sequence[Panel], plan: Plan, wanted: Wanted, limit_bytes: int) -> None:
    """Fewer patches at once, or an accumulator of half the precision, when memory asks for it."""
    import torch

    sizes = [
        Sizes(
            configuration=panel.members[0].configuration,
            shape_zyx=panel.source.shape_zyx,
            order=sweep.order,
            channels=sweep.voters.channels + sweep.extra,
            in_flight=sweep.voters.in_flight,
        )
        for sweep, panel in zip(sweeps, panels, strict=True)
    ]
    extra = (plan.labels.heads if wanted.probabilities else 0) + 2 * wanted.uncertainty
    # The prepared images are there already, and so counted in what the process has.
    chosen = fitted(sizes, 0, panels[0].frame.stored_shape_zyx, extra, base_bytes=machine.process_tree_bytes(), limit_bytes=limit_bytes)
    for sweep, size in zip(sweeps, chosen, strict=True):
        sweep.voters.in_flight = size.in_flight
        sweep.dtype = torch.float32 if size.accumulator_bytes == 4 else torch.float16


def _in_flight(panel: Panel) -> int:
    voxels = CPU_VOXELS_IN_FLIGHT if device_of(panel.members[0]).type == "cpu" else GPU_VOXELS_IN_FLIGHT
    return max(1, voxels // prod(panel.members[0].configuration.patch_zyx))


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Torch with that many threads, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads is not None and threads != before:
            torch.set_num_threads(before)
