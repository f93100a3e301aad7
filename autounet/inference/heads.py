"""The last layer, done last: a 1×1 convolution commutes with blending and interpolation, so maps are accumulated instead of logits.

A network with 32 maps before 60 classes then needs half the accumulator, and never writes 60 logits a voxel of every tile.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autounet.inference.settings import InferenceSettings, Member
from autounet.networks.unet import UNet


@dataclass(frozen=True, slots=True)
class LateHead:
    """logits = weight @ maps + bias, where maps are those of all members, one after another."""

    weight: Tensor  # (k, maps)
    bias: Tensor  # (k)

    def logits(self, maps: Tensor) -> Tensor:
        """(maps, ...) to (k, ...), where the maps lie: the accumulator of a full device is the host's."""
        if maps.device != self.weight.device:
            return LateHead(self.weight.to(maps.device), self.bias.to(maps.device)).logits(maps)
        return torch.addmm(self.bias[:, None], self.weight, maps.flatten(1)).unflatten(1, maps.shape[1:])  # type: ignore[no-any-return]


def split_heads(networks: Sequence[nn.Module], heads: int) -> tuple[list[nn.Module], LateHead] | None:
    """The networks without their last layer, and that layer; None when nothing is gained or the network is another."""
    finals = [_final(network) for network in networks]
    if any(final is None for final in finals):
        return None
    convolutions = [final for final in finals if final is not None]
    if sum(one.in_channels for one in convolutions) >= heads:
        return None
    share = 1 / len(convolutions)
    weight = torch.cat([one.weight.detach().flatten(1).float() * share for one in convolutions], 1)
    bias = sum((_bias(one) * share for one in convolutions), torch.zeros(heads, device=weight.device))
    return [_without_final(network) for network in networks if isinstance(network, UNet)], LateHead(weight, bias)


def kept_maps(members: Sequence[Member], settings: InferenceSettings, heads: int) -> int:
    """How many maps a sweep accumulates: logits and the members' disagreement, or what comes before the last layer."""
    apart = settings.uncertainty and len(members) > 1
    finals = [_final(member.network) for member in members]
    wide = sum(final.in_channels for final in finals if final is not None)
    late = all(final is not None for final in finals) and wide < heads and not apart and not settings.skip_air
    return wide if late else heads + apart


def _final(network: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    if type(network) is not UNet or "forward" in vars(network) or not len(network.decoder.heads):
        return None
    final = network.decoder.heads[-1]
    if isinstance(final, nn.Conv2d | nn.Conv3d) and set(final.kernel_size) == {1} and final.groups == 1:
        return final
    return None


def _bias(final: nn.Conv2d | nn.Conv3d) -> Tensor:
    return torch.zeros(final.out_channels, device=final.weight.device) if final.bias is None else final.bias.detach().float()


def _without_final(network: UNet) -> nn.Module:
    """A twin that shares every weight and ends before the last layer; the network itself stays as it is."""
    twin, decoder = _twin(network), _twin(network.decoder)
    decoder.heads = nn.ModuleList([*network.decoder.heads[:-1], nn.Identity()])
    twin.decoder = decoder
    return twin


def _twin(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
