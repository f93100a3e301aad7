"""Batches ahead of time, made by threads; which thread made what changes no number."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from autounet.training.sample import Batch, Sample, Source, collate

AHEAD = 2  # batches in the making beyond the one in work


class Loader:
    """Iterate over `batches`; `waited_seconds` is how long the device had nothing to do."""

    def __init__(self, source: Source, workers: int, positions: tuple[int, ...]) -> None:
        self.source, self.workers, self.positions = source, workers, positions
        self.waited_seconds = 0.0
        # Even without workers samples are made on a thread of their own: one torch thread there, so that
        # sums are added up in the same order as with any other number of workers.
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(max(1, workers), "loader", initializer=torch.set_num_threads, initargs=(1,))

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches of the steps from `start` on, without end."""
        waiting: deque[list[Future[Sample]]] = deque()
        step, flat = start, self.source.recipe.configuration.dimensions == 2
        ahead = AHEAD if self.workers else 1
        try:
            while True:
                while len(waiting) < ahead:
                    waiting.append([self._pool.submit(self.source.sample, step, position) for position in self.positions])
                    step += 1
                began = time.perf_counter()
                samples = [future.result() for future in waiting.popleft()]
                torch.set_num_threads(self._threads)  # the pool's threads set the default of threads to come
                if self.workers:
                    while len(waiting) < ahead:
                        waiting.append([self._pool.submit(self.source.sample, step, position) for position in self.positions])
                        step += 1
                self.waited_seconds += time.perf_counter() - began
                yield collate(samples, flat)
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
