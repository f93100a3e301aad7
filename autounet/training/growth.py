"""Patches that grow while a network learns: small ones first, more of them a batch, so that a step costs the same."""

from dataclasses import replace
from math import ceil, prod

from planners.fingerprint import Triple
from planners.plan import Configuration, Schedule

SMALLEST = 0.5  # of an edge, in the first stage
GROWN_AFTER = 0.5  # of the way: what was learnt of small patches has to be learnt of whole ones too
LEAST = 2  # voxels at the bottom of the network: the deviation of a single one is no number


def stage_at(schedule: Schedule, way: float) -> int:
    """Which stage a training is in at a share of its way; the last has the plan's own patch."""
    last = schedule.patch_growth_stages - 1
    return min(last, int(way / GROWN_AFTER * last + 1e-9))


def configuration_at(configuration: Configuration, stage: int) -> Configuration:
    """The configuration with the patch and the batch of a stage."""
    last = configuration.schedule.patch_growth_stages - 1
    if stage >= last:
        return configuration
    share = SMALLEST + (1 - SMALLEST) * stage / last
    divisors = configuration.architecture.divisor_zyx
    z, y, x = (_edge(edge, divisor, share) for edge, divisor in zip(configuration.patch_zyx, divisors, strict=True))
    patch: Triple = (z, y, x)
    more = prod(configuration.patch_zyx) // prod(patch)  # whole batches: the micro-batches divide them too
    return replace(configuration, patch_zyx=patch, batch_size=configuration.batch_size * more)


def _edge(edge: int, divisor: int, share: float) -> int:
    """A multiple of what the strides divide."""
    whole = edge // divisor
    return divisor * max(min(LEAST, whole), ceil(whole * share))
