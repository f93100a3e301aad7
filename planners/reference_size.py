"""The reference's stand-in for memory: outputs of all convolutions for one sample, in numbers."""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Literal

from planners.topology import Topology
from planners.width import decoder_convolutions, encoder_blocks, features


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What of a network the count depends on, apart from its topology."""

    kind: Literal["plain", "residual"]
    outputs: int
    base: int = 32


@lru_cache(maxsize=4096)
def feature_map_elements(topology: Topology, blueprint: Blueprint) -> int:
    """Closed form of what the reference counts by building the network (output of the finest head only)."""
    stages = topology.stages
    width = features(stages, len(topology.patch), blueprint.base)
    blocks = encoder_blocks(blueprint.kind, stages)
    decoder = decoder_convolutions(blueprint.kind, stages)
    voxels = _stage_voxels(topology)
    maps = [width[s] * voxels[s] for s in range(stages)]
    if blueprint.kind == "plain":
        encoder = sum(blocks[s] * maps[s] for s in range(stages))
    else:  # stem, two convolutions a block, a projection wherever size or width changes
        encoder = maps[0] + sum((2 * blocks[s] + (s > 0)) * maps[s] for s in range(stages))
    head = blueprint.outputs * voxels[0] if stages > 1 else 0
    return encoder + sum((decoder[s] + 1) * maps[s] for s in range(stages - 1)) + head


def _stage_voxels(topology: Topology) -> list[int]:
    edges, voxels = list(topology.patch), []
    for stride in topology.strides:
        edges = [edge // step for edge, step in zip(edges, stride, strict=True)]
        voxels.append(prod(edges))
    return voxels
