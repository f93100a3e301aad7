"""Batches ahead of time, made by threads or processes; which of them made what changes no number."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import torch

from autounet.augment.upload import pinned
from autounet.training.sample import Batch, Sample, Source, collate

CPU = torch.device("cpu")
AHEAD = 2  # batches in the making beyond the one in work
LITTLE = 0.05  # of the time: not worth a word of advice


@dataclass(frozen=True, slots=True)
class Making:
    """How a batch comes about: what threads do for each (step, position), and what becomes of these where the network trains."""

    sample: Callable[[int, int], Any]
    together: Callable[[list[Any]], Batch]
    ahead: bool = False  # whether the second is done by the threads, too, before anybody asks

    @staticmethod
    def whole(source: Source, sample: Callable[[int, int], Sample] | None = None, device: torch.device = CPU) -> "Making":
        """Samples are finished by the source, or by who makes the same ones, and laid beside each other for the device."""
        return Making(sample or source.sample, partial(_laid, source.recipe.configuration.dimensions == 2, device), ahead=True)


def _laid(flat: bool, device: torch.device, samples: list[Sample]) -> Batch:
    batch = collate(samples, flat)
    if device.type == CPU.type:
        return batch
    # A copy from other memory would keep both the device and this program waiting.
    return replace(batch, image=pinned(batch.image, device), targets=batch.targets.each(lambda maps: pinned(maps, device)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who makes the samples. The batches are the same, whoever it is."""

    count: int | None = None  # None: as many as suit the device
    processes: bool = False  # else threads


THREADS = Workers()


@dataclass(frozen=True, slots=True)
class _Ordered:
    """A batch in the making."""

    samples: list[Future[Any]]
    batch: Future[Batch] | None  # None: it is put together by who takes it

    def result(self) -> Any:
        """The batch, or its samples; an error of a sample is raised as it is."""
        return _results(self.samples) if self.batch is None else self.batch.result()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        for future in self.samples:
            future.cancel()


def _results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result() for future in futures]


def _after_all(futures: list[Future[Any]], together: Callable[[list[Any]], Batch]) -> Future[Batch]:
    """What is made of the results, by the thread that finishes the last of them: a thread of its own would wait for the others."""
    made: Future[Batch] = Future()
    left, lock = len(futures), threading.Lock()

    def one_less(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        try:
            if any(future.cancelled() for future in futures):
                made.cancel()
            else:
                made.set_result(together(_results(futures)))
        except BaseException as error:
            made.set_exception(error)
        finally:
            futures.clear()  # they hold this function, and it them: samples would stay until somebody looks for circles

    for future in futures:
        future.add_done_callback(one_less)
    return made


class Loader:
    """Iterate over `batches`; `waited_seconds` is how long the device had nothing to do."""

    def __init__(self, source: Source, workers: int, positions: tuple[int, ...], making: Making | None = None) -> None:
        self.source, self.workers, self.positions = source, workers, positions
        self._making = making or Making.whole(source)
        self.waited_seconds = 0.0
        # Enough samples for every worker to have one in the making while a batch is waited for.
        self.ahead = max(AHEAD, 1 - (-workers // len(positions))) if workers else 1
        # Even without workers samples are made on a thread of their own: one torch thread there, so that
        # sums are added up in the same order as with any other number of workers.
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(max(1, workers), "loader", initializer=torch.set_num_threads, initargs=(1,))

    def batches(self, start: int) -> Generator[Batch, None, None]:
        """The batches of the steps from `start` on, without end."""
        waiting: deque[_Ordered] = deque()
        step = start
        try:
            while True:
                while len(waiting) < self.ahead:
                    waiting.append(self._ordered(step))
                    step += 1
                began = time.perf_counter()
                made = waiting.popleft().result()
                torch.set_num_threads(self._threads)  # the pool's threads set the default of threads to come
                if self.workers:
                    while len(waiting) < self.ahead:
                        waiting.append(self._ordered(step))
                        step += 1
                self.waited_seconds += time.perf_counter() - began
                yield made if self._making.ahead else self._making.together(made)
        finally:
            for ordered in waiting:
                ordered.cancel()

    def _ordered(self, step: int) -> _Ordered:
        samples = [self._pool.submit(self._making.sample, step, position) for position in self.positions]
        return _Ordered(samples, _after_all(samples, self._making.together) if self._making.ahead else None)

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
