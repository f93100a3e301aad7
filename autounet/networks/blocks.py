"""The pieces every network is made of: convolution, instance norm and LeakyReLU as one block."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.01  # of LeakyReLU below zero; the initialisation counts on it
CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONVOLUTION: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE: dict[int, type[nn.AvgPool2d] | type[nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


FRAGILE_EDGE = 2  # voxels
LARGE_MAP = 1024  # voxels; where torch's group norm is fast with channels last, on a processor
KEEPS_LAYOUT = ("cpu", "cuda")  # devices whose batch norm takes channels last as they are; group norm would turn every map round
LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def convolved(convolution: nn.Module, maps: Tensor) -> Tensor:
    """The convolution of maps; of very small ones in float32 on a processor.

    oneDNN's bfloat16 gradient of the weights reads memory that is not its own where a kernel of 3 meets an edge
    of 2, and a stride of 2 an edge of 1 (torch 2.13, AVX-512): wrong numbers, or a crash. The maps are tiny there.
    """
    if maps.device.type == "cpu" and min(maps.shape[2:]) <= FRAGILE_EDGE and torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):
            return convolution(maps.float())  # type: ignore[no-any-return]
    return convolution(maps)  # type: ignore[no-any-return]


class InstanceNorm(nn.Module):
    """Each channel of each sample to mean 0 and deviation 1, then scaled and shifted.

    A group norm with one channel a group is the same thing, and torch computes it five to ten times
    faster on CPUs than its instance norm: in channels-last too, and in bfloat16 with float32 sums.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = 1e-5

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (b, c, ...)."""
        with torch.autocast(maps.device.type, enabled=False):
            if torch.is_grad_enabled() and not maps.is_contiguous() and channels_last(maps) and _keeps_layout(maps):
                return _ChannelsLastNorm.apply(maps, self.weight, self.bias, self.epsilon)  # type: ignore[no-any-return, no-untyped-call]
            return functional.group_norm(maps, maps.shape[1], self.weight.to(maps.dtype), self.bias.to(maps.dtype), self.epsilon)


def _keeps_layout(maps: Tensor) -> bool:
    # A compiler makes one pass of a group norm and what follows; it could not of the batch norms.
    return maps.device.type in KEEPS_LAYOUT and not torch.compiler.is_compiling()


class _ChannelsLastNorm(torch.autograd.Function):
    """The same for maps whose channels lie beside each other.

    On a processor torch's group norm is as fast as ever forward, but several times slower backward, and forward too where
    maps are small; on CUDA it copies the maps to the other layout and back. A sample's instance norm is the batch norm of a
    batch of one, and that is fast in this layout.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        batch, channels = maps.shape[:2]
        voxels = maps[0, 0].numel()
        if voxels >= LARGE_MAP and maps.device.type == "cpu":
            scale, shift = weight.to(maps.dtype), bias.to(maps.dtype)
            result, mean, deviation = torch.native_group_norm(maps, scale, shift, batch, channels, voxels, channels, epsilon)
            mean, deviation = mean.to(weight.dtype), deviation.to(weight.dtype)
        else:
            result, mean, deviation = torch.empty_like(maps), weight.new_empty(batch, channels), weight.new_empty(batch, channels)
            for index in range(batch):
                one = torch.native_batch_norm(maps[index : index + 1], weight, bias, None, None, True, 0.0, epsilon)
                result[index], mean[index], deviation[index] = one[0][0], one[1], one[2]
        ctx.save_for_backward(maps, weight, mean, deviation)
        ctx.epsilon = epsilon
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, deviation = ctx.saved_tensors
        above = gradients[0].contiguous(memory_format=LAYOUT[maps.ndim])
        result, scale, shift = torch.empty_like(maps), torch.zeros_like(weight), torch.zeros_like(weight)
        for index in range(maps.shape[0]):
            here, known = slice(index, index + 1), (weight, None, None, mean[index], deviation[index], True, ctx.epsilon)
            one = torch.ops.aten.native_batch_norm_backward(above[here], maps[here], *known, [True, True, True])
            result[here] = one[0]
            scale += one[1]
            shift += one[2]
        return result, scale, shift, None


def enlarged(convolution: nn.Module, maps: Tensor) -> Tensor:
    """The transposed convolution of maps whose stride is its kernel.

    Each voxel then makes a block of its own: a product of matrices, as which its gradients take a third of the time that
    torch's take on a processor.
    """
    if maps.device.type != "cpu" or not torch.is_grad_enabled() or min(maps.shape[2:]) <= FRAGILE_EDGE or not channels_last(maps):
        return convolved(convolution, maps)
    with torch.autocast("cpu", enabled=False):
        assert isinstance(convolution, nn.ConvTranspose2d | nn.ConvTranspose3d)
        assert convolution.bias is not None
        return _Enlarged.apply(maps, convolution.weight.to(maps.dtype), convolution.bias.to(maps.dtype))  # type: ignore[no-any-return, no-untyped-call]


class _Enlarged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        enlarge = functional.conv_transpose2d if maps.ndim == 4 else functional.conv_transpose3d
        return enlarge(maps, weight, bias, stride=weight.shape[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps, weight = ctx.saved_tensors
        (batch, channels_in, *edges), (channels_out, *kernel) = maps.shape, weight.shape[1:]
        above = gradients[0].movedim(1, -1)
        # Every edge as voxels times places in a voxel's block; then the voxels, their places and the channels in rows.
        split = above.reshape(batch, *(n for pair in zip(edges, kernel, strict=True) for n in pair), channels_out)
        voxel_axes, place_axes = range(1, split.ndim - 1, 2), range(2, split.ndim - 1, 2)
        rows = split.permute(0, *voxel_axes, *place_axes, split.ndim - 1).reshape(-1, prod(kernel) * channels_out)
        inner = maps.movedim(1, -1).reshape(-1, channels_in)
        flat = weight.movedim(1, -1).reshape(channels_in, -1)
        below = (rows @ flat.t()).view(batch, *edges, channels_in).movedim(-1, 1)
        own = (inner.t() @ rows).view(channels_in, *kernel, channels_out).movedim(-1, 1)
        return below, own, above.flatten(0, -2).sum(0)


def channels_last(maps: Tensor) -> bool:
    """Whether the channels of a voxel lie beside each other."""
    return maps.is_contiguous(memory_format=LAYOUT[maps.ndim])


class ConvNormAct(nn.Module):
    """Convolution, instance norm and, unless told otherwise, LeakyReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool = True, activate: bool = True
    ) -> None:
        super().__init__()
        padding = tuple((k - 1) // 2 for k in kernel)
        self.conv = CONVOLUTION[len(kernel)](channels_in, channels_out, tuple(kernel), tuple(stride), padding, bias=bias)  # type: ignore[arg-type]
        self.norm = InstanceNorm(channels_out)
        self.activate = activate
        self.finish: Callable[[Tensor, InstanceNorm, bool], Tensor] = finished

    def forward(self, maps: Tensor) -> Tensor:
        """(b, c, ...) to (b, channels_out, ... / stride)."""
        return self.finish(convolved(self.conv, maps), self.norm, self.activate)


def finished(maps: Tensor, norm: InstanceNorm, activate: bool) -> Tensor:
    """What follows a convolution: one pass over the maps, where a compiler makes one of it."""
    maps = norm(maps)
    return functional.leaky_relu_(maps, SLOPE) if activate else maps


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; a stride or a new width reaches the shortcut as mean and 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        dimensions = len(kernel)
        ones = (1,) * dimensions
        self.conv1 = ConvNormAct(channels_in, channels_out, kernel, stride)
        self.conv2 = ConvNormAct(channels_out, channels_out, kernel, ones, activate=False)
        self.pool = AVERAGE[dimensions](tuple(stride), tuple(stride)) if any(s != 1 for s in stride) else nn.Identity()  # type: ignore[arg-type]
        self.project: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.project = ConvNormAct(channels_in, channels_out, ones, ones, bias=False, activate=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, c, ...) to (b, channels_out, ... / stride)."""
        shortcut = self.project(self.pool(maps))
        return functional.leaky_relu_(self.conv2(self.conv1(maps)) + shortcut, SLOPE)


def initialise(network: nn.Module) -> None:
    """He-normal weights and zero biases; a residual block begins as its shortcut."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
            nn.init.zeros_(module.conv2.norm.bias)
