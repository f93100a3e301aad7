"""A process that makes samples: a task on standard input, then requests; samples go to what was standard output."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import numpy as np
import torch

from autounet import stop
from autounet.data.prepared import PreparedCase
from autounet.training.recipe import Recipe
from autounet.training.sample import Sample, Source
from planners.errors import UserError
from planners.strict_json import from_plain

REQUEST = Struct("<qq")  # step, position
HEADER = Struct("<q")  # bytes of the JSON that says what follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker is told once."""

    parent: int  # its pid
    recipe: Recipe
    cases: tuple[tuple[str, str], ...]  # name, folder in the cache
    backend: str = "native"
    previous: tuple[tuple[str, str], ...] | None = None  # of a cascade: name, file with the labels of the first stage


def main() -> None:
    """Answer requests until there are no more, or the parent is gone."""
    for number in stop.SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the parent decides, and closes the pipe
    with os.fdopen(os.dup(1), "wb") as answers, suppressed_output():
        requests = sys.stdin.buffer
        task = from_plain(Task, json.loads(requests.readline()), "the task")
        stop.die_with_parent(task.parent)
        torch.set_num_threads(1)  # as a thread of the loader: sums are added up in the same order
        source: Source | None = None
        try:
            while len(request := requests.read(REQUEST.size)) == REQUEST.size:
                try:
                    source = source or _source(task)
                    _send(answers, source.sample(*REQUEST.unpack(request)))
                except UserError as error:
                    _send_error(answers, error)
        except BrokenPipeError:
            os._exit(stop.EXIT_CODE)  # nobody listens; Python would complain of that, too


class suppressed_output:  # noqa: N801 - used like a function
    """What a library prints would be taken for a sample: it goes to standard error."""

    def __enter__(self) -> None:
        os.dup2(2, 1)

    def __exit__(self, *ignored: object) -> None:
        sys.stdout.flush()


def _source(task: Task) -> Source:
    previous: Mapping[str, np.ndarray] | None = None
    if task.previous is not None:
        previous = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in task.previous}
    cases = {name: PreparedCase(name, Path(folder)) for name, folder in task.cases}
    return Source(recipe=task.recipe, cases=cases, previous=previous, backend=task.backend)


def _send(answers: BinaryIO, sample: Sample) -> None:
    named = {
        "image": sample.image_czyx,
        "label": sample.label_zyx,
        "annotated": sample.annotated_k,
        "skeleton": sample.skeleton_zyx,
        "border": sample.border_zyx,
    }
    arrays = [(name, np.ascontiguousarray(tensor.numpy())) for name, tensor in named.items() if tensor is not None]
    _head(answers, {"case": sample.case, "arrays": [(name, array.dtype.name, array.shape) for name, array in arrays]})
    for _, array in arrays:
        answers.write(array.data.cast("B") if array.size else b"")
    answers.flush()


def _send_error(answers: BinaryIO, error: UserError) -> None:
    _head(answers, {"error": [error.problem, error.fix, error.case], "traceback": "".join(traceback.format_exception(error))})
    answers.flush()


def _head(answers: BinaryIO, plain: object) -> None:
    data = json.dumps(plain).encode()
    answers.write(HEADER.pack(len(data)))
    answers.write(data)
