"""How many weights the parts of a network have, and how many operations one patch costs."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from planners.plan import Architecture

_FORWARD_AND_BACK = 3  # a step costs about three forward passes


@dataclass(frozen=True, slots=True)
class Parts:
    """Weights, biases and norms of each encoder stage and each decoder level, finest first."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


def parameters(one: Architecture, channels: int, heads: int) -> int:
    """Of the whole network."""
    parts = parameter_parts(one, channels, heads)
    return sum(parts.encoder) + sum(parts.decoder)


@lru_cache(maxsize=4096)
def parameter_parts(one: Architecture, channels: int, heads: int) -> Parts:
    """Stage by stage; the stem belongs to the finest."""
    encoder, decoder, before = [], [], channels
    for stage, (width, kernel, blocks) in enumerate(zip(one.features, one.kernels_zyx, one.encoder_blocks, strict=True)):
        total = 0
        if one.kind == "residual" and stage == 0:
            total, before = _convolution(channels, width, kernel), width
        for _ in range(blocks):
            total += _convolution(before, width, kernel)
            if one.kind == "residual":
                total += _convolution(width, width, kernel) + (before * width + 2 * width if before != width else 0)
            before = width
        encoder.append(total)
    for stage in range(len(one.features) - 1):
        width, kernel = one.features[stage], one.kernels_zyx[stage]
        total = one.features[stage + 1] * width * prod(one.strides_zyx[stage + 1]) + width
        for index in range(one.decoder_convolutions[-1 - stage]):
            total += _convolution(2 * width if index == 0 else width, width, kernel)
        decoder.append(total + width * heads + heads)
    return Parts(tuple(encoder), tuple(decoder))


def step_flops(one: Architecture, patch_zyx: tuple[int, ...], channels: int, heads: int) -> float:
    """Floating-point operations of a training step for one sample: multiply and add counted apart."""
    edges, total, before = list(patch_zyx), 0.0, channels
    for stage, width in enumerate(one.features):
        edges = [edge // step for edge, step in zip(edges, one.strides_zyx[stage], strict=True)]
        voxels, taps = prod(edges), prod(one.kernels_zyx[stage])
        if one.kind == "residual":
            total += voxels * taps * before * width if stage == 0 else 0
            into, convolutions = (width if stage == 0 else before), 2 * one.encoder_blocks[stage]
        else:
            into, convolutions = before, one.encoder_blocks[stage]
        total += voxels * taps * width * (into + (convolutions - 1) * width)
        if stage < len(one.features) - 1:
            count = one.decoder_convolutions[-1 - stage]
            total += voxels * (one.features[stage + 1] * width + taps * width * width * (count + 1) + heads * width)
        before = width
    return 2.0 * _FORWARD_AND_BACK * total


def _convolution(before: int, after: int, kernel: tuple[int, ...]) -> int:
    return before * after * prod(kernel) + 3 * after  # bias, and scale and shift of the norm
