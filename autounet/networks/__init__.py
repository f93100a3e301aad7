"""Networks: one function an architecture, and the table of their names."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from planners.plan import Architecture

if TYPE_CHECKING:
    from autounet.networks.unet import UNet


def build(architecture: Architecture, channels_in: int, heads: int) -> "UNet":
    """The plan's network with fresh weights."""
    from autounet.networks import unet
    from autounet.networks.blocks import initialise

    kinds: dict[str, Callable[[Architecture, int, int], UNet]] = {"plain": unet.plain, "residual": unet.residual}
    network = kinds[architecture.kind](architecture, channels_in, heads)
    if not next(network.parameters()).is_meta:  # drawing numbers that are nowhere would import torch's compiler, which wants a home
        initialise(network)
    return network
