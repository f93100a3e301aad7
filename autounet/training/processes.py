"""Samples made by processes of our own: plain pipes, no shared memory; one that is killed is named and started once more."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autounet.data.prepared import PreparedCase
from autounet.store.files import make_folder, part_path, publish, remove_tree
from autounet.training.sample import Sample, SampleError, Source
from autounet.training.worker import HEADER, REQUEST, Task
from planners.strict_json import to_plain

PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from autounet.training.worker import main; main()"
LIVES = 2


class DeathError(Exception):
    """The process at the other end of the pipe is gone."""


@dataclass(slots=True, kw_only=True)
class _Worker:
    """One process; one thread at a time talks to it."""

    number: int
    words: bytes  # what it is told first
    say: Callable[[str], None]
    lives: int = LIVES
    process: "subprocess.Popen[bytes] | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        command = [sys.executable, "-c", PROGRAM, json.dumps(sys.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lives -= 1
        with suppress(BrokenPipeError):  # it is noticed when the first sample is asked for
            self._send(self.words)

    def sample(self, step: int, position: int) -> Sample:
        """Ask for it; should the process be killed, ask its successor."""
        while True:
            try:
                self._send(REQUEST.pack(step, position))
                return self._answer()
            except (DeathError, BrokenPipeError, ValueError) as error:  # ValueError: its pipe was closed when it died
                self._mourn(f"sample {position} of step {step}", error)

    def end(self) -> None:
        """It holds nothing that could be lost."""
        with self.lock:
            self.lives = 0
            if self.process is not None:
                self.process.kill()
                self.process.wait()
                self._close_pipes()

    def _close_pipes(self) -> None:
        assert self.process is not None
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _send(self, data: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def _answer(self) -> Sample:
        (length,) = HEADER.unpack(self._read(HEADER.size))
        head = json.loads(bytes(self._read(length)))
        if "error" in head:
            problem, fix, case = head["error"]
            raise SampleError(problem, fix, case) from RuntimeError(head["traceback"])
        arrays: dict[str, torch.Tensor] = {}
        for name, kind, shape in head["arrays"]:
            array = np.empty(shape, kind)
            self._fill(array.data.cast("B") if array.size else memoryview(b""))
            arrays[name] = torch.from_numpy(array)
        return Sample(
            image_czyx=arrays["image"],
            label_zyx=arrays["label"],
            annotated_k=arrays.get("annotated"),
            skeleton_zyx=arrays.get("skeleton"),
            border_zyx=arrays.get("border"),
            case=head["case"],
        )

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def _fill(self, view: memoryview) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        while view:
            got = self.process.stdout.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise DeathError
            view = view[got:]

    def _mourn(self, what: str, error: Exception) -> None:
        assert self.process is not None
        name = f"loader process {self.number} (pid {self.process.pid})"
        with self.lock:
            if self.process.poll() is None:
                self.process.kill()
            end = f"{name} {_ending(self.process.wait())} while it made {what}"
            self._close_pipes()
            if self.lives > 0:
                self.say(f"{end}; it is started once more")
                self.start()
                return
        fix = "type the same command again without --worker-processes, or with fewer --workers if memory was short (`dmesg` says so)"
        raise SampleError(f"{end}, for the second time", fix) from error


class Processes:
    """Makes samples in `count` processes. Any number of threads may ask; a free process answers."""

    def __init__(self, source: Source, count: int, say: Callable[[str], None], previous: Mapping[str, Path] | None = None) -> None:
        task = Task(
            parent=os.getpid(),
            recipe=source.recipe,
            backend=source.backend,
            cases=tuple((name, str(_folder(case))) for name, case in source.cases.items()),
            previous=None if previous is None else tuple((name, str(path)) for name, path in previous.items()),
        )
        words = json.dumps(to_plain(task)).encode() + b"\n"
        self.workers = [_Worker(number=number, words=words, say=say) for number in range(count)]
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self.workers:
            worker.start()
            self._free.put(worker)

    def sample(self, step: int, position: int) -> Sample:
        """The sample at that place of that step, as `Source.sample` makes it."""
        worker = self._free.get()
        try:
            return worker.sample(step, position)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End them all."""
        for worker in self.workers:
            worker.end()


@contextmanager
def processes(source: Source, count: int, folder: Path, say: Callable[[str], None]) -> Iterator[Processes]:
    """The processes, and what they need of the first stage of a cascade as files in `folder`, both gone afterwards."""
    place, previous = part_path(folder), None
    try:
        if source.previous is not None:
            make_folder(place, 0o700)
            previous = {name: _written(place / f"{index}.npy", labels) for index, (name, labels) in enumerate(source.previous.items())}
        made = Processes(source, count, say, previous)
        try:
            yield made
        finally:
            made.close()
    finally:
        remove_tree(place)


def _written(path: Path, labels: NDArray[Any]) -> Path:
    publish(path, lambda file: np.save(file, labels, allow_pickle=False))
    return path


def _folder(case: Any) -> Path:
    assert isinstance(case, PreparedCase), "what lies in this process's memory cannot be read by another"
    return case.folder


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
