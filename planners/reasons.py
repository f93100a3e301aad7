"""One sentence for every decision of the default planner, with the numbers it came from."""

from math import prod

from planners import normalisation, sampling, schedule, sides
from planners.configurations import Bench, flat_voxels
from planners.fingerprint import Triple
from planners.hardware import GiB
from planners.parameters import step_flops
from planners.plan import Configuration, Plan, Reason
from planners.speed import operations_per_second
from planners.words import by, duration

_DIRECTIONS = ("top to bottom", "front to back", "left to right")  # canonical axes
_ON_PAPER = ("", "top to bottom", "left to right")


def reasons(plan: Plan, bench: Bench) -> tuple[Reason, ...]:
    """In the order in which they are read."""
    first = plan.configuration(plan.train[0])
    patches = prod(first.median_shape_zyx) / prod(first.patch_zyx)
    mirror = sides.mirroring(bench.fingerprint, plan.axis_order, first.dimensions)
    picked = first.sampling
    return (
        Reason(decision="training", chosen=", ".join(plan.train), why=_why_trained(plan, bench)),
        Reason(decision="spacing", chosen="as stored" if plan.dimensions == 2 else f"{by(bench.spacing)} mm", why=_why_spacing(bench)),
        *(
            Reason(decision=f"channel {seen.name}", chosen=one.scheme, why=normalisation.why(seen, one))
            for seen, one in zip(bench.fingerprint.channels, plan.channels, strict=True)
        ),
        Reason(decision="capacity", chosen=f"{first.architecture.kind}, {first.architecture.features[0]} features", why=bench.size.why),
        *(_patch(one, bench) for one in plan.configurations),
        Reason(
            decision="sampling",
            chosen=f"{picked.foreground_fraction:.0%} of patches on foreground, {picked.balance.replace('_', ' ')}",
            why=sampling.why(bench.fingerprint),
        ),
        Reason(decision="mirroring", chosen=_axes(mirror, plan.axis_order, plan.dimensions), why=mirror.why),
        Reason(decision="schedule", chosen=_length(first), why=schedule.why(first.schedule, patches, plan.folds.count)),
        Reason(decision="time", chosen=step_time(first, bench), why=_why_time(bench)),
    )


def step_time(one: Configuration, bench: Bench) -> str:
    """Predicted, from measured speeds of the kind of machine."""
    seconds = predicted_step_seconds(one, bench)
    steps = one.schedule.iterations if one.schedule.seconds is None else min(one.schedule.iterations, int(one.schedule.seconds / seconds))
    return f"about {seconds:.2g} s a step, {steps} steps, {duration(steps * seconds)} a fold"


def predicted_step_seconds(one: Configuration, bench: Bench) -> float:
    """Of one training step on this machine."""
    fingerprint = bench.fingerprint
    operations = one.batch_size * step_flops(one.architecture, one.patch_zyx, len(fingerprint.channels), fingerprint.labels.heads)
    again = 4 / 3 if one.architecture.checkpointed_stages else 1.0
    return max(again * operations / operations_per_second(bench.hardware, one.schedule.precision), 1e-4)


def _why_time(bench: Bench) -> str:
    if bench.cpu:
        asked = "asked for" if bench.budget.training_seconds else "unless --time says otherwise"
        return f"this machine has no accelerator: {bench.hardware.cores} cores train a small network in hours, {asked}"
    return f"from the speed that networks of this kind reach on {bench.hardware.name} or its like; the real one is shown while training"


def _why_trained(plan: Plan, bench: Bench) -> str:
    if bench.fingerprint.dimensions == 2:
        return "the images are two-dimensional"
    if plan.train == ("2d",):
        return "the volumes are one slice thick"
    if bench.cpu and plan.train == ("3d_lowres",):
        return "a patch that a processor can train sees too little of the image at full resolution"
    if "3d_cascade" in plan.train:
        return "a class is larger than a patch: a coarse network finds it, a second one draws it at full resolution"
    if "2d" in plan.train and flat_voxels(bench):
        return f"slices are {bench.spacing[0]:.3g} mm apart and {bench.spacing[2]:.3g} mm fine: single slices may do as well as volumes"
    full = plan.configuration("3d_fullres")
    sight = by([round(edge * mm) for edge, mm in zip(full.patch_zyx, full.spacing_zyx_mm, strict=True)])
    if largest := max(bench.fingerprint.classes, key=lambda seen: prod(seen.extent_zyx_mm), default=None):
        return f"a patch spans {sight} mm, the largest class, {largest.name}, {by([round(mm) for mm in largest.extent_zyx_mm])} mm"
    return f"one network at full resolution, whose patches span {sight} mm"


def _why_spacing(bench: Bench) -> str:
    cases = bench.fingerprint.cases
    coarsest = sorted(max(case.spacing_zyx_mm) for case in cases)
    if bench.fingerprint.dimensions == 2:
        return "pictures are taken as they are"
    if max(bench.spacing) < coarsest[len(cases) // 2] * 0.999:
        return f"the median of {len(cases)} cases; along the thick axis the 10th percentile, so that no thin slices are thrown away"
    return f"the median of {len(cases)} cases, whose coarsest voxel edges run from {coarsest[0]:.3g} to {coarsest[-1]:.3g} mm"


def _patch(one: Configuration, bench: Bench) -> Reason:
    share = min(1.0, prod(one.patch_zyx) / prod(one.median_shape_zyx))
    first = 3 - one.dimensions
    grid = f" at {by(one.spacing_zyx_mm[first:])} mm" if bench.fingerprint.dimensions == 3 else ""
    chosen = f"{one.batch_size} of {by(one.patch_zyx[first:])}{grid}"
    why = f"{share:.0%} of a median image of {by(one.median_shape_zyx[first:])}; a step takes about"
    why += f" {one.memory.training_bytes / GiB:.1f} GiB of {bench.limits.memory_bytes / GiB:.1f}"
    if one.accumulate > 1:
        why += f"; in {one.accumulate} parts, or it would not fit"
    if one.architecture.checkpointed_stages:
        why += f"; the finest {one.architecture.checkpointed_stages} stages are computed twice to save memory"
    if bench.cpu:
        why += f"; small enough for {bench.hardware.cores} cores"
    return Reason(decision=one.name, chosen=chosen, why=why)


def _axes(mirror: sides.Mirroring, order: Triple, dimensions: int) -> str:
    names = _DIRECTIONS if dimensions == 3 else _ON_PAPER
    named = ", ".join(names[order[axis]] for axis in mirror.training_axes) or "not at all"
    return named + (", sides exchanged" if mirror.swap_sides else "")


def _length(one: Configuration) -> str:
    if one.schedule.seconds is not None:
        return f"{one.schedule.optimiser}, {duration(one.schedule.seconds)} a fold"
    return f"{one.schedule.optimiser}, at most {one.schedule.iterations} steps a fold"
