"""Intensity steps on many channels at once: a row is one channel of one sample, and every row has numbers of its own.

Each step is the one of that name in `intensity`, up to rounding, but for noise: its numbers come from `hashed`, because a generator
makes one stream after another, and other numbers on another device. Which rows a step takes was drawn on the processor;
nothing here asks the device for a value.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autounet.augment.draw import Effect, EffectKind
from autounet.augment.hashed import normal
from autounet.augment.intensity import NOTHING, TINY, coarse_cells, gaussian, mirrored
from autounet.augment.upload import uploaded

VOXELS = 2**23  # of noise made at a time: a hash has 64 bits
INNER = (1, 2, 3)  # axes of a row
EDGE_OF_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Round:
    """One step, and the rows that it is drawn for."""

    kind: EffectKind
    rows: list[int]
    numbers: list[tuple[float, ...]]
    seeds: list[int]


def rounds(effects_b: Sequence[tuple[Effect, ...]], order: Sequence[str], channels: int) -> list[Round]:
    """The effects of all samples, each sample's in its own order; `order` is the list that they were drawn from."""
    waiting = [deque(effects) for effects in effects_b]
    found = []
    for kind in order:
        now = [(sample, own.popleft()) for sample, own in enumerate(waiting) if own and own[0].kind == kind]
        chosen = [(sample, effect, c) for sample, effect in now for c in range(channels) if effect.channels[c]]
        if chosen:
            rows = [sample * channels + c for sample, _, c in chosen]
            seeds = [(effect.seed + c) % EDGE_OF_SEEDS for _, effect, c in chosen]
            found.append(Round(chosen[0][1].kind, rows, [effect.channels[c] for _, effect, c in chosen], seeds))
    assert not any(waiting), "a subsequence of the list"
    return found


def apply_rounds(image_bczyx: Tensor, steps: Sequence[Round]) -> None:
    """Do them all, in place."""
    rows_rzyx = image_bczyx.view(-1, *image_bczyx.shape[2:])
    for step in steps:
        if len(step.rows) == len(rows_rzyx):
            rows_rzyx.copy_(ROUNDS[step.kind](rows_rzyx, step))
            continue
        chosen = uploaded(np.array(step.rows), image_bczyx.device)
        rows_rzyx.index_copy_(0, chosen, ROUNDS[step.kind](rows_rzyx.index_select(0, chosen), step))


def noise(image_rzyx: Tensor, step: Round) -> Tensor:
    """Gaussian, of those deviations."""
    seeds, deviation = uploaded(np.array(step.seeds), image_rzyx.device), _first(image_rzyx, step)
    count = image_rzyx[0].numel()
    at_once = max(1, VOXELS // count)
    for start in range(0, len(image_rzyx), at_once):
        here = slice(start, start + at_once)
        part = image_rzyx[here]
        part.addcmul_(normal(seeds[here], count).view(part.shape), deviation[here])
    return image_rzyx


def brightness(image_rzyx: Tensor, step: Round) -> Tensor:
    """Times a factor."""
    return image_rzyx.mul_(_first(image_rzyx, step))


def contrast(image_rzyx: Tensor, step: Round) -> Tensor:
    """Stretched about the mean, within the range it had."""
    factor = _first(image_rzyx, step)
    low, high = torch.aminmax(image_rzyx.flatten(1), dim=1)
    mean = image_rzyx.mean(INNER, keepdim=True)
    stretched = image_rzyx.mul(factor).add_(mean * (1 - factor))
    return torch.minimum(torch.maximum(stretched, _column(low)), _column(high))


def gamma(image_rzyx: Tensor, step: Round) -> Tensor:
    """The range to a power, then mean and deviation as they were. What is constant has no deviation to come back to, and stays."""
    power = _first(image_rzyx, step)
    low, high = (_column(end) for end in torch.aminmax(image_rzyx.flatten(1), dim=1))
    span = high - low
    mean, deviation = _centred(image_rzyx)
    share = image_rzyx.sub_(low - mean).clamp_min_(span * NOTHING).log_()
    # The power of a share of the range, as two to the power of a factor times the logarithm.
    image_rzyx = share.mul_(power * log2(np.e)).sub_(power * span.clamp_min(TINY).log2()).exp2_()
    _, deviation_now = _centred(image_rzyx)  # of the unit range
    return image_rzyx.mul_(deviation / deviation_now.clamp_min(TINY)).add_(mean)


def gamma_inverted(image_rzyx: Tensor, step: Round) -> Tensor:
    """The same on the negative."""
    return gamma(image_rzyx.neg_(), step).neg_()


def blur(image_rzyx: Tensor, step: Round) -> Tensor:
    """Gaussian, one deviation an axis: as many shifted sums as the widest row has taps."""
    for axis in range(3):
        size = image_rzyx.shape[1 + axis]
        if size == 1:
            continue
        taps = _side_by_side([gaussian(numbers[axis]) for numbers in step.numbers])
        half = taps.shape[1] // 2
        reach = uploaded(mirrored(np.arange(-half, size + half), size), image_rzyx.device)
        wide, weights = image_rzyx.index_select(1 + axis, reach), uploaded(taps, image_rzyx.device)
        total = wide.narrow(1 + axis, half, size) * _column(weights[:, half])
        for tap in range(2 * half + 1):
            if tap != half:
                total.addcmul_(wide.narrow(1 + axis, tap, size), _column(weights[:, tap]))
        image_rzyx = total
    return image_rzyx


def low_resolution(image_rzyx: Tensor, step: Round) -> Tensor:
    """As if scanned coarser: nearest down, linear up, axis by axis; each row picks its voxels from a table of its own."""
    for axis in range(3):
        size = image_rzyx.shape[1 + axis]
        coarse = [max(1, round(size * numbers[axis])) for numbers in step.numbers]
        if all(edge == size for edge in coarse):
            continue
        below, above, share = (np.stack(table) for table in zip(*(coarse_cells(size, edge) for edge in coarse), strict=True))
        shape = [len(image_rzyx), 1, 1, 1]
        shape[1 + axis] = size
        picked = [
            image_rzyx.gather(1 + axis, uploaded(rows, image_rzyx.device).view(shape).expand(image_rzyx.shape)) for rows in (below, above)
        ]
        image_rzyx = torch.lerp(picked[0], picked[1], uploaded(share, image_rzyx.device).view(shape))
    return image_rzyx


ROUNDS: dict[EffectKind, Callable[[Tensor, Round], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "contrast": contrast,
    "low_resolution": low_resolution,
    "gamma": gamma,
    "gamma_inverted": gamma_inverted,
}


def _first(image_rzyx: Tensor, step: Round) -> Tensor:
    """(r, 1, 1, 1): the first number of each row."""
    return _column(uploaded(np.array([numbers[0] for numbers in step.numbers], np.float32), image_rzyx.device))


def _column(values_r: Tensor) -> Tensor:
    return values_r.view(-1, 1, 1, 1)


def _centred(image_rzyx: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the means in place; the means, and the deviations."""
    mean = image_rzyx.mean(INNER, keepdim=True)
    image_rzyx.sub_(mean)
    count = max(1, image_rzyx[0].numel() - 1)
    return mean, (image_rzyx.square().sum(INNER, keepdim=True) / count).sqrt()


def _side_by_side(taps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(row, tap): odd numbers of taps about the same middle, zeros around."""
    longest = max(len(row) for row in taps)
    return np.stack([np.pad(row, (longest - len(row)) // 2) for row in taps])
