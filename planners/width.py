"""How many feature maps each stage has."""

from typing import Literal

BASE = 32
CAP_2D, CAP_3D = 512, 320  # deeper stages stop here: their maps are small, their weights would not be

RESIDUAL_BLOCKS = (1, 3, 4, 6)  # of the finest stages; all deeper ones have six


def features(stages: int, dimensions: int, base: int = BASE) -> tuple[int, ...]:
    """Doubled from stage to stage up to a cap that shrinks with the base."""
    cap = (CAP_2D if dimensions == 2 else CAP_3D) * base // BASE
    return tuple(min(cap, base * 2**stage) for stage in range(stages))


def encoder_blocks(kind: Literal["plain", "residual"], stages: int) -> tuple[int, ...]:
    """Convolutions or residual blocks of each stage."""
    if kind == "plain":
        return (2,) * stages
    return tuple(RESIDUAL_BLOCKS[min(stage, 3)] for stage in range(stages))


def decoder_convolutions(kind: Literal["plain", "residual"], stages: int) -> tuple[int, ...]:
    """Convolutions of each level; a residual encoder has done the work already."""
    return (2 if kind == "plain" else 1,) * (stages - 1)
