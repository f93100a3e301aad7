"""What the processor decided, on its way to the device: nobody waits for it to arrive."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uploaded(values: Tensor | NDArray[np.generic], device: torch.device) -> Tensor:
    """The same on the device. From memory that CUDA can read by itself, or the copy would wait for all work before it."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if tensor.device.type == device.type:
        return tensor
    # Elsewhere a copy that nobody waits for may read memory that was given back meanwhile.
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """In memory that the device can read by itself, where there is a difference."""
    return values.pin_memory() if device.type == "cuda" else values
