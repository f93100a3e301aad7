"""From a topology to the network that a plan names."""

from planners.plan import Architecture
from planners.reference_size import Blueprint
from planners.topology import Topology
from planners.triples import three
from planners.width import decoder_convolutions, encoder_blocks, features


def architecture_of(chosen: Topology, blueprint: Blueprint, checkpointed: int = 0) -> Architecture:
    """Two-dimensional networks get a first axis that nothing happens along."""
    dimensions, stages = len(chosen.patch), chosen.stages
    return Architecture(
        kind=blueprint.kind,
        dimensions=2 if dimensions == 2 else 3,
        features=features(stages, dimensions, blueprint.base),
        strides_zyx=tuple(three(stride) for stride in chosen.strides),
        kernels_zyx=tuple(three(kernel) for kernel in chosen.kernels),
        encoder_blocks=encoder_blocks(blueprint.kind, stages),
        decoder_convolutions=decoder_convolutions(blueprint.kind, stages),
        checkpointed_stages=checkpointed,
    )
