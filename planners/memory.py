"""Memory of one training step and of one tile of prediction, as a closed form."""

from dataclasses import dataclass
from math import prod

from planners.hardware import Precision
from planners.parameters import parameters
from planners.plan import Architecture

BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


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


@dataclass(frozen=True, slots=True)
class Maps:
    """Numbers that one stage of a network puts out for one sample."""

    encoder: int
    decoder: int
    logits: int


def training_bytes(load: Load) -> int:
    """Predicted peak of one step, without the offset of the device."""
    one, number = load.architecture, BYTES[load.precision]
    stages = stage_maps(one, load.patch_zyx, load.heads)
    weights = 4 * parameters(one, load.channels, load.heads)
    kept = sum(m.encoder + m.decoder for m in stages[one.checkpointed_stages :])
    kept += sum(m.encoder + m.decoder for m in stages[: one.checkpointed_stages]) // 3
    logits = sum(m.logits for m in stages)
    voxels = prod(load.patch_zyx)
    copies = 2 + load.moments + load.average
    return copies * weights + load.micro_batch * (int(2.2 * number * kept) + 2 * number * logits + 4 * voxels * (load.channels + 2))


def inference_bytes(load: Load) -> int:
    """Predicted peak of one tile of prediction, without the offset of the device."""
    stages = stage_maps(load.architecture, load.patch_zyx, load.heads)
    weights = 4 * parameters(load.architecture, load.channels, load.heads)
    widest = max(m.encoder + m.decoder for m in stages)
    return weights + BYTES[load.precision] * (widest + prod(load.patch_zyx) * load.channels) + 4 * stages[0].logits


def stage_maps(one: Architecture, patch_zyx: tuple[int, ...], heads: int) -> list[Maps]:
    """Outputs of convolutions, stage by stage."""
    edges, result, depth = list(patch_zyx), [], len(one.features)
    for stage, stride in enumerate(one.strides_zyx):
        edges = [edge // step for edge, step in zip(edges, stride, strict=True)]
        voxels, width = prod(edges), one.features[stage]
        blocks = one.encoder_blocks[stage]
        encoder = blocks if one.kind == "plain" else 2 * blocks + 1
        decoder = one.decoder_convolutions[-1 - stage] + 1 if stage < depth - 1 else 0
        result.append(Maps(encoder * width * voxels, decoder * width * voxels, heads * voxels if stage < depth - 1 else 0))
    return result
