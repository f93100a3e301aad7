"""What a case will take, from shapes alone, before it starts; and how it is made to fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from planners.errors import UserError
from planners.fingerprint import Triple
from planners.plan import Configuration

MIXED_BYTES = 2**27  # logits of some native rows, and of the blocks cut from them
ACTIVATION_MAPS = 6  # of the finest stage that are alive at once: input, two convolutions, the skip, their concatenation


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the memory of one configuration's sweep depends on."""

    configuration: Configuration
    shape_zyx: Triple  # the network grid
    order: Triple  # the sweep axis first
    channels: int  # accumulated a voxel
    in_flight: int  # patches the network sees at once
    accumulator_bytes: int = 4  # a value: 4, or 2 when memory is short

    @property
    def ring_bytes(self) -> int:
        """The rolling accumulator."""
        rows, y, x = self.order
        deep = min(self.configuration.patch_zyx[rows] + 3, self.shape_zyx[rows])
        return self.channels * deep * self.shape_zyx[y] * self.shape_zyx[x] * self.accumulator_bytes

    @property
    def tile_bytes(self) -> int:
        """What the network holds for the patches in flight, and their votes."""
        patch = prod(self.configuration.patch_zyx)
        wide = self.configuration.architecture.features[0]
        known = self.configuration.memory.inference_bytes
        inside = known or 4 * ACTIVATION_MAPS * wide * patch
        return self.in_flight * (inside + 4 * patch * self.channels) + 8 * patch * self.channels

    @property
    def image_bytes(self) -> int:
        """The prepared image."""
        return 4 * prod(self.shape_zyx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of one case."""

    total_bytes: int
    tiles: int


def estimate(sizes: Sequence[Sizes], channels: int, stored_shape: Triple, extra_maps: int, base_bytes: int) -> int:
    """Peak bytes of the process: what it has already, the label, maps that were asked for, and each configuration's part."""
    label = prod(stored_shape) * (1 + 4 * extra_maps)
    sweeps = sum(s.ring_bytes + s.image_bytes * channels for s in sizes)
    return base_bytes + label + sweeps + max(s.tile_bytes for s in sizes) + MIXED_BYTES


def fitted(
    sizes: Sequence[Sizes], channels: int, stored_shape: Triple, extra_maps: int, *, base_bytes: int, limit_bytes: int
) -> list[Sizes]:
    """Fewer patches at once, then half the accumulator's precision; what does not fit then is refused before it starts."""
    chosen = list(sizes)
    while estimate(chosen, channels, stored_shape, extra_maps, base_bytes) > limit_bytes:
        if any(s.in_flight > 1 for s in chosen):
            chosen = [replace(s, in_flight=max(1, s.in_flight // 2)) for s in chosen]
        elif any(s.accumulator_bytes == 4 for s in chosen):
            chosen = [replace(s, accumulator_bytes=2) for s in chosen]
        else:
            needed = estimate(chosen, channels, stored_shape, extra_maps, base_bytes)
            raise UserError(
                f"this image needs about {needed / 1e9:.1f} GB of memory, {limit_bytes / 1e9:.1f} GB may be used",
                "raise --max-ram, ask for fewer extra maps, or predict with --fast",
            )
    return chosen
