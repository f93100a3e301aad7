"""Convolutions in 8 bits: which ones, and the ranges of what they are shown, from tiles of images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from torch import Tensor, nn

from autounet.networks.unet import UNet
from autounet.store.selection import LayerRange

LEAST_CHANNELS = 8  # the first layer sees the image itself, whose few channels are quick in any type
TAIL = 1e-5  # of the values, at either end; a few bright voxels would stretch the scale of all
SAMPLE = 2**20  # values of a tile's maps that are looked at


def layers_of(network: UNet) -> dict[str, nn.Module]:
    """The convolutions that are computed in 8 bits, by name."""
    return {name: layer for name, layer in network.named_modules() if _in_eight_bits(layer)}


@contextmanager
def watched(network: UNet) -> "Iterator[Watch]":
    """While a network looks at images, what its convolutions are shown is written down."""
    watch = Watch(network)
    hooks = [layer.register_forward_pre_hook(watch.hook(name)) for name, layer in layers_of(network).items()]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


class Watch(nn.Module):
    """A network that is run as it is, in plain torch; its own type keeps it from being run in a faster way."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network
        self._found: dict[str, LayerRange] = {}
        self._lock = Lock()

    def forward(self, image: Tensor) -> Tensor:
        """As the network."""
        return self.network(image)  # type: ignore[no-any-return]

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """To be called with what the layer of this name is shown."""

        def look(_: nn.Module, shown: tuple[Tensor, ...]) -> None:
            low, high = _ends(shown[0])
            with self._lock:
                before = self._found.get(name, LayerRange(layer=name, low=low, high=high))
                self._found[name] = LayerRange(layer=name, low=min(low, before.low), high=max(high, before.high))

        return look

    @property
    def ranges(self) -> tuple[LayerRange, ...]:
        """So far, by name."""
        return tuple(self._found[name] for name in sorted(self._found))


def spans_of(network: UNet, ranges: Sequence[LayerRange]) -> dict[nn.Module, tuple[float, float]]:
    """Ranges by layer; layers that are not named stay as they are."""
    known = {one.layer: (one.low, one.high) for one in ranges}
    return {layer: known[name] for name, layer in layers_of(network).items() if name in known}


def _ends(maps: Tensor) -> tuple[float, float]:
    values = maps.detach().flatten()
    values = values[:: max(1, len(values) // SAMPLE)].float().sort().values
    outside = int(TAIL * len(values))
    return float(values[outside]), float(values[len(values) - 1 - outside])


def _in_eight_bits(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.in_channels >= LEAST_CHANNELS and max(layer.kernel_size) > 1
