"""One case: networks over prepared arrays, labels on the stored grid."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autounet import machine
from autounet.arrays.frame import Frame
from autounet.arrays.resample import axis_orders, thick_axis
from autounet.inference.budget import Sizes, fitted, fitted_on_device
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

if TYPE_CHECKING:
    import torch

DEVICE_SHARE = 0.9  # of the memory that is free there; the rest is lost between blocks
CPU_VOXELS_A_THREAD = 2**16  # a call to a network costs a millisecond; more at once gains nothing on a processor
GPU_VOXELS_IN_FLIGHT = 2**23


@dataclass(frozen=True, slots=True)
class Panel:
    """The members of one configuration, the image as that configuration wants it, and their say in an ensemble."""

    members: Sequence[Member]
    source: TileSource
    frame: Frame
    settings: InferenceSettings
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """Memory that may be used; None: what is there."""

    host_bytes: int | None = None
    device_bytes: int | None = None


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


def predict_panels(  # noqa: PLR0913 - as above
    panels: Sequence[Panel],
    plan: Plan,
    *,
    threads: int | None = None,
    max_ram_bytes: int | None = None,
    gpu_memory_bytes: int | None = None,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Prediction:
    """Several configurations in one pass: their probabilities are averaged on the native grid, row by row."""
    decision = Decision.of(plan.labels)
    wanted = Wanted(any(p.settings.probabilities for p in panels), any(p.settings.uncertainty for p in panels))
    order = sweep_order(panels[0].source.shape_zyx, panels[0].members[0].configuration.patch_zyx)
    sweeps = [_sweep(panel, decision, order, threads or machine.cores()) for panel in panels]
    _fit(sweeps, panels, plan, wanted, Allowed(max_ram_bytes, gpu_memory_bytes))
    if progress is not None:
        progress.detail(f"{sum(s.tiles for s in sweeps)} tiles of {', '.join(str(s.voters.patch_zyx) for s in sweeps)} voxels")
    return _run(sweeps, panels, decision, wanted, threads, witness)


def _run(
    sweeps: Sequence[Sweep], panels: Sequence[Panel], decision: Decision, wanted: Wanted, threads: int | None, witness: Witness | None
) -> Prediction:
    import torch

    threads = threads or torch.get_num_threads()
    exported = [_exported(sweep, panel) for sweep, panel in zip(sweeps, panels, strict=True)]
    # On a processor a thread takes one tile after the other alone: threads that share a tile wait for each other.
    workers = min(threads, *(s.voters.in_flight for s in sweeps)) if sweeps[0].voters.device.type == "cpu" else 1
    with torch_threads(max(1, threads // workers)), ThreadPoolExecutor(workers) as pool:
        for sweep in sweeps if workers > 1 else ():
            sweep.voters.employ(pool, workers)
        export = Export(exported, panels[0].frame, decision, wanted, threads)
        export.witness = witness
        try:
            return export.run()
        finally:
            for panel in panels:
                if panel.settings.engine is not None:
                    panel.settings.engine.release()


def _sweep(panel: Panel, decision: Decision, order: Triple, threads: int) -> Sweep:
    voters = Voters(panel.members, panel.settings, in_flight(panel.members, threads), decision.heads)
    return Sweep(panel.source, voters, panel.settings, decision, order)


def _exported(sweep: Sweep, panel: Panel) -> Exported:
    resampling = panel.members[0].configuration.resampling
    # On the way back the network's grid is the old one, so its spacing is asked first.
    thick = thick_axis(panel.frame.spacing_zyx_mm, panel.frame.cropped_spacing_zyx_mm) if resampling.thick_axis == "auto" else None
    orders = axis_orders(resampling, thick, resampling.logits_order)
    return Exported(sweep, panel.frame.cropped_shape_zyx, orders, panel.weight)


def _fit(sweeps: Sequence[Sweep], panels: Sequence[Panel], plan: Plan, wanted: Wanted, allowed: Allowed) -> None:
    """Fewer patches at once, an accumulator elsewhere or of half the precision, when memory asks for it."""
    import torch

    chosen = [_sizes(sweep, panel) for sweep, panel in zip(sweeps, panels, strict=True)]
    device = sweeps[0].voters.device
    if device.type != "cpu":
        chosen = fitted_on_device(chosen, _device_limit(device, allowed.device_bytes))
    else:
        base, extra = machine.process_tree_bytes(), (plan.labels.heads if wanted.probabilities else 0) + 2 * wanted.uncertainty
        limit = allowed.host_bytes or max(base + machine.memory_available_bytes(), machine.memory_limit_bytes() // 2)
        chosen = fitted(chosen, panels[0].frame.stored_shape_zyx, extra, base_bytes=base, limit_bytes=limit)
    for sweep, size in zip(sweeps, chosen, strict=True):
        sweep.voters.in_flight = size.in_flight
        sweep.dtype = torch.float32 if size.accumulator_bytes == 4 else torch.float16
        sweep.device = torch.device("cpu") if size.on_host else device


def _sizes(sweep: Sweep, panel: Panel) -> Sizes:
    return Sizes(
        configuration=panel.members[0].configuration,
        shape_zyx=panel.source.shape_zyx,
        order=sweep.order,
        channels=sweep.voters.channels + sweep.extra,
        in_flight=sweep.voters.in_flight,
        inputs=panel.source.channels,
        mirrors=len(sweep.voters.flips),
        members=len(panel.members),
        step_fraction=panel.settings.step_fraction,
        streamed=panel.source.streamed,
        maps_share=panel.settings.maps_share(len(panel.members)),
    )


def _device_limit(device: "torch.device", wanted_bytes: int | None) -> int:
    """What is free there, less what other programs and fragments will want, or what was said."""
    import torch

    if device.type != "cuda":
        return wanted_bytes or machine.memory_available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device)
    return min(int(DEVICE_SHARE * (free + kept)), wanted_bytes or free + kept)


def in_flight(members: Sequence[Member], threads: int) -> int:
    """Patches at once, if memory does not mind: on a processor what each thread takes at a time, small ones together."""
    patch = prod(members[0].configuration.patch_zyx)
    return threads * max(1, CPU_VOXELS_A_THREAD // patch) if device_of(members[0]).type == "cpu" else max(1, GPU_VOXELS_IN_FLIGHT // patch)


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
