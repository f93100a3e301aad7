"""The search for a patch, a batch and the means that make a step fit: into memory, and on a processor into time.

What is wanted never depends on memory; memory only decides how far down the ladder the search has to go.
So less memory can never plan a bigger patch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from math import ceil, inf, prod

from planners.batch import batch_size
from planners.hardware import GiB, Precision
from planners.memory import Load, inference_bytes, training_bytes
from planners.networks_of import architecture_of
from planners.parameters import step_flops
from planners.patch import first_size, shrinking
from planners.plan import Architecture
from planners.reference_size import Blueprint, feature_map_elements
from planners.topology import Topology, topology
from planners.triples import three

USUAL_ELEMENTS = {("plain", 2): 85e6 * 6, ("plain", 3): 560e6, ("residual", 2): 135e6 * 6, ("residual", 3): 680e6}
WIDE_ELEMENTS = 2.1e9  # the reference's large preset: more context, where images hold many patches
REFERENCE_BATCH = {2: 12, 3: 2}
MAX_BATCH = {2: 32, 3: 12}  # larger ones were measured to learn small images worse, and slower
TOGETHER = {2: 6, 3: 2}  # samples that a processor's step has at least: slices are too much alike for two
COVERED = 0.05  # of the dataset's voxels in one batch
SMALL_EDGE = 16  # voxels: what an image too small for a network of three stages is padded to


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one step may take."""

    allowed_bytes: int  # as it was typed, or as the machine is
    offset_bytes: int
    margin: float = 1.0  # of what is allowed
    step_operations: float = inf

    @property
    def memory_bytes(self) -> int:
        """What a prediction may come to."""
        return int(self.allowed_bytes * self.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to fit: a grid of voxels and the family of networks."""

    spacing: tuple[float, ...]
    median: tuple[float, ...]
    dataset_voxels: float
    blueprint: Blueprint
    channels: int
    precision: Precision
    moments: int = 1
    regions: bool = False
    cpu: bool = False
    wide: bool = False

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.spacing)

    @property
    def elements(self) -> float:
        """The usual size of a network, in outputs of convolutions."""
        return USUAL_ELEMENTS[self.blueprint.kind, self.dimensions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What was found."""

    topology: Topology
    architecture: Architecture
    batch_size: int
    accumulate: int
    training_bytes: int
    inference_bytes: int
    operations: float  # of one training step
    rungs_down: int  # 0: what was wanted fits as it is


class TooLittleMemoryError(Exception):
    """No rung fits: what one network would have to be allowed, in the hundredths of a GiB that an answer is given in."""

    def __init__(self, limits: Limits, least_bytes: float) -> None:
        hundredths = ceil(100 * least_bytes / limits.margin / GiB)
        while int(hundredths_bytes(hundredths) * limits.margin) < least_bytes:  # rounding down to bytes lost the last one
            hundredths += 1
        super().__init__(limits, least_bytes)
        self.limits, self.hundredths = limits, hundredths


def hundredths_bytes(hundredths: int) -> int:
    """Bytes in hundredths of a GiB."""
    return int(hundredths / 100 * GiB)


def fitted(wanted: Wanted, limits: Limits) -> Fitted:
    """The first rung of the ladder that fits; TooLittleMemoryError when none does."""
    usual = usual_patch(wanted, limits)
    least = inf
    for down, rung in enumerate(_ladder(wanted, limits, usual)):
        if max(rung.training_bytes, rung.inference_bytes) <= limits.memory_bytes:
            return replace(rung, rungs_down=down)
        least = min(least, max(rung.training_bytes, rung.inference_bytes))
    raise TooLittleMemoryError(limits, least)


def usual_patch(wanted: Wanted, limits: Limits) -> Topology:
    """The largest patch of the usual size, whatever memory there is."""
    return next(_upto(wanted, wanted.elements, limits.step_operations))


def _upto(wanted: Wanted, elements: float, operations: float) -> Iterator[Topology]:
    """Patches from the largest within these bounds downwards, each with fewer voxels than the one before."""
    size = first_size(wanted.spacing, wanted.median)
    if topology(wanted.spacing, size).stages < 3:
        size = (*size[:-2], *(max(edge, SMALL_EDGE) for edge in size[-2:]))
    fewest, last = inf, None
    for one in takewhile(lambda t: t.stages > 1, shrinking(wanted.spacing, wanted.median, size)):
        last, voxels = one, prod(one.patch)
        if voxels >= fewest or 5 * wanted.blueprint.base * voxels > elements:  # fewer cannot be counted: spares the counting
            continue
        heavy = (
            feature_map_elements(one, wanted.blueprint) > elements or TOGETHER[wanted.dimensions] * _operations(wanted, one) > operations
        )
        if not heavy:
            fewest = voxels
            yield one
    if fewest == inf:
        assert last is not None, "the first patch has two stages"
        yield last


def _ladder(wanted: Wanted, limits: Limits, usual: Topology) -> Iterator[Fitted]:
    batch = _batch(wanted, limits, usual)
    if wanted.wide:
        for one in _upto(wanted, WIDE_ELEMENTS, limits.step_operations):
            if prod(one.patch) > prod(usual.patch):
                yield _rung(wanted, limits, one, (batch, 1, 0))
    parts = [n for n in range(1, batch + 1) if batch % n == 0]
    for part in parts:  # costs nothing but a little speed
        yield _rung(wanted, limits, usual, (batch, part, 0))
    for again in (1, 2):  # costs up to a third of the time
        yield _rung(wanted, limits, usual, (batch, batch, again))
    for one in _upto(wanted, wanted.elements, limits.step_operations):
        yield _rung(wanted, limits, one, (batch, batch, min(2, one.stages - 1)))


def _rung(wanted: Wanted, limits: Limits, one: Topology, how: tuple[int, int, int]) -> Fitted:
    batch, accumulate, checkpointed = how
    architecture = architecture_of(one, wanted.blueprint, min(checkpointed, one.stages - 1))
    load = Load(
        architecture=architecture,
        patch_zyx=three(one.patch),
        channels=wanted.channels,
        heads=wanted.blueprint.outputs,
        micro_batch=batch // accumulate,
        precision=wanted.precision,
        moments=wanted.moments,
        regions=wanted.regions,
        cpu=wanted.cpu,
    )
    return Fitted(
        topology=one,
        architecture=architecture,
        batch_size=batch,
        accumulate=accumulate,
        training_bytes=training_bytes(load) + limits.offset_bytes,
        inference_bytes=inference_bytes(load) + limits.offset_bytes,
        operations=batch * _operations(wanted, one),
        rungs_down=0,
    )


def _batch(wanted: Wanted, limits: Limits, one: Topology) -> int:
    count = feature_map_elements(one, wanted.blueprint)
    scale = REFERENCE_BATCH[wanted.dimensions] / (6 if wanted.dimensions == 2 else 1)
    affordable = min(wanted.elements / count * scale, limits.step_operations / _operations(wanted, one))
    return min(batch_size(min(affordable, 1e6), wanted.dataset_voxels, one.patch, COVERED), MAX_BATCH[wanted.dimensions])


def _operations(wanted: Wanted, one: Topology) -> float:
    return _step_operations(one, wanted.blueprint, wanted.channels)


@lru_cache(maxsize=4096)
def _step_operations(one: Topology, blueprint: Blueprint, channels: int) -> float:
    return step_flops(architecture_of(one, blueprint), three(one.patch), channels, blueprint.outputs)
