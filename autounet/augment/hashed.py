"""Random numbers without a generator: number i of a seed is a hash of both, on every device, in any order, for many seeds at once."""

from math import pi

import torch
from torch import Tensor

# Of SplitMix64: the odd step between two inputs, and two rounds of (shift, factor) and a last shift that mix all bits.
STEP = 0x9E3779B97F4A7C15
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST = 31
BITS = 24  # of a uniform number: as many as a float32 holds


def normal(seeds_r: Tensor, count: int) -> Tensor:
    """(seed, count) of the standard normal distribution, by Box and Muller: never beyond 5.8 deviations."""
    hashed = mixed(seeds_r[:, None] + torch.arange(1, count + 1, device=seeds_r.device) * _signed(STEP))
    length, angle = _uniform(hashed, 64 - BITS), _uniform(hashed, 64 - 2 * BITS)
    length.add_(2.0**-BITS).log_().mul_(-2).sqrt_()  # of (0, 1]: the logarithm of nothing is none
    return length.mul_(angle.mul_(2 * pi).cos_())


def mixed(words: Tensor) -> Tensor:
    """64-bit words, every bit of which depends on every bit they had; in place."""
    for shift, factor in ROUNDS:
        words.bitwise_xor_(_shifted(words, shift)).mul_(_signed(factor))
    return words.bitwise_xor_(_shifted(words, LAST))


def _uniform(words: Tensor, shift: int) -> Tensor:
    """[0, 1): some bits of each word."""
    return _shifted(words, shift).bitwise_and_((1 << BITS) - 1).float().mul_(2.0**-BITS)


def _shifted(words: Tensor, shift: int) -> Tensor:
    """To the right; zeros come in, where torch lets the sign come in."""
    return (words >> shift).bitwise_and_((1 << (64 - shift)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
