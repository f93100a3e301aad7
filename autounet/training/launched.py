"""Processes that were started to train a fold together: who we are, and what the first tells the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore

from autounet import stop
from autounet.training.distributed import PATIENCE, Rank

LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """This process among those that train together. Rank 0 alone decides and writes; the others ask it."""

    rank: Rank
    device: str
    store: Any = field(repr=False)  # torch's key-value store that all of them see

    @property
    def first(self) -> bool:
        """Whether it is this process that writes."""
        return self.rank.number == 0

    def agreed(self, question: str, answer: str = "") -> str:
        """The answer of rank 0, whoever asks; it may take it hours to find."""
        if self.first:
            self.store.set(question, answer or "-")
            return answer
        while not self.store.check([question]):
            stop.wait(LOOK_SECONDS)
            stop.check()
        told: str = self.store.get(question).decode()
        return "" if told == "-" else told

    @contextmanager
    def joined(self, what: str) -> Iterator[None]:
        """Be able to add up numbers over all ranks inside this block; each block has a name of its own."""
        backend = "nccl" if self.device.startswith("cuda") else "gloo"
        store = PrefixStore(what, self.store)
        distributed.init_process_group(backend, store=store, rank=self.rank.number, world_size=self.rank.count, timeout=PATIENCE)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def launched(device: str) -> Group | None:
    """The group that torchrun started this process in, if it did; torch itself reads what the launcher says."""
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        return None
    from torch.distributed.rendezvous import rendezvous

    store, number, count = next(rendezvous("env://"))
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{distributed.get_node_local_rank(number)}"
    return Group(rank=Rank(number, count), device=device, store=store)


def met(rank: Rank, folder: Path, device: str) -> Group:
    """The group of the processes of this machine that meet in a folder of their own."""
    return Group(rank=rank, device=device, store=FileStore(str(folder / "store"), rank.count))
