"""Several trainings at a time, one on every device or on a team of them; one that fails leaves the others alone."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from autounet import stop
from autounet.data.dataset import Dataset
from autounet.data.splits import Splits
from autounet.job import Job
from autounet.progress import Progress, Task, Voice
from autounet.training.trackers import Kind
from planners.errors import UserError
from planners.plan import Configuration, Plan
from planners.strict_json import from_plain

LOOK_SECONDS = 0.2  # between two looks at whether somebody ended
LINE_SECONDS = 30.0  # between two lines of a process about the same thing
GRACE_SECONDS = 5.0  # that the rest of a team has to say why it ends when one has ended
AGAIN = "type the same command again: what is finished is kept"
UNFORESEEN = f"{AGAIN}; the lines above say where it happened"
LEFT_ALONE = f"{AGAIN}; the lines above say what became of the other processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One training: what it is called, and what must be done before."""

    name: str
    after: frozenset[str] = frozenset()  # names of units


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which process of a team that trains one fold together, and the folder where they meet."""

    number: int = 0
    count: int = 1
    meeting: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """All that a process has to know to train one fold."""

    parent: int = 0  # its pid
    device: str = "auto"
    place: Place = field(default_factory=Place)
    work: str
    seed: int
    threads: int
    max_ram_bytes: int | None
    dataset: Dataset
    plan: Plan
    configuration: Configuration
    splits: Splits
    fold: int
    start: str | None = None
    extends: bool = False
    workers: int | None = None
    worker_processes: bool = False
    track: Kind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Who trains: teams of devices, and the program of a process (code for `python -c`) that ends with `errand_done`."""

    teams: tuple[tuple[str, ...], ...]
    program: str
    progress: Progress


@dataclass(slots=True, kw_only=True)
class _Child:
    device: str
    process: "subprocess.Popen[bytes]"
    answer: bytes = b""
    readers: list[threading.Thread] = field(default_factory=list)
    ended_by_us: bool = False


@dataclass(slots=True, kw_only=True)
class _Training:
    unit: Unit
    team: tuple[str, ...]
    meeting: "tempfile.TemporaryDirectory[str] | None" = None  # of a team
    children: list[_Child] = field(default_factory=list)
    failed_at: float | None = None  # by the clock: when the first of them was seen to have failed


def side_by_side(units: Sequence[Unit], tasks: Mapping[str, Any], crew: Crew) -> dict[str, UserError]:
    """Train all of them; `tasks` is the errand of each as JSON, but for its place. Returns those that failed, and why."""
    work = _Work(crew=crew, waiting=list(units), tasks=tasks, free=list(crew.teams))
    with crew.progress.task("train", total=len(units), unit="fold") as task:
        try:
            while work.waiting or work.running:
                work.begin_what_can(task)
                work.listen(task)
                work.end_what_ended(task)
                if stop.requested():
                    work.stop()
        finally:
            work.kill()
    stop.check()
    return work.failed


@dataclass(slots=True, kw_only=True)
class _Work:
    crew: Crew
    waiting: list[Unit]
    tasks: Mapping[str, Any]
    free: list[tuple[str, ...]]
    running: list[_Training] = field(default_factory=list)
    failed: dict[str, UserError] = field(default_factory=dict)
    lines: "SimpleQueue[tuple[str, str]]" = field(default_factory=SimpleQueue)
    stopping: bool = False

    def begin_what_can(self, task: Task) -> None:
        open_units = {unit.name for unit in self.waiting} | {training.unit.name for training in self.running}
        for unit in list(self.waiting):
            if lost := sorted(unit.after & self.failed.keys()):
                self.waiting.remove(unit)
                self.failed[unit.name] = UserError(f"it needs {lost[0]}, which is not trained", AGAIN)
                task.step(doing=unit.name)
            elif self.free and not self.stopping and not unit.after & open_units:
                self.waiting.remove(unit)
                self._begin(unit, self.free.pop(0))

    def _begin(self, unit: Unit, team: tuple[str, ...]) -> None:
        meeting = tempfile.TemporaryDirectory(prefix="autounet-", ignore_cleanup_errors=True) if len(team) > 1 else None
        training = _Training(unit=unit, team=team, meeting=meeting)
        self.running.append(training)
        for number, device in enumerate(team):
            place = {"number": number, "count": len(team), "meeting": meeting.name if meeting else ""}
            told = {**self.tasks[unit.name], "parent": os.getpid(), "device": device, "place": place}
            training.children.append(self._started(device, told))
        self.crew.progress.detail(f"{unit.name} on {_all_of(team)}: process {', '.join(str(c.process.pid) for c in training.children)}")

    def _started(self, device: str, told: Mapping[str, Any]) -> _Child:
        command = [sys.executable, "-c", self.crew.program, json.dumps(sys.path)]
        # In a session of its own: Ctrl-C in a terminal reaches this process alone, which asks each child once.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload]
        child = _Child(device=device, process=process)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # its end tells
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.close()
        child.readers = [threading.Thread(target=read, args=(child,), daemon=True) for read in (self._hear, _take)]
        for reader in child.readers:
            reader.start()
        return child

    def _hear(self, child: _Child) -> None:
        for line in _lines(child.process.stderr):
            self.lines.put((child.device, line))

    def listen(self, task: Task) -> None:
        """Say what the children say, for a moment."""
        progress = self.crew.progress
        with suppress(Empty):
            device, line = self.lines.get(timeout=LOOK_SECONDS)
            while True:
                warned = line.startswith("warning: ")
                (progress.warn if warned else progress.note)(f"[{device}] {line.removeprefix('warning: ')}")
                task.step(n=0)  # they live, and the watchdog may sleep
                device, line = self.lines.get_nowait()

    def end_what_ended(self, task: Task) -> None:
        for training in list(self.running):
            _dissolve(training)
            if any(child.process.poll() is None for child in training.children):
                continue
            for child in training.children:
                for reader in child.readers:
                    reader.join()
            _part(training)
            self.running.remove(training)
            self.free.append(training.team)
            failure = _why(training)
            if failure is not None and not self.stopping:
                self.failed[training.unit.name] = failure
                self.crew.progress.warn(f"{training.unit.name}: {failure}")
            task.step(doing=training.unit.name)
        if self.stopping:
            self.waiting.clear()

    def stop(self) -> None:
        """Ask each child once: a second time would end it at once."""
        if not self.stopping:
            self.stopping = True
            for child in self._children():
                child.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Whatever happened here, nobody trains on unseen."""
        for child in self._children():
            child.process.kill()
            child.process.wait()
            for pipe in (child.process.stdout, child.process.stderr):
                assert pipe is not None
                pipe.close()
        for training in self.running:
            _part(training)

    def _children(self) -> list[_Child]:
        return [child for training in self.running for child in training.children]


def _dissolve(training: _Training) -> None:
    """When one of a team has failed, the others wait for it in vain: after a moment in which they may say why, they are ended."""
    if not any(child.process.poll() not in (None, 0, stop.EXIT_CODE) for child in training.children):
        return  # who was asked to stop ends by itself, and the first of them may have a checkpoint to write
    training.failed_at = training.failed_at or time.monotonic()
    if time.monotonic() - training.failed_at < GRACE_SECONDS:
        return
    for child in training.children:
        if child.process.poll() is None:
            child.ended_by_us = True
            child.process.kill()


def _part(training: _Training) -> None:
    if training.meeting is not None:
        training.meeting.cleanup()


def _all_of(team: Sequence[str]) -> str:
    return " and ".join(team) if len(team) < 3 else f"{', '.join(team[:-1])} and {team[-1]}"


def _take(child: _Child) -> None:
    for line in _lines(child.process.stdout):
        child.answer = line.encode()  # the last one counts


def _lines(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    with suppress(ValueError), pipe:  # ValueError: closed while it was read
        for line in pipe:
            if text := line.decode("utf-8", "replace").rstrip():
                yield text


def _why(training: _Training) -> UserError | None:
    """Of a team the failure that explains the others: those who lost their partners can only say so."""
    found = [failure for child in training.children if not child.ended_by_us and (failure := _failure(child)) is not None]
    return min(found, default=(0, None), key=lambda one: one[0])[1]


def _failure(child: _Child) -> tuple[int, UserError] | None:
    """How little the end of this process explains, and what it was; None when it ended well."""
    code = child.process.returncode
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        fix = f"{AGAIN}; if memory was short (`dmesg` says so), give fewer devices, or less with --gpu-memory and --replan"
        return 0, UserError(f"its process on {child.device} was killed by {name}", fix)
    if code == stop.EXIT_CODE:
        return 3, UserError(f"its process on {child.device} was stopped", AGAIN)
    try:
        problem, fix, case = json.loads(child.answer)["error"]
    except (ValueError, KeyError, TypeError):
        return 3, UserError(f"its process on {child.device} ended with code {code}", AGAIN)
    return {UNFORESEEN: 2, LEFT_ALONE: 4}.get(fix, 1), UserError(problem, fix, case)


def _lost_a_partner(error: Exception) -> bool:
    """What torch says, each backend in its own words, when another process of the team has ended."""
    known = {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}
    return any(kind.__name__ in known for kind in type(error).__mro__) or "by peer" in str(error)


def errand_done(at_work: Callable[[Errand, Job], None]) -> int:
    """In the process: read the errand, do it, say how it ended. The exit code."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints would be taken for the answer
    errand = from_plain(Errand, json.loads(sys.stdin.buffer.readline()), "the errand")
    stop.die_with_parent(errand.parent)
    voice = Voice(stream=sys.stderr, line_seconds=LINE_SECONDS, quiet=errand.place.number > 0)
    with Progress(voice) as progress, stop.handlers(progress.warn), answers:
        job = Job(
            work=Path(errand.work),
            progress=progress,
            seed=errand.seed,
            device=errand.device,
            threads=errand.threads,
            max_ram_bytes=errand.max_ram_bytes,
        )
        try:
            at_work(errand, job)
        except stop.Stopped:
            return stop.EXIT_CODE
        except UserError as error:
            answers.write(json.dumps({"error": [error.problem, error.fix, error.case]}) + "\n")
            return 1
        except Exception as error:
            progress.warn("".join(traceback.format_exception(error)))
            problem = f"{type(error).__name__}: {error}"
            answers.write(json.dumps({"error": [problem, LEFT_ALONE if _lost_a_partner(error) else UNFORESEEN, ""]}) + "\n")
            return 1
    return 0
