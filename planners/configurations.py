"""Which networks could be trained on a dataset, and which of them are worth the time."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, prod

from planners.augmentation import augmentation
from planners.capacity import Capacity, capacity
from planners.cascade import SEEN, coarser, sees_enough, shrunk, worth_it
from planners.errors import UserError
from planners.fingerprint import Fingerprint, TripleMm
from planners.fitting import Fitted, Limits, TooLittleMemoryError, Wanted, fitted, hundredths_bytes, usual_patch
from planners.hardware import Budget, GiB, Hardware
from planners.loss import loss
from planners.plan import Augmentation, Configuration, Inference, MemoryEstimate
from planners.reference_size import Blueprint
from planners.schedule import few_steps, precision, seconds_per_run
from planners.spacing import ANISOTROPY
from planners.speed import operations_per_second
from planners.triples import three, three_mm, voxels

MARGIN = 0.95  # of memory: allocators leave holes
OFFSET_BYTES = int(1.2 * GiB)  # context, workspaces and allocator of an accelerator nobody has probed
HOST_BYTES = GiB  # of a processor run: the program itself, and the cases it reads
STEPS = 4000  # that a run should have time for on a processor
STEP_SECONDS = (0.25, 2.0)
SEEN_ON_PROCESSORS = 0.125  # of the image in one patch; coarser voxels are the only way to see more there


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything the sketches are made from, in working axes."""

    fingerprint: Fingerprint
    hardware: Hardware
    budget: Budget
    spacing: TripleMm
    median: TripleMm

    @property
    def cpu(self) -> bool:
        """Whether there is nothing but a processor to train on."""
        return self.hardware.accelerator == "cpu"

    @property
    def slow_target(self) -> bool:
        """Whether one pass over a median image takes a processor longer than it is worth mirroring for."""
        return prod(self.median) > 64**3

    @cached_property
    def limits(self) -> Limits:
        """Of one step."""
        allowed = self.budget.memory_bytes or (self.hardware.host_bytes // 2 if self.cpu else self.hardware.training_bytes)
        if not self.cpu:
            return Limits(allowed_bytes=allowed, margin=MARGIN, offset_bytes=self.hardware.offset_bytes or OFFSET_BYTES)
        seconds = seconds_per_run(self.hardware, self.budget, 1) or inf
        step = min(max(seconds / STEPS, STEP_SECONDS[0]), STEP_SECONDS[1])
        rate = operations_per_second(self.hardware, precision(self.hardware))
        return Limits(allowed_bytes=allowed, offset_bytes=self.hardware.offset_bytes or HOST_BYTES, step_operations=step * rate)

    def wanted(self, dimensions: int, size: Capacity, grid: tuple[tuple[float, ...], tuple[float, ...]] | None = None) -> Wanted:
        """What to fit on a grid of voxels; by default the finest."""
        spacing, median = grid or (self.spacing, self.median)
        full = Wanted(
            spacing=spacing[3 - dimensions :],
            median=median[3 - dimensions :],
            dataset_voxels=float(prod(median) * len(self.fingerprint.cases)),
            blueprint=Blueprint(size.kind, self.fingerprint.labels.heads),
            channels=len(self.fingerprint.channels),
            precision=precision(self.hardware),
            moments=2 if few_steps(self.hardware, seconds_per_run(self.hardware, self.budget, 1)) else 1,  # AdamW or SGD
            regions=bool(self.fingerprint.labels.regions),
            cpu=self.cpu,
            wide=size.wide_patches,
        )
        return replace(full, blueprint=replace(full.blueprint, base=self._base(full)))

    def _base(self, wanted: Wanted) -> int:
        """Full width, unless a processor would have to cut the image for it."""
        if not self.cpu:
            return 32
        free = usual_patch(wanted, replace(self.limits, step_operations=inf))
        return 32 if usual_patch(wanted, self.limits) == free else 16

    @cached_property
    def size(self) -> Capacity:
        """The family of networks; a processor has no time for large ones."""
        plain = Capacity(kind="plain", wide_patches=False, why="")
        if min(self.median) < 2 or self.fingerprint.dimensions == 2:
            return replace(plain, why="two-dimensional: the plain network is as good as any there")
        if self.cpu:
            return replace(plain, why=f"{self.hardware.cores} processor cores: a residual network would train for weeks")
        if self.budget.target == "cpu":
            return replace(plain, why="the model is to predict on processors, where a residual network takes half as long again")
        return capacity(self.fingerprint, self.median, usual_patch(self.wanted(3, plain), self.limits).patch)


def configurations(bench: Bench) -> tuple[Configuration, ...]:
    """What could be trained; a UserError with the least memory for all of it when there is too little."""
    try:
        return _sketches(bench)
    except TooLittleMemoryError as short:
        limits, least = short.limits, _least(bench, short.hundredths) / 100
    fix = f"allow at least {least:.2f} GiB with --gpu-memory"
    if least * GiB > bench.hardware.training_bytes:
        fix = f"this machine has {bench.hardware.training_bytes / GiB:.2f} GiB; plan for one with at least {least:.2f} GiB"
    raise UserError(
        f"no network for this dataset trains in {limits.allowed_bytes / GiB:.2f} GiB, of which the device itself takes"
        f" {limits.offset_bytes / GiB:.2f}",
        fix,
    )


def _least(bench: Bench, hundredths: int) -> int:
    """The least that was found for one network may still be too little for the next, so it is tried."""
    while True:
        try:
            _sketches(replace(bench, budget=replace(bench.budget, memory_bytes=hundredths_bytes(hundredths))))
        except TooLittleMemoryError as short:
            hundredths = short.hundredths
        else:
            return hundredths


def _sketches(bench: Bench) -> tuple[Configuration, ...]:
    """2d always; for volumes 3d_fullres, and 3d_lowres with its cascade where a patch sees too little."""
    flat = _sketch("2d", fitted(bench.wanted(2, replace(bench.size, wide_patches=False)), bench.limits), bench, bench.spacing)
    if bench.fingerprint.dimensions == 2 or bench.median[0] < 2:
        return (flat,)
    found = fitted(bench.wanted(3, bench.size), bench.limits)
    full = _sketch("3d_fullres", found, bench, bench.spacing)
    coarse = _coarse(bench, found)
    if coarse is None:
        return (flat, full)
    full = replace(full, loss=replace(full.loss, batch_dice=True))
    wanted = replace(bench.wanted(3, bench.size), channels=len(bench.fingerprint.channels) + len(bench.fingerprint.labels.foreground))
    second = _sketch("3d_cascade", fitted(wanted, bench.limits), bench, bench.spacing)
    return (flat, coarse, full, replace(second, previous="3d_lowres", loss=replace(second.loss, batch_dice=True)))


def chosen_for_training(bench: Bench, sketches: tuple[Configuration, ...]) -> tuple[str, ...]:
    """A processor trains one network, the one that sees most; an accelerator adds what the images call for."""
    names = [one.name for one in sketches]
    if names == ["2d"]:
        return ("2d",)
    if bench.cpu:
        return ("3d_lowres" if "3d_lowres" in names else "3d_fullres",)
    if "3d_lowres" in names and bench.budget.training_seconds is None and larger_than_sight(bench, sketches):
        return ("3d_lowres", "3d_cascade")
    if bench.budget.training_seconds is None and flat_voxels(bench):
        return ("2d", "3d_fullres")
    return ("3d_fullres",)


def larger_than_sight(bench: Bench, sketches: tuple[Configuration, ...]) -> bool:
    """Whether a class reaches further than a patch of the finest voxels along every axis."""
    full = next(one for one in sketches if one.name == "3d_fullres")
    sight = sorted(edge * mm for edge, mm in zip(full.patch_zyx, full.spacing_zyx_mm, strict=True))
    return any(all(e > s for e, s in zip(sorted(seen.extent_zyx_mm), sight, strict=True)) for seen in bench.fingerprint.classes)


def flat_voxels(bench: Bench) -> bool:
    """Whether slices are so far apart that a network of single slices sees as much."""
    return bench.spacing[0] > ANISOTROPY * max(bench.spacing[1:])


def _coarse(bench: Bench, full: Fitted) -> Configuration | None:
    seen = SEEN_ON_PROCESSORS if bench.cpu else SEEN
    left, patch, grid = float(prod(bench.median)), full.topology.patch, None
    spacings = coarser(bench.spacing)
    while not sees_enough(patch, left, seen):
        spacing = next(spacings)
        median = tuple(max(1.0, size) for size in shrunk(bench.spacing, spacing, bench.median))
        grid, left = (spacing, median), prod(median)
        patch = usual_patch(bench.wanted(3, bench.size, grid), bench.limits).patch
    if grid is None or not worth_it(prod(bench.median), left):
        return None
    size = replace(bench.size, wide_patches=False)
    return _sketch("3d_lowres", fitted(bench.wanted(3, size, grid), bench.limits), bench, three_mm(grid[0]), grid[1])


def _sketch(name: str, found: Fitted, bench: Bench, spacing: TripleMm, median: tuple[float, ...] | None = None) -> Configuration:
    dimensions = len(found.topology.patch)
    patch = three(found.topology.patch)
    whole = voxels(median or bench.median)
    return Configuration(
        name=name,
        spacing_zyx_mm=spacing,
        median_shape_zyx=(1, *whole[1:]) if dimensions == 2 else whole,
        patch_zyx=patch,
        batch_size=found.batch_size,
        accumulate=found.accumulate,
        architecture=found.architecture,
        loss=loss(found.topology.stages, batch_dice=dimensions == 2),
        augmentation=_turned(patch, dimensions),
        inference=Inference(),
        memory=MemoryEstimate(training_bytes=found.training_bytes, inference_bytes=found.inference_bytes),
    )


def _turned(patch: tuple[int, int, int], dimensions: int) -> Augmentation:
    return augmentation(patch, dimensions, mirror_axes=(1, 2) if dimensions == 2 else (0, 1, 2))
