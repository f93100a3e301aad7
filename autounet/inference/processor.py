"""Networks as a processor likes them: convolutions straight through oneDNN, and in bfloat16 where it multiplies that in hardware.

Torch itself sends a single image of few channels to a loop that takes several times as long, and autocast converts
every weight at every call.
"""

import copy

import torch
from torch import Tensor, nn

from autounet.networks.unet import UNet
from planners.hardware import Precision

WIDE = 16  # channels from which bfloat16 is faster with the channels last; float32 keeps its layout, norms are summed more exactly in it


class Convolution(nn.Module):
    """A convolution whose weights are there in the type and layout it is computed in."""

    def __init__(self, like: nn.Conv2d | nn.Conv3d, dtype: torch.dtype, layout: torch.memory_format) -> None:
        super().__init__()
        self.weight = like.weight.detach().to(dtype).contiguous(memory_format=layout)
        self.bias = None if like.bias is None else like.bias.detach().to(dtype)
        assert not isinstance(like.padding, str), "only padding in voxels is rebuilt"
        self.padding, self.stride, self.dilation, self.groups = like.padding, like.stride, like.dilation, like.groups

    def forward(self, maps: Tensor) -> Tensor:
        """As the convolution it stands for."""
        return torch.mkldnn_convolution(maps, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)


class Averages(nn.Module):
    """Means of neighbours, which torch computes in float32 alone where maps are volumes."""

    def __init__(self, like: nn.AvgPool3d) -> None:
        super().__init__()
        self.pool = like

    def forward(self, maps: Tensor) -> Tensor:
        """As the pooling it stands for, in the type it is given."""
        return self.pool(maps.float()).to(maps.dtype)  # type: ignore[no-any-return]


class OnProcessor(nn.Module):
    """A network that shares its parameters with another one and computes the same, in this type."""

    def __init__(self, network: UNet, dtype: torch.dtype) -> None:
        super().__init__()
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
        wide = dtype == torch.bfloat16 and first.out_channels >= WIDE
        last = torch.channels_last_3d if isinstance(first, nn.Conv3d) else torch.channels_last
        self.dtype, self.layout = dtype, last if wide else torch.contiguous_format
        self.network = _rebuilt(network, dtype, self.layout)

    def forward(self, image: Tensor) -> Tensor:
        """(b, c, [z,] y, x) to logits."""
        return self.network(image.to(self.dtype).contiguous(memory_format=self.layout))  # type: ignore[no-any-return]


def computed_in(precision: Precision) -> Precision:
    """What this processor computes in when that is asked for."""
    return "bfloat16" if precision == "bfloat16" and processor_has_bfloat16() else "float32"


def on_processor(network: nn.Module, precision: Precision) -> nn.Module:
    """The fastest twin of a network; itself, when it is of an unknown kind or oneDNN is not there."""
    if type(network) is not UNet or "forward" in vars(network) or network.training or not torch.backends.mkldnn.is_available():
        return network
    return OnProcessor(network, torch.bfloat16 if computed_in(precision) == "bfloat16" else torch.float32)


def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; without that it is slower than float32.

    A property of the machine and not a timing: a prediction that is typed again must give the same bytes.
    """
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(supported is not None and supported() for supported in asked)


def _rebuilt(module: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    if isinstance(module, nn.Conv2d | nn.Conv3d) and isinstance(module.padding, tuple):
        return Convolution(module, dtype, layout)
    if isinstance(module, nn.AvgPool3d):
        return Averages(module)
    twin = copy.copy(module)
    if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        moved = {name: None if p is None else p.detach().to(dtype) for name, p in module._parameters.items()}
        twin._parameters = {name: None if p is None else nn.Parameter(p, requires_grad=False) for name, p in moved.items()}
    twin._modules = {name: None if child is None else _rebuilt(child, dtype, layout) for name, child in module._modules.items()}
    return twin
