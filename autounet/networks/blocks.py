"""The pieces every network is made of: convolution, instance norm and LeakyReLU as one block."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.01  # of LeakyReLU below zero; the initialisation counts on it
CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONVOLUTION: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE: dict[int, type[nn.AvgPool2d] | type[nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


FRAGILE_EDGE = 2  # voxels


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
            return functional.group_norm(maps, maps.shape[1], self.weight.to(maps.dtype), self.bias.to(maps.dtype), self.epsilon)


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

    def forward(self, maps: Tensor) -> Tensor:
        """(b, c, ...) to (b, channels_out, ... / stride)."""
        maps = self.norm(convolved(self.conv, maps))
        return functional.leaky_relu_(maps, SLOPE) if self.activate else maps


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
