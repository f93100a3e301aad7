"""Memory of one training step and of one tile of prediction, as a closed form.

It follows the real step: what autograd keeps of every block, what a stage that is computed again keeps instead, the
gradients that wait for their stage, the weights and what the optimiser remembers of them. A trace of the real step
on tensors without numbers agrees within a tenth (tests/planners/test_memory.py).
"""

from dataclasses import dataclass
from math import prod

from planners.hardware import Precision
from planners.parameters import parameter_parts
from planners.plan import Architecture

BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK_BYTES = 1 << 23  # scores that the loss takes at a time, in float32
BLOCKS_AT_ONCE = 5
LOSS_VOXEL_BYTES = 18  # of one sample: its truth as 64-bit numbers, and which of it counts
REGION_BYTES, REGION_VOXEL_BYTES = 26, 40  # a voxel and region: scores, truth, products, gradients in float32; a voxel


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a step has to hold: the network, its input and how it is trained."""

    architecture: Architecture
    patch_zyx: tuple[int, ...]
    channels: int
    heads: int
    regions: bool = False  # overlapping targets: one sigmoid each instead of a softmax
    micro_batch: int = 2
    precision: Precision = "float32"
    average: bool = True  # of weights
    moments: int = 1  # numbers the optimiser keeps for each weight
    cpu: bool = False  # torch averages in float32 there, whatever the precision


@dataclass(frozen=True, slots=True)
class _Part:
    """An encoder stage or a decoder level, for one sample: numbers kept for the backward pass."""

    kept: int  # of all its blocks
    checkpointed: int  # kept instead when it is computed again
    output: int
    weights: int


def training_bytes(load: Load) -> int:
    """Predicted peak of one step, without the offset of the device."""
    number, one = BYTES[load.precision], load.architecture
    encoder, decoder = _encoder(load), _decoder(load)
    weights = sum(part.weights for part in (*encoder, *decoder))
    steady = 4 * weights * (1 + load.moments + load.average)
    again = one.checkpointed_stages
    stored = [_stored(part, stage < again) for stage, part in enumerate(encoder)]
    levels = [_stored(part, level < again) for level, part in enumerate(decoder)]
    voxels = _voxels(load)
    rest = sum(stored) + sum(levels)
    logits = _logits(load, voxels)
    casting = 0 if number == 4 else number * weights
    peak = load.micro_batch * number * rest + casting + logits + _loss_bytes(load, voxels)
    gradients, waiting = 0, 0
    order = [(part, level < again, size) for level, (part, size) in enumerate(zip(decoder, levels, strict=True))]
    order += [(part, stage < again, size) for stage, (part, size) in reversed(list(enumerate(zip(encoder, stored, strict=True))))]
    for index, (part, twice, size) in enumerate(order):
        # What is kept, what is computed again, skips whose gradient waits for the encoder, and two gradients on their way.
        maps = rest + (part.kept - part.checkpointed if twice else 0) + waiting + 2 * part.output
        casts = 0 if number == 4 else number * (weights - gradients)
        coarser = logits - load.micro_batch * number * load.heads * voxels[0]  # their gradients wait for their level
        peak = max(peak, load.micro_batch * number * maps + casts + 4 * gradients + logits + (coarser if index == 0 else 0))
        rest, gradients = rest - size, gradients + part.weights
        waiting += part.output if index < len(decoder) else -part.output if index > len(decoder) else 0
    peak = max(peak, 4 * weights)
    return steady + peak + load.micro_batch * _input_bytes(load, voxels[0])


def inference_bytes(load: Load) -> int:
    """Predicted peak of one tile of prediction, without the offset of the device."""
    number, encoder, decoder = BYTES[load.precision], _encoder(load), _decoder(load)
    weights = sum(part.weights for part in (*encoder, *decoder))
    finest = encoder[0].output
    skips = sum(part.output for part in encoder)
    convolutions = load.architecture.decoder_convolutions[-1] if decoder else 0
    voxels = _voxels(load)[0]
    image = voxels * load.channels * (4 + (number if number < 4 else 0))
    joining = number * (skips + (3 + convolutions) * finest)
    logits = load.heads * voxels
    voting = number * (skips + finest + logits)
    counting = logits * (number + (4 if number < 4 else 0))
    return 4 * weights + image + max(joining, voting, counting)


def _stored(part: _Part, twice: bool) -> int:
    return part.checkpointed if twice else part.kept


def _encoder(load: Load) -> list[_Part]:
    one, voxels = load.architecture, _voxels(load)
    weights = parameter_parts(one, load.channels, load.heads).encoder
    parts: list[_Part] = []
    before = one.features[0]
    for stage, (width, blocks) in enumerate(zip(one.features, one.encoder_blocks, strict=True)):
        maps = width * voxels[stage]
        if one.kind == "plain":
            kept = 2 * blocks * maps  # of each block the convolution's output and the activation
        else:
            kept = 4 * blocks * maps + (2 * maps if stage == 0 else 0)
            kept += _pooled(load, parts[-1].output, before * voxels[stage]) if stage else 0
            kept += maps if before != width else 0
        parts.append(_Part(kept, maps * (2 if one.kind == "residual" and stage == 0 else 1), maps, weights[stage]))
        before = width
    return parts


def _pooled(load: Load, before: int, after: int) -> int:
    """The shortcut's mean over a stride; a copy in float32 of what goes in stays for the backward pass on a processor."""
    widened = load.cpu and BYTES[load.precision] < 4
    return after + (2 * before + after if widened else 0)


def _decoder(load: Load) -> list[_Part]:
    one, voxels = load.architecture, _voxels(load)
    weights = parameter_parts(one, load.channels, load.heads).decoder
    parts = []
    for level in range(len(one.features) - 1):
        maps = one.features[level] * voxels[level]
        joined = 2 * maps  # the upsampled maps beside the skip
        parts.append(_Part(joined + 2 * one.decoder_convolutions[-1 - level] * maps, joined + maps, maps, weights[level]))
    return parts


def _input_bytes(load: Load, voxels: int) -> int:
    number = BYTES[load.precision]
    return voxels * (load.channels * (4 + (number if number < 4 else 0)) + 2)


def _logits(load: Load, voxels: list[int]) -> int:
    """Of every level that is trained."""
    levels = sum(voxels[: max(1, len(voxels) - 1)] if load.architecture.deep_supervision else voxels[:1])
    return load.micro_batch * load.heads * levels * BYTES[load.precision]


def _loss_bytes(load: Load, voxels: list[int]) -> int:
    """The gradients of the logits, and what the loss works in."""
    if load.regions:
        return load.micro_batch * voxels[0] * (REGION_BYTES * load.heads + REGION_VOXEL_BYTES)
    block = min(BLOCK_BYTES, 4 * load.heads * voxels[0])
    return _logits(load, voxels) + BLOCKS_AT_ONCE * block + LOSS_VOXEL_BYTES * voxels[0]


def _voxels(load: Load) -> list[int]:
    edges, result = list(load.patch_zyx), []
    for stride in load.architecture.strides_zyx:
        edges = [edge // step for edge, step in zip(edges, stride, strict=True)]
        result.append(prod(edges))
    return result
