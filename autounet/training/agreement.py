"""Whether a fast way gives the gradients of the plain one on this machine: tried on a tiny network before a training begins."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite

import torch
from torch import Tensor

from autounet.networks import build
from autounet.training.execution import AGREEMENT, Execution, agreement, plain
from planners.plan import Architecture

FAINT = 1e-3  # of the largest gradient's length: a bias before a norm has none but rounding


def trusted(ways: Sequence[Execution], dimensions: int, say: Callable[[str], None]) -> tuple[Execution, ...]:
    """Those ways that agree with the plain one, which is left when none does; what was given up is said."""
    return tuple(way for way in ways if _agrees(way, dimensions, say)) or (plain(ways[0]),)


def _agrees(way: Execution, dimensions: int, say: Callable[[str], None]) -> bool:
    if way == plain(way):
        return True
    found = probed(way, dimensions)
    if isinstance(found, str):
        say(f"{way} cannot be used here ({found}); training goes another way")
        return False
    if found < AGREEMENT:
        say(f"{way} gives other gradients here than the plain way (agreement {found:.3f}); training goes another way")
    return found >= AGREEMENT


@lru_cache(maxsize=16)
def probed(way: Execution, dimensions: int) -> float | str:
    """The least agreement of any output or gradient with the plain way's; or in words why there is none. Asked once a process."""
    try:
        fast = _gradients(way, dimensions)
    except RuntimeError as error:  # kernels that this machine lacks, a compiler that is not there
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    slow = _gradients(plain(way), dimensions)
    longest = max(float(g.norm()) for g in slow[1:])
    pairs = [(fast[0], slow[0]), *((a, b) for a, b in zip(fast[1:], slow[1:], strict=True) if float(b.norm()) > FAINT * longest)]
    shares = [agreement([a], [b]) for a, b in pairs]
    lengths = [float(a.norm()) / float(b.norm()) for a, b in pairs]
    return min((share if isfinite(share) and 0.8 < length < 1.25 else 0.0) for share, length in zip(shares, lengths, strict=True))


def _gradients(how: Execution, dimensions: int) -> list[Tensor]:
    """The output of a small network, then the gradient of every weight; all of it follows from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = how.placed(build(_architecture(dimensions), 1, 2)).train()
        edges = (16,) * dimensions
        image, mark = torch.randn(2, 1, *edges), torch.randn(2, 2, *edges)
    with how.autocast():
        logits = network(how.image(image))
    (logits.float() * mark.to(how.device)).mean().backward()
    return [logits.detach().float().cpu(), *(p.grad.float().cpu() for p in network.parameters() if p.grad is not None)]


def _architecture(dimensions: int) -> Architecture:
    kernel, stride = ((3, 3, 3), (2, 2, 2)) if dimensions == 3 else ((1, 3, 3), (1, 2, 2))
    return Architecture(
        kind="plain",
        dimensions=3 if dimensions == 3 else 2,
        features=(16, 32, 32),
        strides_zyx=((1, 1, 1), stride, stride),
        kernels_zyx=(kernel,) * 3,
        encoder_blocks=(1, 1, 1),
        decoder_convolutions=(1, 1),
        deep_supervision=False,
    )
