"""Several processes that together train as one: the same samples, sums over all of them, one mean gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from planners.plan import Configuration

PATIENCE = timedelta(seconds=300)  # a rank that is silent this long is dead; a checkpoint on a slow share takes a minute
LONG_PATIENCE = timedelta(hours=6)  # one rank may score a volume for hours that takes another minutes
Agree = Callable[[bool, float], tuple[bool, float]]
Add = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Rank:
    """Which process of how many."""

    number: int = 0
    count: int = 1


def positions(batch_size: int, rank: Rank) -> tuple[int, ...]:
    """The samples of each batch that are this rank's; together the ranks make what one process makes alone."""
    return tuple(range(batch_size * rank.number // rank.count, batch_size * (rank.number + 1) // rank.count))


def parts(configuration: Configuration, ranks: int) -> int:
    """The most micro-batches, up to the plan's, that the share of every rank can be cut into."""
    shares = [len(positions(configuration.batch_size, Rank(number, ranks))) for number in range(ranks)]
    return next(count for count in range(configuration.accumulate, 0, -1) if all(share % count == 0 for share in shares))


@contextmanager
def joined(store: str, rank: Rank, backend: str = "gloo") -> Iterator[None]:
    """Be one of the ranks that meet at `store` (tcp://host:port or file:///path) inside this block."""
    distributed.init_process_group(backend, init_method=store, rank=rank.number, world_size=rank.count, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def summed(value: Tensor) -> Tensor:
    """The sum over all ranks, with gradient: what a loss needs to be the loss of the whole batch."""
    result: Tensor = _Summed.apply(value)  # type: ignore[no-untyped-call]
    return result


def mean_gradients(network: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the ranks: one message for all of them."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def alone(stopping: bool, seconds: float) -> tuple[bool, float]:
    """What one process agrees on with itself."""
    return stopping, seconds


def agreed(stopping: bool, seconds: float) -> tuple[bool, float]:
    """Whether any rank was asked to stop, and the time by the clock of rank 0: all ranks do the same after each step."""
    # On the device of the gradients, because a backend for accelerators knows no other.
    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else torch.device("cpu")
    said = torch.tensor([float(stopping), seconds if distributed.get_rank() == 0 else 0.0], dtype=torch.float64, device=device)
    distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return bool(said[0] > 0), float(said[1])


@contextmanager
def adding(rank: Rank) -> Iterator[Add]:
    """Adds up whole numbers over all ranks, however long the last of them takes inside this block. All enter it at about the same time."""
    if rank.count == 1:
        yield lambda numbers: numbers
        return
    # Of the processors, whatever the network trains on: an accelerator that waits for hours is taken for dead.
    group = distributed.new_group(backend="gloo", timeout=LONG_PATIENCE)

    def add(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        total = torch.from_numpy(numbers.copy())
        distributed.all_reduce(total, group=group)
        summed_up: NDArray[np.int64] = total.numpy()
        return summed_up

    try:
        yield add
    finally:
        distributed.destroy_process_group(group)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank holds the same total, so its derivative after one rank's value is the sum of theirs;
        # the mean over ranks that follows makes of it the derivative of the one loss.
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total
