"""Intensity steps on one sample, in place, channel by channel.

A step is a handful of runs through memory, and the runs are what it costs: sums are taken once, factors and
offsets applied together, and where numpy's own loop is faster than torch's on a processor it is used.
"""

from collections.abc import Callable
from math import log2

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autounet.augment.draw import Effect, EffectKind

TINY = 1e-7
NOTHING = 1e-12  # of the range: its power is nothing, and its logarithm is a number
MATRIX_EDGE = 160  # up to here a product with a small matrix beats a walk of shifted sums


def apply_effects(image_czyx: Tensor, effects: tuple[Effect, ...]) -> None:
    """Do to each channel what was drawn for it."""
    for effect in effects:
        for channel, numbers in enumerate(effect.channels):
            if numbers:
                image_czyx[channel] = EFFECTS[effect.kind](image_czyx[channel], numbers, effect.seed + channel)


def noise(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """Gaussian, of that deviation."""
    generator = torch.Generator(image_zyx.device).manual_seed(seed)
    return image_zyx.add_(torch.randn(image_zyx.shape, generator=generator, device=image_zyx.device), alpha=numbers[0])


def brightness(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """Times a factor."""
    return image_zyx.mul_(numbers[0])


def contrast(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """Stretched about the mean, within the range it had."""
    low, high = float(image_zyx.amin()), float(image_zyx.amax())
    mean = image_zyx.mean()
    return torch.add(mean * (1 - numbers[0]), image_zyx, alpha=numbers[0], out=image_zyx).clamp_(low, high)


def gamma(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """The range to a power, then mean and deviation as they were."""
    low = image_zyx.amin()
    span = float(image_zyx.amax() - low)
    if not span > 0:
        return image_zyx
    mean, deviation = _centred(image_zyx)
    image_zyx.sub_(low - mean).clamp_min_(span * NOTHING)
    # The power of a share of the range, as two to the power of a factor times the logarithm.
    image_zyx = _logarithm(image_zyx)
    power = image_zyx.new_tensor(-numbers[0] * log2(span))
    torch.add(power, image_zyx, alpha=numbers[0] * log2(np.e), out=image_zyx).exp2_()
    _, deviation_now = _centred(image_zyx)  # of the unit range
    factor = float(deviation / deviation_now.clamp_min(TINY))
    return torch.add(mean, image_zyx, alpha=factor, out=image_zyx)


def gamma_inverted(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """The same on the negative."""
    return gamma(image_zyx.neg_(), numbers, seed).neg_()


def blur(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """Gaussian, one deviation an axis."""
    for axis, sigma in enumerate(numbers):
        size = image_zyx.shape[axis]
        if size == 1:
            continue
        taps = gaussian(sigma)
        if size > MATRIX_EDGE:
            image_zyx = _shifted_sums(image_zyx, axis, taps)
        else:
            image_zyx = along(image_zyx, axis, torch.from_numpy(blur_matrix(size, taps)).to(image_zyx.device))
    return image_zyx


def low_resolution(image_zyx: Tensor, numbers: tuple[float, ...], seed: int) -> Tensor:
    """As if scanned coarser: nearest down, linear up, axis by axis."""
    if max(image_zyx.shape) > MATRIX_EDGE:
        mode, maps = ("bilinear", image_zyx) if image_zyx.shape[0] == 1 else ("trilinear", image_zyx[None])
        axes = maps.ndim - 1
        small = [max(1, round(size * factor)) for size, factor in zip(image_zyx.shape, numbers, strict=True)][-axes:]
        down = functional.interpolate(maps[None], small, mode="nearest-exact")
        return functional.interpolate(down, maps.shape[1:], mode=mode)[0].view(image_zyx.shape)
    for axis, factor in enumerate(numbers):
        size = image_zyx.shape[axis]
        coarse = max(1, round(size * factor))
        if coarse != size:
            image_zyx = along(image_zyx, axis, torch.from_numpy(coarse_matrix(size, coarse)).to(image_zyx.device))
    return image_zyx


EFFECTS: dict[EffectKind, Callable[[Tensor, tuple[float, ...], int], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "contrast": contrast,
    "low_resolution": low_resolution,
    "gamma": gamma,
    "gamma_inverted": gamma_inverted,
}


def _centred(image_zyx: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the mean in place; the mean, and the deviation. Twenty times faster than torch's own deviation."""
    mean = image_zyx.mean()
    image_zyx.sub_(mean)
    flat = image_zyx.reshape(-1)
    return mean, (flat.dot(flat) / max(1, flat.numel() - 1)).sqrt()


def along(image_zyx: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """The product of a (out, in) matrix with one axis."""
    if axis == 2:
        return image_zyx @ matrix.T
    if axis == 1:
        return torch.matmul(matrix, image_zyx)
    return (matrix @ image_zyx.reshape(image_zyx.shape[0], -1)).view(matrix.shape[0], *image_zyx.shape[1:])


def gaussian(sigma: float) -> NDArray[np.float32]:
    """3 to 7 taps for sigmas of 0.5 to 1: the odd number nearest to six sigmas and a half."""
    wanted = 6 * sigma + 0.5
    taps = max(1, 2 * round((wanted - 1) / 2) + 1)
    weights = np.exp(-0.5 * ((np.arange(taps) - taps // 2) / sigma) ** 2)
    normed: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normed


def blur_matrix(size: int, taps: NDArray[np.float32]) -> NDArray[np.float32]:
    """(size, size): the taps around the diagonal, reflected at the ends."""
    matrix = np.zeros((size, size), np.float32)
    rows = np.arange(size)
    for index, weight in enumerate(taps):
        matrix[rows, mirrored(rows + (index - len(taps) // 2), size)] += weight  # each row once, so none is lost
    return matrix


def mirrored(rows: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Rows beyond either end, as the rows that they are mirror images of."""
    source = np.abs(rows)
    inside: NDArray[np.int64] = np.where(source >= size, 2 * (size - 1) - source, source).clip(0, size - 1)
    return inside


def coarse_matrix(size: int, coarse: int) -> NDArray[np.float32]:
    """(size, size): what `coarse_cells` says, as a product."""
    rows = np.arange(size)
    below, above, share = coarse_cells(size, coarse)
    matrix = np.zeros((size, size), np.float32)
    matrix[rows, below] = 1 - share
    matrix[rows, above] += share
    return matrix


def coarse_cells(size: int, coarse: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Nearest voxel of each coarse cell, linear between cells: the two voxels that each is mixed from, and the share of the second."""
    rows = np.arange(size)
    picked = np.minimum(((np.arange(coarse, dtype=np.float32) + 0.5) * np.float32(size / coarse)).astype(np.int64), size - 1)
    at = ((rows + 0.5) * (coarse / size) - 0.5).clip(0, coarse - 1)
    below = at.astype(np.int64)
    return picked[below], picked[np.minimum(below + 1, coarse - 1)], (at - below).astype(np.float32)


def _logarithm(values: Tensor) -> Tensor:
    """In place; numpy's loop is four times faster than torch's."""
    if values.device.type != "cpu":
        return values.log_()
    array = values.numpy()
    np.log(array, out=array)
    return values


def _shifted_sums(image_zyx: Tensor, axis: int, taps: NDArray[np.float32]) -> Tensor:
    """The flat list added to itself, shifted; what that gets wrong at both ends of the axis is done again."""
    half, size = len(taps) // 2, image_zyx.shape[axis]
    flat, stride = image_zyx.contiguous().view(-1), image_zyx.shape[axis + 1 :].numel()
    total = flat * float(taps[half])
    for offset in range(1, half + 1):
        shift, weight = offset * stride, float(taps[half + offset])
        total[shift:].add_(flat[:-shift], alpha=weight)
        total[:-shift].add_(flat[shift:], alpha=weight)
    result, rim = total.view(image_zyx.shape), 2 * half
    if half:
        ends = torch.from_numpy(blur_matrix(rim + half, taps)).to(image_zyx.device)
        result.narrow(axis, 0, half).copy_(along(image_zyx.narrow(axis, 0, rim), axis, ends[:half, :rim]))
        result.narrow(axis, size - half, half).copy_(along(image_zyx.narrow(axis, size - rim, rim), axis, ends[-half:, -rim:]))
    return result
