"""Batches ahead of time, made by threads or processes; which of them made what changes no number."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import torch

from autounet.training.sample import Batch, Sample, Source, collate

AHEAD = 2  # batches in the making beyond the one in work
LITTLE = 0.05  # of the time: not worth a word of advice


Make = Callable[[int, int], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who makes the samples. The batches are the same, whoever it is."""

    count: int | None = None  # None: as many as suit the device
    processes: bool = False  # else threads


THREADS = Workers()


class Loader:
    """Iterate over `batches`; `waited_seconds` is how long the device had nothing to do."""

    def __init__(self, source: Source, workers: int, positions: tuple[int, ...], make: Make | None = None) -> None:
        self.source, self.workers, self.positions = source, workers, positions
        self._make = make or source.sample  # where processes make the samples, a thread waits for each
        self.waited_seconds = 0.0
        # Even without workers samples are made on a thread of their own: one torch thread there, so that
        # sums are added up in the same order as with any other number of workers.
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(max(1, workers), "loader", initializer=torch.set_num_threads, initargs=(1,))

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches of the steps from `start` on, without end."""
        waiting: deque[list[Future[Sample]]] = deque()
        step, flat = start, self.source.recipe.configuration.dimensions == 2
        # Enough samples for every worker to have one in the making while a batch is waited for.
        ahead = max(AHEAD, 1 - (-self.workers // len(self.positions))) if self.workers else 1
        try:
            while True:
                while len(waiting) < ahead:
                    waiting.append(self._submitted(step))
                    step += 1
                began = time.perf_counter()
                samples = [future.result() for future in waiting.popleft()]
                torch.set_num_threads(self._threads)  # the pool's threads set the default of threads to come
                if self.workers:
                    while len(waiting) < ahead:
                        waiting.append(self._submitted(step))
                        step += 1
                self.waited_seconds += time.perf_counter() - began
                yield collate(samples, flat)
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()

    def _submitted(self, step: int) -> list[Future[Sample]]:
        return [self._pool.submit(self._make, step, position) for position in self.positions]

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)


def waiting_in_words(share: float, workers: int, processes: bool, cores: int) -> str:
    """How long the device had no batch, and what to change if that was long."""
    said = f"waited for samples {share:.0%} of the time, made by {workers or 1} {'process' if processes else 'thread'}"
    said += ("es" if processes else "s") if workers > 1 else ""
    if share < LITTLE:
        return said
    if workers < cores:
        return f"{said}: give --workers {min(cores, max(2, 2 * workers))}"
    if not processes:
        return f"{said}: give --worker-processes, or more cores to each device"
    return f"{said}: the cores are too few for this device; take steps out of the plan's augmentation, or give it more cores"
