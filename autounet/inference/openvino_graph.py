"""A U-Net of ours as a graph of OpenVINO, layer by layer.

Built, not traced: nothing of the network runs, no file is written, and what the graph holds is seen here. A bias before an
instance norm is left out, because the norm takes the mean away again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from autounet.networks.blocks import SLOPE, ConvNormAct, InstanceNorm, ResidualBlock
from autounet.networks.unet import UNet

Span = tuple[float, float]  # the least and the most that a convolution is shown
STEPS = 256


def can_be_built(network: nn.Module) -> bool:
    """Whether this is a network that is built here: ours, in eval mode, with nothing exchanged."""
    return type(network) is UNet and "forward" not in vars(network) and not network.training


def graph_of(openvino: Any, network: UNet, shape: tuple[int, ...], ranges: Mapping[nn.Module, Span] | None = None) -> Any:
    """The graph for one tile (1, c, [z,] y, x). The weights are shared with the network: it must outlive the compilation.

    Convolutions with a range are computed in 8 bits: their maps on one scale, their weights on one an output channel.
    """
    return _Builder(openvino, ranges or {}).built(network, shape)


class _Builder:
    def __init__(self, openvino: Any, ranges: Mapping[nn.Module, Span]) -> None:
        self._model = openvino.Model
        self._op = openvino.opset13  # of 2023.2; every operation here is older
        self._ranges = ranges

    def built(self, network: UNet, shape: tuple[int, ...]) -> Any:
        image = self._op.parameter(list(shape), np.float32)
        maps, kept = image, []
        if network.encoder.stem is not None:
            maps = self._layer(network.encoder.stem, maps)
        for stage in network.encoder.stages:
            maps = self._layer(stage, maps)
            kept.append(maps)
        decoder = network.decoder
        for index, (up, level) in enumerate(zip(decoder.up, decoder.levels, strict=True)):
            maps = self._layer(level, self._op.concat([self._layer(up, maps), kept[-2 - index]], 1))
        return self._model([self._op.result(self._layer(decoder.heads[-1], maps))], [image], "network")

    def _layer(self, layer: nn.Module, maps: Any) -> Any:
        if isinstance(layer, nn.Sequential):
            for one in layer:
                maps = self._layer(one, maps)
            return maps
        if isinstance(layer, nn.Identity):
            return maps
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            return self._convolution(layer, maps, layer.bias)
        if isinstance(layer, ConvNormAct):
            maps = self._norm(layer.norm, self._convolution(layer.conv, maps, None))
            return self._activation(maps) if layer.activate else maps
        if isinstance(layer, ResidualBlock):
            shortcut = self._layer(layer.project, self._layer(layer.pool, maps))
            return self._activation(self._op.add(self._layer(layer.conv2, self._layer(layer.conv1, maps)), shortcut))
        return self._resized(layer, maps)

    def _resized(self, layer: nn.Module, maps: Any) -> Any:
        if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            larger = self._op.convolution_backprop_data(maps, self._constant(layer.weight), list(layer.stride))
            return larger if layer.bias is None else self._op.add(larger, self._a_channel(layer.bias, layer.weight.ndim))
        if isinstance(layer, nn.AvgPool2d | nn.AvgPool3d):
            steps, edges = _numbers(layer.stride), _numbers(layer.kernel_size)
            return self._op.avg_pool(maps, steps, [0] * len(steps), [0] * len(steps), edges, exclude_pad=True)
        raise TypeError(f"no graph of {type(layer).__name__} is known")

    def _convolution(self, layer: nn.Module, maps: Any, bias: Tensor | None) -> Any:
        assert isinstance(layer, nn.Conv2d | nn.Conv3d)
        assert not isinstance(layer.padding, str), "only padding in voxels is built"
        assert layer.groups == 1, "no network of ours has groups"
        around, weight = list(layer.padding), self._constant(layer.weight)
        if layer in self._ranges:
            maps, weight = self._in_steps(maps, *self._ranges[layer], layer.weight.ndim), self._weight_in_steps(layer.weight, weight)
        made = self._op.convolution(maps, weight, list(layer.stride), around, around, list(layer.dilation))
        return made if bias is None else self._op.add(made, self._a_channel(bias, layer.weight.ndim))

    def _in_steps(self, maps: Any, low: float, high: float, rank: int) -> Any:
        """256 steps from low to high, one of which is zero: a border of zeros stays what it is."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max(high - low, 1e-6) / (STEPS - 1)
        below = round(-low / step)
        ends = [self._op.constant(np.full((1,) * rank, n * step, np.float32)) for n in (-below, STEPS - 1 - below)]
        return self._op.fake_quantize(maps, *ends, *ends, STEPS)

    def _weight_in_steps(self, weight: Tensor, constant: Any) -> Any:
        largest = weight.detach().abs().flatten(1).amax(1).clamp(min=1e-12).reshape(-1, *(1,) * (weight.ndim - 1))
        ends = [self._constant(largest * sign) for sign in (-1, 1)]
        return self._op.fake_quantize(constant, *ends, *ends, STEPS - 1)

    def _norm(self, norm: InstanceNorm, maps: Any) -> Any:
        rank = len(maps.get_output_partial_shape(0))
        axes = self._op.constant(np.arange(2, rank, dtype=np.int64))
        even = self._op.mvn(maps, axes, True, norm.epsilon, "inside_sqrt")
        return self._op.add(self._op.multiply(even, self._a_channel(norm.weight, rank)), self._a_channel(norm.bias, rank))

    def _activation(self, maps: Any) -> Any:
        return self._op.prelu(maps, self._op.constant(np.array([SLOPE], np.float32)))

    def _a_channel(self, values: Tensor, rank: int) -> Any:
        return self._constant(values.reshape(1, -1, *(1,) * (rank - 2)))

    def _constant(self, values: Tensor) -> Any:
        return self._op.constant(np.ascontiguousarray(values.detach().float().numpy()), shared_memory=True)


def _numbers(size: Any) -> list[int]:
    return list(size)
