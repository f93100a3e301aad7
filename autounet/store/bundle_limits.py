"""Bounds on what a model file may ask for, so that a hostile one is refused before anything is built."""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from math import prod

from autounet.store.selection import Selection
from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.plan import Configuration, Plan

MAX_CONFIGURATIONS = 16
MAX_FOLDS = 100
MAX_CLASSES = 4096
MAX_CHANNELS = 256
MAX_STAGES = 12
MAX_WIDTH = 4096
MAX_BLOCKS = 64
MAX_PATCH_VOXELS = 2**28
MAX_CASES = 10**6
MAX_KNOTS = 4096
MAX_LAYERS = 4096
NAME = re.compile(r"[a-z0-9_]{1,64}")
_FIX = "do not use this model file; get it again from where it came"


def check_plan(plan: Plan, where: str) -> None:
    """No plan of a real model is beyond these."""
    _bound(len(plan.configurations), MAX_CONFIGURATIONS, "configurations", where)
    _bound(max((plan.folds.count, len(plan.folds.train), *plan.folds.train)), MAX_FOLDS, "folds", where)
    _bound(len(plan.labels.classes) + len(plan.labels.regions), MAX_CLASSES, "classes", where)
    _bound(len(plan.channels), MAX_CHANNELS, "channels", where)
    for configuration in plan.configurations:
        _check_configuration(configuration, where)


def _check_configuration(configuration: Configuration, where: str) -> None:
    architecture = configuration.architecture
    if not NAME.fullmatch(configuration.name):
        raise UserError(f"{where}: {configuration.name[:80]!r} is no name of a configuration", _FIX)
    _bound(len(architecture.features), MAX_STAGES, "stages", where)
    _bound(max(architecture.features), MAX_WIDTH, "feature maps", where)
    _bound(max(*architecture.encoder_blocks, *architecture.decoder_convolutions, 1), MAX_BLOCKS, "blocks a stage", where)
    _bound(prod(configuration.patch_zyx), MAX_PATCH_VOXELS, "voxels a patch", where)
    kernels = [edge for kernel in architecture.kernels_zyx for edge in kernel]
    _bound(max(kernels), 31, "voxels a kernel edge", where)
    if min(kernels) < 1 or min(architecture.features) < 1 or min(configuration.patch_zyx) < 1:
        raise UserError(f"{where}: the network of {configuration.name} has a size below 1", _FIX)
    wanted = configuration.inference
    if not 0.05 <= wanted.step_fraction <= 1 or not 0.01 <= wanted.sigma_fraction <= 10:
        raise UserError(f"{where}: tiles are stepped by {wanted.step_fraction} with importance {wanted.sigma_fraction}", _FIX)
    if any(axis not in (0, 1, 2) for axis in wanted.mirror_axes) or len(set(wanted.mirror_axes)) != len(wanted.mirror_axes):
        raise UserError(f"{where}: tiles are mirrored along {wanted.mirror_axes}", _FIX)


def check_fingerprint(fingerprint: Fingerprint, plan: Plan, where: str) -> None:
    """It must describe what the plan was made for."""
    _bound(len(fingerprint.cases), MAX_CASES, "cases", where)
    if len(fingerprint.channels) != len(plan.channels):
        raise UserError(f"{where}: the plan has {len(plan.channels)} channels, the fingerprint {len(fingerprint.channels)}", _FIX)


def check_selection(selection: Selection, plan: Plan, weights: Sequence[tuple[str, int]], where: str) -> None:
    """Every network that votes must be there, and so must the configuration it builds on."""
    for member in selection.members:
        plan.configuration(member.configuration)
        if not member.folds or member.weight <= 0:
            raise UserError(f"{where}: {member.configuration} votes with no fold or no weight", _FIX)
        for fold in member.folds:
            if (member.configuration, fold) not in weights:
                raise UserError(f"{where}: fold {fold} of {member.configuration} votes but is not in the file", _FIX)
    _check_repairs(selection, {c.name for c in plan.labels.classes}, where)
    for preset in selection.presets:
        if not 0.05 <= preset.step_fraction <= 1 or not 0 <= preset.folds <= MAX_FOLDS:
            raise UserError(f"{where}: the preset {preset.name} steps by {preset.step_fraction} with {preset.folds} folds", _FIX)
    _check_expectation(selection, where)
    for ranges in selection.int8.members if selection.int8 else ():
        _bound(len(ranges.layers), MAX_LAYERS, "layers of 8 bits", where)
        if (ranges.configuration, ranges.fold) not in weights or any(not one.low <= one.high for one in ranges.layers):
            raise UserError(f"{where}: ranges of 8 bits that belong to no network of the file, or end before they begin", _FIX)
    if not 0.01 <= selection.temperature <= 100:
        raise UserError(f"{where}: a temperature of {selection.temperature}", _FIX)


def _check_repairs(selection: Selection, names: Collection[str], where: str) -> None:
    """Of classes that there are."""
    _bound(len(selection.post_steps), 4 * MAX_CLASSES, "repairs", where)
    for step in selection.post_steps:
        for name in (step.target, *((step.partner,) if step.kind == "sides" else ())):
            if name not in names:
                raise UserError(f"{where}: the masks of {name[:80]!r} are repaired, which is no class", _FIX)
        if step.axis not in (0, 1, 2) or step.minimum_mm3 < 0:
            raise UserError(f"{where}: a repair along the axis {step.axis}, below {step.minimum_mm3} mm³", _FIX)


def _check_expectation(selection: Selection, where: str) -> None:
    """A rising curve, or none."""
    expectation = selection.expectation
    if expectation is None:
        return
    _bound(len(expectation.expected), MAX_KNOTS, "knots of a curve", where)
    rising = all(a <= b for line in (expectation.expected, expectation.dice) for a, b in pairwise(line))
    if not expectation.expected or len(expectation.expected) != len(expectation.dice) or not rising:
        raise UserError(f"{where}: the curve of expected Dice does not rise", _FIX)


def _bound(found: int, most: int, what: str, where: str) -> None:
    if found > most:
        raise UserError(f"{where} asks for {found} {what}, more than {most}", _FIX)
