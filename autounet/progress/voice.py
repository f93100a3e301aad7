"""Progress: the object every stage is handed to say what it does. Thread-safe; never in the way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TextIO

from autounet.progress.events import EventLog
from autounet.progress.watchdog import waiting_threads
from autounet.progress.wording import clock, one_line

EVENT_SECONDS = 1.0  # a loop of a thousand steps a second must not fill the disk with its log
RATE_WINDOW_SECONDS = 30.0  # the rate of now; the average of a night hides a disk that just became slow
STALLED_SECONDS = 300.0
MOVING_SECONDS = 0.2  # between two pictures of a bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Where a run speaks and how loud: words to `stream`, events into `folder`."""

    folder: Path | None = None
    stream: TextIO | None = None  # None: no words
    bars: bool = False  # moving bars; else plain lines
    quiet: bool = False  # warnings only
    verbose: bool = False
    memory_bytes: Callable[[], int] | None = None  # asked about once a second
    stalled_seconds: float = STALLED_SECONDS
    line_seconds: float = 5.0


class Display(Protocol):
    """Draws the tasks that are under way."""

    def say(self, text: str, style: str = "") -> None:
        """A lasting line."""

    def refresh(self, tasks: list[Task], memory_bytes: int) -> None:
        """The tasks moved, or a second passed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Task:
    """One countable piece of work; made by `Progress.task`."""

    def __init__(self, progress: Progress, name: str, total: float | None, unit: str) -> None:
        self.name, self.total, self.unit = one_line(name), total, one_line(unit)
        self.done, self.doing = 0.0, ""
        self.started = self.stepped = time.monotonic()
        self._progress = progress
        self._marks: deque[tuple[float, float]] = deque([(self.started, 0.0)])

    def step(self, doing: str = "", n: float = 1) -> None:
        """`n` more units are done; `doing`, when given, is what is being worked on from now (n=0: only that)."""
        self._progress._stepped(self, doing, n)

    def expect(self, total: float) -> None:
        """The total became known, or changed."""
        self.total = total

    @property
    def per_second(self) -> float:
        """The rate of the last half minute."""
        (then, before), now = self._marks[0], time.monotonic()
        return (self.done - before) / (now - then) if now > then else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None when it cannot be said."""
        rate = self.per_second
        return max(0.0, self.total - self.done) / rate if self.total is not None and rate > 0 else None

    def _mark(self, now: float) -> None:
        if now - self._marks[-1][0] >= 1.0 or len(self._marks) == 1:
            self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_WINDOW_SECONDS:
            self._marks.popleft()

    def __enter__(self) -> Task:
        self._progress._begun(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress._ended(self, error)


class Progress:
    """What a run says: tasks with bars or lines, notes, warnings, and events for the log."""

    def __init__(self, voice: Voice | None = None) -> None:
        self._voice = voice or Voice()
        self._log = EventLog(self._voice.folder)
        self._display: Display | None = None
        self._lock = threading.RLock()
        self._tasks: list[Task] = []
        self._warnings: list[str] = []
        self._moved = self._logged = time.monotonic()
        self._patience = self._voice.stalled_seconds
        self._ticker: threading.Thread | None = None
        self._closing = threading.Event()

    @classmethod
    def silent(cls) -> Progress:
        """Says nothing and writes nothing: for the library and the tests."""
        return cls(Voice())

    def __reduce__(self) -> tuple[Callable[[], Progress], tuple[()]]:
        """In a worker process it is silent; the parent speaks."""
        return Progress.silent, ()

    def task(self, name: str, total: float | None = None, unit: str = "case") -> Task:
        """Countable work: `with progress.task("prepare", total=12) as task: task.step(doing="case_03")`."""
        return Task(self, name, total, unit)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self._say("note", text)

    def warn(self, text: str) -> None:
        """Something the user should look at; also shown when quiet."""
        with self._lock:
            self._warnings.append(text)
        self._say("warning", text)

    def detail(self, text: str) -> None:
        """Something only `--verbose` shows; always in the log."""
        self._say("detail", text)

    def event(self, kind: str, **fields: object) -> None:
        """One JSON line into <work>/events.jsonl."""
        self._log.write(kind, fields)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that was warned of so far."""
        with self._lock:
            return tuple(self._warnings)

    def close(self) -> None:
        """Stop drawing; say once if the log could not be written."""
        self._closing.set()
        ticker, self._ticker = self._ticker, None
        if ticker is not None and ticker is not threading.current_thread():
            ticker.join(timeout=5)
        with self._lock:
            if self._log.failure:
                self._speak("warning", f"the log events.jsonl is incomplete: {self._log.failure}")
            if self._display is not None:
                self._display.close()
            self._display = None
        self._log.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _say(self, kind: str, text: str) -> None:
        self._log.write(kind, {"text": text})
        with self._lock:
            self._speak(kind, text)

    def _speak(self, kind: str, text: str) -> None:
        voice = self._voice
        if voice.stream is None or (voice.quiet and kind != "warning") or (kind == "detail" and not voice.verbose):
            return
        marked = kind == "warning" and not text.startswith("warning")
        self._shown().say(f"warning: {text}" if marked else text, kind)

    def _shown(self) -> Display:
        if self._display is None:
            if self._voice.bars and not self._voice.quiet:
                from autounet.progress.bars import Bars

                self._display = Bars(self._voice)
            else:
                from autounet.progress.lines import Lines

                self._display = Lines(self._voice)
        return self._display

    def _begun(self, task: Task) -> None:
        self._log.write("begin", {"task": task.name, "total": task.total, "unit": task.unit})
        with self._lock:
            self._tasks.append(task)
            self._moved, self._patience = time.monotonic(), self._voice.stalled_seconds
            if self._ticker is None and self._voice.stream is not None and not self._closing.is_set():
                self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
                self._ticker.start()
            if self._voice.stream is not None and not self._voice.quiet:
                self._shown().refresh(list(self._tasks), 0)

    def _stepped(self, task: Task, doing: str, n: float) -> None:
        now = time.monotonic()
        with self._lock:
            task.done += n
            task.doing = one_line(doing) if doing else task.doing
            task.stepped = self._moved = now
            self._patience = self._voice.stalled_seconds
            task._mark(now)
            due = now - self._logged >= EVENT_SECONDS or task.done == task.total
            if due:
                self._logged = now
        if due:
            self._log.write("step", {"task": task.name, "done": task.done, "total": task.total, "doing": task.doing})

    def _ended(self, task: Task, error: BaseException | None) -> None:
        seconds = time.monotonic() - task.started
        outcome = type(error).__name__ if error is not None else ""
        self._log.write("end", {"task": task.name, "done": task.done, "took_seconds": round(seconds, 3), "error": outcome})
        with self._lock:
            if task in self._tasks:
                self._tasks.remove(task)
            self._moved = time.monotonic()
            if self._voice.stream is None or self._voice.quiet:
                return
            self._shown().refresh(list(self._tasks), 0)
            if error is None:
                counted = "" if task.unit == "second" else f"{task.done:g} {_plural(task.unit, task.done)} in "
                self._shown().say(f"{task.name}: {counted}{clock(seconds)}", "done")

    def _tick(self) -> None:
        memory, again = 0, 0.0
        while not self._closing.wait(MOVING_SECONDS if self._voice.bars else 1.0):
            asked = time.monotonic()
            if self._voice.memory_bytes is not None and asked >= again:
                memory = self._voice.memory_bytes()
                now = time.monotonic()
                again = now + max(1.0, 100 * (now - asked))  # on a node with thousands of processes it takes long
            with self._lock:
                if self._closing.is_set():
                    return
                if self._tasks and not self._voice.quiet:
                    self._shown().refresh(list(self._tasks), memory)
            self._watch()

    def _watch(self) -> None:
        """No step for a long time: say what every thread waits for, and what is in work."""
        with self._lock:
            still, tasks = time.monotonic() - self._moved, list(self._tasks)
            if not tasks or still < self._patience:
                return
            self._patience = still + max(self._patience, 1.0)  # again after as long, so a night's hang fills no screen
        doing = "; ".join(f"{t.name} at {t.doing or 'its start'}" for t in tasks)
        threads = waiting_threads()
        self._log.write("stalled", {"seconds": round(still, 1), "doing": doing, "threads": threads})
        with self._lock:
            self._speak("warning", f"no progress for {clock(still)} ({doing}). The threads wait in\n  " + "\n  ".join(threads))


def _plural(unit: str, count: float) -> str:
    return unit if count == 1 or unit.endswith("s") else f"{unit}s"
