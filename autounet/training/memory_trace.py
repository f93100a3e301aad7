"""The memory of a training step, counted by running it on tensors that have shapes and no numbers.

The network, the loss and the optimiser are the real ones; a step on a machine with an accelerator differs by the
workspaces of its kernels and its context, which a probe measures.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autounet.losses.level import Targets
from autounet.losses.segmentation import SegmentationLoss
from autounet.networks import build
from autounet.training.execution import Execution
from autounet.training.learner import make_learner
from planners.labels import Labels
from planners.plan import Configuration


@dataclass(frozen=True, slots=True)
class Traced:
    """Peaks in bytes."""

    training_bytes: int
    inference_bytes: int


def trace(configuration: Configuration, channels: int, labels: Labels) -> Traced:
    """One micro-batch forward and back, one update; and one tile of prediction."""
    return Traced(_training(configuration, channels, labels), _inference(configuration, channels, labels))


class Counter(TorchDispatchMode):
    """Adds up the storages that are alive; what an operation returns is counted until its last reader is gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        if func is torch.ops.aten.bincount.default:  # its length depends on numbers, which there are none of
            result = args[0].new_zeros(kwargs.get("minlength", 0) if kwargs else args[2])
        else:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive and self._alive[key]() is storage:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._alive[key] = weakref.ref(storage, self._gone(key, size))

    def _gone(self, key: int, size: int) -> Callable[[Any], None]:
        def forget(reference: Any) -> None:
            self.now -= size
            if self._alive.get(key) is reference:
                del self._alive[key]

        return forget


class _InPlace(Execution):
    def placed(self, network: nn.Module) -> nn.Module:
        return network  # tensors without numbers cannot be moved, and their layout takes no memory


def _training(configuration: Configuration, channels: int, labels: Labels) -> int:
    schedule = configuration.schedule
    way = _InPlace(device=torch.device("cpu"), precision=schedule.precision, channels_last=True)
    micro = configuration.batch_size // configuration.accumulate
    with FakeTensorMode(), Counter() as counter:
        network = build(configuration.architecture, channels, labels.heads)
        learner = make_learner(network, SegmentationLoss(loss=configuration.loss, labels=labels), way, schedule)
        learner.network.train()
        for _ in range(2):  # the optimiser's memory appears in the first step
            learner.optimiser.zero_grad(set_to_none=configuration.accumulate == 1)
            image, targets = _batch(configuration, channels, micro)
            with way.autocast():
                logits = learner.network(way.image(image))
            learner.loss(logits, targets).total.backward()
            nn.utils.clip_grad_norm_(learner.network.parameters(), schedule.clip_norm)
            del logits
            learner.optimiser.step()
    return int(counter.peak)


def _inference(configuration: Configuration, channels: int, labels: Labels) -> int:
    way = _InPlace(device=torch.device("cpu"), precision=configuration.inference.precision, channels_last=True)
    with FakeTensorMode(), Counter() as counter, torch.inference_mode():
        network = build(configuration.architecture, channels, labels.heads).eval()
        image, _ = _batch(configuration, channels, 1)
        with way.autocast():
            votes = network(way.image(image)).float()
        del votes
    return int(counter.peak)


def _batch(configuration: Configuration, channels: int, micro: int) -> tuple[torch.Tensor, Targets]:
    edges = configuration.patch_zyx[3 - configuration.dimensions :]
    return torch.zeros((micro, channels, *edges)), Targets(classes=torch.zeros((micro, *edges), dtype=torch.int16))
