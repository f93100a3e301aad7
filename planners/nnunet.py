"""The reference's decisions, exactly: to compare with it, and to continue from its plans.

Its faults are kept, because a comparison with a mended reference proves nothing: no loss for networks of
two stages, batches that a preset's memory allows however small the images are.
"""

from dataclasses import dataclass, replace
from math import prod

from planners.augmentation import augmentation
from planners.axes import axis_order
from planners.batch import batch_size
from planners.cascade import coarser, sees_enough, shrunk, worth_it
from planners.errors import UserError
from planners.fingerprint import CaseSize, Fingerprint, Triple, TripleMm
from planners.hardware import Budget, Hardware, Precision
from planners.loss import reference_level_weights
from planners.memory import Load, inference_bytes, training_bytes
from planners.networks_of import architecture_of
from planners.normalisation import by_name
from planners.patch import shrinking
from planners.plan import Configuration, Inference, Loss, MemoryEstimate, Plan, Reason
from planners.reference_size import Blueprint, feature_map_elements
from planners.spacing import resampled_median, target_spacing
from planners.triples import three, three_mm, voxels

FLAT_MM = 999.0  # the reference's spacing of the axis that pictures do not have
GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One of the reference's planners in numbers."""

    name: str
    blueprint: Blueprint
    gigabytes: float = 8
    elements_2d: float = 85e6
    elements_3d: float = 560e6
    covered: float = 0.05  # largest part of the dataset in one batch
    smallest_batch_fits: bool = True  # the patch shrinks until two samples fit; else until the whole reference batch does


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the rules need of a fingerprint, in stored axes."""

    spacings: tuple[TripleMm, ...]
    shapes: tuple[Triple, ...]
    target: TripleMm
    order: Triple
    median: tuple[float, ...]  # in working order

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(self.target[axis] for axis in self.order)

    @property
    def dataset_voxels(self) -> float:
        return float(prod(self.median) * len(self.shapes))


def plan_preset(fingerprint: Fingerprint, hardware: Hardware, budget: Budget, preset: Preset) -> Plan:
    """All configurations of one of the reference's planners."""
    share = 1.0 if budget.memory_bytes is None else budget.memory_bytes / GB / preset.gigabytes
    preset = replace(preset, elements_2d=preset.elements_2d * share, elements_3d=preset.elements_3d * share)
    scene = look(fingerprint)
    flat = _configuration(fingerprint, preset, "2d", (scene.spacing[1:], scene.median[1:], scene.dataset_voxels))
    flat = replace(flat, spacing_zyx_mm=three_mm(scene.spacing), loss=replace(flat.loss, batch_dice=True))
    configurations = [flat]
    if scene.median[0] != 1:
        configurations += _volumes(fingerprint, preset, scene)
    # The reference trains in half precision on CUDA devices, and in full precision elsewhere.
    half = hardware.accelerator == "cuda" and "float16" in hardware.precisions
    precision: Precision = "float16" if half else "float32"
    configurations = [_finished(c, fingerprint, precision) for c in configurations]
    return Plan(
        planner=preset.name,
        dataset=fingerprint.dataset,
        dimensions=fingerprint.dimensions,
        orientation="stored",
        axis_order=scene.order,
        channels=tuple(by_name(c, fingerprint.median_relative_size_after_crop) for c in fingerprint.channels),
        labels=fingerprint.labels,
        side_pairs=fingerprint.side_pairs,
        configurations=tuple(configurations),
        train=tuple(c.name for c in configurations),
        target=budget.target or hardware.accelerator,
        reasons=_reasons(scene, configurations, preset),
    )


def look(fingerprint: Fingerprint) -> _Scene:
    """The cases in the order of axes in which their files store them."""
    spacings = tuple(_stored_mm(case, flat=fingerprint.dimensions == 2) for case in fingerprint.cases)
    shapes = tuple(three(tuple(case.shape_zyx[axis] for axis in case.stored_axes)) for case in fingerprint.cases)
    target = target_spacing(spacings, shapes)
    order = axis_order(target)
    median = resampled_median(spacings, shapes, target)
    return _Scene(spacings, shapes, target, order, tuple(max(1.0, median[axis]) for axis in order))


def _stored_mm(case: CaseSize, *, flat: bool) -> TripleMm:
    z, y, x = (case.spacing_zyx_mm[axis] for axis in case.stored_axes)
    return (FLAT_MM, y, x) if flat else (z, y, x)


def _volumes(fingerprint: Fingerprint, preset: Preset, scene: _Scene) -> list[Configuration]:
    full = _configuration(fingerprint, preset, "3d_fullres", (scene.spacing, scene.median, scene.dataset_voxels))
    coarse, patch, left = None, full.patch_zyx, float(prod(scene.median))
    spacings = coarser(scene.spacing)
    while not sees_enough(patch, left):
        spacing = next(spacings)
        smaller = shrunk(scene.spacing, spacing, scene.median)
        left = float(prod(smaller))
        rounded = tuple(max(1, round(size)) for size in smaller)
        coarse = _configuration(fingerprint, preset, "3d_lowres", (spacing, rounded, float(left * len(fingerprint.cases))))
        patch = coarse.patch_zyx
    if coarse is None or not worth_it(prod(scene.median), left):
        return [full]
    full = replace(full, loss=replace(full.loss, batch_dice=True))
    return [coarse, full, replace(full, name="3d_cascade_fullres", previous="3d_lowres")]


def _configuration(
    fingerprint: Fingerprint, preset: Preset, name: str, grid: tuple[tuple[float, ...], tuple[float, ...], float]
) -> Configuration:
    spacing, median, dataset_voxels = grid
    dimensions = len(spacing)
    elements, batch = (preset.elements_2d, 12) if dimensions == 2 else (preset.elements_3d, 2)
    blueprint = replace(preset.blueprint, outputs=_entries(fingerprint))
    fitting = ((t, feature_map_elements(t, blueprint)) for t in shrinking(spacing, median, by_length=False))
    # The reference's residual planners forget that two samples are enough, so in 2D they shrink more.
    needed = 2 / batch if preset.smallest_batch_fits else 1.0
    found = next(((t, n) for t, n in fitting if n * needed <= elements), None)
    if found is None:
        raise UserError(f"the reference has no {name} network so small", "allow more with --gpu-memory, or use --planner default")
    chosen, count = found
    patch = chosen.patch
    architecture = architecture_of(chosen, blueprint)
    whole = (1, *patch) if dimensions == 2 else patch
    return Configuration(
        name=name,
        spacing_zyx_mm=three_mm((1.0, *spacing) if dimensions == 2 else spacing),
        median_shape_zyx=voxels(median),
        patch_zyx=three(whole),
        batch_size=batch_size(elements / count * batch, dataset_voxels, patch, preset.covered),
        architecture=architecture,
        loss=Loss(level_weights=reference_level_weights(chosen.stages)),
        augmentation=augmentation(three(whole), dimensions, mirror_axes=(1, 2) if dimensions == 2 else (0, 1, 2)),
        inference=Inference(mirror_axes=(1, 2) if dimensions == 2 else (0, 1, 2), peak="nnunet"),
    )


def _finished(one: Configuration, fingerprint: Fingerprint, precision: Precision) -> Configuration:
    schedule, inference = replace(one.schedule, precision=precision), replace(one.inference, precision=precision)
    one = replace(one, schedule=schedule, inference=inference)
    return replace(one, memory=_memory(one, fingerprint))


def _memory(one: Configuration, fingerprint: Fingerprint) -> MemoryEstimate:
    load = Load(
        architecture=one.architecture,
        patch_zyx=one.patch_zyx,
        channels=len(fingerprint.channels) + (len(fingerprint.labels.foreground) if one.previous else 0),
        heads=fingerprint.labels.heads,
        regions=bool(fingerprint.labels.regions),
        micro_batch=one.batch_size,
        precision=one.schedule.precision,
        average=False,
    )
    return MemoryEstimate(training_bytes=training_bytes(load), inference_bytes=inference_bytes(load))


def _entries(fingerprint: Fingerprint) -> int:
    """Lines of the reference's label table: background, classes or regions, ignore."""
    labels = fingerprint.labels
    return (len(labels.regions) + 1 if labels.regions else len(labels.classes)) + (labels.ignore is not None)


def _reasons(scene: _Scene, configurations: list[Configuration], preset: Preset) -> tuple[Reason, ...]:
    rule = f"{preset.name} repeats the reference's rule"
    reasons = [
        Reason(decision="spacing", chosen=_words(scene.spacing), why=f"{rule}: the median of {len(scene.shapes)} cases"),
        Reason(decision="axis order", chosen=_words(scene.order), why=f"{rule}: the coarsest stored axis first"),
    ]
    for one in configurations:
        chosen = f"patch {_words(one.patch_zyx)}, batch {one.batch_size}"
        reasons.append(Reason(decision=one.name, chosen=chosen, why=f"{rule} for {preset.gigabytes:g} GB"))
        if len(one.architecture.features) == 2:
            fault = "the reference divides 0 by 0 for networks of two stages and trains to NaN; the default planner does not"
            reasons.append(Reason(decision=f"{one.name} loss", chosen="weight 0", why=fault))
    return tuple(reasons)


def _words(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


PLAIN = Preset(name="nnunet", blueprint=Blueprint("plain", 2))


def plan_nnunet(fingerprint: Fingerprint, hardware: Hardware, budget: Budget) -> Plan:
    """The reference's default planner (plain U-Net, 8 GB)."""
    return plan_preset(fingerprint, hardware, budget, PLAIN)
