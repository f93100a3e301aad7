"""One signal: finish the step and exit 75. Two: at once. And nobody is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autounet import stop

LOOP = """
import sys, time
from pathlib import Path
from autounet import stop
log = Path(sys.argv[1])
def main():
    with stop.handlers(say=lambda text: print(text, flush=True)):
        print("ready", flush=True)
        try:
            while True:
                time.sleep(0.3)                      # a step
                log.write_text(str(int(log.read_text()) + 1))
                stop.check()
        except stop.Stopped as reason:
            print("saved", reason, flush=True)
            sys.exit(stop.EXIT_CODE)
main()
"""
STUCK = """
import hashlib, sys
from autounet import stop
with stop.handlers(grace_seconds=float(sys.argv[1])):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)  # minutes inside a library, no Python code runs
"""
FAMILY = """
import os, subprocess, sys, time
child = (
    "import os, sys, time; from autounet import stop; stop.die_with_parent(int(sys.argv[1]));"
    "os.write(1, (str(os.getpid()) + chr(10)).encode()); time.sleep(600)"  # one write: three of them share the pipe
)
command = [sys.executable, "-c", child, str(os.getpid())]
children = [subprocess.Popen(command, start_new_session=own) for own in (False, True, True)]
from autounet import stop
with stop.handlers():
    while True:
        time.sleep(0.1)
        stop.check()
"""


@contextmanager
def program(text: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as started:
        end = threading.Timer(30, started.kill)  # a test that waits for a line waits no longer
        end.start()
        try:
            yield started
        finally:
            end.cancel()
            started.kill()


def line(started: "subprocess.Popen[str]") -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def hangups_are_heard() -> Iterator[None]:
    """Also when the tests themselves were started so that a hangup does not end them."""
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_finishes_the_step_and_exits_75(number: signal.Signals, tmp_path: Path, hangups_are_heard: None) -> None:
    (tmp_path / "log").write_text("0")
    with program(LOOP, tmp_path / "log") as run:
        assert line(run) == "ready"
        time.sleep(0.1)
        run.send_signal(number)
        assert line(run) == f"{number.name}: finishing this step, then stopping; once more ends at once"
        assert line(run) == f"saved {number.name}"
        assert run.wait(timeout=10) == 75
    assert (tmp_path / "log").read_text() == "1", "the step was neither cut off nor followed by another"


def test_the_second_signal_ends_at_once_even_inside_a_library() -> None:
    with program(STUCK, 60) as run:
        assert line(run) == "ready"
        time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert run.poll() is None, "the first one waits"
        sent = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=5) == 75
        assert time.monotonic() - sent < 2


def test_a_step_that_does_not_end_is_cut_off_after_the_grace() -> None:
    assert stop.GRACE_SECONDS < 30
    with program(STUCK, 0.7) as run:
        assert line(run) == "ready"
        time.sleep(0.2)
        sent = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=10) == 75
        assert 0.5 < time.monotonic() - sent < 5


@pytest.mark.parametrize("how", ["killed", "stopped", "stopped twice", "its group interrupted"])
def test_no_child_is_left_behind(how: str) -> None:
    with program(FAMILY) as parent:
        children = [int(line(parent)) for _ in range(3)]
        assert not any(map(gone, children))
        if how == "killed":
            parent.kill()
        elif how == "its group interrupted":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            for _ in range(1 + (how == "stopped twice")):
                parent.send_signal(signal.SIGTERM)
        parent.wait(timeout=10)
        until = time.monotonic() + 5
        while not all(map(gone, children)) and time.monotonic() < until:
            time.sleep(0.02)
        assert all(map(gone, children))


def test_a_child_whose_parent_is_already_gone_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from autounet import stop; stop.die_with_parent(1); print('still here')"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (75, b"")


def test_a_signal_to_a_forked_child_is_not_the_parents() -> None:
    with stop.handlers():
        pid = os.fork()
        if pid == 0:
            time.sleep(20)
            os._exit(0)
        time.sleep(0.1)
        for _ in range(2):
            os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        time.sleep(0.1)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM, "the child ends as if there were no handlers"
        assert not stop.requested()


def test_handlers_go_as_they_came(hangups_are_heard: None) -> None:
    before = [signal.getsignal(number) for number in stop.SIGNALS]
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    threads = threading.active_count()
    with stop.handlers():
        assert [signal.getsignal(number) for number in stop.SIGNALS] != before
        signal.raise_signal(signal.SIGHUP)
        assert stop.wait(5)
        with pytest.raises(stop.Stopped, match="SIGHUP"):
            stop.check()
    assert [signal.getsignal(number) for number in stop.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert threading.active_count() == threads
    stop.clear()
    stop.check()


def test_a_later_block_starts_unasked() -> None:
    stop.request("an earlier run")
    with stop.handlers():
        assert not stop.requested()


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.handlers():
            signal.raise_signal(signal.SIGHUP)
            assert not stop.wait(0.1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_from_inside_the_program_stops_it_too() -> None:
    stop.check()
    stop.request("the disk is full")
    stop.request("a later reason")
    try:
        assert stop.requested()
        with pytest.raises(stop.Stopped, match="the disk is full"):
            stop.check()
    finally:
        stop.clear()
    assert not stop.requested()
    assert not issubclass(stop.Stopped, Exception), "no `except Exception` may swallow it"
