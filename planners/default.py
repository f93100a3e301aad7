"""Our own planner: the reference's rules where they are right, others where the evidence says so."""

from dataclasses import replace
from math import prod

from planners import normalisation, sampling, schedule, sides
from planners.axes import axis_order
from planners.configurations import Bench, chosen_for_training, configurations
from planners.fingerprint import Fingerprint
from planners.hardware import Budget, Hardware
from planners.plan import Configuration, Folds, Plan
from planners.reasons import reasons
from planners.spacing import resampled_median, target_spacing
from planners.triples import three_mm


def plan_default(fingerprint: Fingerprint, hardware: Hardware, budget: Budget) -> Plan:
    """The rules in the order in which they depend on each other."""
    budget = replace(budget, folds=min(budget.folds, max(2, len(fingerprint.cases))))  # no more folds than cases
    spacings = tuple(case.spacing_zyx_mm for case in fingerprint.cases)
    shapes = tuple(case.shape_zyx for case in fingerprint.cases)
    target = target_spacing(spacings, shapes)
    median = resampled_median(spacings, shapes, target)
    order = axis_order(target) if fingerprint.dimensions == 3 else (0, 1, 2)
    bench = Bench(
        fingerprint=fingerprint,
        hardware=hardware,
        budget=budget,
        spacing=three_mm(tuple(target[axis] for axis in order)),
        median=three_mm(tuple(max(1.0, median[axis]) for axis in order)),
    )
    sketches = configurations(bench)
    train = chosen_for_training(bench, sketches)
    seconds = schedule.seconds_per_run(hardware, budget, len(train))
    finished = tuple(_finished(one, bench, order, seconds) for one in sketches)
    plan = Plan(
        planner="default",
        dataset=fingerprint.dataset,
        dimensions=fingerprint.dimensions,
        orientation="canonical",
        axis_order=order,
        channels=tuple(normalisation.by_modality(c, fingerprint.median_relative_size_after_crop) for c in fingerprint.channels),
        labels=fingerprint.labels,
        side_pairs=fingerprint.side_pairs,
        configurations=finished,
        train=train,
        folds=Folds(count=budget.folds, train=tuple(range(budget.folds))),
        target=budget.target or hardware.accelerator,
    )
    return replace(plan, reasons=reasons(plan, bench))


def _finished(one: Configuration, bench: Bench, order: tuple[int, int, int], seconds: float | None) -> Configuration:
    """A sketch with the decisions that do not change its size."""
    patches = prod(one.median_shape_zyx) / prod(one.patch_zyx)
    mirror = sides.mirroring(bench.fingerprint, order, one.dimensions)
    turned = replace(one.augmentation, mirror_axes=mirror.training_axes, swap_sides=mirror.swap_sides)
    if not mirror.training_axes:
        turned = replace(turned, steps=tuple(step for step in turned.steps if step.kind != "mirror"))
    length = schedule.schedule(bench.hardware, seconds, patches)
    target = bench.budget.target or bench.hardware.accelerator
    same = target == bench.hardware.accelerator
    return replace(
        one,
        augmentation=turned,
        # Nearest along a thick axis, as the reference does it, shows some slices twice and others never.
        resampling=replace(one.resampling, thick_axis_order=1),
        sampling=sampling.sampling(bench.fingerprint),
        schedule=length,
        inference=replace(
            one.inference,
            # Eight mirrored passes gain a tenth of a point; on a processor they cost minutes a case.
            mirror_axes=() if target == "cpu" and bench.slow_target else mirror.inference_axes,
            precision=length.precision if same else "float32",
            skip_air=any(channel.modality == "ct" for channel in bench.fingerprint.channels),
        ),
    )
