"""Where and how a network runs: device, precision, memory layout; and whether the fast way agrees with the plain one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from autounet.machine import hardware
from planners.hardware import Precision

TYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AGREEMENT = 0.95  # least correlation of the gradients of the fast way with those of the plain one


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How one training is run on its device."""

    device: torch.device
    precision: Precision = "float32"
    channels_last: bool = False

    def placed(self, network: nn.Module) -> nn.Module:
        """The network on the device in the layout."""
        network = network.to(self.device)
        if self.channels_last:
            for module in network.modules():
                weight = getattr(module, "weight", None)
                if isinstance(weight, nn.Parameter) and weight.ndim in (4, 5):
                    weight.data = weight.data.contiguous(memory_format=_layout(weight.ndim))
        return network

    def image(self, image: Tensor) -> Tensor:
        """A batch on the device in the layout."""
        image = image.to(self.device, non_blocking=True)
        return laid_out(image) if self.channels_last else image

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Convolutions in the chosen precision."""
        if self.precision == "float32":
            yield
            return
        with torch.autocast(self.device.type, TYPES[self.precision]):
            yield

    def __str__(self) -> str:
        return f"{self.device}, {self.precision}, {'channels last' if self.channels_last else 'contiguous'}"


def execution(device: str, wanted: Precision) -> Execution:
    """The fastest way that was measured for such a device, at the precision the plan asks for if the device has it.

    bfloat16 takes 0.4 of the time of float32 on AVX-512 cores, and channels-last a seventh off that.
    """
    where = _device(device)
    precisions = hardware(device).precisions
    precision: Precision = wanted if wanted in precisions else "bfloat16" if "bfloat16" in precisions and wanted == "float16" else "float32"
    return Execution(device=where, precision=precision, channels_last=where.type in ("cuda", "cpu"))


def plain(fast: Execution) -> Execution:
    """The way that every device is sure to get right."""
    return replace(fast, precision="float32", channels_last=False)


def agreement(first: list[Tensor], second: list[Tensor]) -> float:
    """Cosine between two sets of gradients, over all their numbers."""
    dot = sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
    lengths = [sum(float(g.double().square().sum()) for g in grads) ** 0.5 for grads in (first, second)]
    return dot / (lengths[0] * lengths[1]) if min(lengths) > 0 else 0.0


def laid_out(image: Tensor) -> Tensor:
    """Channels last. A single channel is so in both layouts; only its strides tell a convolution which one is meant."""
    image = image.contiguous(memory_format=_layout(image.ndim))
    if image.shape[1] > 1:
        return image
    batch, _, *edges = image.shape
    strides = [prod(edges[axis + 1 :]) for axis in range(len(edges))]
    return image.as_strided((batch, 1, *edges), (prod(edges), 1, *strides))


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def _layout(dimensions: int) -> torch.memory_format:
    return torch.channels_last if dimensions == 4 else torch.channels_last_3d
