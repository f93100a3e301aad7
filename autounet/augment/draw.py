"""What will happen to one sample: drawn from the plan's list before a voxel is read."""

from dataclasses import dataclass
from math import ceil, cos, floor, sin
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from planners.fingerprint import Triple
from planners.plan import Augmentation, Step

EffectKind = Literal["noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma"]
Rows = tuple[tuple[float, ...], ...]
SAME = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """A smooth random displacement whose longest step along each axis is `voxels`."""

    voxels: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One intensity step. One row of numbers a channel; an empty row leaves the channel alone."""

    kind: EffectKind
    channels: Rows
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """All random decisions of one sample."""

    matrix: Rows = SAME  # offset from the patch's middle → offset in the volume
    elastic: Elastic | None = None
    flips: tuple[int, ...] = ()
    effects: tuple[Effect, ...] = ()

    @property
    def warped(self) -> bool:
        """Whether anything but a crop and flips is needed to read it."""
        return self.elastic is not None or self.matrix != SAME

    @property
    def in_plane(self) -> bool:
        """Whether the first axis stays as it is, so that slices can be treated as channels."""
        m = self.matrix
        return self.elastic is None and m[0] == SAME[0] and m[1][0] == 0 and m[2][0] == 0

    def box(self, lower_zyx: Triple, patch_zyx: Triple) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(start, stop) per axis of the volume that the patch at `lower_zyx` needs; may reach outside."""
        half = np.array([(edge - 1) / 2 for edge in patch_zyx])
        reach = half + (self.elastic.voxels if self.elastic is not None else 0.0)
        extent = np.abs(np.array(self.matrix)) @ reach if self.warped else half
        middle = np.array(lower_zyx) + half
        z, y, x = ((floor(c - e + 1e-6), ceil(c + e - 1e-6) + 1) for c, e in zip(middle, extent, strict=True))
        return z, y, x


def draw(augmentation: Augmentation, channels: int, flat: bool, rng: np.random.Generator) -> Drawn:
    """Draw every step of the list; `flat` when the patch is one slice."""
    in_plane = flat or augmentation.in_plane_only
    matrix, elastic = np.eye(3), None
    flips: tuple[int, ...] = ()
    effects = []
    for step in augmentation.steps:
        fires = rng.random() < step.probability
        if step.kind == "mirror":
            flips = tuple(axis for axis in augmentation.mirror_axes if rng.random() < step.probability)
        elif not fires:
            continue
        elif step.kind == "rotation":
            matrix = rotation(rng.uniform(step.low, step.high, 3), in_plane) @ matrix
        elif step.kind == "scaling":
            factor = rng.uniform(step.low, step.high)  # above 1 shrinks what is seen
            matrix = matrix @ np.diag([1.0 if in_plane else factor, factor, factor])
        elif step.kind == "elastic":
            elastic = Elastic(voxels=float(rng.uniform(step.low, step.high)), seed=int(rng.integers(2**31)))
        else:
            effects.append(_effect(step, channels, in_plane, rng))
    rows: Rows = tuple(tuple(float(v) for v in row) for row in matrix)
    return Drawn(matrix=rows, elastic=elastic, flips=flips, effects=tuple(effects))


def rotation(angles: NDArray[np.float64], in_plane: bool) -> NDArray[np.float64]:
    """About the first axis, then the second, then the third; in the plane about the first alone."""
    turned = _turn(angles[0], 1, 2)
    if in_plane:
        return turned
    result: NDArray[np.float64] = _turn(angles[2], 0, 1) @ _turn(angles[1], 2, 0) @ turned
    return result


def _turn(angle: float, first: int, second: int) -> NDArray[np.float64]:
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cos(angle)
    matrix[first, second], matrix[second, first] = -sin(angle), sin(angle)
    return matrix


def _effect(step: Step, channels: int, in_plane: bool, rng: np.random.Generator) -> Effect:
    seed = int(rng.integers(2**63))
    shared = float(rng.uniform(step.low, step.high))
    rows = []
    for _ in range(channels):
        chosen = rng.random() < step.channel_probability
        numbers = _numbers(step, shared, in_plane, rng)
        rows.append(numbers if chosen else ())
    return Effect(kind=step.kind, channels=tuple(rows), seed=seed)  # type: ignore[arg-type]  # the other kinds were dealt with


def _numbers(step: Step, shared: float, in_plane: bool, rng: np.random.Generator) -> tuple[float, ...]:
    if step.kind == "noise":
        return (shared,)  # one deviation for all channels
    if step.kind == "blur":
        sigmas = rng.uniform(step.low, step.high, 3)
        return tuple(float(s) for s in sigmas)
    if step.kind == "low_resolution":
        factor = float(rng.uniform(step.low, step.high))
        return (1.0 if in_plane else factor, factor, factor)
    return (_around_one(step.low, step.high, rng),)


def _around_one(low: float, high: float, rng: np.random.Generator) -> float:
    """Half the time below 1 and half above, however lopsided the range is."""
    below = rng.random() < 0.5 and low < 1
    return float(rng.uniform(low, 1) if below else rng.uniform(max(low, 1), high))
