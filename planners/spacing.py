"""The voxel size that all cases are brought to, and how large the median case is then."""

from collections.abc import Sequence

from planners.fingerprint import Triple, TripleMm
from planners.quantiles import axis_medians, axis_percentiles, percentile

ANISOTROPY = 3  # from this ratio on an axis is thick: in spacing, in separate resampling, in flat patches


def target_spacing(spacings_mm: Sequence[TripleMm], shapes: Sequence[Triple]) -> TripleMm:
    """The median of each axis; of a thick axis with few voxels the 10th percentile.

    Taking the median there would interpolate slices into half of the cases that their scanner never saw.
    """
    target = list(axis_percentiles(spacings_mm, 50))
    size = axis_percentiles(shapes, 50)
    worst = target.index(max(target))
    others = [axis for axis in range(3) if axis != worst]
    widest = max(target[axis] for axis in others)
    thick = target[worst] > ANISOTROPY * widest
    short = size[worst] * ANISOTROPY < min(size[axis] for axis in others)
    if thick and short:
        finer = percentile([spacing[worst] for spacing in spacings_mm], 10)
        target[worst] = max(widest, finer) + 1e-5 if finer < widest else finer
    z, y, x = target
    return z, y, x


def resampled_median(spacings_mm: Sequence[TripleMm], shapes: Sequence[Triple], target_mm: TripleMm) -> tuple[float, ...]:
    """Voxels of the median case once every case has the target spacing; halves are possible."""
    rows = [
        tuple(round(mm / wanted * size) for mm, wanted, size in zip(spacing, target_mm, shape, strict=True))
        for spacing, shape in zip(spacings_mm, shapes, strict=True)
    ]
    return axis_medians(rows)
