"""What a case will take, from shapes alone, before it starts; and how it is made to fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from autounet.inference.tiles import depth_of, grouped, tile_axis
from planners.errors import UserError
from planners.fingerprint import Triple
from planners.memory import Load, inference_bytes
from planners.parameters import step_flops
from planners.plan import Configuration

MIXED_BYTES = 2**27  # sums of some native rows, and of the blocks cut from them
FORWARD_SHARE = 1 / 3  # of the operations of a training step
CPU_LAYOUTS = 2  # oneDNN keeps a map in its own layout beside ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the memory of one configuration's sweep depends on."""

    configuration: Configuration
    shape_zyx: Triple  # the network grid
    order: Triple  # the sweep axis first
    channels: int  # accumulated a voxel
    in_flight: int  # patches the network sees at once, mirror images counted
    inputs: int = 1  # channels of the image
    mirrors: int = 1
    members: int = 1
    step_fraction: float = 0.5
    streamed: bool = False  # its rows are resampled on the way
    accumulator_bytes: int = 4  # a value: 4, or 2 when memory is short
    maps_share: float = 1.0  # what an engine holds for a patch, against torch
    on_host: bool = False  # the accumulator of a device that has no room for it

    @property
    def tiles(self) -> int:
        """In all."""
        return prod(len(tile_axis(self.shape_zyx[a], self.configuration.patch_zyx[a], self.step_fraction, 1.0)) for a in range(3))

    @property
    def operations(self) -> float:
        """Floating-point operations of all tiles, mirror images and members."""
        chosen = self.configuration
        once = FORWARD_SHARE * step_flops(chosen.architecture, chosen.patch_zyx, self.inputs, self.channels)
        return once * self.tiles * self.mirrors * self.members

    @property
    def depth(self) -> int:
        """Rows that tiles in flight cover."""
        rows, second, third = (tile_axis(self.shape_zyx[a], self.configuration.patch_zyx[a], self.step_fraction, 1.0) for a in self.order)
        return depth_of(grouped(rows, len(second) * len(third), max(1, self.in_flight // self.mirrors)))

    @property
    def ring_bytes(self) -> int:
        """The rolling accumulator."""
        rows, y, x = self.order
        deep = min(self.depth + 3, self.shape_zyx[rows])
        return self.channels * deep * self.shape_zyx[y] * self.shape_zyx[x] * self.accumulator_bytes

    @property
    def window_bytes(self) -> int:
        """The prepared rows of the image, if they are not simply its voxels."""
        plane = self.shape_zyx[self.order[1]] * self.shape_zyx[self.order[2]]
        return 4 * self.inputs * min(self.depth, self.shape_zyx[self.order[0]]) * plane if self.streamed else 0

    @property
    def tile_bytes(self) -> int:
        """What the network holds for the patches in flight, and their votes."""
        chosen, patch = self.configuration, prod(self.configuration.patch_zyx)
        load = Load(architecture=chosen.architecture, patch_zyx=chosen.patch_zyx, channels=self.inputs, heads=self.channels, cpu=True)
        once = max(inference_bytes(load), chosen.memory.inference_bytes)
        workspace = CPU_LAYOUTS * 4 * patch * chosen.architecture.features[0]
        return self.in_flight * (int(self.maps_share * once) + workspace + 4 * patch * self.channels) + 8 * patch * self.channels

    @property
    def ahead_bytes(self) -> int:
        """The next patches and what the network said of them, on an accelerator that is shown them while rows are written."""
        return 4 * self.in_flight * prod(self.configuration.patch_zyx) * (self.inputs + self.channels * self.members)


def estimate(sizes: Sequence[Sizes], stored_shape: Triple, extra_maps: int, base_bytes: int) -> int:
    """Peak bytes of the process: what it has already, the label, maps that were asked for, and each configuration's part."""
    label = prod(stored_shape) * (1 + 4 * extra_maps)
    sweeps = sum(s.ring_bytes + s.window_bytes for s in sizes)
    return base_bytes + label + sweeps + max(s.tile_bytes for s in sizes) + MIXED_BYTES


def fitted(sizes: Sequence[Sizes], stored_shape: Triple, extra_maps: int, *, base_bytes: int, limit_bytes: int) -> list[Sizes]:
    """Fewer patches at once, then half the accumulator's precision; what does not fit then is refused before it starts."""
    chosen = list(sizes)
    while estimate(chosen, stored_shape, extra_maps, base_bytes) > limit_bytes:
        if any(s.in_flight > 1 for s in chosen):
            chosen = [replace(s, in_flight=max(1, s.in_flight // 2)) for s in chosen]
        elif any(s.accumulator_bytes == 4 for s in chosen):
            chosen = [replace(s, accumulator_bytes=2) for s in chosen]
        else:
            needed = estimate(chosen, stored_shape, extra_maps, base_bytes)
            raise UserError(
                f"this image needs about {needed / 1e9:.1f} GB of memory, {limit_bytes / 1e9:.1f} GB may be used",
                "raise --max-ram, ask for fewer extra maps, or predict with --preset fast",
            )
    return chosen


def fitted_on_device(sizes: Sequence[Sizes], limit_bytes: int) -> list[Sizes]:
    """Fewer patches at once until they and the accumulators fit on the device, then the accumulators in the host's memory."""
    chosen = list(sizes)
    while (needed := _device_bytes(chosen)) > limit_bytes:
        if any(s.in_flight > 1 for s in chosen):
            chosen = [replace(s, in_flight=max(1, s.in_flight // 2)) for s in chosen]
        elif not all(s.on_host for s in chosen):
            chosen = [replace(was, on_host=True) for was in sizes]  # then more patches may fit again
        else:
            raise UserError(
                f"one patch needs about {needed / 1e9:.1f} GB of the device's memory, {limit_bytes / 1e9:.1f} GB may be used",
                "raise --gpu-memory, or predict with --device cpu",
            )
    return chosen


def _device_bytes(sizes: Sequence[Sizes]) -> int:
    held = sum(s.ahead_bytes + (0 if s.on_host else s.ring_bytes) for s in sizes)
    return held + max(s.tile_bytes for s in sizes) + MIXED_BYTES
