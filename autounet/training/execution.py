"""Where and how a network runs: device, precision, memory layout; and whether the fast way agrees with the plain one."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod

import torch
from torch import Tensor, nn

from autounet.machine import hardware
from autounet.networks.blocks import ConvNormAct, InstanceNorm, finished
from planners.hardware import Precision

TYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LONG_STEPS = 20_000  # a compiler's minutes are then a hundredth of the training
AGREEMENT = 0.95  # least correlation of the gradients of the fast way with those of the plain one


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How one training is run on its device."""

    device: torch.device
    precision: Precision = "float32"
    channels_last: bool = False
    compiled: bool = False  # norm and activation as one pass, made by torch's compiler

    def placed(self, network: nn.Module) -> nn.Module:
        """The network on the device in the layout."""
        network = network.to(self.device)
        if self.channels_last:
            for module in network.modules():
                weight = getattr(module, "weight", None)
                if isinstance(weight, nn.Parameter) and weight.ndim in (4, 5):
                    weight.data = weight.data.contiguous(memory_format=_layout(weight.ndim))
        if self.compiled:
            one_pass = Compiled(torch.compile(finished, dynamic=True))
            for module in network.modules():
                if isinstance(module, ConvNormAct):
                    module.finish = one_pass
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
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{self.device}, {self.precision}, {layout}{', compiled' if self.compiled else ''}"


class Compiled:
    """A pass that the compiler makes when it is first called; should it fail at some shape, the plain one from then on."""

    def __init__(self, fast: Callable[[Tensor, InstanceNorm, bool], Tensor]) -> None:
        self.fast, self.broken = fast, ""

    def __call__(self, maps: Tensor, norm: InstanceNorm, activate: bool) -> Tensor:
        """As `finished`."""
        from torch._dynamo.exc import TorchDynamoException

        if self.broken:
            return finished(maps, norm, activate)
        try:
            return self.fast(maps, norm, activate)
        except TorchDynamoException as error:
            self.broken = str(error) or type(error).__name__
            warnings.warn("torch's compiler failed; norm and activation stay two passes", stacklevel=2)
            return finished(maps, norm, activate)


def execution(device: str, wanted: Precision) -> Execution:
    """The way that is the fastest as far as one knows without trying."""
    return ways(device, wanted)[0]


def ways(device: str, wanted: Precision, steps: float = 0) -> tuple[Execution, ...]:
    """Those that may be the fastest on such a device, the likeliest first, at the precision the plan asks for if the device has it.

    bfloat16 takes 0.4 of the time of float32 on AVX-512 cores, and channels-last a seventh off that. On CUDA the layout pays
    where the norm keeps it, which depends on the card. A training of many `steps` there may have its norms compiled, where
    there is what the compiler needs; a short one would be over first.
    """
    where = _device(device)
    precisions = hardware(device).precisions
    precision: Precision = wanted if wanted in precisions else "bfloat16" if "bfloat16" in precisions and wanted == "float16" else "float32"
    contiguous = Execution(device=where, precision=precision)
    last = replace(contiguous, channels_last=True)
    if where.type == "cpu":
        return (last,)
    if where.type != "cuda":
        return (contiguous,)
    compiled = steps >= LONG_STEPS and find_spec("triton") is not None
    return (contiguous, last, *([replace(last, compiled=True)] if compiled else []))


def plain(fast: Execution) -> Execution:
    """The way that every device is sure to get right."""
    return replace(fast, precision="float32", channels_last=False, compiled=False)


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
