"""What a case will take, said from its header alone, before a voxel of it is read."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from autounet import machine
from autounet.arrays.prepare import frame_unseen
from autounet.images.geometry import Geometry
from autounet.inference.budget import Sizes, estimate, fitted
from autounet.inference.ensemble import Ensemble, Options
from autounet.inference.forward import device_of, mirror_subsets
from autounet.inference.heads import kept_maps
from autounet.inference.predict import in_flight
from autounet.inference.sweep import sweep_order
from autounet.store.selection import Chosen
from planners.errors import UserError
from planners.plan import Configuration

RUNTIME_BYTES = 450_000_000  # torch with its kernels at work, nothing loaded
DECODED = 2  # a picture in its reader, and as voxels
MASKS = 3  # a mask, what is read back of it, and their comparison


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of one case: the peak of the whole process, and what there is to compute."""

    peak_bytes: int
    tiles: int
    operations: float  # of the networks
    asked: int = 1  # how often a network is shown something: tiles, mirrored and not, of all members
    voxels: int = 0  # that are normalised, resampled, decided and written
    heaviest: str = ""  # the configuration with most of the operations

    def line(self, seconds: float) -> str:
        """For the terminal."""
        from autounet.progress.wording import size

        return f"about {size(self.peak_bytes)} and {told(seconds)}, {self.tiles} tiles"


def told(seconds: float) -> str:
    """A duration that is never nothing: 0.4 s, 12 s, 3m 20s."""
    from autounet.progress.wording import clock

    return clock(seconds) if seconds >= 9.95 else f"{max(seconds, 0.1):.1f} s"


def outlook(ensemble: Ensemble, geometry: Geometry, options: Options, *, voxel_bytes: int, base_bytes: int, limit_bytes: int) -> Outlook:
    """The plan of one case; a UserError with the numbers when it cannot fit."""
    stored = prod(geometry.shape_zyx)
    maps = (ensemble.plan.labels.heads if options.probabilities else 0) + 2 * options.uncertainty
    idle = max(base_bytes, RUNTIME_BYTES)
    base = idle + voxel_bytes + (3 * stored if any(channel.mask_outside for channel in ensemble.plan.channels) else 0)
    passes = list(_passes(ensemble, geometry, options))
    needed = max(idle + DECODED * voxel_bytes, idle + (MASKS + 4 * maps) * stored)  # read, and written when its voxels are gone
    for sizes in passes:
        if device_of(ensemble.members[sizes[0].configuration.name][0]).type == "cpu":
            chosen = fitted(sizes, geometry.shape_zyx, maps, base_bytes=base, limit_bytes=limit_bytes)
            needed = max(needed, estimate(chosen, geometry.shape_zyx, maps, base))
    if needed > limit_bytes:
        raise UserError(
            f"this image needs about {needed / 1e9:.1f} GB of memory, {limit_bytes / 1e9:.1f} GB may be used", "raise --max-ram"
        )
    every = [size for sizes in passes for size in sizes]
    return Outlook(
        needed,
        sum(s.tiles for s in every),
        sum(s.operations for s in every),
        sum(s.tiles * s.mirrors * s.members for s in every),
        stored,
        max(every, key=lambda s: s.operations).configuration.name,
    )


def _passes(ensemble: Ensemble, geometry: Geometry, options: Options) -> Iterator[list[Sizes]]:
    """What is swept together: the first stages of cascades one by one, then all that vote."""
    for chosen in ensemble.chosen:
        previous = ensemble.plan.configuration(chosen.configuration).previous
        while previous is not None:
            yield [_sizes(ensemble, replace(chosen, configuration=previous), geometry, options)]
            previous = ensemble.plan.configuration(previous).previous
    yield [_sizes(ensemble, chosen, geometry, options) for chosen in ensemble.chosen]


def _sizes(ensemble: Ensemble, chosen: Chosen, geometry: Geometry, options: Options) -> Sizes:
    configuration = ensemble.plan.configuration(chosen.configuration)
    members = ensemble.members[configuration.name]
    members = members[: options.folds] if options.folds else members
    settings, frame = options.settings(configuration), frame_unseen(geometry, ensemble.plan, configuration)
    return Sizes(
        configuration=configuration,
        shape_zyx=frame.shape_zyx,
        order=sweep_order(frame.shape_zyx, configuration.patch_zyx),
        channels=kept_maps(members, settings, ensemble.plan.labels.heads),
        in_flight=in_flight(members, options.threads or machine.cores()),
        inputs=_inputs(ensemble, configuration),
        mirrors=len(mirror_subsets(settings.mirror_axes)),
        members=len(members),
        step_fraction=settings.step_fraction,
        streamed=frame.shape_zyx != frame.cropped_shape_zyx,
        maps_share=settings.maps_share(len(members)),
    )


def _inputs(ensemble: Ensemble, configuration: Configuration) -> int:
    more = 0 if configuration.previous is None else len(ensemble.plan.labels.foreground)
    return len(ensemble.plan.channels) + more
