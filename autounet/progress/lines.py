"""Progress without a terminal: one plain line every few seconds, flushed, for log files and schedulers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from autounet.progress.wording import clock, one_line, rate, size, visible

if TYPE_CHECKING:
    from autounet.progress.voice import Task, Voice

SILENCE = 6  # an unchanged state is repeated this many times more rarely: a log should show life, not noise


class Lines:
    """Prints a task's state when it changed, at most every `line_seconds`."""

    def __init__(self, voice: Voice) -> None:
        assert voice.stream is not None
        self._stream, self._seconds = voice.stream, voice.line_seconds
        self._last: dict[int, tuple[float, float, str]] = {}  # when, how far, what

    def say(self, text: str, style: str = "") -> None:
        """A lasting line."""
        write(self._stream, visible(text) + "\n")

    def refresh(self, tasks: list[Task], memory_bytes: int) -> None:
        """Print what moved, if its last line is old enough."""
        now = time.monotonic()
        for task in tasks:
            when, done, doing = self._last.get(id(task), (task.started, 0.0, ""))
            wait = self._seconds if (done, doing) != (task.done, task.doing) else self._seconds * SILENCE
            if now - when >= wait:
                self._last[id(task)] = (now, task.done, task.doing)
                write(self._stream, describe(task, memory_bytes) + "\n")
        alive = {id(t) for t in tasks}
        self._last = {k: v for k, v in self._last.items() if k in alive}

    def close(self) -> None:
        """Nothing to put back."""


def describe(task: Task, memory_bytes: int) -> str:
    """All about a task in one line."""
    parts = [*facts(task), size(memory_bytes) if memory_bytes else "", one_line(task.doing)]
    return f"{task.name}: {', '.join(part for part in parts if part)}"


def facts(task: Task) -> tuple[str, str, str]:
    """How far, how fast, how long still. Work that is counted in seconds needs no rate."""
    left = task.seconds_left
    if task.unit == "second":
        total = clock(task.total) if task.total is not None else "?"
        return f"{clock(task.done)} of {total}", "", ""
    count = f"{task.done:g}/{task.total:g}" if task.total is not None else f"{task.done:g}"
    return f"{count} {task.unit}", rate(task.per_second, task.unit) if task.per_second > 0 else "", f"{clock(left)} left" if left else ""


def write(stream: TextIO, text: str) -> None:
    """Write and flush, whatever the stream: a closed pipe or a poor encoding never stops the work."""
    try:
        coding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(coding, "backslashreplace").decode(coding))
        stream.flush()
    except (OSError, ValueError):  # a closed pipe, or a closed stream: nobody listens any more
        return
