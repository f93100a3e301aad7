"""Stopping on request: the first signal asks the loops to finish their step, the second ends at once."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

EXIT_CODE = 75  # "temporary failure": typed again, the command goes on where it was
GRACE_SECONDS = 29.0  # schedulers kill after 30; everything published survives a hard end
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Raised by `check` between two units of work; no `except Exception` swallows it."""


@dataclass(slots=True)
class _State:
    """Signals belong to the process, so the answer to them does too."""

    reason: str = ""
    event: threading.Event = field(default_factory=threading.Event)
    pid: int = 0
    fork_safe: bool = False


_STATE = _State()


def requested() -> bool:
    """Whether somebody asked this run to stop."""
    return _STATE.event.is_set()


def check() -> None:
    """Raise `Stopped` when somebody asked this run to stop; call it between units of work."""
    if _STATE.event.is_set():
        raise Stopped(_STATE.reason)


def wait(seconds: float) -> bool:
    """Sleep, but not longer than until a stop is requested; True when it is."""
    return _STATE.event.wait(seconds)


def request(reason: str) -> None:
    """Ask the run to stop, as a signal does."""
    _STATE.reason = _STATE.reason or reason
    _STATE.event.set()


def clear() -> None:
    """Forget a request: for a program that goes on after a stopped run."""
    _STATE.reason = ""
    _STATE.event.clear()


@contextmanager
def handlers(say: Callable[[str], None] | None = None, grace_seconds: float = GRACE_SECONDS) -> Iterator[None]:
    """Answer SIGINT, SIGTERM and SIGHUP inside this block, which starts unasked. Main thread only.

    A thread listens to the signals, so that a second one ends the process even while the main thread
    is inside a long call of a library that lets no Python code run.
    """
    if not _STATE.fork_safe:
        os.register_at_fork(after_in_child=_forget_in_child)
        _STATE.fork_safe = True
    clear()
    listener, speaker = os.pipe()
    os.set_blocking(speaker, False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(speaker, warn_on_full_buffer=False)
    _STATE.pid = os.getpid()
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:  # nohup keeps its meaning
            signal.signal(number, _noted)
    watch = threading.Thread(target=_listen, args=(listener, say, grace_seconds), name="signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        if os.getpid() == _STATE.pid:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.write(speaker, b"\0")
            watch.join()
            os.close(speaker)
            os.close(listener)
            _STATE.pid = 0


def die_with_parent(parent_pid: int) -> None:
    """Called first thing in a child process: the kernel ends it when its parent ends, however that ends.

    A child whose parent is already gone ends here.
    """
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch_parent, args=(parent_pid,), name="parent", daemon=True).start()
    if os.getppid() != parent_pid:
        os._exit(EXIT_CODE)


def _noted(number: int, frame: FrameType | None) -> None:
    request(signal.Signals(number).name)


def _listen(listener: int, say: Callable[[str], None] | None, grace_seconds: float) -> None:
    until: float | None = None
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([listener], [], [], left)[0]:
            _end_at_once()
        for number in os.read(listener, 64):
            if number == 0:
                return
            if number not in SIGNALS:
                continue
            if until is not None:
                _end_at_once()
            until = time.monotonic() + grace_seconds
            request(signal.Signals(number).name)
            if say is not None:
                say(f"{signal.Signals(number).name}: finishing this step, then stopping; once more ends at once")


def _end_at_once() -> None:
    with suppress(OSError, ValueError):
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # a progress bar hides the cursor
    os._exit(EXIT_CODE)


def _forget_in_child() -> None:
    """A forked child shares the pipe: its signals would count as the parent's."""
    if _STATE.pid:
        _STATE.pid = 0
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is _noted:
                signal.signal(number, signal.SIG_DFL)


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    os._exit(EXIT_CODE)
